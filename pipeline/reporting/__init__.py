"""Reports of every row and cent, from the journal and the plan."""
