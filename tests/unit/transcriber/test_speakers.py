"""Distinguish speakers by synthetic embeddings."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given as for_all
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.transcriber.fakes import speaker_spec
from transcriber import clustering, speakers
from transcriber.audio import Recording
from transcriber.clustering import SpeakerLimits
from transcriber.speakers import Window, cluster, label, renumbered, turns, window_bounds, windows_of
from transcriber.stream_speakers import StreamSpeakers
from transcriber.transcript import Word

SIZE = 64


def voices(count: int, seed: int = 0) -> NDArray[np.float32]:
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))[0]
    return directions[:count].astype(np.float32)


def embedded(order: list[int], spread: float = 0.08, seed: int = 1) -> NDArray[np.float32]:
    """Draw a unit vector near the voice of each number."""
    noise = np.random.default_rng(seed).normal(0, spread, (len(order), SIZE))
    vectors = voices(max(order) + 1)[order] + noise
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def windows(count: int, length_s: float = 2.0) -> list[Window]:
    return [Window(segment=place, start_s=3.0 * place, end_s=3.0 * place + length_s) for place in range(count)]


def word(content: str, start_s: float, end_s: float) -> Word:
    return Word(content=content, start_s=start_s, end_s=end_s, confidence=1.0)


@pytest.mark.parametrize("samples", [1, 8_000, 32_000, 32_001, 44_000, 44_001, 128_000, 256_000])
def test_windows_cover_a_segment(samples: int) -> None:
    bounds = window_bounds(samples, replace(speaker_spec(0.5), takes="windows"))
    assert bounds[0][0] == 0
    assert bounds[-1][1] == samples
    assert all(last - first == min(samples, 32_000) for first, last in bounds)
    assert all(second[0] <= first[1] for first, second in pairwise(bounds))
    assert len(set(bounds)) == len(bounds)
    # A network for segments has a window at every hop, and the last one is what is left.
    of_segment = window_bounds(samples, speaker_spec(0.5))
    assert [first for first, _ in of_segment] == [12_000 * place for place in range(len(bounds))]
    assert of_segment[:-1] == bounds[:-1]
    assert of_segment[-1][1] == samples


def test_window_times_follow_the_rate() -> None:
    spec = replace(speaker_spec(0.5), sample_rate_hz=8_000, takes="windows")
    found = windows_of(3, 10.0, window_bounds(24_000, spec), spec)
    assert [(each.segment, each.start_s, each.end_s) for each in found] == [
        (3, 10.0, 12.0),
        (3, 10.75, 12.75),
        (3, 11.0, 13.0),
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_finds_the_number_of_speakers(count: int) -> None:
    order = [place * 5 % count for place in range(40)]
    labels = label(windows(40), embedded(order), similarity=0.4)
    assert len(set(labels)) == len(set(order))
    pairs = set(zip(order, labels, strict=True))
    assert len(pairs) == len(set(order))


def test_labels_follow_the_first_appearance() -> None:
    assert label(windows(5), embedded([2, 2, 0, 2, 1]), 0.4) == ["S1", "S1", "S2", "S1", "S3"]


def test_short_windows_do_not_define_a_speaker() -> None:
    given = [*windows(4), Window(segment=4, start_s=20.0, end_s=20.6)]
    vectors = embedded([0, 1, 0, 1, 2])
    vectors[4] = (0.3 * vectors[1] + vectors[4]) / np.linalg.norm(0.3 * vectors[1] + vectors[4])
    assert label(given, vectors, 0.4) == ["S1", "S2", "S1", "S2", "S2"]


def test_clusters_short_windows_if_there_are_no_others() -> None:
    assert label(windows(3, length_s=0.5), embedded([0, 1, 0]), 0.4) == ["S1", "S2", "S1"]


def test_no_windows_and_one_window() -> None:
    assert label([], np.empty((0, SIZE), np.float32), 0.4) == []
    assert label(windows(1), embedded([0]), 0.4) == ["S1"]


def test_window_with_two_voices_is_not_a_third_speaker() -> None:
    first, second, neither = voices(3)
    mixed = first + 0.9 * second + 1.5 * neither
    vectors = np.stack([first, first, mixed / np.linalg.norm(mixed), second, second])
    given = [Window(segment=0, start_s=0.75 * place, end_s=0.75 * place + 2) for place in range(5)]
    assert label(given, vectors, 0.7) == ["S1", "S1", "S1", "S2", "S2"]


def test_clustering_in_parts_equals_clustering_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.random.default_rng(5).integers(0, 4, 120).tolist()
    vectors = embedded(order)
    whole = cluster(vectors, 0.4)
    monkeypatch.setattr(clustering, "_PART_WINDOWS", 25)
    parted = cluster(vectors, 0.4)
    assert len(set(whole.tolist())) == len(set(parted.tolist())) == 4
    assert len(set(zip(whole.tolist(), parted.tolist(), strict=True))) == 4


def test_many_clusters_of_parts_are_clustered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clusters of parts are clustered in parts themselves, so that their cosines do not fill the memory."""
    order = np.random.default_rng(7).integers(0, 4, 6_000).tolist()
    monkeypatch.setattr(clustering, "_PART_WINDOWS", 100)
    monkeypatch.setattr(clustering, "_PART_CLUSTERS", 10)
    monkeypatch.setattr(clustering, "_MOST_CLUSTERS", 100)
    largest = 0
    real = clustering._links_of_means

    def links(centres: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        nonlocal largest
        largest = max(largest, len(centres))
        return real(centres, sizes)

    monkeypatch.setattr(clustering, "_links_of_means", links)
    found = cluster(embedded(order), 0.4)
    assert largest == 100
    assert len(set(found.tolist())) == len(set(zip(found.tolist(), order, strict=True))) == 4


def searched_at_once(centres: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Join clusters as `_links_of_means`, with a search of the whole matrix for every join."""
    count = len(centres)
    centres, sizes, numbers, leaves = centres.copy(), sizes.copy(), np.arange(count), np.ones(count, dtype=np.int64)
    cosines = centres @ centres.T
    np.fill_diagonal(cosines, -np.inf)
    links = np.empty((count - 1, 4))
    for step in range(count - 1):
        first, second = sorted(divmod(int(cosines.argmax()), count))
        leaves[first] += leaves[second]
        pair = sorted((numbers[first], numbers[second]))
        links[step] = (*pair, max(1.0 - cosines[first, second], 0.0), leaves[first])
        total = centres[first] * sizes[first] + centres[second] * sizes[second]
        sizes[first] += sizes[second]
        centres[first], numbers[first] = total / sizes[first], count + step
        active = cosines[first] > -np.inf
        cosines[first, active] = cosines[active, first] = centres[active] @ centres[first]
        cosines[second, :] = cosines[:, second] = -np.inf
    links[:, 2] = np.maximum.accumulate(links[:, 2])
    return links


@for_all(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["random", "voices", "copies", "whole numbers", "equal"]))
def test_joins_the_clusters_that_a_whole_search_joins(seed: int, kind: str) -> None:
    """Also where many pairs have the same cosine."""
    source = np.random.default_rng(seed)
    count = int(source.integers(2, 60))
    drawn = {
        "random": source.normal(size=(count, 8)),
        "voices": embedded(source.integers(0, 3, count).tolist()),
        "copies": source.normal(size=(3, 8))[source.integers(0, 3, count)],
        "whole numbers": source.integers(-2, 3, (count, 4)),
        "equal": np.repeat(source.normal(size=(1, 8)), count, axis=0),
    }
    centres, sizes = drawn[kind].astype(np.float32), source.integers(1, 4, count)
    assert clustering._links_of_means(centres, sizes).tobytes() == searched_at_once(centres, sizes).tobytes()


@pytest.mark.parametrize("spread", [0.0, 0.08, 10.0], ids=["equal", "voices", "random"])
def test_joining_searches_few_rows(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    """The time grows with the square of the number of clusters, and not with its cube."""
    count, searched = 600, 0
    real = clustering._Pairs._search

    def search(pairs: clustering._Pairs, row: int) -> None:
        nonlocal searched
        searched += 1
        real(pairs, row)

    monkeypatch.setattr(clustering._Pairs, "_search", search)
    centres = embedded([place % 3 for place in range(count)], spread)
    clustering._links_of_means(centres, np.ones(count, dtype=np.int64))
    assert searched < 10 * count


def test_two_hours_of_windows_take_little_memory() -> None:
    order = np.random.default_rng(6).integers(0, 5, 9_600).tolist()
    labels = cluster(embedded(order), 0.4)
    assert len(set(labels.tolist())) == 5


def test_words_take_the_speaker_of_the_nearest_window() -> None:
    given = [Window(segment=0, start_s=0.0, end_s=2.0), Window(segment=0, start_s=2.0, end_s=4.0)]
    spoken = [word("how", 0.2, 0.5), word("are", 1.0, 1.5), word("fine", 2.4, 3.0)]
    found = turns(spoken, given, ["S1", "S2"])
    assert [(turn.speaker, turn.text) for turn in found] == [("S1", "how are"), ("S2", "fine")]
    assert (found[0].start_s, found[0].end_s) == (0.2, 1.5)


def test_without_windows_there_is_one_turn() -> None:
    assert [turn.speaker for turn in turns([word("a", 0, 1), word("b", 1, 2)], [], [])] == [None]
    assert turns([], [], []) == []


def test_numbers_follow_the_first_words() -> None:
    """A voice without words, such as a cough before the first word, has no number."""
    order = [1, 1, 1, 0, 0, 0, 0, 2, 2, 2, 2]
    given = [Window(segment=place // 7, start_s=2.0 * place, end_s=2.0 * place + 2) for place in range(len(order))]
    labels = label(given, embedded(order), 0.4)
    assert sorted(set(labels)) == ["S1", "S2", "S3"]
    spoken = [word("hello", 8.6, 9.2), word("yes", 18.6, 19.2), word("no", 10.6, 11.2)]
    found = [turn for each in spoken for turn in turns([each], given, labels)]
    assert [(turn.speaker, turn.text) for turn in renumbered(found)] == [("S1", "hello"), ("S2", "yes"), ("S1", "no")]
    without = [turn for each in spoken for turn in turns([each], [], [])]
    assert list(renumbered(without)) == without


def test_stream_numbers_voices_that_speak() -> None:
    stream = StreamSpeakers(0.4, SpeakerLimits(most=2))
    given = windows(4)
    assert stream.label(given, embedded([1] * 4), spoken=[]) == [None] * 4
    assert len(stream) == 0
    mixed = [Window(segment=4, start_s=each.start_s, end_s=each.end_s) for each in [*given, *given]]
    # The voice before the words is no speaker; it does not count to the limit either.
    assert stream.label(mixed, embedded([1] * 4 + [0] * 4), spoken=[5, 6, 6]) == [None] * 4 + ["S1"] * 4
    assert stream.label(given, embedded([2] * 4), spoken=[0]) == ["S2"] * 4
    # A known voice keeps its label, with words or without.
    assert stream.label(given, embedded([0] * 4), spoken=[]) == ["S1"] * 4


def test_moves_speaker_change_to_the_pause() -> None:
    """By the windows the change is two words late; the pause shows where it was."""
    words = [word("a", 0.0, 0.4), word("b", 0.5, 0.9), word("c", 1.5, 1.8), word("d", 1.8, 2.1), word("e", 2.2, 2.5)]
    given = [Window(segment=0, start_s=0.0, end_s=2.0), Window(segment=0, start_s=1.4, end_s=3.4)]
    found = turns(words, given, ["S1", "S2"])
    assert [(turn.speaker, turn.text) for turn in found] == [("S1", "a b"), ("S2", "c d e")]


def test_keeps_speaker_change_without_longer_pause() -> None:
    words = [word(str(place), place * 0.5, place * 0.5 + 0.5) for place in range(8)]
    given = [Window(segment=0, start_s=0.0, end_s=2.0), Window(segment=0, start_s=2.0, end_s=4.0)]
    found = turns(words, given, ["S1", "S2"])
    assert [turn.text for turn in found] == ["0 1 2 3", "4 5 6 7"]


@for_all(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.05, 0.6)), min_size=1, max_size=30),
    st.lists(st.sampled_from(["S1", "S2", "S3"]), min_size=1, max_size=20),
)
def test_turns_keep_every_word_in_order(gaps: list[tuple[float, float]], labels: list[str]) -> None:
    words, now = [], 0.0
    for number, (pause, length) in enumerate(gaps):
        words.append(word(str(number), now + pause, now + pause + length))
        now += pause + length
    windows = [Window(segment=0, start_s=place * 0.75, end_s=place * 0.75 + 2.0) for place in range(len(labels))]
    found = turns(words, windows, labels)
    assert [each for turn in found for each in turn.words] == words
    assert all(before.speaker != after.speaker for before, after in pairwise(found))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_speakers_of_a_stream_keep_their_labels(count: int) -> None:
    """Each voice has one label over all segments, and the first voice is S1."""
    order = [place * 3 % count for place in range(12)]
    known, named = StreamSpeakers(similarity=0.4), list[str | None]()
    for segment, voice in enumerate(order):
        labels = known.label(windows(3), embedded([voice] * 3, seed=segment))
        assert len(set(labels)) == 1
        named.append(labels[0])
    assert named == [f"S{list(dict.fromkeys(order)).index(voice) + 1}" for voice in order]


def test_two_voices_in_one_segment_of_a_stream() -> None:
    known = StreamSpeakers(similarity=0.4)
    first = known.label(windows(2), embedded([1, 1]))
    assert known.label(windows(4), embedded([0, 0, 1, 1], seed=3)) == ["S2", "S2", "S1", "S1"]
    assert first == ["S1", "S1"]


def test_short_windows_do_not_define_a_speaker_in_a_stream() -> None:
    known = StreamSpeakers(similarity=0.4)
    assert known.label(windows(1, length_s=0.5), embedded([0])) == ["S1"]
    assert known.label(windows(1), embedded([1])) == ["S2"]
    # It resembles neither, but is not a third speaker.
    assert known.label(windows(1, length_s=0.5), embedded([2])) in (["S1"], ["S2"])
    assert known.label([], np.empty((0, SIZE), dtype=np.float32)) == []


def mixed(first: int, second: int, share: float, seed: int = 0) -> NDArray[np.float32]:
    """Draw the embedding of a window in which one voice follows another."""
    vector = share * voices(8)[first] + (1 - share) * voices(8)[second]
    vector = vector / np.linalg.norm(vector) + np.random.default_rng(seed).normal(0, 0.04, SIZE)
    unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def dialogue_segment(number: int, turns_of: list[tuple[int, int]]) -> tuple[list[Window], NDArray[np.float32]]:
    """Build a segment of turns, each a voice and its number of windows, with two mixed windows at every change."""
    rows: list[NDArray[np.float32]] = []
    for place, (voice, count) in enumerate(turns_of):
        if place:
            before = turns_of[place - 1][0]
            rows += [mixed(before, voice, share, seed=100 * number + place) for share in (0.6, 0.4)]
        rows += list(embedded([voice] * count, spread=0.04, seed=1000 * number + place))
    given = [Window(segment=number, start_s=0.75 * place, end_s=0.75 * place + 2) for place in range(len(rows))]
    return given, np.stack(rows)


def test_segments_with_several_voices_found_no_speaker() -> None:
    """For hours, every segment has both voices; the first one cannot be separated within the segment alone."""
    known, pure = StreamSpeakers(similarity=0.6), list[tuple[int, str | None]]()
    for number in range(150):
        order = [(number % 2, 4), (1 - number % 2, 3), (number % 2, 3)]
        given, vectors = dialogue_segment(number, order)
        labels = known.label(given, vectors)
        pure += [(order[0][0], labels[0]), (order[1][0], labels[7]), (order[2][0], labels[-1])]
    assert set(pure) == {(0, "S1"), (1, "S2")}


def test_memory_of_a_stream_is_bounded() -> None:
    known = StreamSpeakers(similarity=0.4)
    for number in range(150):
        known.label(windows(5), embedded([number % 7] * 5, seed=number))
        assert len(known) <= 400
    # No voice is forgotten, and nothing is new.
    assert {label for voice in range(7) for label in known.label(windows(1), embedded([voice], seed=voice))} == {
        f"S{number}" for number in range(1, 8)
    }


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_limits_are_obeyed(count: int) -> None:
    order = [0, 0, 1, 1, 2, 2] * 5
    exactly = label(windows(30), embedded(order), 0.4, SpeakerLimits(least=count, most=count))
    assert len(set(exactly)) == count
    at_most = label(windows(30), embedded(order), 0.4, SpeakerLimits(most=count))
    assert len(set(at_most)) == min(count, 3)
    known = StreamSpeakers(0.4, SpeakerLimits(most=count))
    in_stream = [known.label(windows(1), embedded([voice], seed=place))[0] for place, voice in enumerate(order)]
    assert len(set(in_stream)) == min(count, 3)


def test_more_speakers_than_windows() -> None:
    assert label(windows(2), embedded([0, 0]), 0.4, SpeakerLimits(least=5, most=5)) == ["S1", "S2"]


def test_known_number_separates_similar_voices() -> None:
    """Above the threshold all windows are one speaker; a number cuts them at the right place."""
    order = [0, 0, 0, 1, 1, 1] * 4
    near = embedded(order) + 2.0 * voices(3)[2]
    near = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    assert set(label(windows(24), near, 0.4)) == {"S1"}
    assert label(windows(24), near, 0.4, SpeakerLimits(least=2, most=2)) == [f"S{voice + 1}" for voice in order]


def test_label_that_was_sent_stays_with_its_voice() -> None:
    """A voice whose windows were first taken for another one gets a label of its own, and the other keeps its."""
    known = StreamSpeakers(similarity=0.6)
    given, vectors = dialogue_segment(0, [(0, 3), (1, 3)])
    first = known.label(given, vectors)
    later = [known.label(*dialogue_segment(number, [(number % 2, 6)])) for number in range(1, 9)]
    assert {labels[0] for labels in later[1::2]} == {first[0]}
    assert len({labels[0] for labels in later[0::2]}) == 1
    assert later[0][0] != first[0]


@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_recognises_a_line_of_8_khz(rate_hz: int, tmp_path: Path) -> None:
    """A recording of the line is read at the rate of the network; noise of that rate has its full band."""
    source = np.random.default_rng(2)
    soundfile.write(tmp_path / "line.wav", source.normal(0, 0.1, 24_000), 8_000, subtype="ULAW")
    line = np.concatenate(list(Recording(tmp_path / "line.wav", sample_rate_hz=rate_hz).blocks()))
    assert speakers.is_narrow(line, rate_hz)
    assert not speakers.is_narrow(source.normal(0, 0.1, 3 * rate_hz).astype(np.float32), rate_hz)
    assert not speakers.is_narrow(source.normal(0, 0.1, 24_000).astype(np.float32), 8_000)


@pytest.mark.parametrize("count", [50, 1_000, 1_024, 40_000])
def test_recognises_a_line_of_8_khz_at_every_length(count: int) -> None:
    """Also in less than a frame of the spectrum, and where a cut through the speech ends it."""
    wide = np.random.default_rng(2).normal(0, 0.1, count).astype(np.float32)
    assert not speakers.is_narrow(wide, 16_000)
    tone = np.sin(2 * np.pi * 1_000 / 16_000 * np.arange(count)).astype(np.float32)
    assert speakers.is_narrow(tone, 16_000)


@pytest.mark.parametrize("level_db", range(-80, -30, 5))
@pytest.mark.parametrize("count", [700, 5_000, 20_000])
def test_first_look_at_a_segment_decides_as_the_whole(count: int, level_db: int) -> None:
    """Where power above 5 kHz is near the threshold, and where some of the frames have none."""
    source = np.random.default_rng(count)
    speech = np.sin(2 * np.pi * 1_000 / 16_000 * np.arange(count)).astype(np.float32)
    noise = (10 ** (level_db / 20) * source.normal(0, 1, count)).astype(np.float32)
    noise[: count // 2] *= source.integers(0, 2)
    length = min(1_024, count)
    frames = (speech + noise)[: count - count % length].reshape(-1, length)
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(length), axis=1))).sum(axis=0)
    share = power[round(10_000 / 16_000 * power.size) :].sum() / power.sum()
    assert speakers.is_narrow(speech + noise, 16_000) == (share <= 1e-6)


def test_adds_noise_to_a_line_of_8_khz_only(tmp_path: Path) -> None:
    """The noise is 40 dB below the speech, the same in every run, and fills the bands that the line lacks."""
    source = np.random.default_rng(2)
    soundfile.write(tmp_path / "line.wav", source.normal(0, 0.1, 24_000), 8_000, subtype="ULAW")
    line = np.concatenate(list(Recording(tmp_path / "line.wav", sample_rate_hz=16_000).blocks()))
    found = speakers.with_noise_floor(line, 16_000)
    assert found.dtype == np.float32
    assert found.shape == line.shape
    assert 20 * np.log10(np.std(found - line) / np.std(line)) == pytest.approx(-40, abs=0.5)
    assert not speakers.is_narrow(found, 16_000)
    assert np.array_equal(found, speakers.with_noise_floor(line, 16_000))
    wide = source.normal(0, 0.1, 24_000).astype(np.float32)
    assert speakers.with_noise_floor(wide, 16_000) is wide
    silence = np.zeros(16_000, np.float32)
    assert np.array_equal(speakers.with_noise_floor(silence, 16_000), silence)
