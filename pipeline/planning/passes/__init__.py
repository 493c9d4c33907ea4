"""The passes of a plan, in the order in which `planning.build` runs them."""
