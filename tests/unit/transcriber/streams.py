"""Recognise streams without a server."""

from collections.abc import Callable
from typing import Self

import numpy as np

from tests.unit.transcriber.fakes import FT, LOUD, SO, FakeRecogniser, confident
from transcriber.audio import Samples
from transcriber.recogniser import EncoderOutput, RequestError

WINDOW, OVERLAP = 5840, 720


class FakeStreams(FakeRecogniser):
    """Recognise a word in the second window of every stream: `loud` or `soft`, by its level."""

    window_samples, overlap_samples = WINDOW, OVERLAP

    def __init__(self, *, fail: Callable[[int], None] = lambda _: None, similarity: float | None = 0.5) -> None:
        super().__init__(similarity=similarity)
        self.streams: dict[int, list[Samples]] = {}
        self.ended: set[int] = set()
        self.cancelled: set[int] = set()
        self.requests = 0
        self._fail = fail
        self.is_cancelled: Callable[[], bool] = lambda: False

    def step(self, stream: int, window: Samples, *, start: bool, end: bool) -> EncoderOutput:
        self.requests += 1
        self._fail(self.requests)
        if start:
            self.streams[stream] = []
        elif stream not in self.streams:
            raise RequestError("must specify the START flag")
        self.streams[stream].append(window)
        if end:
            self.ended.add(stream)
        frames = max(1, self.audio.frames(len(window)))
        path = [0] * frames
        if len(self.streams[stream]) == 2 and len(window) == WINDOW:
            path[2:4] = [LOUD, LOUD] if float(window.max()) > 0.3 else [SO, FT]
        encoder_out = np.zeros((frames, 4), np.float16)
        return EncoderOutput(emissions=confident(path), encoder_out=encoder_out, encoder_length=frames)

    def cancellable(self, is_cancelled: Callable[[], bool]) -> Self:
        self.is_cancelled = is_cancelled
        return self

    def cancel(self, stream: int) -> None:
        self.cancelled.add(stream)

    def forget(self) -> None:
        """Lose all streams, as a server that restarts."""
        self.streams.clear()
