"""Label the speakers of a stream: each segment is clustered together with a bounded memory of earlier speech."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from transcriber.clustering import NO_LIMITS, SHORTEST_DEFINING_S, Labels, SpeakerLimits, Speech, find_voices, means
from transcriber.ctc import Floats
from transcriber.speakers import Window, speech_of

# Windows that are remembered: 5 minutes of speech. With embeddings of size 128 they take 0.2 MB, and a segment 20 ms.
_MEMORY_WINDOWS = 400


class StreamSpeakers:
    """Label the speakers of a stream, segment by segment; a label never changes later.

    The windows of a segment are clustered as in `speakers.label`, together with windows of earlier segments: a segment
    in which two speakers change is not enough to separate them. A voice takes the label that its earlier windows have;
    a voice without any is a new speaker when it speaks a word. Of the limits only the largest number counts: speakers
    come one by one.
    """

    def __init__(self, similarity: float, limits: SpeakerLimits = NO_LIMITS) -> None:
        self._similarity, self._limits = similarity, SpeakerLimits(most=limits.most)
        self._memory: Speech | None = None
        self._labels: Labels = np.empty(0, dtype=np.int64)
        self._speakers = self._segments = 0

    def __len__(self) -> int:
        """Return the number of windows that are remembered."""
        return len(self._labels)

    def label(
        self, windows: Sequence[Window], embeddings: Floats, spoken: Sequence[int] | None = None
    ) -> list[str | None]:
        """Return the speaker of each window of one segment; embeddings FP32 [len(windows), E], of unit length.

        `spoken` are the places of the windows in which words are, None for all. None is the speaker of windows of a new
        voice that has no word, such as a cough.
        """
        if not windows:
            return []
        new = self._numbered(speech_of(windows, embeddings))
        speech = new if self._memory is None else self._memory + new
        voices = find_voices(speech, self._similarity, self._limits)
        of_new = voices[len(self._labels) :]
        speaking = of_new if spoken is None else of_new[sorted(set(spoken))]
        labels = self._choose_labels(speech, voices, speaking)[of_new]
        labelled = np.concatenate((self._labels, labels))
        self._remember(speech[labelled >= 0], labelled[labelled >= 0])
        return [f"S{number + 1}" if number >= 0 else None for number in labels.tolist()]

    def _numbered(self, new: Speech) -> Speech:
        """Return the speech with numbers of segments that no earlier speech has."""
        numbers = new.segments - new.segments.min() + self._segments
        self._segments = int(numbers.max()) + 1
        return Speech(embeddings=new.embeddings, segments=numbers, lengths_s=new.lengths_s)

    def _choose_labels(self, speech: Speech, voices: Labels, speaking: Labels) -> Labels:
        """Return the label of each voice; -1 for a voice that has none yet and is not among those of `speaking`."""
        known, defining = len(self._labels), speech.defining
        directions = means(speech.embeddings[defining], voices[defining])
        found = self._known_labels(speech, voices, directions)
        labelled = np.flatnonzero(found >= 0)
        for voice in dict.fromkeys(speaking.tolist()):
            if found[voice] >= 0:
                continue
            longest_s = speech.lengths_s[known:][voices[known:] == voice].max()
            is_speaker = longest_s >= SHORTEST_DEFINING_S and self._speakers + 1 in self._limits
            if is_speaker or not self._speakers:
                found[voice] = self._speakers
                self._speakers += 1
            elif labelled.size:
                found[voice] = found[labelled[(directions[labelled] @ directions[voice]).argmax()]]
            else:
                found[voice] = self._labels[-1]
        return found

    def _known_labels(self, speech: Speech, voices: Labels, directions: Floats) -> Labels:
        """Return the label of each voice by the labels of its earlier windows, each label once; -1 for none."""
        found = np.full(len(directions), -1)
        if not self._labels.size:
            return found
        known = slice(0, len(self._labels))
        similar = (speech.embeddings[known] * directions[voices[known]]).sum(axis=1) >= self._similarity
        # A short window may be at a voice only because there is no better one.
        counts = similar | (speech.lengths_s[known] >= SHORTEST_DEFINING_S)
        labels, columns = np.unique(self._labels, return_inverse=True)
        votes = np.zeros((len(directions), len(labels)))
        np.add.at(votes, (voices[known][counts], columns[counts]), 1)
        for voice, column in zip(*linear_sum_assignment(-votes), strict=True):
            if votes[voice, column]:
                found[voice] = labels[column]
        return found

    def _remember(self, speech: Speech, labels: Labels) -> None:
        """Keep what fits the memory: of the speaker with the most windows, every second segment is dropped."""
        kept = np.ones(len(labels), dtype=bool)
        while kept.sum() > _MEMORY_WINDOWS:
            numbers, counts = np.unique(labels[kept], return_counts=True)
            segments = np.unique(speech.segments[kept & (labels == numbers[counts.argmax()])])
            for segment in segments[::2]:
                kept[speech.segments == segment] = False
                if kept.sum() <= _MEMORY_WINDOWS:
                    break
        self._memory, self._labels = speech[kept], labels[kept]
