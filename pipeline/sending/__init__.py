"""Send the plan to Canvas: at most once, in order, at the rate."""
