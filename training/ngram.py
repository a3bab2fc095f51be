"""The token n-gram model of the search: counted on text, smoothed, and pruned to the size limit of a configuration.

It is counted on the same text as the neural language model is trained on. No network is needed: only the tokenizer must
exist.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract import files
from export.networks.reserved_tokens import BOUNDARY
from training import corpus, language, reporting, synthesis
from training.recipe import Recipe
from training.tokenizer import Tokenizer
from transcriber import ngram
from transcriber.ngram import Level, Ngram

Keys: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]

ORDER = 6
# The threshold is found within a factor of 1.0005, so that the size is within a thousandth of the limit.
THRESHOLDS, HALVINGS = (1e-9, 1e-1), 15
_LEAST = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grams:
    """The n-grams of one order, sorted by key; a key packs the tokens, the last one in the lowest bits.

    `probs` are the probabilities of the last token given the others. `backoffs` are the log factors of tokens that were
    never seen after the whole n-gram.
    """

    keys: Keys
    counts: Reals
    probs: Reals
    backoffs: Reals


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Model:
    """A back-off model of tokens below `vocabulary`; its orders start at 1."""

    vocabulary: int
    orders: tuple[Grams, ...]

    @property
    def bits(self) -> int:
        """Return the bits that one token takes in a key."""
        return _bits(self.vocabulary)

    def log_probs(self, keys: Keys, order: int) -> Reals:
        """Return the log-probabilities of the last token of n-grams of an order; unknown n-grams back off."""
        total, is_open = np.zeros(len(keys)), np.ones(len(keys), dtype=bool)
        for length in range(order, 0, -1):
            known = self.orders[length - 1]
            shorter = keys & ((1 << self.bits * length) - 1)
            place, found = _find(known.keys, shorter)
            found &= is_open
            total[found] += np.log(known.probs[place[found]])
            is_open &= ~found
            if length > 1:
                past = self.orders[length - 2]
                place, found = _find(past.keys, shorter >> self.bits)
                found &= is_open
                total[found] += past.backoffs[place[found]]
        return total


def build(recipe: Recipe) -> None:
    """Count, smooth and prune to the size of each point; write the models and record their held-out perplexity."""
    logger = reporting.open_log(recipe)
    pieces = Tokenizer(recipe.tokenizer)
    encoded = [_known_tokens(pieces, text) for text in texts(recipe)]
    whole = estimate(count(encoded, ORDER, recipe.vocabulary), recipe.vocabulary)
    held_out = {
        name: [_known_tokens(pieces, text) for text in group] for name, group in language.held_out_texts(recipe).items()
    }
    for point in recipe.points:
        data = prune_to_size(whole, point.ngram_bytes)
        files.write(recipe.ngram(point), data)
        model = ngram.decode(data, BOUNDARY)
        figures: dict[str, float] = {
            "order": model.order,
            "ngrams": len(model),
            "counted": sum(len(grams.keys) for grams in whole.orders),
            "bytes": len(data),
            "tokens": sum(map(len, encoded)),
        }
        for name, group in held_out.items():
            figures[f"perplexity_{name}"] = round(perplexity(model, group), 2)
        logger.info("n-gram model, %s: %s", point.name, figures)
        reporting.record(recipe, f"ngram_{point.name}", figures)


def texts(recipe: Recipe) -> Iterator[str]:
    """Yield texts of segments: one to four sentences of one kind; each sentence of prose and of the libraries once.

    If they were drawn repeatedly, as for the language model, rare words would seem frequent.
    """
    source = random.Random(f"{recipe.seed} ngram")
    grammar = [corpus.draw_from_grammar(source, held_out=False) for _ in range(recipe.ngram_sentences)]
    for sentences in (grammar, corpus.prose(), corpus.library_prose(recipe.library)):
        left = [one.text for one in sentences if not corpus.is_held_out(one.text)]
        source.shuffle(left)
        while left:
            many = source.choice(synthesis.SENTENCE_COUNTS)
            yield " ".join(left[-many:])
            del left[-many:]


def count(encoded: Iterable[Sequence[int]], order: int, vocabulary: int) -> list[tuple[Keys, Reals]]:
    """Count the n-grams of every order up to `order`: sorted keys, and the count of each.

    A text begins and ends with the boundary; the opening boundary is given and not counted.
    """
    rows = [[BOUNDARY, *tokens, BOUNDARY] for tokens in encoded]
    lengths = np.array([len(row) for row in rows])
    stream = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    ends = np.cumsum(lengths)
    left = np.repeat(ends, lengths) - np.arange(len(stream))
    is_first = np.zeros(len(stream), dtype=bool)
    is_first[ends - lengths] = True
    keys, counted = stream, []
    for length in range(1, order + 1):
        if length > 1:
            keys = (keys[:-1] << _bits(vocabulary)) | stream[length - 1 :]
        within = left[: len(keys)] >= length if length > 1 else ~is_first
        found, counts = np.unique(keys[within], return_counts=True)
        counted.append((found, counts.astype(np.float64)))
    return counted


def estimate(counted: Sequence[tuple[Keys, Reals]], vocabulary: int) -> Model:
    """Smooth counts: Witten-Bell, interpolated (Chen and Goodman, Harvard TR-10-98).

    p(w | h) = (c(h w) + T(h) p(w | h')) / (c(h) + T(h)), where T(h) is the number of different tokens seen after h, and
    h' is h without its first token. The first order is interpolated with equal probabilities of all tokens from the
    boundary on.
    """
    keys = np.arange(BOUNDARY, vocabulary)
    counts = np.zeros(vocabulary)
    counts[counted[0][0]] = counted[0][1]
    counts = counts[BOUNDARY:]
    kinds = np.count_nonzero(counts)
    probs = (counts + kinds / len(keys)) / (counts.sum() + kinds)
    orders = [Grams(keys=keys, counts=counts, probs=probs, backoffs=np.zeros(len(keys)))]
    bits = _bits(vocabulary)
    for length, (keys, counts) in enumerate(counted[1:], start=2):
        if not len(keys):
            break
        _, past = np.unique(keys >> bits, return_inverse=True)
        seen, kinds_after = np.bincount(past, counts)[past], np.bincount(past)[past]
        shorter, _ = _find(orders[-1].keys, keys & ((1 << bits * (length - 1)) - 1))
        probs = (counts + kinds_after * orders[-1].probs[shorter]) / (seen + kinds_after)
        orders.append(Grams(keys=keys, counts=counts, probs=probs, backoffs=np.zeros(len(keys))))
    return _with_backoffs(Model(vocabulary=vocabulary, orders=tuple(orders)))


def pruning_losses(model: Model) -> tuple[Reals, ...]:
    """Return the relative entropy that pruning each n-gram costs, by order from the second on.

    Stolcke, Entropy-based Pruning of Backoff Language Models (arXiv:cs/0006025). The probability of a history is
    estimated from its counts.
    """
    total = model.orders[0].counts.sum()
    return tuple(_divergences(model, length) / total for length in range(2, len(model.orders) + 1))


def prune(model: Model, lost: Sequence[Reals], threshold: float) -> Model:
    """Remove every n-gram that costs at most `threshold`, unless a longer one that stays begins with it."""
    orders = list(model.orders)
    for length in range(len(orders), 1, -1):
        grams, keep = orders[length - 1], lost[length - 2] > threshold
        if length < len(orders):
            keep |= np.isin(grams.keys, orders[length].keys >> model.bits)
        orders[length - 1] = Grams(
            keys=grams.keys[keep],
            counts=grams.counts[keep],
            probs=grams.probs[keep],
            backoffs=grams.backoffs[keep],
        )
    return _with_backoffs(replace(model, orders=tuple(grams for grams in orders if len(grams.keys))))


def levels(model: Model) -> tuple[Level, ...]:
    """Return the model in the layout that the search reads."""
    found = []
    for length, grams in enumerate(model.orders, start=1):
        children = np.zeros(len(grams.keys), dtype=np.int64)
        if length < len(model.orders):
            past, many = np.unique(model.orders[length].keys >> model.bits, return_counts=True)
            children[_find(grams.keys, past)[0]] = many
        tokens = grams.keys & ((1 << model.bits) - 1)
        found.append(
            Level(tokens=tokens, log_probs=np.log(grams.probs), backoffs=grams.backoffs, children=children),
        )
    return tuple(found)


def prune_to_size(model: Model, largest_bytes: int) -> bytes:
    """Return the encoded model, pruned as little as needed to fit `largest_bytes`."""
    low, high = (math.log(bound) for bound in THRESHOLDS)
    lost, best = pruning_losses(model), b""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        data = ngram.encode(levels(prune(model, lost, math.exp(middle))), model.vocabulary)
        if len(data) <= largest_bytes:
            best, high = data, middle
        else:
            low = middle
    return best


def perplexity(model: Ngram, encoded: Sequence[Sequence[int]]) -> float:
    """Return the perplexity per token, including the end of every text."""
    return math.exp(-sum(map(model.log_prob, encoded)) / sum(len(tokens) + 1 for tokens in encoded))


def _known_tokens(pieces: Tokenizer, text: str) -> list[int]:
    """Encode a text without unknown tokens, which the search never outputs."""
    return [token for token in pieces.encode(text) if token > BOUNDARY]


def _divergences(model: Model, length: int) -> Reals:
    """Return the cost of pruning each n-gram of an order, times the total of counted tokens."""
    grams = model.orders[length - 1]
    _, past = np.unique(grams.keys >> model.bits, return_inverse=True)
    probs, shorter = grams.probs, np.exp(_shorter_log_probs(model, grams, length))
    # The total probability of tokens that were never seen after the history, before and after this one joins them.
    left, left_shorter = _remaining(past, probs)[past], _remaining(past, shorter)[past]
    factor, factor_without = np.log(left / left_shorter), np.log((left + probs) / (left_shorter + shorter))
    change = probs * (np.log(shorter) + factor_without - np.log(probs)) + left * (factor_without - factor)
    lost: Reals = -np.bincount(past, grams.counts)[past] * change
    return lost


def _with_backoffs(model: Model) -> Model:
    """Compute the back-off factors, so that the probabilities after every history sum to one."""
    orders = [replace(grams, backoffs=np.zeros(len(grams.keys))) for grams in model.orders]
    for length in range(2, len(orders) + 1):
        grams, shorter = orders[length - 1], orders[length - 2]
        histories, past = np.unique(grams.keys >> model.bits, return_inverse=True)
        lower = np.exp(_shorter_log_probs(Model(vocabulary=model.vocabulary, orders=tuple(orders)), grams, length))
        place, _ = _find(shorter.keys, histories)
        shorter.backoffs[place] = np.log(_remaining(past, grams.probs) / _remaining(past, lower))
    return replace(model, orders=tuple(orders))


def _shorter_log_probs(model: Model, grams: Grams, length: int) -> Reals:
    return model.log_probs(grams.keys & ((1 << model.bits * (length - 1)) - 1), length - 1)


def _remaining(past: NDArray[np.int64], probs: Reals) -> Reals:
    return np.maximum(1.0 - np.bincount(past, probs), _LEAST)


def _find(known: Keys, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the position of each key among sorted ones, and whether it is there."""
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return place, known[place] == keys


def _bits(vocabulary: int) -> int:
    return (vocabulary - 1).bit_length()
