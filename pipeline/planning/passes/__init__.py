"""The passes of a plan. `planning/build.py` runs them, and has their order."""
