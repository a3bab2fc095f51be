"""The learning rate schedule of every training."""

import math


def learning_rate(peak: float, warm_up_steps: int, step: int, share: float) -> float:
    """Return the learning rate: a warm-up over steps, times a cosine of the elapsed share of time, zero at the end."""
    return peak * min(1.0, (step + 1) / warm_up_steps) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
