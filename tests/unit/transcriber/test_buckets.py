"""Padding to buckets, and the windows of a stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogue import BATCH_MODE, REALTIME_MODE, catalogue
from transcriber.buckets import bucket, full_windows, pad_features, pad_to, pad_tokens
from transcriber.recogniser import RequestError


def test_returns_the_smallest_bucket() -> None:
    body = catalogue()["body"]
    assert bucket(body, BATCH_MODE, "frames", 345) == 400
    assert bucket(body, BATCH_MODE, "frames", 400) == 400
    largest = body.modes[BATCH_MODE].axes["frames"].max
    assert bucket(body, BATCH_MODE, "frames", largest) == largest
    with pytest.raises(RequestError, match=f"body takes at most {largest} frames, not {largest + 1}"):
        bucket(body, BATCH_MODE, "frames", largest + 1)


def test_pads_features_with_zeros() -> None:
    batch = pad_features([np.ones((2, 80), np.float16), np.ones((0, 80), np.float16)], 3)
    assert batch.shape == (2, 3, 80)
    assert batch.dtype == np.float16
    assert batch[:, :, 0].tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_pads_arrays_on_every_axis() -> None:
    padded = pad_to(np.array([[1, 2]], dtype=np.int32), 2, 3)
    assert padded.tolist() == [[1, 2, 0], [0, 0, 0]]
    assert padded.dtype == np.int32


def test_pads_tokens_and_returns_lengths() -> None:
    tokens, lengths = pad_tokens([(3, 4), ()], 3, 2)
    assert tokens.tolist() == [[3, 4], [0, 0], [0, 0]]
    assert lengths.tolist() == [2, 0, 0]
    assert tokens.dtype == lengths.dtype == np.int32


@given(pieces=st.lists(st.integers(0, 90), max_size=12))
def test_windows_are_those_of_the_catalogue(pieces: list[int]) -> None:
    """However the frames arrive, the full windows begin where the catalogue's mode begins them."""
    mode = catalogue()["body"].modes[REALTIME_MODE]
    size = mode.axes["frames"].max
    frames = np.arange(sum(pieces), dtype=np.float16)[:, None].repeat(80, axis=1)
    found, waiting, start = [], frames[:0], 0
    for piece in pieces:
        windows, waiting = full_windows(np.concatenate((waiting, frames[start : start + piece])), size, mode.overlap)
        found += windows
        start += piece
    begins = [begin for begin in mode.window_starts(len(frames)) if begin + size <= len(frames)]
    assert [int(window[0, 0]) for window in found] == begins
    assert all(
        np.array_equal(window, frames[begin : begin + size]) for window, begin in zip(found, begins, strict=True)
    )
    assert len(waiting) == len(frames) - len(begins) * (size - mode.overlap)
