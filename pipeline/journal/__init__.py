"""The memory of all runs: what was sent, what came of it, and what may therefore be sent."""
