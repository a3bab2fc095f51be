"""Padding to buckets, and the windows of a stream."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogue import BATCH_MODE, REALTIME_MODE, SAMPLES, AxisRange, read_catalogue
from transcriber.buckets import AudioBatch, bucket, full_windows, pad_to, pad_tokens
from transcriber.recogniser import RequestError

BODY = read_catalogue().families["body"]


def test_returns_the_smallest_bucket() -> None:
    assert bucket(BODY, BATCH_MODE, SAMPLES, 55_440) == 64_000
    assert bucket(BODY, BATCH_MODE, SAMPLES, 64_000) == 64_000
    largest = BODY.modes[BATCH_MODE].axes[SAMPLES].max
    assert bucket(BODY, BATCH_MODE, SAMPLES, largest) == largest
    with pytest.raises(RequestError, match=f"body takes at most {largest} samples, not {largest + 1}"):
        bucket(BODY, BATCH_MODE, SAMPLES, largest + 1)


def test_exact_sizes_are_only_raised_to_the_smallest() -> None:
    assert bucket(BODY, BATCH_MODE, SAMPLES, 55_440, exact=True) == 55_440
    assert bucket(BODY, BATCH_MODE, SAMPLES, 1_000, exact=True) == BODY.modes[BATCH_MODE].axes[SAMPLES].min
    with pytest.raises(RequestError, match="body takes at most 320000 samples, not 320001"):
        bucket(BODY, BATCH_MODE, SAMPLES, 320_001, exact=True)


def test_exact_sizes_may_be_above_the_largest_bucket() -> None:
    axes = {SAMPLES: AxisRange(min=32_000, opt=32_000, max=320_000, buckets=(32_000, 160_000))}
    family = replace(BODY, modes={BATCH_MODE: replace(BODY.modes[BATCH_MODE], axes=axes)})
    assert bucket(family, BATCH_MODE, SAMPLES, 200_000, exact=True) == 200_000
    with pytest.raises(RequestError, match="body takes at most 160000 samples, not 200000"):
        bucket(family, BATCH_MODE, SAMPLES, 200_000)


def test_a_batch_has_the_type_of_its_tensor() -> None:
    batch = AudioBatch(items=[np.ones(2, np.float32), np.ones(1, np.float32)], size=2, dtype=np.float16)
    content = b"".join(part.tobytes() for part in batch.parts())
    assert len(content) == batch.nbytes == 8
    assert np.frombuffer(content, np.float16).tolist() == [1.0, 1.0, 1.0, 0.0]


def test_pads_audio_with_zeros() -> None:
    samples = np.arange(1, 6, dtype=np.float32)
    batch = AudioBatch(items=[samples[1:3], samples[:0], samples[:3], samples[::2]], size=3)
    expected = np.array([[2, 3, 0], [0, 0, 0], [1, 2, 3], [1, 3, 5]], dtype=np.float32)
    assert (batch.shape, batch.nbytes) == (expected.shape, expected.nbytes)
    assert b"".join(part.tobytes() for part in batch.parts()) == expected.tobytes()


def test_audio_of_the_right_size_is_not_copied() -> None:
    samples = np.ones(6, np.float32)
    assert all(np.shares_memory(part, samples) for part in AudioBatch(items=[samples[:3], samples[3:]], size=3).parts())


def test_pads_arrays_on_every_axis() -> None:
    padded = pad_to(np.array([[1, 2]], dtype=np.int32), 2, 3)
    assert padded.tolist() == [[1, 2, 0], [0, 0, 0]]
    assert padded.dtype == np.int32


def test_pads_tokens_and_returns_lengths() -> None:
    tokens, lengths = pad_tokens([(3, 4), ()], 3, 2)
    assert tokens.tolist() == [[3, 4], [0, 0], [0, 0]]
    assert lengths.tolist() == [2, 0, 0]
    assert tokens.dtype == lengths.dtype == np.int32


@given(pieces=st.lists(st.integers(0, 14_000), max_size=12))
def test_windows_are_those_of_the_catalogue(pieces: list[int]) -> None:
    """However the samples arrive, the full windows begin where the catalogue's mode begins them."""
    mode = BODY.modes[REALTIME_MODE]
    size = mode.axes[SAMPLES].max
    samples = np.arange(sum(pieces), dtype=np.float32)
    found, waiting, start = [], samples[:0], 0
    for piece in pieces:
        windows, waiting = full_windows(np.concatenate((waiting, samples[start : start + piece])), size, mode.overlap)
        found += windows
        start += piece
    begins = [begin for begin in mode.window_starts(len(samples)) if begin + size <= len(samples)]
    assert [int(window[0]) for window in found] == begins
    assert all(
        np.array_equal(window, samples[begin : begin + size]) for window, begin in zip(found, begins, strict=True)
    )
    assert len(waiting) == len(samples) - len(begins) * (size - mode.overlap)
