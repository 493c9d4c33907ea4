"""Resources become a sealed plan of every write."""
