"""The checks of the command `check`, by what they look at."""
