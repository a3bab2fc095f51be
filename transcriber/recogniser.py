"""Define what the transcriber needs from a server: the interface between the transcription and the network protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

from numpy.typing import NDArray

from contract.client import AudioSpec, SearchSpec, SpeakerSpec, TokenSpec
from transcriber.audio import Samples
from transcriber.ctc import Emissions, Floats, Integers
from transcriber.ngram import Ngram

Bounds: TypeAlias = tuple[int, int]
"""The first sample of a window, and the one after its last."""


class RequestError(Exception):
    """The server answered a request with an error. The same request may succeed later or not."""


class CancelledRequestError(RequestError):
    """The result of a request is not needed any more, so it is not repeated."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncoderOutput:
    """The server's result for a segment: the emissions, and the encoder output that a rescorer may take.

    encoder_out is FP16 [encoder_length, D], None where the recogniser returns none.
    """

    emissions: Emissions
    encoder_out: NDArray[Any] | None
    encoder_length: int


class Recogniser(Protocol):
    """A server with the models of one language at one operating point. Methods may be called from several threads.

    They raise RequestError, and ServerUnreachableError when an outage lasts longer than the retry timeout.
    """

    language: str
    operating_point: str
    audio: AudioSpec
    """The audio that it takes, and the times of its frames."""
    longest_samples: int
    """The longest segment that it takes."""
    tokens: TokenSpec
    """Its tokens and how they spell words."""
    ngram: Ngram | None
    """The language model of the search; None where the weights have none."""
    search: SearchSpec
    """How much the n-gram model and the rescorers count."""
    rescorers: tuple[str, ...]
    """The roles of the served models that score hypotheses."""
    most_hypotheses: int
    """How many hypotheses all of them score at a time; 0 without rescorers."""
    longest_hypothesis: int
    """How many tokens of a hypothesis all of them take; 0 without rescorers."""
    speaker: SpeakerSpec | None
    """The audio that the speaker network takes; None when no speaker network is served."""
    in_flight: int
    """How many segments at a time keep the server busy: those of a few batches, where it computes batches."""

    def recognise(self, samples: Samples) -> EncoderOutput:
        """Recognise a segment: mono samples in [-1, 1) at the rate of `audio`."""
        ...

    def score(self, role: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        ...

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        """Embed the windows of a segment at the rate of `speaker`: unit vectors FP32 [len(bounds), E].

        bounds: those that speakers.window_bounds has for the segment.
        """
        ...


class StreamRecogniser(Recogniser, Protocol):
    """A server in real-time mode: it takes a stream window by window and keeps the states that the next one needs."""

    window_samples: int
    """The samples of a window."""
    overlap_samples: int
    """How many samples the next window repeats at its beginning."""

    def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
        """Recognise the next window of a stream: `window_samples` samples; the last one may be shorter.

        The first window starts the stream, also if the server knows its number. Only the first window is
        repeated while the server is away. RequestError for a later one means that the server may have lost the stream:
        send it again from its first window.
        """
        ...

    def cancellable(self, is_cancelled: Callable[[], bool]) -> Self:
        """Return this recogniser for a session that may end while its first window waits for a place on the server.

        Soon after `is_cancelled` returns True, in any thread, `step` raises CancelledRequestError.
        """
        ...

    def cancel(self, stream: int) -> None:
        """Free the place of a stream on the server, if the server can be reached; send nothing more of that stream."""
        ...
