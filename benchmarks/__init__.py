"""Benchmarks, side by side in one run: medians and ratios, because machines are shared and noisy."""
