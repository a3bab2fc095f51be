"""The tuning of the weights of n-gram model and rescorers on the development sets.

The weights that it finds are part of the transcriber.
"""

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

from demo.scores import word_errors
from export.checkpoints import reference
from export.networks.reserved_tokens import BOUNDARY
from training import dataset, reporting
from training.dataset import Example
from training.errors import MissingDataError
from training.language import pad_tokens
from training.recipe import Point, Recipe
from training.synthesis import EVALUATION_PARTS
from training.tokenizer import Tokenizer
from transcriber import ctc, ngram
from transcriber.ctc import Emissions, Fusion
from transcriber.ngram import Ngram

# Pairs of both are tried in the search itself, those of the rescorers afterwards on its hypotheses.
NGRAM_WEIGHTS, TOKEN_BONUSES = (0.6, 0.8, 1.0, 1.2), (1.5, 2.0, 2.5, 3.0, 3.5)
# The grids end where the search still matters. Beyond, a ridge of equally good weights leads to where it does not
# matter, and on unknown voices the search is more accurate than a decoder.
RESCORER_WEIGHTS = MappingProxyType(
    {
        "decoder": (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
        "lm": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0),
    }
)
# Hypotheses that a rescorer scores at a time.
RESCORING_BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidates:
    """The hypotheses of an utterance: the wrong words of each, and its scores by search, decoder and language model."""

    words: int
    wrong: NDArray[np.int64]
    scores: Mapping[str, NDArray[np.float64]]

    def wrong_words(self, weights: Mapping[str, float]) -> int:
        """Return the wrong words of the hypothesis with the best weighted score."""
        totals = self.scores["search"] + sum(weight * self.scores[name] for name, weight in weights.items())
        return int(self.wrong[int(np.argmax(totals))])


CandidatesByPart: TypeAlias = Mapping[str, Sequence[Candidates]]
"""Candidates by development part."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoredHypothesis:
    """The wrong words and the rescorers' scores of a hypothesis; they do not depend on the search."""

    wrong: int
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedUtterance:
    """The encoder output of an utterance, and a cache of its scored hypotheses."""

    networks: Mapping[str, Any]
    pieces: Tokenizer
    text: str
    emissions: Emissions
    encoder_output: tuple[torch.Tensor, torch.Tensor]
    scored: dict[tuple[int, ...], ScoredHypothesis] = field(default_factory=dict)

    def candidates(self, fusion: Fusion | None) -> Candidates:
        """Search, and score the hypotheses."""
        hypotheses = ctc.beam(self.emissions, self.pieces.spec(), fusion=fusion)
        found = self._scored([one.tokens for one in hypotheses])
        scores = {name: np.array([one.scores[name] for one in found]) for name in found[0].scores}
        return Candidates(
            words=len(self.text.split()),
            wrong=np.array([one.wrong for one in found]),
            scores={"search": np.array([one.score for one in hypotheses]), **scores},
        )

    def scores(self, hypotheses: Sequence[tuple[int, ...]]) -> list[Mapping[str, float]]:
        """Return the scores of hypotheses by the rescorers."""
        return [one.scores for one in self._scored(hypotheses)]

    def _scored(self, hypotheses: Sequence[tuple[int, ...]]) -> list[ScoredHypothesis]:
        self._score([one for one in hypotheses if one not in self.scored])
        return [self.scored[one] for one in hypotheses]

    @torch.inference_mode()
    def _score(self, unknown: Sequence[tuple[int, ...]]) -> None:
        for start in range(0, len(unknown), RESCORING_BATCH):
            group = unknown[start : start + RESCORING_BATCH]
            tokens, lengths = (tensor[None] for tensor in pad_tokens(group))
            scores = {"decoder": self.networks["decoder"](*self.encoder_output, tokens, lengths)[0].tolist()}
            if "lm" in self.networks:
                scores["lm"] = self.networks["lm"](tokens, lengths)[0].tolist()
            for place, one in enumerate(group):
                self.scored[one] = ScoredHypothesis(
                    wrong=word_errors(self.text, self.pieces.decode(one)),
                    scores={name: each[place] for name, each in scores.items()},
                )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuned:
    """The weight and the bonus of the n-gram model, the best weights of the rescorers for it, and the candidates."""

    ngram: float
    bonus: float
    rescorers: Mapping[str, float]
    wrong: float
    """The wrong words of all parts, averaged over these weights of the rescorers and the neighbouring ones."""
    found: CandidatesByPart


def tune(recipe: Recipe) -> None:
    """Try a grid of weights, with and without the n-gram model, and record the best of both and their error rates.

    Each point has its own weights, because it has its own n-gram model and rescorers. Raises MissingDataError when the
    stage `ngram` has not run.
    """
    logger = reporting.open_log(recipe)
    # One utterance at a time is too little work for two threads: they would mostly wait for each other.
    torch.set_num_threads(1)
    models = {point.name: ngram_model(recipe.ngram(point)) for point in recipe.points}
    data = dataset.load(recipe)
    examples = {part: data.part(part)[: recipe.weighting_utterances] for part in EVALUATION_PARTS}
    for point in recipe.points:
        utterances = {part: encode(recipe, point, each) for part, each in examples.items()}
        tried = []
        for weight, bonus in itertools.product(NGRAM_WEIGHTS, TOKEN_BONUSES):
            tried.append(tune_rescorers(utterances, Fusion(model=models[point.name], weight=weight, bonus=bonus)))
            logger.info("%s, n-gram %.2f, bonus %.2f: %.1f words wrong", point.name, weight, bonus, tried[-1].wrong)
        fused = min(tried, key=lambda one: one.wrong)
        figures: dict[str, Any] = {"ngram": fused.ngram, "bonus": fused.bonus}
        for suffix, best in (("", tune_rescorers(utterances, None)), ("_ngram", fused)):
            figures |= {f"{name}{suffix}": weight for name, weight in best.rescorers.items()}
            figures |= {f"{name}{suffix}": rate for name, rate in _rates(best).items()}
        for name, value in figures.items():
            logger.info("weighting, %s, %s: %.4g", point.name, name, value)
        reporting.record(recipe, f"weighting_{point.name}", figures)


@torch.inference_mode()
def encode(recipe: Recipe, point: Point, examples: Sequence[Example]) -> list[EncodedUtterance]:
    """Run body and acoustic head of a point on every utterance."""
    folder = recipe.weights / point.name
    networks: dict[str, Any] = {path.stem: reference.load(path)[0] for path in sorted(folder.glob("*.safetensors"))}
    pieces = Tokenizer(recipe.tokenizer)
    found = []
    for example in examples:
        features, lengths = dataset.pad([example.features])
        encoder_output = networks["body"](torch.from_numpy(features), torch.from_numpy(lengths))
        log_probs, tokens = networks["am_en"](*encoder_output)
        emissions = Emissions(log_probs=log_probs[0].numpy(), tokens=tokens[0].numpy().astype(np.int32))
        found.append(
            EncodedUtterance(
                networks=networks, pieces=pieces, text=example.text, emissions=emissions, encoder_output=encoder_output
            ),
        )
    return found


def tune_rescorers(utterances: Mapping[str, Sequence[EncodedUtterance]], fusion: Fusion | None) -> Tuned:
    """Search every utterance, with an n-gram model if given, and find the best weights of the rescorers.

    The minimum over a whole grid is partly chance; so weights are compared by the mean over their neighbours too.
    """
    found = {part: [one.candidates(fusion) for one in each] for part, each in utterances.items()}
    known = next(iter(found.values()))[0].scores
    grids = {name: grid for name, grid in RESCORER_WEIGHTS.items() if name in known}
    tried = [dict(zip(grids, weights, strict=True)) for weights in itertools.product(*grids.values())]
    wrong = np.array([total_wrong_words(found, weights) for weights in tried])
    around = np.ones([3] * len(grids), dtype=np.int64)
    sums = correlate(wrong.reshape([len(grid) for grid in grids.values()]), around, mode="nearest").ravel()
    best = int(sums.argmin())
    weight, bonus = (fusion.weight, fusion.bonus) if fusion else (0.0, 0.0)
    return Tuned(ngram=weight, bonus=bonus, rescorers=tried[best], wrong=sums[best] / around.size, found=found)


def ngram_model(path: Path) -> Ngram:
    """Read the n-gram model of a point; raise MissingDataError where the stage `ngram` has not run."""
    if not path.is_file():
        raise MissingDataError(path, "ngram")
    return ngram.decode(path.read_bytes(), BOUNDARY)


def total_wrong_words(found: CandidatesByPart, weights: Mapping[str, float]) -> int:
    """Return the wrong words of all parts under these weights."""
    return sum(one.wrong_words(weights) for each in found.values() for one in each)


def _rates(best: Tuned) -> dict[str, float]:
    """Return the word error rates of the search alone, with the decoder, with all, and of the best candidate."""
    rates = {}
    for part, each in best.found.items():
        words = sum(one.words for one in each)
        for name, wrong in (
            ("beam", sum(one.wrong_words({}) for one in each)),
            ("decoder", sum(one.wrong_words({"decoder": best.rescorers["decoder"]}) for one in each)),
            ("rescored", sum(one.wrong_words(best.rescorers) for one in each)),
            ("oracle", sum(int(one.wrong.min()) for one in each)),
        ):
            rates[f"wer_{part}_{name}"] = wrong / words
    return rates
