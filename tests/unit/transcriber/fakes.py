"""Recognise without a server: one word per burst of sound, and speakers by their loudness."""

import threading
from collections.abc import Callable

import numpy as np

from transcriber.ctc import Emissions, Floats, Integers
from transcriber.ngram import Ngram
from transcriber.recogniser import EncoderOutput, Features
from transcriber.search_weights import SearchWeights

PIECES = ("<blank>", "<unk>", "</s>", "\u2581loud", "\u2581so", "ft", "\u2581yes")
LOUD, SO, FT, YES = 3, 4, 5, 6
# Log-mel energy between the loud voice of the tests and the soft one.
_BORDER = 23.5


# As of the reference weights for the enhanced point in November 2026.
WEIGHTS = SearchWeights(
    ngram=0.8, bonus=2.5, rescorers={"decoder": 1.0, "lm": 0.5}, rescorers_with_ngram={"decoder": 2.0, "lm": 0.6}
)


class FakeRecogniser:
    """Recognise `loud` or `soft` in the middle of a segment, by its level; `fail` may raise for a request."""

    def __init__(
        self,
        *,
        rescorers: tuple[str, ...] = (),
        similarity: float | None = 0.5,
        ngram: Ngram | None = None,
        fail: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.language, self.operating_point = "en", "standard"
        self.pieces: tuple[str, ...] = PIECES
        self.ngram, self.search_weights = ngram, WEIGHTS
        self.rescorers, self.same_speaker_similarity = rescorers, similarity
        self.calls: list[str] = []
        self._fail, self._lock = fail, threading.Lock()

    def recognise(self, features: Features) -> EncoderOutput:
        with self._lock:
            self.calls.append("recognise")
            number = self.calls.count("recognise")
        self._fail(number)
        frames = ((len(features) - 1) // 2 - 1) // 2
        path = [0] * frames
        loud = float(features.max()) > _BORDER
        path[frames // 2 : frames // 2 + 2] = [LOUD, LOUD] if loud else [SO, FT]
        return EncoderOutput(
            emissions=confident(path), encoder_out=np.zeros((frames, 4), np.float16), encoder_length=frames
        )

    def score(self, family: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        with self._lock:
            self.calls.append(family)
        # Prefers the longest hypothesis.
        return np.asarray(lengths * 100.0, dtype=np.float32)

    def embed(self, windows: list[Features]) -> Floats:
        with self._lock:
            self.calls.append("embed")
        loud = [float(window.max()) > _BORDER for window in windows]
        return np.array([[1, 0] if voice else [0, 1] for voice in loud], dtype=np.float32)


def confident(path: list[int]) -> Emissions:
    """Build emissions with a probability of 0.98 for one token in each frame, and of 0.01 for another."""
    tokens = np.array([[token, 0 if token else YES] for token in path], dtype=np.int32)
    log_probs = np.tile(np.log(np.array([0.98, 0.01], dtype=np.float32)), (len(path), 1))
    return Emissions(log_probs=log_probs, tokens=tokens)
