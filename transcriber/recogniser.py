"""What the transcriber needs of a server: the boundary between its own work and the wire."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transcriber.ctc import Emissions, Floats, Integers
from transcriber.ngram import Ngram

Features: TypeAlias = NDArray[np.float16]


class RequestError(Exception):
    """The server answered, but not with a result; asking again may help or not."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Heard:
    """What the server made of a segment: emissions, and the encoding that the decoder asks for.

    encoder_out is FP16 [time, D] with its padding, encoder_length the number of valid frames.
    """

    emissions: Emissions
    encoder_out: NDArray[Any]
    encoder_length: int


class Recogniser(Protocol):
    """A server with the models of one language at one operating point. Methods may be called from several threads.

    They raise RequestError, and ServerUnreachableError once waiting has become hopeless.
    """

    language: str
    operating_point: str
    pieces: tuple[str, ...]
    """The text of every token; U+2581 begins a word."""
    ngram: Ngram | None
    """The language model of the search; None where the weights came without one."""
    rescorers: tuple[str, ...]
    """The families that can score hypotheses: of decoder and lm, those that are served."""
    same_speaker_similarity: float | None
    """Cosine above which two embeddings are of one speaker; None when no speaker network is served."""

    def recognise(self, features: Features) -> Heard:
        """Recognise a segment: log-mel FP16 [frames, 80]."""
        ...

    def score(self, family: str, heard: Heard, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        ...

    def embed(self, windows: list[Features]) -> Floats:
        """Embed stretches of speech, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        ...


class StreamRecogniser(Recogniser, Protocol):
    """A server in real-time mode: it hears a stream window by window and keeps what it needs of the past."""

    window_frames: int
    """The feature frames of a window."""
    overlap_frames: int
    """How many of them the next window begins with."""

    def step(self, stream: int, window: Features, *, start: bool, end: bool) -> Heard:
        """Recognise the next window of a stream: log-mel FP16 [frames, 80], of `window_frames` but for the last.

        The first one starts the stream anew. Unlike that, a later one is not asked for again by itself: RequestError
        says that the server does not know the stream any more, and all of it has to be sent once more.
        """
        ...

    def give_up(self, stream: int) -> None:
        """Tell the server, if it hears it, that nothing more comes of a stream, so that another one has its place."""
        ...
