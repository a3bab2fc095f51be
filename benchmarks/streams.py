"""A recogniser of streams that takes recordings, to compare real time with batch."""

from collections.abc import Sequence

from contract.catalogue import ENCODER, REALTIME_MODE, read_catalogue
from transcriber import open_segment
from transcriber.audio import Samples
from transcriber.ctc import Floats, Integers
from transcriber.recogniser import Bounds, EncoderOutput, StreamRecogniser

MODE = read_catalogue().of_role(ENCODER)[0].modes[REALTIME_MODE]


class WindowedRecogniser:
    """A transcriber.recogniser.Recogniser that sends every segment window by window, as a live stream."""

    def __init__(self, streams: StreamRecogniser) -> None:
        self.language, self.operating_point = streams.language, streams.operating_point
        self.audio, self.tokens, self.search = streams.audio, streams.tokens, streams.search
        self.ngram, self.rescorers, self.speaker = streams.ngram, streams.rescorers, streams.speaker
        self.longest_samples = streams.longest_samples
        self.most_hypotheses, self.longest_hypothesis = streams.most_hypotheses, streams.longest_hypothesis
        self.in_flight = streams.in_flight
        self._streams = streams

    def recognise(self, samples: Samples) -> EncoderOutput:
        """Return the encoder output of a segment, as a stream of its own."""
        stream, size = open_segment.new_stream_id(), self._streams.window_samples
        begins = MODE.window_starts(len(samples))
        parts = [
            self._streams.step(stream, samples[begin : begin + size], start=begin == 0, end=begin == begins[-1])
            for begin in begins
        ]
        return open_segment.concatenate(parts)

    def score(self, role: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Return the summed log-probabilities FP32 [N] of hypotheses INT32 [N, L] with lengths [N]."""
        return self._streams.score(role, encoded, hypotheses, lengths)

    def embed(self, samples: Samples, bounds: Sequence[Bounds]) -> Floats:
        """Return the embeddings of the windows of a segment: unit vectors FP32 [len(bounds), E]."""
        return self._streams.embed(samples, bounds)
