"""What is measured, side by side in one run; machines are shared and noisy, so the figures are medians and ratios."""
