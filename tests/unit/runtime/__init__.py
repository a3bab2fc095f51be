"""Tests of the runtime package; none needs more than the package itself needs."""
