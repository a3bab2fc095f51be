"""How much each rescorer should count: found on the development sets, and written down in transcriber/rescoring.py."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.checkpoints import reference
from training import dataset, reporting
from training.dataset import Example
from training.language import stacked
from training.recipe import Point, Recipe
from training.scores import wrong_words
from training.synthesis import EVALUATION_PARTS
from training.tokenizer import Tokenizer
from transcriber import ctc
from transcriber.ctc import Emissions, Hypothesis

DECODER_WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)
LM_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


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


def find(recipe: Recipe) -> None:
    """Try a grid of weights at every point and record the best, and the error rates with and without.

    One weight serves the decoders of both points: it is the one with the fewest wrong words at both together.
    """
    logger = reporting.open_log(recipe)
    torch.set_num_threads(recipe.processes)
    data = dataset.load(recipe)
    examples = {part: data.part(part)[: recipe.weighting_utterances] for part in EVALUATION_PARTS}
    found = {
        point.name: {part: search(recipe, point, each) for part, each in examples.items()} for point in recipe.points
    }
    best = min(itertools.product(DECODER_WEIGHTS, LM_WEIGHTS), key=lambda pair: _all_wrong(found, *pair))
    figures: dict[str, Any] = {"decoder": best[0], "lm": best[1]}
    for point, parts in found.items():
        for part, each in parts.items():
            words = sum(one.words for one in each)
            for name, wrong in (
                ("beam", sum(one.chosen({}) for one in each)),
                ("rescored", sum(one.chosen(_weights(point, *best)) for one in each)),
                ("oracle", sum(int(one.wrong.min()) for one in each)),
            ):
                figures[f"wer_{point}_{part}_{name}"] = wrong / words
                logger.info("%s, %s, %s: word error rate %.2f %%", point, part, name, 100 * wrong / words)
    logger.info("weights: decoder %.1f, lm %.1f", *best)
    reporting.record(recipe, "weighting", figures)


@torch.inference_mode()
def search(recipe: Recipe, point: Point, examples: Sequence[Example]) -> list[Candidates]:
    """Search every utterance and score its hypotheses with whatever the point has."""
    folder = recipe.weights / point.name
    networks: dict[str, Any] = {path.stem: reference.load(path)[0] for path in sorted(folder.glob("*.safetensors"))}
    pieces = Tokenizer(recipe.tokenizer)
    found = []
    for example in examples:
        features, lengths = dataset.padded([example.features])
        encoded, encoded_lengths = networks["body"](torch.from_numpy(features), torch.from_numpy(lengths))
        log_probs, tokens = networks["am_en"](encoded, encoded_lengths)
        emissions = Emissions(log_probs=log_probs[0].numpy(), tokens=tokens[0].numpy().astype(np.int32))
        hypotheses = ctc.beam(emissions)
        found.append(_scored(networks, pieces, example, (encoded, encoded_lengths), hypotheses))
    return found


def _scored(
    networks: Mapping[str, Any],
    pieces: Tokenizer,
    example: Example,
    heard: tuple[torch.Tensor, torch.Tensor],
    hypotheses: Sequence[Hypothesis],
) -> Candidates:
    tokens, lengths = (tensor[None] for tensor in stacked([one.tokens for one in hypotheses]))
    scores = {
        "search": np.array([one.log_prob for one in hypotheses]),
        "decoder": networks["decoder"](*heard, tokens, lengths)[0].double().numpy(),
    }
    if "lm" in networks:
        scores["lm"] = networks["lm"](tokens, lengths)[0].double().numpy()
    wrong = [wrong_words(example.text, pieces.decode(one.tokens)) for one in hypotheses]
    return Candidates(words=len(example.text.split()), wrong=np.array(wrong), scores=scores)


def _all_wrong(found: Mapping[str, Mapping[str, Sequence[Candidates]]], decoder: float, lm: float) -> int:
    return sum(
        one.chosen(_weights(point, decoder, lm))
        for point, parts in found.items()
        for each in parts.values()
        for one in each
    )


def _weights(point: str, decoder: float, lm: float) -> dict[str, float]:
    return {"decoder": decoder, "lm": lm} if point == "enhanced" else {"decoder": decoder}
