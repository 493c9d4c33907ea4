"""The stages of a run, a verb a file. They never import one another; `engine` knows their order."""
