"""The journal of all runs: the writes that were sent, their results, and the writes that may be sent."""
