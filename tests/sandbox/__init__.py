"""Tests of the sandbox: a package, so that they share their bodies."""
