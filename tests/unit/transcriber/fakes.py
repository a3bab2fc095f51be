"""Recognise without a server: one word per burst of sound, and speakers by their loudness."""

import threading
from collections.abc import Callable, Sequence

import numpy as np

from contract.client import AudioSpec, SearchSpec, SpeakerSpec, TokenSpec
from transcriber.audio import Samples
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.ngram import Ngram
from transcriber.recogniser import Bounds, EncoderOutput

PIECES = ("<blank>", "<unk>", "</s>", "\u2581loud", "\u2581so", "ft", "\u2581yes")
LOUD, SO, FT, YES = 3, 4, 5, 6
# The largest sample between the loud voice of the tests and the soft one.
_BORDER = 0.3
AUDIO = AudioSpec(sample_rate_hz=16_000, shortest_samples=1360, hop_s=0.04, first_centre_s=0.0425)
TOKENS = TokenSpec(pieces=PIECES, blank=0, unspoken=(1, 2), boundary=2)
# As of the reference weights for the enhanced point in November 2026.
SEARCH = SearchSpec(
    ngram_weight=0.8,
    token_bonus=2.5,
    rescorers={"rescorer": 1.0, "lm": 0.5},
    rescorers_with_ngram={"rescorer": 2.0, "lm": 0.6},
)


def speaker_spec(similarity: float) -> SpeakerSpec:
    """Build a speaker network's spec: windows of 2 s every 0.75 s, from segments."""
    return SpeakerSpec(
        sample_rate_hz=16_000, same_speaker_similarity=similarity, window_s=2.0, hop_s=0.75, takes="segments"
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
        self.audio, self.tokens, self.search = AUDIO, TOKENS, SEARCH
        self.ngram, self.rescorers = ngram, rescorers
        self.longest_samples, self.most_hypotheses, self.longest_hypothesis = 320_000, 16, 256
        self.in_flight = 8
        self.speaker: SpeakerSpec | None = None if similarity is None else speaker_spec(similarity)
        self.calls: list[str] = []
        self._fail, self._lock = fail, threading.Lock()

    def recognise(self, samples: Samples) -> EncoderOutput:
        with self._lock:
            self.calls.append("recognise")
            number = self.calls.count("recognise")
        self._fail(number)
        frames = self.audio.frames(len(samples))
        path = [0] * frames
        loud = float(samples.max()) > _BORDER
        path[frames // 2 : frames // 2 + 2] = [LOUD, LOUD] if loud else [SO, FT]
        return EncoderOutput(
            emissions=confident(path), encoder_out=np.zeros((frames, 4), np.float16), encoder_length=frames
        )

    def score(self, role: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        with self._lock:
            self.calls.append(role)
        # Prefers the longest hypothesis.
        return np.asarray(lengths * 100.0, dtype=np.float32)

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        with self._lock:
            self.calls.append("embed")
        loud = [float(samples[first:last].max()) > _BORDER for first, last in bounds]
        return np.array([[1, 0] if voice else [0, 1] for voice in loud], dtype=np.float32)


def confident(path: list[int]) -> Emissions:
    """Build emissions with a probability of 0.98 for one token in each frame, and of 0.01 for another."""
    tokens = np.array([[token, 0 if token else YES] for token in path], dtype=np.int32)
    log_probs = np.tile(np.log(np.array([0.98, 0.01], dtype=np.float32)), (len(path), 1))
    return Emissions(log_probs=log_probs, tokens=tokens)
