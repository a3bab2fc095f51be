"""Cluster embedded windows of speech into voices: average linkage by cosine, and which clusters are voices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from transcriber.ctc import Floats

Labels: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Links: TypeAlias = NDArray[np.float64]
"""The joins of a tree, [n - 1, 4], in SciPy's form."""

# An embedding of a shorter window is too uncertain to define a new speaker.
SHORTEST_DEFINING_S = 0.8
# A cluster with fewer windows is rather a change of speaker, or an odd word, than a voice. Of 1 to 5 windows, 3 had the
# smallest diarization error on dialogues with a known number of voices, with both reference networks.
_SMALLEST_VOICE = 3
# A change of speaker is in this many windows, at most, of those between two speakers.
_LONGEST_CHANGE = 2
# Distances between n windows take 4 n^2 bytes: 16 MB. More windows (25 minutes) are clustered part by part, each into
# so many clusters that windows of two speakers are in different ones.
_PART_WINDOWS, _PART_CLUSTERS = 2_000, 100
# Cosines between n clusters of parts take 4 n^2 bytes: 256 MB. More clusters (33 hours) are clustered part by part too.
_MOST_CLUSTERS = 8_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeakerLimits:
    """The smallest and the largest number of speakers that a result may have; None is no limit."""

    least: int = 1
    most: int | None = None

    def __contains__(self, count: int) -> bool:
        return self.least <= count and (self.most is None or count <= self.most)

    def nearest(self, count: int) -> int:
        """Return the number within the limits that is nearest to a number."""
        return max(self.least, count if self.most is None else min(count, self.most))


NO_LIMITS = SpeakerLimits()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Speech:
    """Embedded windows in their order in the recording, at least one.

    embeddings: unit vectors FP32 [n, E]. segments: [n], the number of the segment that a window is of.
    """

    embeddings: Floats
    segments: Labels
    lengths_s: Floats

    def __len__(self) -> int:
        return len(self.segments)

    def __add__(self, other: Self) -> "Speech":
        return Speech(
            embeddings=np.concatenate((self.embeddings, other.embeddings)),
            segments=np.concatenate((self.segments, other.segments)),
            lengths_s=np.concatenate((self.lengths_s, other.lengths_s)),
        )

    def __getitem__(self, chosen: Mask) -> "Speech":
        return Speech(
            embeddings=self.embeddings[chosen],
            segments=self.segments[chosen],
            lengths_s=self.lengths_s[chosen],
        )

    @property
    def defining(self) -> Mask:
        """Return which windows are long enough to define a voice: all windows when none is."""
        found: Mask = self.lengths_s >= SHORTEST_DEFINING_S
        return found if found.any() else np.ones(len(self), dtype=bool)


class Tree:
    """The tree of an average-linkage clustering of unit vectors [n, E] by cosine, which can be cut anywhere.

    The mean cosine between two clusters is the dot product of their mean vectors. So parts that were clustered
    separately are joined by the same rule, without the distances between their members.
    """

    def __init__(self, embeddings: Floats) -> None:
        """Build the tree; beside the vectors and their clusters, it takes at most 256 MB."""
        self._groups = np.arange(len(embeddings))
        if len(embeddings) <= _PART_WINDOWS:
            self._links = _links(embeddings)
            return
        self._groups = _by_parts(_links, embeddings)
        centres, sizes = means(embeddings, self._groups), np.bincount(self._groups)
        while len(centres) > _MOST_CLUSTERS:
            self._groups = _by_parts(_links_of_means, centres, sizes)[self._groups]
            centres, sizes = means(embeddings, self._groups), np.bincount(self._groups)
        self._links = _links_of_means(centres, sizes)

    def __len__(self) -> int:
        """Return the largest number of clusters."""
        return len(self._links) + 1

    def at(self, similarity: float) -> Labels:
        """Return clusters, numbered from 0: two are one while their mean cosine is at least `similarity`."""
        clusters: Labels = _cut(self._links, max(1.0 - similarity, 0.0), "distance")[self._groups]
        return clusters

    def into(self, count: int) -> Labels:
        """Return at most `count` clusters, numbered from 0."""
        clusters: Labels = _cut(self._links, count, "maxclust")[self._groups]
        return clusters


def means(embeddings: Floats, clusters: Labels) -> Floats:
    """Return the mean vector of each cluster, FP32 [clusters, E]; the more similar the members, the longer it is."""
    sums = np.zeros((int(clusters.max()) + 1, embeddings.shape[1]), dtype=np.float32)
    np.add.at(sums, clusters, embeddings)
    found: Floats = sums / np.bincount(clusters)[:, None].astype(np.float32)
    return found


def find_voices(speech: Speech, similarity: float, limits: SpeakerLimits) -> Labels:
    """Return the voice of each window, numbered from 0.

    The tree is cut at the similarity, or where it has as many voices as the limits allow. Not every cluster is a voice:
    one may be of windows in which the speaker changes. Its windows count to the voice that is most similar.
    """
    long = speech[speech.defining]
    tree = Tree(long.embeddings)
    clusters = tree.at(similarity)
    chosen = _voices(long, clusters)
    if len(chosen) not in limits:
        clusters, chosen = _cut_into(long, tree, limits.nearest(len(chosen)))
    voices = np.full(len(long), -1)
    for number, cluster in enumerate(chosen):
        voices[clusters == cluster] = number
    is_member = voices >= 0
    directions = means(long.embeddings[is_member], voices[is_member])
    found: Labels = (speech.embeddings @ directions.T).argmax(axis=1)
    found[np.flatnonzero(speech.defining)[is_member]] = voices[is_member]
    return found


def _cut_into(speech: Speech, tree: Tree, count: int) -> tuple[Labels, Labels]:
    """Return the clusters of the highest cut that has `count` voices, and which of them are voices.

    A short recording may have too few windows for that. Then every cluster is a voice, of which there may be fewer.
    """
    for clusters in map(tree.into, range(1, len(tree) + 1)):
        chosen = _voices(speech, clusters)
        if len(chosen) == count:
            return clusters, chosen
    clusters = tree.into(count)
    return clusters, np.unique(clusters)


def _voices(speech: Speech, clusters: Labels) -> Labels:
    """Return the clusters that are voices: those with three windows outside changes of speaker, or a whole segment.

    A segment counts as a whole if it is not shorter than the windows of the network. In a short recording the clusters
    with the most windows are voices.
    """
    is_first = np.diff(speech.segments, prepend=-1) != 0
    starts = np.flatnonzero(is_first | (np.diff(clusters, prepend=-1) != 0))
    sizes = np.diff(starts, append=len(speech))
    begins, ends = is_first[starts], np.append(is_first[starts[1:]], True)
    counted = np.where(begins | ends | (sizes > _LONGEST_CHANGE), sizes, 0)
    windows = np.bincount(clusters[starts], weights=counted, minlength=clusters.max() + 1)
    is_voice = windows >= min(_SMALLEST_VOICE, windows.max())
    is_full = speech.lengths_s[starts] >= speech.lengths_s.max() - 1e-3
    is_voice[clusters[starts[begins & ends & is_full]]] = True
    return np.flatnonzero(is_voice)


def _by_parts(links: Callable[..., Links], *arrays: NDArray[Any]) -> Labels:
    """Return clusters, numbered from 0: at most 100 of every 2,000 rows of the arrays, by the trees of `links`."""
    found, count = np.empty(len(arrays[0]), dtype=np.int64), 0
    for start in range(0, len(found), _PART_WINDOWS):
        part = slice(start, start + _PART_WINDOWS)
        found[part] = count + _cut(links(*(array[part] for array in arrays)), _PART_CLUSTERS, "maxclust")
        count = int(found[part].max()) + 1
    return found


def _links(embeddings: Floats) -> Links:
    if len(embeddings) == 1:
        return np.empty((0, 4))
    from scipy.cluster.hierarchy import linkage  # noqa: PLC0415 - a quarter of a second, for speakers alone
    from scipy.spatial.distance import squareform  # noqa: PLC0415 - imported by the hierarchy

    distances = squareform(embeddings @ embeddings.T, checks=False).astype(np.float64)
    np.subtract(1.0, distances, out=distances)
    # Cutting needs distances that are not negative; the cut itself tolerates rounding.
    found: Links = linkage(np.maximum(distances, 0.0, out=distances), method="average")
    return found


def _links_of_means(centres: Floats, sizes: Labels) -> Links:
    """Return the links, in SciPy's form, of clusters of which the mean vectors [n, E] and the sizes are known."""
    count = len(centres)
    centres, sizes, numbers, leaves = centres.copy(), sizes.copy(), np.arange(count), np.ones(count, dtype=np.int64)
    cosines = centres @ centres.T
    np.fill_diagonal(cosines, -np.inf)
    pairs = _Pairs(cosines)
    links = np.empty((count - 1, 4))
    for step in range(count - 1):
        first, second = pairs.best()
        leaves[first] += leaves[second]
        pair = sorted((numbers[first], numbers[second]))
        links[step] = (*pair, max(1.0 - cosines[first, second], 0.0), leaves[first])
        total = centres[first] * sizes[first] + centres[second] * sizes[second]
        sizes[first] += sizes[second]
        centres[first], numbers[first] = total / sizes[first], count + step
        active = cosines[first] > -np.inf
        cosines[first, active] = cosines[active, first] = centres[active] @ centres[first]
        cosines[second, :] = cosines[:, second] = -np.inf
        pairs.join(first, second)
    links[:, 2] = np.maximum.accumulate(links[:, 2])
    return links


class _Pairs:
    """The largest entry above the diagonal of a symmetric matrix in which rows are joined; of equal ones the first.

    To search the matrix for each of n - 1 joins takes n^3 steps. Here each row has its best partner, or a bound while
    that partner has changed, and a row is searched when no other row can have a larger entry. Source: Müllner, "Modern
    hierarchical, agglomerative clustering algorithms" (arXiv:1109.2378), the generic algorithm.
    """

    def __init__(self, matrix: Floats) -> None:
        """Begin with a matrix, which is not copied."""
        self._matrix, count = matrix, len(matrix)
        self._bounds = np.full(count, -np.inf, dtype=matrix.dtype)
        self._partners, self._is_known = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
        for row in range(count - 1):
            self._search(row)

    def best(self) -> tuple[int, int]:
        """Return the row and the column of the largest entry."""
        while not self._is_known[row := int(self._bounds.argmax())]:
            self._search(row)
        return row, int(self._partners[row])

    def join(self, first: int, second: int) -> None:
        """Take the new entries of a row, and forget another one, a later row, whose entries are minus infinity now."""
        self._bounds[second], self._is_known[second] = -np.inf, True
        self._is_known[:second] &= ~np.isin(self._partners[:second], (first, second))
        entries, bounds, partners = self._matrix[first, :first], self._bounds[:first], self._partners[:first]
        # An entry that is equal to a bound is the first of its row if it stands before those that had it.
        is_best = (entries > bounds) | ((entries == bounds) & (first <= partners))
        is_best &= entries > -np.inf
        bounds[is_best], partners[is_best] = entries[is_best], first
        self._is_known[:first] |= is_best
        self._search(first)

    def _search(self, row: int) -> None:
        rest = self._matrix[row, row + 1 :]
        place = int(rest.argmax()) if rest.size else 0
        self._bounds[row] = rest[place] if rest.size else -np.inf
        self._partners[row], self._is_known[row] = row + 1 + place, True


def _cut(links: Links, limit: float, criterion: str) -> Labels:
    if not len(links):
        return np.zeros(1, dtype=np.int64)
    from scipy.cluster.hierarchy import fcluster  # noqa: PLC0415 - as in `_links`

    cut: Callable[..., Labels] = fcluster
    return cut(links, t=limit, criterion=criterion).astype(np.int64) - 1
