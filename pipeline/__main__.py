"""`python -m pipeline`."""

from pipeline.app.cli import main

main()
