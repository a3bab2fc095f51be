"""Splitting at silence: all speech is covered, and the sizes of blocks do not matter."""

import itertools
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.transcriber.sounds import burst, silence
from transcriber import segments as segmenting
from transcriber.segments import Segment, Timing, follow, split

LONGEST_SAMPLES, PADDING_SAMPLES = 16 * 16_000, 16_000 // 5
PLAN = ((1.0, 2.5), (2.0, 0.8), (1.5, 4.0), (3.0, 1.2))  # silence, then speech, in seconds


def talk(level: float = 0.5) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    parts, spoken, offset = [], [], 0
    for pause_s, speech_s in PLAN:
        parts += [silence(pause_s), burst(speech_s, level=level)]
        offset += round(pause_s * 16_000)
        spoken.append((offset, offset + round(speech_s * 16_000)))
        offset = spoken[-1][1]
    return np.concatenate([*parts, silence(1.0)]), spoken


def bounds(segments: list[Segment]) -> list[tuple[int, int]]:
    return [(segment.start, segment.end) for segment in segments]


def in_blocks(samples: NDArray[np.float32], sizes: list[int]) -> Iterator[NDArray[np.float32]]:
    start = 0
    while start < samples.size:
        for size in sizes:
            yield samples[start : start + size]
            start += size


@pytest.mark.parametrize("level_db", [0, -10, -20, -30, -40])
def test_covers_speech_at_every_level(level_db: int) -> None:
    samples, spoken = talk(0.99 * 10 ** (level_db / 20))
    found = bounds(list(split([samples])))
    assert len(found) == len(spoken)
    for (start, end), (first, last) in zip(found, spoken, strict=True):
        assert first - 2 * PADDING_SAMPLES <= start <= first
        # The detector itself reports a few voiced frames after loud speech.
        assert last <= end <= last + 3 * PADDING_SAMPLES


def test_finds_speech_in_noise() -> None:
    samples, spoken = talk(0.2)
    noise = np.random.default_rng(1).normal(0, 0.004, samples.size).astype(np.float32)
    found = bounds(list(split([samples + noise])))
    for first, last in spoken:
        covered = sum(max(0, min(end, last) - max(start, first)) for start, end in found)
        assert covered > 0.9 * (last - first)


def test_finds_soft_speaker_after_loud_one() -> None:
    samples = np.concatenate([burst(2.0, level=0.9), silence(1), burst(2.0, level=0.07), silence(1)])
    found = bounds(list(split([samples])))
    assert len(found) == 2
    assert found[1][0] <= 48_000


def test_click_does_not_hide_soft_speech() -> None:
    samples = np.concatenate([silence(2), burst(2.0, level=0.02), silence(1)])
    samples[8_000:8_010] = 1.0
    assert any(start <= 32_000 and end >= 64_000 for start, end in bounds(list(split([samples]))))


@given(sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_block_sizes_do_not_matter(sizes: list[int]) -> None:
    samples, _ = talk()
    samples = samples[: 16_000 * 9 + 123]
    sizes = [max(size, 500) for size in sizes]
    assert bounds(list(split(in_blocks(samples, sizes)))) == bounds(list(split([samples])))


def test_segments_have_the_samples_of_the_recording() -> None:
    samples, _ = talk()
    for segment in split(in_blocks(samples, [1_601])):
        assert np.array_equal(segment.samples, samples[segment.start : segment.end])
        assert segment.start_s == segment.start / 16_000


def test_cuts_long_speech_at_its_quietest_point() -> None:
    speech = burst(24.0)
    dip = slice(round(11.9 * 16_000), round(12.1 * 16_000))
    speech[dip] *= 0.05
    samples = np.concatenate([silence(0.5), speech, silence(1.0)])
    first, second = bounds(list(split([samples])))
    assert first[1] == second[0]
    assert first[1] / 16_000 == pytest.approx(12.5, abs=0.06)


@given(seed=st.integers(0, 1_000))
@settings(max_examples=10, deadline=None)
def test_segments_are_ordered_and_not_too_long(seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = [
        burst(float(random.uniform(0.05, 20)), level=float(random.uniform(0.1, 1)))
        if random.random() < 0.6
        else random.normal(0, float(random.uniform(0, 0.1)), round(random.uniform(0.01, 3) * 16_000)).astype("f4")
        for _ in range(4)
    ]
    samples = np.concatenate(parts)
    end = 0
    for segment in split([samples]):
        assert end <= segment.start < segment.end <= samples.size
        assert segment.samples.size <= LONGEST_SAMPLES
        end = segment.end


@pytest.mark.parametrize("samples", [np.empty(0, "f4"), np.zeros(100, "f4"), np.zeros(160_000, "f4")])
def test_silence_has_no_segments(samples: NDArray[np.float32]) -> None:
    assert list(split([samples])) == []


def test_speech_up_to_both_ends() -> None:
    samples = burst(2.0)
    assert bounds(list(split([samples]))) == [(0, samples.size)]


def test_two_hours_in_bounded_memory() -> None:
    """A burst per minute: 460 MB as a whole. The memory of the last ten minutes is measured, to save time."""
    minute = np.concatenate([burst(4.0), silence(56.0)])

    def stream() -> Iterator[NDArray[np.float32]]:
        for number in range(120):
            if number == 110:
                tracemalloc.start()
            yield from minute.reshape(-1, 16_000)

    count = sum(1 for _ in split(stream()))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 120
    assert peak_bytes < 8e6


@pytest.mark.parametrize("level_db", [0, -10, -20, -30])
def test_splits_a_stream_without_look_ahead(level_db: int) -> None:
    samples, spoken = talk(0.99 * 10 ** (level_db / 20))
    found = [update.segment for update in follow(in_blocks(samples, [700])) if update.ended]
    assert len(found) == len(spoken)
    for segment, (first, last) in zip(found, spoken, strict=True):
        assert first - 2 * PADDING_SAMPLES <= segment.start <= first
        assert last <= segment.end <= last + 3 * PADDING_SAMPLES
        assert np.array_equal(segment.samples, samples[segment.start : segment.end])


def test_follows_speech_while_it_goes_on() -> None:
    """An update comes every 0.1 s, until the end is detected 0.4 s after the last voiced frame."""
    samples, spoken = talk()
    given = 0

    def blocks() -> Iterator[NDArray[np.float32]]:
        nonlocal given
        for block in in_blocks(samples, [1600]):
            given += block.size
            yield block

    last: Segment | None = None
    ended = 0
    for update in follow(blocks()):
        if last is not None and not update.ended:
            assert update.segment.start == last.start
            assert update.segment.samples.size == last.samples.size + 1600
        if update.ended:
            assert given <= spoken[ended][1] + 16_000
            ended += 1
        else:
            assert update.segment.end == given
        last = None if update.ended else update.segment
    assert ended == len(spoken)


def test_segments_of_a_stream_without_pauses_touch() -> None:
    found = [update.segment for update in follow([burst(40.0), silence(1)]) if update.ended]
    assert len(found) >= 3
    assert all(before.end == after.start for before, after in pairwise(found))
    assert all(segment.samples.size <= LONGEST_SAMPLES for segment in found)


@pytest.mark.parametrize("rate_hz", [8_000, 32_000, 48_000])
def test_splits_at_every_rate_of_the_detector(rate_hz: int) -> None:
    """The same speech at another rate: the same segments, in seconds, for recordings and streams."""
    parts = [part for pause_s, speech_s in PLAN for part in (silence(pause_s, rate_hz), burst(speech_s, rate_hz))]
    samples = np.concatenate([*parts, silence(1.0, rate_hz)])
    expected = list(split([talk()[0]]))
    for found in (
        list(split([samples], sample_rate_hz=rate_hz)),
        [each.segment for each in follow([samples], sample_rate_hz=rate_hz) if each.ended],
    ):
        assert [part.start_s for part in found] == pytest.approx([part.start_s for part in expected], abs=0.1)
        assert [part.end_s for part in found] == pytest.approx([part.end_s for part in expected], abs=0.2)
        assert all(part.samples.size == round((part.end_s - part.start_s) * rate_hz) for part in found)


@pytest.mark.parametrize("longest_s", [5.0, 30.0])
def test_longest_segment_is_a_parameter(longest_s: float) -> None:
    samples = burst(70.0)
    for found in (
        list(split([samples], longest_s=longest_s)),
        [each.segment for each in follow([samples], longest_s=longest_s) if each.ended],
    ):
        assert all(before.end == after.start for before, after in pairwise(found))
        assert sum(part.samples.size for part in found) == samples.size
        assert max(part.samples.size for part in found) <= longest_s * 16_000
        assert all(part.samples.size >= longest_s * 8_000 for part in found[:-1])


def test_timing_at_16_khz() -> None:
    timing = Timing()
    assert (timing.frame, timing.padding, timing.longest, timing.earliest_cut) == (320, 3_200, 256_000, 128_000)


def test_pause_of_a_stream_ends_its_segment() -> None:
    """An empty block: the segment ends with all whole frames, and the next one keeps the times of the samples."""
    samples, nothing = burst(4.0), np.empty(0, dtype=np.float32)
    updates = list(follow([nothing, samples[:32_500], nothing, nothing, samples[32_500:], silence(1)]))
    first, second = (each.segment for each in updates if each.ended)
    assert (first.start, first.end, first.is_cut) == (0, 32_320, False)
    assert 32_320 <= second.start < 34_000
    assert second.end >= samples.size
    assert np.array_equal(second.samples[:10_000], samples[second.start : second.start + 10_000])


@pytest.mark.parametrize("count", [1, 2, 3, 20, 99, 100])
def test_loudness_is_the_quantile_of_numpy(count: int) -> None:
    for seed in range(20):
        energies = np.random.default_rng(seed).exponential(size=count) ** 3
        assert segmenting._loudness(energies) == np.sqrt(np.quantile(energies, segmenting._LOUD_QUANTILE))


def test_silence_behind_speech_is_not_longer_than_the_longest_segment() -> None:
    """Networks refuse what is longer: all of the segment would be lost."""
    splitter = segmenting._Splitter(Timing(longest_s=2.0))
    # The longest segment ends 0.12 s after the speech.
    splitter.append(np.repeat(np.array([0.1, 0.0], dtype=np.float32), [94 * 320, 56 * 320]))
    found = [*splitter.process(splitter.waiting, [True] * 94 + [False] * 56), *splitter.finish()]
    assert bounds(found) == [(0, 32_000)]


@given(
    flags=st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=12),
    sizes=st.lists(st.integers(1, 120), min_size=1, max_size=4),
    hangover_frames=st.integers(1, 40),
)
@settings(max_examples=300, deadline=None)
def test_runs_of_frames_make_the_segments_of_single_frames(
    flags: list[tuple[bool, int]], sizes: list[int], hangover_frames: int
) -> None:
    voiced = [flag for flag, count in flags for _ in range(count)]
    samples = np.random.default_rng(1).normal(0, 0.1, len(voiced) * 320).astype(np.float32)
    found = []
    for process in (in_runs, frame_by_frame):
        splitter, first = segmenting._Splitter(Timing(longest_s=2.0)), 0
        segments: list[Segment] = []
        splitter.hangover_frames = hangover_frames
        for size in itertools.cycle(sizes):
            if first >= len(voiced):
                break
            splitter.append(samples[first * 320 : (first + size) * 320])
            segments += process(splitter, voiced[first : first + size])
            first += size
        found.append([*segments, *splitter.finish()])
        assert all(np.array_equal(each.samples, samples[each.start : each.end]) for each in found[-1])
        assert all(0 < each.samples.size <= 2.0 * 16_000 for each in found[-1])
        assert all(before.end <= after.start for before, after in pairwise(found[-1]))
    runs, single = ([(each.start, each.end, each.is_cut) for each in one] for one in found)
    assert runs == single


def in_runs(splitter: segmenting._Splitter, voiced: list[bool]) -> Iterator[Segment]:
    return splitter.process(splitter.waiting, voiced)


def frame_by_frame(splitter: segmenting._Splitter, voiced: list[bool]) -> Iterator[Segment]:
    splitter.position += splitter.waiting
    for flag in voiced:
        ended = splitter._step(splitter._frame + 1, voiced=flag)
        if ended is not None:
            yield ended


def test_segment_that_was_read_keeps_its_samples() -> None:
    """The samples of an update are a view of those that the splitter holds: later ones do not change them."""
    samples = burst(20.0)
    updates = list(follow(in_blocks(samples, [1_600, 37])))
    assert len(updates) > 100
    for update in updates:
        segment = update.segment
        assert np.array_equal(segment.samples, samples[segment.start : segment.end])
