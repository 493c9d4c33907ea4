"""The journal and the plan become a report of every row and cent."""
