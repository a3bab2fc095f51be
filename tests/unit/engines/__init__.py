"""Tests of the build package (not in a folder named `build`, which test runners and git rules take for an output)."""
