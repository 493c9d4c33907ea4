"""The plan goes to Canvas: at most once, in order, at the rate."""
