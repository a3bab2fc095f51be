"""How much each model should count: found on the development sets, and written down in transcriber/rescoring.py."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate

from export.checkpoints import reference
from training import dataset, reporting
from training.dataset import Example
from training.errors import MissingDataError
from training.language import stacked
from training.recipe import Point, Recipe
from training.scores import wrong_words
from training.synthesis import EVALUATION_PARTS
from training.tokenizer import Tokenizer
from transcriber import ctc, ngram
from transcriber.ctc import Emissions, Fusion
from transcriber.ngram import Ngram

# Pairs of both are tried in the search itself, those of the rescorers afterwards among its hypotheses.
NGRAM_WEIGHTS, TOKEN_BONUSES = (0.6, 0.8, 1.0, 1.2), (1.5, 2.0, 2.5, 3.0, 3.5)
# They end where the search still has a say: from there on a ridge of equals leads to where it has none, and on unknown
# voices it is more right than a decoder.
RESCORER_WEIGHTS = MappingProxyType(
    {
        "decoder": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
        "lm": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    }
)
# What rescorers are asked at a time.
ASKED = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """The hypotheses of an utterance: wrong words in each, and what search, decoder and language model say of them."""

    words: int
    wrong: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]]

    def chosen(self, weights: Mapping[str, float]) -> int:
        """Give the wrong words of the hypothesis that wins under these weights."""
        totals = self.scores["search"] + sum(weight * self.scores[name] for name, weight in weights.items())
        return int(self.wrong[int(np.argmax(totals))])


Found: TypeAlias = Mapping[str, Sequence[Candidates]]
"""Candidates by part of the evaluation."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Judged:
    """What there is to say of a hypothesis, whichever search found it."""

    wrong: int
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Listener:
    """An utterance as a point hears it, and every hypothesis of it that was judged so far."""

    networks: Mapping[str, Any]
    pieces: Tokenizer
    text: str
    emissions: Emissions
    heard: tuple[torch.Tensor, torch.Tensor]
    judged: dict[tuple[int, ...], Judged] = field(default_factory=dict)

    def candidates(self, fusion: Fusion | None) -> Candidates:
        """Search, and judge what was found."""
        hypotheses = ctc.beam(self.emissions, fusion=fusion)
        self._judge([one.tokens for one in hypotheses if one.tokens not in self.judged])
        found = [self.judged[one.tokens] for one in hypotheses]
        scores = {name: np.array([one.scores[name] for one in found]) for name in found[0].scores}
        return Candidates(
            words=len(self.text.split()),
            wrong=np.array([one.wrong for one in found]),
            scores={"search": np.array([one.score for one in hypotheses]), **scores},
        )

    @torch.inference_mode()
    def _judge(self, unknown: Sequence[tuple[int, ...]]) -> None:
        for start in range(0, len(unknown), ASKED):
            group = unknown[start : start + ASKED]
            tokens, lengths = (tensor[None] for tensor in stacked(group))
            scores = {"decoder": self.networks["decoder"](*self.heard, tokens, lengths)[0].tolist()}
            if "lm" in self.networks:
                scores["lm"] = self.networks["lm"](tokens, lengths)[0].tolist()
            for place, one in enumerate(group):
                self.judged[one] = Judged(
                    wrong=wrong_words(self.text, self.pieces.decode(one)),
                    scores={name: each[place] for name, each in scores.items()},
                )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Best:
    """How much the n-gram model counts in a search, the weights of the rescorers that suit it, and what they judge."""

    ngram: float
    bonus: float
    rescorers: Mapping[str, float]
    wrong: float
    """The words that are wrong in all parts, on average over these weights of the rescorers and those beside them."""
    found: Found


def find(recipe: Recipe) -> None:
    """Try a grid of weights, without the n-gram model and with it, and record the best of both and their error rates.

    Each point has weights of its own: its n-gram model and its rescorers are others. Raises MissingDataError before
    `ngram`.
    """
    logger = reporting.open_log(recipe)
    # Two threads wait for one another longer than either calculates, with an utterance at a time.
    torch.set_num_threads(1)
    models = {point.name: _ngram(recipe.ngram(point)) for point in recipe.points}
    data = dataset.load(recipe)
    examples = {part: data.part(part)[: recipe.weighting_utterances] for part in EVALUATION_PARTS}
    for point in recipe.points:
        listeners = {part: listen(recipe, point, each) for part, each in examples.items()}
        tried = []
        for weight, bonus in itertools.product(NGRAM_WEIGHTS, TOKEN_BONUSES):
            tried.append(best_of(listeners, Fusion(model=models[point.name], weight=weight, bonus=bonus)))
            logger.info("%s, n-gram %.2f, bonus %.2f: %.1f words wrong", point.name, weight, bonus, tried[-1].wrong)
        fused = min(tried, key=lambda one: one.wrong)
        figures: dict[str, Any] = {"ngram": fused.ngram, "bonus": fused.bonus}
        for suffix, best in (("", best_of(listeners, None)), ("_ngram", fused)):
            figures |= {f"{name}{suffix}": weight for name, weight in best.rescorers.items()}
            figures |= {f"{name}{suffix}": rate for name, rate in _rates(best).items()}
        for name, value in figures.items():
            logger.info("weighting, %s, %s: %.4g", point.name, name, value)
        reporting.record(recipe, f"weighting_{point.name}", figures)


@torch.inference_mode()
def listen(recipe: Recipe, point: Point, examples: Sequence[Example]) -> list[Listener]:
    """Have a point hear every utterance."""
    folder = recipe.weights / point.name
    networks: dict[str, Any] = {path.stem: reference.load(path)[0] for path in sorted(folder.glob("*.safetensors"))}
    pieces = Tokenizer(recipe.tokenizer)
    found = []
    for example in examples:
        features, lengths = dataset.padded([example.features])
        heard = networks["body"](torch.from_numpy(features), torch.from_numpy(lengths))
        log_probs, tokens = networks["am_en"](*heard)
        emissions = Emissions(log_probs=log_probs[0].numpy(), tokens=tokens[0].numpy().astype(np.int32))
        found.append(
            Listener(networks=networks, pieces=pieces, text=example.text, emissions=emissions, heard=heard),
        )
    return found


def best_of(listeners: Mapping[str, Sequence[Listener]], fusion: Fusion | None) -> Best:
    """Search every utterance, with an n-gram model if any, and find the best weights of the rescorers.

    The fewest wrong words of a whole grid are chance; so weights are judged with those beside them.
    """
    found = {part: [one.candidates(fusion) for one in each] for part, each in listeners.items()}
    known = next(iter(found.values()))[0].scores
    grids = {name: grid for name, grid in RESCORER_WEIGHTS.items() if name in known}
    tried = [dict(zip(grids, weights, strict=True)) for weights in itertools.product(*grids.values())]
    wrong = np.array([all_wrong(found, weights) for weights in tried])
    around = np.ones([3] * len(grids), dtype=np.int64)
    sums = correlate(wrong.reshape([len(grid) for grid in grids.values()]), around, mode="nearest").ravel()
    best = int(sums.argmin())
    weight, bonus = (fusion.weight, fusion.bonus) if fusion else (0.0, 0.0)
    return Best(ngram=weight, bonus=bonus, rescorers=tried[best], wrong=sums[best] / around.size, found=found)


def _ngram(path: Path) -> Ngram:
    if not path.is_file():
        raise MissingDataError(path, "ngram")
    return ngram.decode(path.read_bytes())


def all_wrong(found: Found, weights: Mapping[str, float]) -> int:
    """Count the words that are wrong under these weights."""
    return sum(one.chosen(weights) for each in found.values() for one in each)


def _rates(best: Best) -> dict[str, float]:
    """Give the word error rates of the search alone, with the decoder, with all, and of the best choice there is."""
    rates = {}
    for part, each in best.found.items():
        words = sum(one.words for one in each)
        for name, wrong in (
            ("beam", sum(one.chosen({}) for one in each)),
            ("decoder", sum(one.chosen({"decoder": best.rescorers["decoder"]}) for one in each)),
            ("rescored", sum(one.chosen(best.rescorers) for one in each)),
            ("oracle", sum(int(one.wrong.min()) for one in each)),
        ):
            rates[f"wer_{part}_{name}"] = wrong / words
    return rates
