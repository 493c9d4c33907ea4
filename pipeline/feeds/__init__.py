"""What sources send: the two kinds of feed, their column readers, and the row models."""
