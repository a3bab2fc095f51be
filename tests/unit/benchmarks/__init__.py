"""Tests of the benchmarks: what they look at, not how fast anything is."""
