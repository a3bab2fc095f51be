"""How the learning rate of every training goes."""

import math


def learning_rate(peak: float, warm_up_steps: int, step: int, share: float) -> float:
    """Warm up over steps, then fall with a cosine over the share of the time that has gone, to zero at its end."""
    return peak * min(1.0, (step + 1) / warm_up_steps) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
