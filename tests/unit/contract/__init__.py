"""Tests of the contract room; none needs more than the standard library."""
