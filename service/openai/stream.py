"""Write a transcript as server-sent events."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from contract.client import TokenSpec
from service.openai import answers
from service.openai.form import ResponseFormat
from transcriber.pipeline import SegmentResult
from transcriber.transcript import Transcript

_DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any]) -> bytes:
    """Return an event with a value in JSON."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


class Deltas:
    """The text of the segments, piece by piece; joined, the pieces are the whole text."""

    def __init__(self, tokens: TokenSpec) -> None:
        self._separator, self.text = tokens.word_separator, ""

    def of(self, result: SegmentResult) -> Iterator[bytes]:
        """Yield the event of a segment; none for a segment without words."""
        words = self._separator.join(word.content for word in result.words)
        if words:
            delta = (self._separator if self.text else "") + words
            self.text += delta
            yield event({"type": "transcript.text.delta", "delta": delta})


def ending(transcript: Transcript, text: str, form: ResponseFormat, warnings: Sequence[str]) -> Iterator[bytes]:
    """Yield the last events: segments with speakers where they are wanted, the whole text, and the end mark."""
    if form == ResponseFormat.DIARIZED_JSON:
        yield from map(event, answers.diarized_segments(transcript))
    # Without usage: OpenAI's clients read tokens in this event, and no duration.
    done = {"type": "transcript.text.done", "text": text}
    yield event(done | ({"warnings": list(warnings)} if warnings else {}))
    yield _DONE
