"""Distinguish speakers: windows of speech are embedded and clustered, and each word takes the speaker of its window."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from contract.client import SpeakerSpec
from transcriber.ctc import Floats
from transcriber.transcript import Turn, Word

Labels: TypeAlias = NDArray[np.int64]

# An embedding of a shorter window is too uncertain to define a new speaker.
_SHORTEST_DEFINING_S = 0.8
# A change between two windows is about this far, at most, from where they meet.
_PAUSE_REACH_S = 1.0
# Distances between n windows take 4 n^2 bytes: 16 MB. More windows (25 minutes) are clustered part by part.
_PART_WINDOWS = 2_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A stretch of a segment that was embedded, by its times in the recording."""

    segment: int
    start_s: float
    end_s: float

    @property
    def middle_s(self) -> float:
        """Return the time of its middle."""
        return (self.start_s + self.end_s) / 2

    @property
    def length_s(self) -> float:
        """Return its length in seconds."""
        return self.end_s - self.start_s


def window_bounds(samples: int, spec: SpeakerSpec) -> list[tuple[int, int]]:
    """Return the bounds, in samples, of the windows that cover a segment.

    A segment that is shorter than a window is one window.
    """
    window, hop = (round(seconds * spec.sample_rate_hz) for seconds in (spec.window_s, spec.hop_s))
    if samples <= window:
        return [(0, samples)]
    starts = [*range(0, samples - window, hop), samples - window]
    return [(start, start + window) for start in starts]


def windows_of(segment: int, start_s: float, bounds: Sequence[tuple[int, int]], spec: SpeakerSpec) -> list[Window]:
    """Return the windows of a segment that begins at a time of the recording."""
    rate = spec.sample_rate_hz
    return [
        Window(segment=segment, start_s=start_s + first / rate, end_s=start_s + last / rate) for first, last in bounds
    ]


def label(windows: Sequence[Window], embeddings: Floats, similarity: float) -> list[str]:
    """Return the speaker of each window: S1, S2, ... in the order in which they first speak.

    embeddings: FP32 [len(windows), E], of unit length. Average-linkage clustering by cosine: two clusters are one
    speaker while the mean cosine between their members is at least `similarity`.
    """
    if not windows:
        return []
    clusters, _ = _clustered(windows, embeddings, similarity)
    return _labels(clusters)


class StreamSpeakers:
    """Label the speakers of a stream, segment by segment; a label never changes later.

    The windows of a segment are clustered as in `label`. A cluster is a known speaker when the mean cosine between the
    windows of both is at least `similarity`: average linkage, over all windows of the speaker so far.
    """

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._sums: list[Floats] = []
        self._counts: list[int] = []

    def label(self, windows: Sequence[Window], embeddings: Floats) -> list[str]:
        """Return the speaker of each window of one segment; embeddings FP32 [len(windows), E], of unit length."""
        if not windows:
            return []
        if self._sums and all(window.length_s < _SHORTEST_DEFINING_S for window in windows):
            return [f"S{self._nearest(embeddings.sum(axis=0)) + 1}"] * len(windows)
        clusters, defining = _clustered(windows, embeddings, self._similarity)
        speakers = {
            number: self._speaker(embeddings[(clusters == number) & defining])
            for number in dict.fromkeys(clusters.tolist())
        }
        return [f"S{speakers[number] + 1}" for number in clusters.tolist()]

    def _speaker(self, members: Floats) -> int:
        """Return the known speaker of the windows of a cluster, or add a new one."""
        total = members.sum(axis=0)
        speaker = self._nearest(total) if self._sums else 0
        if not self._sums or self._cosines(total)[speaker] < self._similarity * len(members):
            self._sums.append(np.zeros_like(total))
            self._counts.append(0)
            speaker = len(self._sums) - 1
        self._sums[speaker] = self._sums[speaker] + total
        self._counts[speaker] += len(members)
        return speaker

    def _nearest(self, total: Floats) -> int:
        return int(self._cosines(total).argmax())

    def _cosines(self, total: Floats) -> Floats:
        means = np.stack(self._sums) / np.array(self._counts, dtype=np.float32)[:, None]
        cosines: Floats = means @ total
        return cosines


def cluster(embeddings: Floats, similarity: float) -> Labels:
    """Cluster unit vectors [n, E]; return the cluster of each, numbered from 0 without gaps.

    The mean cosine between two clusters is the dot product of their mean vectors. So parts that were clustered
    separately are joined by the same rule, without the distances between their members.
    """
    labels = np.empty(len(embeddings), dtype=np.int64)
    count = 0
    for start in range(0, len(embeddings), _PART_WINDOWS):
        part = slice(start, start + _PART_WINDOWS)
        labels[part] = count + _linked(embeddings[part], similarity)
        count = int(labels[part].max()) + 1
    return _joined(embeddings, labels, similarity) if len(embeddings) > _PART_WINDOWS else labels


def turns(words: Sequence[Word], windows: Sequence[Window], labels: Sequence[str], separator: str = " ") -> list[Turn]:
    """Split the words of one segment into turns, by the window whose middle is nearest to the middle of each word.

    A change of speaker is then moved to the longest pause nearby: the windows are too far apart to place it, and
    speakers change at pauses. Without windows the words are one turn without a speaker.
    """
    if not windows:
        return [Turn(words=tuple(words), speaker=None, separator=separator)] if words else []
    middles = np.array([window.middle_s for window in windows])
    spoken = [labels[int(np.abs(middles - (word.start_s + word.end_s) / 2).argmin())] for word in words]
    return [
        Turn(words=tuple(word for _, word in group), speaker=speaker, separator=separator)
        for speaker, group in groupby(zip(_at_pauses(words, spoken), words, strict=True), key=lambda pair: pair[0])
    ]


def _at_pauses(words: Sequence[Word], spoken: Sequence[str]) -> list[str]:
    """Move each change of speaker to the longest pause within reach, but not past the change before or after it."""
    changes = [place for place in range(1, len(words)) if spoken[place] != spoken[place - 1]]
    moved: list[str] = []
    for place, following in pairwise([*changes, len(words)]):
        reach = [
            other
            for other in range(len(moved) + 1, following)
            if abs(words[other].start_s - words[place].start_s) <= _PAUSE_REACH_S
        ]
        best = max(reach, key=lambda other: (words[other].start_s - words[other - 1].end_s, -abs(other - place)))
        moved += [spoken[place - 1]] * (best - len(moved))
    return moved + list(spoken[-1:]) * (len(words) - len(moved))


def _clustered(windows: Sequence[Window], embeddings: Floats, similarity: float) -> tuple[Labels, NDArray[np.bool_]]:
    """Return each window's cluster, and which windows are long enough to define one: all windows when none is."""
    defining = np.array([window.length_s >= _SHORTEST_DEFINING_S for window in windows])
    if not defining.any():
        defining[:] = True
    clusters = np.full(len(windows), -1)
    clusters[defining] = cluster(embeddings[defining], similarity)
    means = _means(embeddings[defining], clusters[defining])
    clusters[~defining] = (embeddings[~defining] @ means.T).argmax(axis=1)
    _reassign_mixed_windows(windows, embeddings, clusters, means)
    return clusters, defining


def _linked(embeddings: Floats, similarity: float) -> Labels:
    if len(embeddings) == 1:
        return np.zeros(1, dtype=np.int64)
    cosines = (embeddings @ embeddings.T)[np.triu_indices(len(embeddings), k=1)]
    # fcluster needs distances that are not negative; the cut itself tolerates rounding.
    tree = linkage(np.clip(1.0 - cosines.astype(np.float64), 0.0, None), method="average")
    found: Labels = fcluster(tree, t=max(1.0 - similarity, 0.0), criterion="distance").astype(np.int64) - 1
    return found


def _joined(embeddings: Floats, labels: Labels, similarity: float) -> Labels:
    """Join clusters, the most similar two first, until no two are similar enough."""
    means, sizes = list(_means(embeddings, labels)), list(np.bincount(labels))
    members = [[number] for number in range(len(means))]
    while len(means) > 1:
        cosines = np.stack(means) @ np.stack(means).T
        np.fill_diagonal(cosines, -np.inf)
        first, second = sorted(divmod(int(cosines.argmax()), len(means)))
        if cosines[first, second] < similarity:
            break
        size = sizes[first] + sizes[second]
        means[first] = (means[first] * sizes[first] + means.pop(second) * sizes.pop(second)) / size
        sizes[first] = size
        members[first] += members.pop(second)
    renamed = {old: new for new, group in enumerate(members) for old in group}
    return np.array([renamed[int(number)] for number in labels])


def _means(embeddings: Floats, clusters: Labels) -> Floats:
    """Return the mean vector of each cluster, FP32 [clusters, E]; the more similar the members, the longer it is."""
    sums = np.zeros((int(clusters.max()) + 1, embeddings.shape[1]), dtype=np.float32)
    np.add.at(sums, clusters, embeddings)
    return sums / np.bincount(clusters)[:, None].astype(np.float32)


def _reassign_mixed_windows(windows: Sequence[Window], embeddings: Floats, clusters: Labels, means: Floats) -> None:
    """Assign windows that contain two speakers to one of the two.

    Such a window resembles neither speaker. Its cluster has no whole segment, and no first or last window of one.
    """
    inner = np.zeros(len(windows), dtype=bool)
    for place in range(1, len(windows) - 1):
        inner[place] = windows[place - 1].segment == windows[place].segment == windows[place + 1].segment
    defined = set(clusters[~inner].tolist())
    known = np.array(sorted(defined))
    for place in np.flatnonzero(inner):
        if int(clusters[place]) not in defined:
            clusters[place] = known[(embeddings[place] @ means[known].T).argmax()]


def _labels(clusters: Labels) -> list[str]:
    order = {int(number): place for place, number in enumerate(dict.fromkeys(clusters.tolist()))}
    return [f"S{order[int(number)] + 1}" for number in clusters]
