"""Define what the transcriber needs from a server: the interface between the transcription and the network protocol."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transcriber.ctc import Emissions, Floats, Integers
from transcriber.ngram import Ngram
from transcriber.search_weights import SearchWeights

Features: TypeAlias = NDArray[np.float16]


class RequestError(Exception):
    """The server answered a request with an error. The same request may succeed later or not."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncoderOutput:
    """The server's result for a segment: the emissions, and the encoder output that the decoder takes.

    encoder_out is FP16 [time, D] with its padding, encoder_length the number of valid frames.
    """

    emissions: Emissions
    encoder_out: NDArray[Any]
    encoder_length: int


class Recogniser(Protocol):
    """A server with the models of one language at one operating point. Methods may be called from several threads.

    They raise RequestError, and ServerUnreachableError when an outage lasts longer than the retry timeout.
    """

    language: str
    operating_point: str
    pieces: tuple[str, ...]
    """The text of every token; U+2581 begins a word."""
    ngram: Ngram | None
    """The language model of the search; None where the weights have none."""
    rescorers: tuple[str, ...]
    """The families that can score hypotheses: those of decoder and lm that are served."""
    search_weights: SearchWeights
    """How much the n-gram model and the rescorers count."""
    same_speaker_similarity: float | None
    """Cosine above which two embeddings are of one speaker; None when no speaker network is served."""

    def recognise(self, features: Features) -> EncoderOutput:
        """Recognise a segment: log-mel FP16 [frames, 80]."""
        ...

    def score(self, family: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        ...

    def embed(self, windows: list[Features]) -> Floats:
        """Embed stretches of speech, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        ...


class StreamRecogniser(Recogniser, Protocol):
    """A server in real-time mode: it takes a stream window by window and keeps the states that the next one needs."""

    window_frames: int
    """The feature frames of a window."""
    overlap_frames: int
    """How many frames the next window repeats at its beginning."""

    def step(self, stream: int, window: Features, *, start: bool, end: bool) -> EncoderOutput:
        """Recognise the next window of a stream: log-mel FP16 [window_frames, 80]; the last one may be shorter.

        The first window starts the stream, also if the server knows its number. Only the first window is
        repeated while the server is away. RequestError for a later one means that the server may have lost the stream:
        send it again from its first window.
        """
        ...

    def cancel(self, stream: int) -> None:
        """Free the place of a stream on the server, if the server can be reached; send nothing more of that stream."""
        ...
