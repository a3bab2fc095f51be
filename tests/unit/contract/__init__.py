"""Tests of the contract package; those of arrays are skipped where NumPy is not installed."""
