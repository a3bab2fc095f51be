"""A recogniser of streams, asked about recordings: what real time costs beside batch."""

from contract.catalogue import REALTIME_MODE, catalogue
from transcriber import realtime
from transcriber.ctc import Floats, Integers
from transcriber.recogniser import Features, Heard, StreamRecogniser

MODE = catalogue()["body"].modes[REALTIME_MODE]


class Streamed:
    """Hears every segment window by window, as if it were being spoken; see transcriber.recogniser.Recogniser."""

    def __init__(self, streams: StreamRecogniser) -> None:
        self.language, self.operating_point = streams.language, streams.operating_point
        self.pieces, self.ngram = streams.pieces, streams.ngram
        self.rescorers, self.same_speaker_similarity = streams.rescorers, streams.same_speaker_similarity
        self._streams = streams

    def recognise(self, features: Features) -> Heard:
        """Recognise a segment as a stream of its own: log-mel FP16 [frames, 80]."""
        stream, size = realtime.new_stream(), self._streams.window_frames
        begins = MODE.windows(len(features))
        parts = [
            self._streams.step(stream, features[begin : begin + size], start=begin == 0, end=begin == begins[-1])
            for begin in begins
        ]
        return realtime.joined(parts)

    def score(self, family: str, heard: Heard, hypotheses: Integers, lengths: Integers) -> Floats:
        """Score hypotheses INT32 [N, L] of lengths [N]: the summed log-probabilities FP32 [N]."""
        return self._streams.score(family, heard, hypotheses, lengths)

    def embed(self, windows: list[Features]) -> Floats:
        """Embed stretches of speech, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        return self._streams.embed(windows)
