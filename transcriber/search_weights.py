"""Read how much each model counts next to the emissions: the parameter `search_weights` of an acoustic head."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchWeights:
    """The factors of log-probabilities in the score of a hypothesis; those of the emissions have the factor 1.

    They belong to the weights of an operating point: `python -m training weighting` finds them, export reads them from
    the figures of the training, and the server passes them on with the other parameters of the acoustic head.
    """

    ngram: float
    """The factor of the n-gram model in the search, at least 0."""
    bonus: float
    """What every token adds to the score in a search with the n-gram model."""
    rescorers: Mapping[str, float]
    """The factors of the rescorers, by family, after a search without an n-gram model."""
    rescorers_with_ngram: Mapping[str, float]
    """The same after a search with an n-gram model, which covers a part of what the rescorers know."""


def from_json(text: str) -> SearchWeights:
    """Read the parameter; raise ValueError when a field is missing or is not a number.

    {"ngram": 0.8, "bonus": 2.5, "rescorers": {"decoder": 1.0}, "rescorers_with_ngram": {"decoder": 2.0}}
    """
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")
    ngram = _number(fields, "ngram")
    if ngram < 0.0:
        # The search drops a prefix early because the n-gram model can only lower its score.
        raise ValueError(f"ngram: it is {ngram:g}, and the smallest is 0")
    return SearchWeights(
        ngram=ngram,
        bonus=_number(fields, "bonus"),
        rescorers=_numbers(fields, "rescorers"),
        rescorers_with_ngram=_numbers(fields, "rescorers_with_ngram"),
    )


def _numbers(fields: Mapping[str, object], name: str) -> dict[str, float]:
    table = fields.get(name)
    if not isinstance(table, dict):
        raise ValueError(f"{name}: it is missing or is not a JSON object")
    return {key: _number(table, key) for key in table}


def _number(fields: Mapping[str, object], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}: it is missing or is not a number")
    return float(value)
