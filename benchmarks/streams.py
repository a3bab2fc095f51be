"""A recogniser of streams that takes recordings, to compare real time with batch."""

from contract.catalogue import REALTIME_MODE, catalogue
from transcriber import realtime
from transcriber.ctc import Floats, Integers
from transcriber.recogniser import EncoderOutput, Features, StreamRecogniser

MODE = catalogue()["body"].modes[REALTIME_MODE]


class WindowedRecogniser:
    """A transcriber.recogniser.Recogniser that sends every segment window by window, as a live stream."""

    def __init__(self, streams: StreamRecogniser) -> None:
        self.language, self.operating_point = streams.language, streams.operating_point
        self.pieces, self.ngram, self.search_weights = streams.pieces, streams.ngram, streams.search_weights
        self.rescorers, self.same_speaker_similarity = streams.rescorers, streams.same_speaker_similarity
        self._streams = streams

    def recognise(self, features: Features) -> EncoderOutput:
        """Return the encoder output of a segment, log-mel FP16 [frames, 80], as a stream of its own."""
        stream, size = realtime.new_stream_id(), self._streams.window_frames
        begins = MODE.window_starts(len(features))
        parts = [
            self._streams.step(stream, features[begin : begin + size], start=begin == 0, end=begin == begins[-1])
            for begin in begins
        ]
        return realtime.concatenate(parts)

    def score(self, family: str, encoded: EncoderOutput, hypotheses: Integers, lengths: Integers) -> Floats:
        """Return the summed log-probabilities FP32 [N] of hypotheses INT32 [N, L] with lengths [N]."""
        return self._streams.score(family, encoded, hypotheses, lengths)

    def embed(self, windows: list[Features]) -> Floats:
        """Return the embeddings of windows, each FP16 [frames, 80]: unit vectors FP32 [len(windows), E]."""
        return self._streams.embed(windows)
