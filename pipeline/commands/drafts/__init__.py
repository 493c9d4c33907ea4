"""The guesses of `init`, one module a topic."""
