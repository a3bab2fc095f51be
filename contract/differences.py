"""Measure how far an output is from its reference: export, the gate and their reports use the same measures.

The functions use only the methods of the arrays they are given (NumPy's), so that this package does not import NumPy.
Every measure is zero for equal arrays. The catalogue states the largest acceptable value.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from contract.catalogue import Tensor

# Avoids a division by zero for a reference of zeros; any other output then has a very large difference.
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The value measured on one output, and the largest value that the catalogue allows."""

    output: str
    measure: str
    value: float
    limit: float

    @property
    def within_limit(self) -> bool:
        """Return whether the value is within the limit; NaN never is."""
        return self.value <= self.limit

    @property
    def limit_ratio(self) -> float:
        """Return value / limit: 0 for a value of 0, infinite for NaN and for any other value where the limit is 0."""
        if self.value == 0.0:
            return 0.0
        return math.inf if math.isnan(self.value) or self.limit == 0.0 else self.value / self.limit

    def __str__(self) -> str:
        return f"{self.output} differs by {self.value:.1e} ({self.measure}, allowed {self.limit:.0e})"


def worst(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Return the largest difference of each output; NaN ranks highest."""
    kept: dict[str, Difference] = {}
    for each in differences:
        known = kept.get(each.output)
        if known is None or _severity(each) > _severity(known):
            kept[each.output] = each
    return tuple(kept.values())


def closest(differences: Iterable[Difference]) -> Difference | None:
    """Return the difference with the largest value/limit ratio, for a summary line; None when there is none."""
    return max(differences, key=lambda each: each.limit_ratio, default=None)


def compare(tensor: Tensor, actual: Any, expected: Any, precision: str) -> Difference:
    """Return the difference between an output of the catalogue and its reference.

    It is infinite for arrays of different shapes. Raise ValueError for a tensor without a tolerance, such as an input,
    and for a precision without a limit.
    """
    if tensor.tolerance is None:
        raise ValueError(f"{tensor.name} has no tolerance")
    measure = tensor.tolerance.measure
    value = distance(measure, actual, expected)
    return Difference(output=tensor.name, measure=measure, value=value, limit=tensor.tolerance.limit(precision))


def compare_all(
    outputs: Iterable[Tensor], actual: Mapping[str, Any], expected: Mapping[str, Any], precision: str
) -> tuple[Difference, ...]:
    """Return the difference of each output, as `compare` does, without rows that its tolerance calls ties."""
    known = {tensor.name: tensor for tensor in outputs}
    return tuple(_compared(known, tensor, actual, expected, precision) for tensor in known.values())


def _compared(
    known: Mapping[str, Tensor], tensor: Tensor, actual: Mapping[str, Any], expected: Mapping[str, Any], precision: str
) -> Difference:
    found = compare(tensor, actual[tensor.name], expected[tensor.name], precision)
    scores = known.get(tensor.tolerance.ties) if tensor.tolerance else None
    if scores is None or scores.tolerance is None or not math.isfinite(found.value):
        return found
    tied = scores.tolerance.limit(precision)
    value = _first_differing_but_ties(actual[tensor.name], expected[tensor.name], expected[scores.name], tied)
    return replace(found, value=value)


def _first_differing_but_ties(actual: Any, expected: Any, scores: Any, tied: float) -> float:
    """Return the share of rows whose first element differs and is behind the reference's best by more than `tied`."""
    rows = actual[..., 0] != expected[..., 0]
    differing = zip(actual[..., 0][rows].tolist(), expected[rows].tolist(), scores[rows].tolist(), strict=True)
    # An element that the list of the reference does not hold is behind all of its elements.
    ties = sum(
        first in listed and of_listed[0] - of_listed[listed.index(first)] <= tied
        for first, listed, of_listed in differing
    )
    return float(rows.sum() - ties) / rows.size if rows.size else 0.0


def distance(measure: str, actual: Any, expected: Any) -> float:
    """Return how far an array is from its reference, by one of catalogue.MEASURES; infinite for another shape."""
    return _MEASURES[measure](actual, expected) if actual.shape == expected.shape else math.inf


def _severity(difference: Difference) -> float:
    return math.inf if math.isnan(difference.value) else difference.value


def _absolute(actual: Any, expected: Any) -> float:
    """Return the largest absolute difference."""
    return _largest(abs(actual.astype("float64") - expected.astype("float64")))


def _relative(actual: Any, expected: Any) -> float:
    """Return the L2 norm of the difference, divided by that of the reference."""
    wide, reference = actual.astype("float64"), expected.astype("float64")
    squared, size = float(((wide - reference) ** 2).sum()), float((reference**2).sum())
    if size == 0.0:
        return 0.0 if squared == 0.0 else math.inf
    return math.sqrt(squared / size)


def _cosine(actual: Any, expected: Any) -> float:
    """Return one minus the smallest cosine between rows [rows, size] of unit length.

    Computed as |x - y|^2 / (2 |y|^2), which equals 1 - cos(x, y) for unit vectors and also detects a row that is all
    zeros or has the wrong length.
    """
    wide, reference = actual.astype("float64"), expected.astype("float64")
    distances, lengths = ((wide - reference) ** 2).sum(-1), (reference**2).sum(-1)
    return _largest(distances / (2.0 * lengths + _TINY))


def _differing(actual: Any, expected: Any) -> float:
    """Return the share of elements that differ."""
    return float((actual != expected).mean()) if actual.size else 0.0


def _first_differing(actual: Any, expected: Any) -> float:
    """Return the share of rows whose first element, the best one of a sorted list, differs."""
    return _differing(actual[..., 0], expected[..., 0])


def _best_differing(actual: Any, expected: Any) -> float:
    """Return the share of rows whose highest score is at another index than in the reference.

    Where several scores are the highest, one index in common is enough.
    """
    ours, theirs = actual == actual.max(-1, keepdims=True), expected == expected.max(-1, keepdims=True)
    return float((~(ours & theirs).any(-1)).mean()) if actual.size else 0.0


def _largest(values: Any) -> float:
    # The built-in max() could drop a NaN; the method of the array returns it.
    return float(values.max()) if values.size else 0.0


_MEASURES = {
    "absolute": _absolute,
    "relative": _relative,
    "cosine": _cosine,
    "differing": _differing,
    "first_differing": _first_differing,
    "best_differing": _best_differing,
}
