"""The search as it was before it was compiled: slower, in plain Python, and the reference for the compiled one."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.client import TokenSpec
from transcriber.ctc import AlignedToken, Emissions, Floats, Hypothesis
from transcriber.ngram import Level

_SMALLEST_PROB = 1e-9


class LanguageModel(Protocol):
    """A model that the search queries for every token. A state stands for all tokens so far."""

    start: int
    boundary: int

    def after(self, state: int, token: int) -> tuple[float, int]:
        """Return the log-probability, at most 0, of a token or of the boundary, and the state after it."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """A language model in the search: each token adds `weight` times its log-probability, plus a bonus."""

    model: LanguageModel
    weight: float
    bonus: float


def beam(
    emissions: Emissions, spec: TokenSpec, *, width: int, negligible: float, fusion: Fusion | None = None
) -> tuple[Hypothesis, ...]:
    """Return the most probable token sequences, each summed over all its alignments: at most `width`, best first."""
    search = Search(spec, width, negligible, fusion)
    search.advance(emissions)
    return search.hypotheses()


class Search:
    """The search of `beam` over emissions that come piece by piece; the pieces may be cut anywhere."""

    def __init__(self, spec: TokenSpec, width: int, negligible: float, fusion: Fusion | None) -> None:
        self._spec, self._width, self._negligible = spec, width, negligible
        self._beams: dict[_Prefix, tuple[float, float]] = {_Prefix(None, spec.blank, fusion): (0.0, -math.inf)}

    def advance(self, emissions: Emissions) -> None:
        """Continue the search over the next frames."""
        for blank, followed in _frames(emissions, self._spec, self._negligible):
            if followed:
                self._beams = _extend(self._beams, blank, followed, self._width)
            else:
                self._beams = {prefix: (_log_add(*scores) + blank, -math.inf) for prefix, scores in self._beams.items()}

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """Return the hypotheses if no more frames come, best first."""
        found = [prefix.hypothesis(_log_add(*scores)) for prefix, scores in self._beams.items()]
        ranked = sorted(found, key=lambda one: (one.score, one.tokens), reverse=True)
        return tuple(one for one in ranked if one.score > -math.inf)

    def best_partial(self) -> tuple[int, ...]:
        """Return the most probable tokens so far, while more frames are to come."""
        return max(self._beams, key=lambda prefix: _log_add(*self._beams[prefix])).tokens()


class ReferenceNgram:
    """A model that scores a text token by token. A state stands for the part of the past that the model can use."""

    def __init__(self, levels: Sequence[Level], vocabulary: int, boundary: int) -> None:
        self.vocabulary, self.boundary = vocabulary, boundary
        self._children = _tree(levels, vocabulary)
        self._log_probs = [0.0, *(value for level in levels for value in level.log_probs.tolist())]
        self._backoffs = [0.0, *(value for level in levels for value in level.backoffs.tolist())]
        self._shorter, self._states = self._find_links(
            [1, *(each for level in levels for each in level.children.tolist())]
        )
        self.start = self.after(0, boundary)[1]

    def after(self, state: int, token: int) -> tuple[float, int]:
        """Return the log-probability of a token in a state, and the state after it."""
        log_prob = 0.0
        node = self._children.get(state * self.vocabulary + token)
        while node is None:
            if not state:
                raise ValueError(f"token {token} is not in the n-gram model")
            log_prob += self._backoffs[state]
            state = self._shorter[state]
            node = self._children.get(state * self.vocabulary + token)
        # With rounded values the sum may be a little above 0.
        return min(log_prob + self._log_probs[node], 0.0), self._states[node]

    def _find_links(self, children: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return for each node the longest shorter past in the tree, and the longest past that has children."""
        shorter, states = [0] * len(children), [0] * len(children)
        # Parents come before their children.
        for key, node in self._children.items():
            parent, token = divmod(key, self.vocabulary)
            past = parent
            while past:
                past = shorter[past]
                found = self._children.get(past * self.vocabulary + token)
                if found is not None:
                    shorter[node] = found
                    break
            states[node] = node if children[node] else states[shorter[node]]
        return shorter, states


def align(emissions: Emissions, tokens: tuple[int, ...], spec: TokenSpec) -> tuple[AlignedToken, ...]:
    """Align a hypothesis: find its tokens' most probable frames, by a Viterbi search over blank, token, blank, ...

    Raises ValueError when there are fewer frames than the tokens need.
    """
    if not tokens:
        return ()
    scores = _state_scores(emissions, tokens, spec)
    path = _viterbi(scores, tokens)
    aligned = []
    for position, token in enumerate(tokens):
        frames = np.flatnonzero(path == 2 * position + 1)
        confidence = float(np.exp(scores[frames, 2 * position + 1].max()))
        aligned.append(
            AlignedToken(token=token, first=int(frames[0]), last=int(frames[-1]), confidence=min(confidence, 1.0))
        )
    return tuple(aligned)


class _Prefix:
    """A node of the tree of prefixes; the same prefix is always the same node.

    `lm_log_prob` is the log-probability of the prefix by the language model, `lm_score` what that adds to its score.
    """

    __slots__ = ("children", "fusion", "lm_log_prob", "lm_score", "parent", "state", "token")

    def __init__(self, parent: "_Prefix | None", token: int, fusion: Fusion | None) -> None:
        self.parent, self.token, self.fusion = parent, token, fusion
        self.children: dict[int, _Prefix] = {}
        self.state, self.lm_log_prob, self.lm_score = 0, 0.0, 0.0
        if fusion is not None and parent is None:
            self.state = fusion.model.start
        elif fusion is not None and parent is not None:
            log_prob, self.state = fusion.model.after(parent.state, token)
            self.lm_log_prob = parent.lm_log_prob + log_prob
            self.lm_score = parent.lm_score + fusion.weight * log_prob + fusion.bonus

    def child(self, token: int) -> "_Prefix":
        """Add and return the prefix that is longer by a token."""
        longer = self.children[token] = _Prefix(self, token, self.fusion)
        return longer

    def hypothesis(self, total: float) -> Hypothesis:
        """Return the hypothesis that ends here; `total` is the score of the prefix, with its `lm_score`."""
        log_prob = total - self.lm_score
        if self.fusion is None:
            return Hypothesis(tokens=self.tokens(), log_prob=log_prob)
        end, _ = self.fusion.model.after(self.state, self.fusion.model.boundary)
        lm_score = self.lm_score + self.fusion.weight * end
        return Hypothesis(
            tokens=self.tokens(), log_prob=log_prob, lm_log_prob=self.lm_log_prob + end, lm_score=lm_score
        )

    def tokens(self) -> tuple[int, ...]:
        """Return all tokens of the prefix."""
        tokens: list[int] = []
        node = self
        while node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        return tuple(reversed(tokens))


def _frames(emissions: Emissions, spec: TokenSpec, negligible: float) -> list[tuple[float, list[tuple[int, float]]]]:
    """Return for each frame the log-probability of blank, and the tokens to follow with theirs."""
    blanks = _log_probs_of(emissions, (spec.blank,))[:, 0].tolist()
    kept = (emissions.log_probs > negligible) & ~np.isin(emissions.tokens, list(spec.dropped))
    followed: list[list[tuple[int, float]]] = [[] for _ in blanks]
    for frame, place in np.argwhere(kept).tolist():
        followed[frame].append((int(emissions.tokens[frame, place]), float(emissions.log_probs[frame, place])))
    return list(zip(blanks, followed, strict=True))


def _extend(
    beams: dict[_Prefix, tuple[float, float]], blank: float, followed: list[tuple[int, float]], width: int
) -> dict[_Prefix, tuple[float, float]]:
    """Extend the prefixes by one frame. Scores are (ending in blank, ending in the last token), with `lm_score`."""
    ended = {prefix: _log_add(*scores) + blank for prefix, scores in beams.items()}
    # A new prefix has only one parent: one that is worse than `width` others already cannot get better.
    bound = min(ended.values()) if len(beams) >= width else -math.inf
    fusion = next(iter(beams)).fusion
    # A language model can only lower the score of a new prefix, so it rises by the bonus at most.
    most = 0.0 if fusion is None else fusion.bonus
    spoken: dict[_Prefix, float] = {}
    for prefix, (in_blank, in_token) in beams.items():
        in_either = ended[prefix] - blank
        for token, log_prob in followed:
            score = in_either + log_prob
            if token == prefix.token:
                # The same token again continues the same sound, unless a blank lies between.
                spoken[prefix] = _log_add(spoken.get(prefix, -math.inf), in_token + log_prob)
                score = in_blank + log_prob
            longer = prefix.children.get(token)
            if longer is None:
                if score + most <= bound:
                    continue
                longer = prefix.child(token)
            score += longer.lm_score - prefix.lm_score
            if score > bound or longer in beams:
                spoken[longer] = _log_add(spoken.get(longer, -math.inf), score)
    scores = {prefix: (ended.get(prefix, -math.inf), spoken.get(prefix, -math.inf)) for prefix in {**ended, **spoken}}
    if len(scores) <= width:
        return scores
    best = sorted(scores, key=lambda prefix: _log_add(*scores[prefix]), reverse=True)[:width]
    return {prefix: scores[prefix] for prefix in best}


def _log_add(first: float, second: float) -> float:
    """Return the log of the sum of two probabilities, given as logs."""
    if first < second:
        first, second = second, first
    return first if second == -math.inf else first + math.log1p(math.exp(second - first))


def _log_probs_of(emissions: Emissions, tokens: tuple[int, ...]) -> Floats:
    """Return the log-probabilities of tokens in every frame, [T, len(tokens)]; the floor where a list lacks one."""
    left = np.log(np.maximum(1.0 - np.exp(emissions.log_probs).sum(axis=1), _SMALLEST_PROB))
    floor = np.minimum(emissions.log_probs[:, -1], left)
    found = np.repeat(floor[:, None], len(tokens), axis=1).astype(np.float32)
    for place in range(emissions.tokens.shape[1]):
        match = emissions.tokens[:, place, None] == np.asarray(tokens)
        found = np.where(match, emissions.log_probs[:, place, None], found)
    return found


def _state_scores(emissions: Emissions, tokens: tuple[int, ...], spec: TokenSpec) -> Floats:
    """Return the log-probability of each state (blank, token, blank, ..., blank) in each frame: [T, 2L + 1]."""
    scores = np.empty((emissions.tokens.shape[0], 2 * len(tokens) + 1), dtype=np.float32)
    scores[:, 0::2] = _log_probs_of(emissions, (spec.blank,))
    scores[:, 1::2] = _log_probs_of(emissions, tokens)
    return scores


def _viterbi(scores: Floats, tokens: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the state of each frame on the best path: it rises by 0, 1, or by 2 over a blank between unlike tokens."""
    frames, states = scores.shape
    may_skip = np.zeros(states, dtype=bool)
    may_skip[3::2] = np.asarray(tokens[1:]) != np.asarray(tokens[:-1])
    total = np.full(states, -np.inf)
    total[:2] = scores[0, :2]
    steps = np.zeros((frames, states), dtype=np.int8)
    for frame in range(1, frames):
        ways = np.full((3, states), -np.inf)
        ways[0], ways[1, 1:] = total, total[:-1]
        ways[2, 2:] = np.where(may_skip[2:], total[:-2], -np.inf)
        steps[frame] = ways.argmax(axis=0)
        total = ways.max(axis=0) + scores[frame]
    return _trace(total, steps)


def _trace(total: NDArray[np.float64], steps: NDArray[np.int8]) -> NDArray[np.int64]:
    frames, states = steps.shape
    state = states - 1 if total[-1] >= total[-2] else states - 2
    if not np.isfinite(total[state]):
        raise ValueError(f"{frames} frames are too few for {states // 2} tokens")
    path = np.empty(frames, dtype=np.int64)
    for frame in range(frames - 1, -1, -1):
        path[frame] = state
        state -= steps[frame, state]
    return path


def _tree(levels: Sequence[Level], vocabulary: int) -> dict[int, int]:
    """Return the node for each (node, token), numbered in order from 1 on; keys are node * vocabulary + token."""
    keys, first = [levels[0].tokens], 1
    for before, level in itertools.pairwise(levels):
        parents = np.repeat(np.arange(first, first + len(before.tokens)), before.children)
        keys.append(parents * vocabulary + level.tokens)
        first += len(before.tokens)
    return {key: node for node, key in enumerate(np.concatenate(keys).tolist(), start=1)}
