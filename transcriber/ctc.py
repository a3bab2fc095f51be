"""Search CTC emissions for the tokens in them, and align the tokens with the frames.

The loops are compiled (search.c).

An emission list holds the K most probable tokens of each frame. A token that is not in a list has at most the
probability of the last entry, and at most what the list leaves over. The search uses the smaller of the two for it.
"""

import ctypes
import functools
import math
import weakref
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from contract.client import TokenSpec
from contract.tokens import collapse
from transcriber import native
from transcriber.native import pointer
from transcriber.ngram import Ngram
from transcriber.vocabulary import Vocabulary

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int32]

BEAM_WIDTH = 16
VOCABULARY_BEAM_WIDTH = 48
"""With a vocabulary: the first tokens of a name are often less probable than sixteen other prefixes."""
# A token this unlikely in a frame (1 in 10 000) never led to another best hypothesis, and costs most of the time.
NEGLIGIBLE_LOG_PROB = math.log(1e-4)
_SMALLEST_PROB = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Emissions:
    """The valid frames of a head's output: FP32 log-probabilities and INT32 tokens, [T, K] each, falling along K."""

    log_probs: Floats
    tokens: Integers


@dataclass(frozen=True, kw_only=True, slots=True)
class Hypothesis:
    """A sequence of tokens without blanks, and its log-probability by the emissions alone.

    `lm_log_prob` is its log-probability by the n-gram model of the search, with the end of the text; None where the
    search had no such model. `lm_score` is what that model, the vocabulary and the rescorers add to the score.
    """

    tokens: tuple[int, ...]
    log_prob: float
    lm_log_prob: float | None = None
    lm_score: float = 0.0
    phrase_score: float = 0.0
    """The part of `lm_score` that the phrases of the vocabulary add."""

    @property
    def score(self) -> float:
        """Return what hypotheses are ranked by."""
        return self.log_prob + self.lm_score


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """An n-gram model in the search: each token adds `weight` times its log-probability, plus a bonus.

    Without the bonus the search prefers hypotheses with fewer tokens.
    """

    model: Ngram
    weight: float
    bonus: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignedToken:
    """A token of a hypothesis with its first and last frame, and its best probability among them."""

    token: int
    first: int
    last: int
    confidence: float


def beam_width(vocabulary: Vocabulary | None) -> int:
    """Return the width of the beam with or without a vocabulary."""
    return BEAM_WIDTH if vocabulary is None else VOCABULARY_BEAM_WIDTH


def greedy(emissions: Emissions, spec: TokenSpec) -> Hypothesis:
    """Return the best path: the best token of every frame, collapsed.

    A letter at the end of a word and again at the beginning of the next one becomes one letter, unless a blank is the
    best token between them. The beam search considers both readings instead.
    """
    tokens = collapse(emissions.tokens[:, 0].tolist(), spec.dropped)
    return Hypothesis(tokens=tokens, log_prob=float(emissions.log_probs[:, 0].sum()))


def beam(
    emissions: Emissions,
    spec: TokenSpec,
    *,
    width: int = BEAM_WIDTH,
    negligible: float = NEGLIGIBLE_LOG_PROB,
    fusion: Fusion | None = None,
    vocabulary: Vocabulary | None = None,
) -> tuple[Hypothesis, ...]:
    """Return the most probable token sequences, each summed over all its alignments: at most `width`, best first.

    Prefix beam search (Hannun et al., arXiv:1408.2873), with an n-gram model of tokens where there is one (shallow
    fusion), and with a vocabulary, whose phrases it prefers. `negligible` is the log-probability below which a frame's
    tokens are not followed. Raises ValueError as Search does.
    """
    search = Search(spec, width=width, negligible=negligible, fusion=fusion, vocabulary=vocabulary)
    search.advance(emissions)
    return search.hypotheses()


class Search:
    """The search of `beam` over emissions that come piece by piece; the pieces may be cut anywhere."""

    def __init__(
        self,
        spec: TokenSpec,
        *,
        width: int = BEAM_WIDTH,
        negligible: float = NEGLIGIBLE_LOG_PROB,
        fusion: Fusion | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """Begin a search; raise ValueError when the n-gram model or the vocabulary is not of the tokens of `spec`."""
        if width < 1:
            raise ValueError(f"a beam of width {width} holds no hypothesis")
        if fusion is not None:
            fusion.model.check_tokens(spec)
        if vocabulary is not None and vocabulary.spec != spec:
            raise ValueError("the vocabulary is spelled with the tokens of another model")
        self._spec, self._width, self._fusion, self._has_phrases = spec, width, fusion, vocabulary is not None
        # What the compiled search points to must live as long as the search.
        followed = _followed(spec)
        self._kept = (fusion, vocabulary, followed)
        self._library = native.library()
        self._native = self._library.new_search(
            width,
            negligible,
            pointer(followed),
            None if fusion is None else fusion.model.native,
            0.0 if fusion is None else fusion.weight,
            0.0 if fusion is None else fusion.bonus,
            None if vocabulary is None else vocabulary.native,
        )
        if self._native is None:
            raise MemoryError
        weakref.finalize(self, self._library.free_search, self._native)

    def advance(self, emissions: Emissions) -> None:
        """Continue the search over the next frames; raise ValueError for a token that the model has not."""
        log_probs, tokens = _lists(emissions, self._spec)
        blanks = _blanks(log_probs, tokens, self._spec.blank)
        _check_memory(
            self._library.advance_search(
                self._native, *tokens.shape, pointer(log_probs), pointer(tokens), pointer(blanks)
            )
        )

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """Return the hypotheses if no more frames come, best first."""
        scores, lengths = np.empty((self._width, 3)), np.empty(self._width, dtype=np.int32)
        count = self._library.read_search(self._native, pointer(scores), pointer(lengths))
        rows = zip(scores[:count].tolist(), lengths[:count].tolist(), strict=True)
        found = [
            Hypothesis(
                tokens=self._tokens(place, length),
                log_prob=log_prob,
                lm_log_prob=None if self._fusion is None else lm_log_prob,
                lm_score=lm_score,
                phrase_score=self._phrase_score(lm_log_prob, lm_score, length),
            )
            for place, ((log_prob, lm_log_prob, lm_score), length) in enumerate(rows)
        ]
        ranked = sorted(found, key=lambda one: (one.score, one.tokens), reverse=True)
        return tuple(one for one in ranked if one.score > -math.inf)

    def _phrase_score(self, lm_log_prob: float, lm_score: float, length: int) -> float:
        if not self._has_phrases:
            return 0.0
        if self._fusion is None:
            return lm_score
        return lm_score - self._fusion.weight * lm_log_prob - self._fusion.bonus * length

    def best_partial(self) -> tuple[int, ...]:
        """Return the most probable tokens so far, while more frames are to come."""
        length = ctypes.c_int32()
        place = self._library.best_partial(self._native, length)
        return self._tokens(place, length.value)

    def _tokens(self, place: int, length: int) -> tuple[int, ...]:
        tokens = (ctypes.c_int32 * length)()
        self._library.read_tokens(self._native, place, tokens)
        return tuple(tokens)


def align(emissions: Emissions, tokens: tuple[int, ...], spec: TokenSpec) -> tuple[AlignedToken, ...]:
    """Align a hypothesis: find its tokens' most probable frames, by a Viterbi search over blank, token, blank, ...

    Raises ValueError when there are fewer frames than the tokens need.
    """
    if not tokens:
        return ()
    log_probs, listed = _lists(emissions, spec)
    frames, wanted = len(listed), np.array(tokens, dtype=np.int32)
    first, last, best = np.empty_like(wanted), np.empty_like(wanted), np.empty(len(tokens), dtype=np.float32)
    found = native.library().align_tokens(
        *listed.shape,
        *map(pointer, (log_probs, listed, _floors(log_probs))),
        spec.blank,
        len(tokens),
        *map(pointer, (wanted, first, last, best)),
    )
    if found == native.TOO_FEW_FRAMES:
        raise ValueError(f"{frames} frames are too few for {len(tokens)} tokens")
    _check_memory(found)
    confidences = np.minimum(np.exp(best), 1.0)
    return tuple(
        AlignedToken(token=token, first=begin, last=end, confidence=confidence)
        for token, begin, end, confidence in zip(
            tokens, first.tolist(), last.tolist(), confidences.tolist(), strict=True
        )
    )


def _check_memory(found: int) -> None:
    if found == native.OUT_OF_MEMORY:
        raise MemoryError


@functools.lru_cache(maxsize=16)
def _followed(spec: TokenSpec) -> NDArray[np.uint8]:
    """Return for each token 1 if it is text, 0 if no hypothesis contains it."""
    followed = np.ones(len(spec.pieces), dtype=np.uint8)
    followed[list(spec.dropped)] = 0
    return followed


def _lists(emissions: Emissions, spec: TokenSpec) -> tuple[Floats, Integers]:
    """Return the lists for the compiled search, which relies on known tokens."""
    tokens = np.ascontiguousarray(emissions.tokens, dtype=np.int32)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(spec.pieces):
        wrong = int(tokens.min() if tokens.min() < 0 else tokens.max())
        raise ValueError(f"the emissions have token {wrong}, and the model has {len(spec.pieces)} tokens")
    log_probs = np.ascontiguousarray(emissions.log_probs, dtype=np.float32)
    if log_probs.shape != tokens.shape:
        raise ValueError(f"the emissions have {log_probs.shape} log-probabilities for {tokens.shape} tokens")
    return log_probs, tokens


def _blanks(log_probs: Floats, tokens: Integers, blank: int) -> Floats:
    """Return the log-probability of blank in every frame, [T]; the floor where a list lacks it."""
    blanks = _floors(log_probs)
    frames, places = np.nonzero(tokens == blank)
    blanks[frames] = log_probs[frames, places]
    return blanks


def _floors(log_probs: Floats) -> Floats:
    """Return the log-probability of a token that is not in a list, at most, [T]."""
    left = np.log(np.maximum(1.0 - np.exp(log_probs).sum(axis=1), _SMALLEST_PROB))
    floors: Floats = np.minimum(log_probs[:, -1], left).astype(np.float32)
    return floors
