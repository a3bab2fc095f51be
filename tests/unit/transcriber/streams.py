"""Recognise streams without a server."""

from collections.abc import Callable

import numpy as np

from tests.unit.transcriber.fakes import FT, LOUD, SO, FakeRecogniser, confident
from transcriber.recogniser import EncoderOutput, Features, RequestError

WINDOW, OVERLAP, CHUNK = 35, 3, 8


class FakeStreams(FakeRecogniser):
    """Recognise a word in the second window of every stream: `loud` or `soft`, by its level."""

    window_frames, overlap_frames = WINDOW, OVERLAP

    def __init__(self, *, fail: Callable[[int], None] = lambda _: None, similarity: float | None = 0.5) -> None:
        super().__init__(similarity=similarity)
        self.streams: dict[int, list[Features]] = {}
        self.ended: set[int] = set()
        self.cancelled: set[int] = set()
        self.requests = 0
        self._fail = fail

    def step(self, stream: int, window: Features, *, start: bool, end: bool) -> EncoderOutput:
        self.requests += 1
        self._fail(self.requests)
        if start:
            self.streams[stream] = []
        elif stream not in self.streams:
            raise RequestError("must specify the START flag")
        self.streams[stream].append(window)
        if end:
            self.ended.add(stream)
        frames = max(1, ((len(window) - 1) // 2 - 1) // 2)
        path = [0] * frames
        if len(self.streams[stream]) == 2 and len(window) == WINDOW:
            path[2:4] = [LOUD, LOUD] if float(window.max()) > 23.5 else [SO, FT]
        padded = np.zeros((CHUNK, 4), np.float16)
        return EncoderOutput(emissions=confident(path), encoder_out=padded, encoder_length=frames)

    def cancel(self, stream: int) -> None:
        self.cancelled.add(stream)

    def forget(self) -> None:
        """Lose all streams, as a server that restarts."""
        self.streams.clear()
