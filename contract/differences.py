"""How far an output is from its reference: the measures that export, the gate and their reports share.

Arrays are handed in (anything with NumPy's methods), so that this room needs no NumPy itself. Every measure is zero for
equal arrays, and the catalogue states the largest acceptable value.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from contract.catalogue import Tensor

# Keeps a reference of zeros from dividing by zero: any other output is then as far off as it should be.
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What was measured on one output, and what the catalogue allows."""

    output: str
    measure: str
    value: float
    limit: float

    @property
    def within_limit(self) -> bool:
        """Say whether the value is within the limit; NaN never is."""
        return self.value <= self.limit

    @property
    def limit_ratio(self) -> float:
        """Say how many times its limit the value is: infinite for NaN, and for anything where nothing is allowed."""
        if self.value == 0.0:
            return 0.0
        return math.inf if math.isnan(self.value) or self.limit == 0.0 else self.value / self.limit

    def __str__(self) -> str:
        return f"{self.output} differs by {self.value:.1e} ({self.measure}, allowed {self.limit:.0e})"


def worst(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Keep the largest difference of each output; NaN counts as the largest of all."""
    kept: dict[str, Difference] = {}
    for each in differences:
        known = kept.get(each.output)
        if known is None or _severity(each) > _severity(known):
            kept[each.output] = each
    return tuple(kept.values())


def closest(differences: Iterable[Difference]) -> Difference | None:
    """Find the one that comes closest to its limit, for a line of summary; None when there is none."""
    return max(differences, key=lambda each: each.limit_ratio, default=None)


def compare(tensor: Tensor, actual: Any, expected: Any, precision: str) -> Difference:
    """Measure an output of the catalogue against its reference, which must have the same shape."""
    if tensor.tolerance is None:
        raise ValueError(f"{tensor.name} is no output")
    measure = tensor.tolerance.measure
    value = distance(measure, actual, expected)
    return Difference(output=tensor.name, measure=measure, value=value, limit=tensor.tolerance.at(precision))


def distance(measure: str, actual: Any, expected: Any) -> float:
    """Measure how far an array is from its reference; infinitely for another shape."""
    return _MEASURES[measure](actual, expected) if actual.shape == expected.shape else math.inf


def _severity(difference: Difference) -> float:
    return math.inf if math.isnan(difference.value) else difference.value


def _absolute(actual: Any, expected: Any) -> float:
    """Give the largest absolute difference."""
    return _largest(abs(actual.astype("float64") - expected.astype("float64")))


def _relative(actual: Any, expected: Any) -> float:
    """Give the L2 norm of the difference over that of the reference."""
    wide, reference = actual.astype("float64"), expected.astype("float64")
    squared, size = float(((wide - reference) ** 2).sum()), float((reference**2).sum())
    if size == 0.0:
        return 0.0 if squared == 0.0 else math.inf
    return math.sqrt(squared / size)


def _cosine(actual: Any, expected: Any) -> float:
    """Give one minus the smallest cosine between rows [rows, size] of unit length.

    Computed as half the squared distance over the squared length of the reference, which is the same for unit vectors
    and also sees a row that is all zeros or has the wrong length.
    """
    wide, reference = actual.astype("float64"), expected.astype("float64")
    distances, lengths = ((wide - reference) ** 2).sum(-1), (reference**2).sum(-1)
    return _largest(distances / (2.0 * lengths + _TINY))


def _differing(actual: Any, expected: Any) -> float:
    """Give the share of elements that differ."""
    return float((actual != expected).mean()) if actual.size else 0.0


def _first_differing(actual: Any, expected: Any) -> float:
    """Give the share of rows whose first element, the best one of a sorted list, differs."""
    return _differing(actual[..., 0], expected[..., 0])


def _best_differing(actual: Any, expected: Any) -> float:
    """Give the share of rows whose highest score is not where the reference has its own; equal scores are one place."""
    ours, theirs = actual == actual.max(-1, keepdims=True), expected == expected.max(-1, keepdims=True)
    return float((~(ours & theirs).any(-1)).mean()) if actual.size else 0.0


def _largest(values: Any) -> float:
    # A NaN has to surface: max() of the builtins could lose it, the array's own keeps it.
    return float(values.max()) if values.size else 0.0


_MEASURES = {
    "absolute": _absolute,
    "relative": _relative,
    "cosine": _cosine,
    "differing": _differing,
    "first_differing": _first_differing,
    "best_differing": _best_differing,
}
