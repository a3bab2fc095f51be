"""Read the messages of clients and write those of the server, in the form that the published clients parse."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from contract.client import TokenSpec
from contract.tokens import is_right_to_left
from service.realtime.errors import ErrorType, SessionError
from transcriber import formats
from transcriber.session import EndOfUtterance, Final, Partial
from transcriber.transcript import Turn, Word

Message = dict[str, Any]
UNKNOWN_SPEAKER = "UU"
_VERSION = "1.0.0"


def read(text: str) -> Mapping[str, Any]:
    """Return a message of a client; raise SessionError for what is none."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SessionError(ErrorType.INVALID_MESSAGE, "the message is not JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("message"), str):
        reason = "the message is not a JSON object with its name as `message`"
        raise SessionError(ErrorType.INVALID_MESSAGE, reason)
    return message


def write(message: Message) -> str:
    """Return the text of a message. It is ASCII: labels of clients may hold characters that UTF-8 has not."""
    return json.dumps(message)


def started(session: str, language: str, tokens: TokenSpec, channels: Sequence[str] | None) -> Message:
    """Return RecognitionStarted."""
    pack = {
        "adapted": False,
        "itn": False,
        "language_description": language,
        "word_delimiter": tokens.word_separator,
        "writing_direction": "right-to-left" if is_right_to_left(tokens) else "left-to-right",
    }
    named = {} if channels is None else {"channels": list(channels)}
    return {
        "message": "RecognitionStarted",
        "id": session,
        "orchestrator_version": _VERSION,
        "language_pack_info": pack,
        **named,
    }


def added(number: int, channel: str | None) -> Message:
    """Return the acknowledgement of a frame: AudioAdded, or ChannelAudioAdded."""
    if channel is None:
        return {"message": "AudioAdded", "seq_no": number}
    return {"message": "ChannelAudioAdded", "channel": channel, "seq_no": number}


def info(kind: str, reason: str, **fields: Any) -> Message:
    """Return an Info."""
    return {"message": "Info", "type": kind, "reason": reason, **fields}


def warning(kind: str, reason: str, **fields: Any) -> Message:
    """Return a Warning."""
    return {"message": "Warning", "type": kind, "reason": reason, **fields}


def error(problem: SessionError) -> Message:
    """Return an Error."""
    return {"message": "Error", "type": problem.kind.value, "reason": problem.reason}


def speakers(labels: Iterable[str]) -> Message:
    """Return SpeakersResult. There are no identifiers that a later session could use."""
    return {
        "message": "SpeakersResult",
        "speakers": [{"label": label, "speaker_identifiers": []} for label in labels],
    }


END_OF_TRANSCRIPT: Message = {"message": "EndOfTranscript"}


class Writer:
    """Write the transcripts of one channel."""

    def __init__(self, *, language: str, separator: str, channel: str | None, has_speakers: bool) -> None:
        self._language, self._separator, self._channel = language, separator, channel
        self._has_speakers = has_speakers
        self._named = {} if channel is None else {"channel": channel}

    def final(self, event: Final) -> Message:
        """Return AddTranscript; its text ends with the delimiter of words."""
        results = [result for turn in event.turns for result in self._results(turn)]
        text = self._text(turn.text for turn in event.turns)
        forced = {"forced": True} if event.forced else {}
        text += self._separator if text else ""
        return self._transcript("AddTranscript", event.start_s, event.end_s, text, results) | forced

    def silence(self, start_s: float, end_s: float) -> Message:
        """Return the AddTranscript of a stretch without speech."""
        return self._transcript("AddTranscript", start_s, end_s, "", [])

    def partial(self, event: Partial) -> Message:
        """Return AddPartialTranscript."""
        speaker = UNKNOWN_SPEAKER if self._has_speakers else None
        turns = [Turn(words=event.words, speaker=speaker, separator=self._separator)] if event.words else []
        results = [result for turn in turns for result in self._results(turn)]
        return self._transcript("AddPartialTranscript", event.start_s, event.end_s, event.text, results)

    def no_partial(self, time_s: float) -> Message:
        """Return the empty AddPartialTranscript that follows a final."""
        return self._transcript("AddPartialTranscript", time_s, time_s, "", [])

    def end_of_utterance(self, event: EndOfUtterance) -> Message:
        """Return EndOfUtterance."""
        time_s = round(event.time_s, 3)
        forced = {"forced": True} if event.forced else {}
        metadata = {"start_time": time_s, "end_time": time_s}
        return {
            "message": "EndOfUtterance",
            "format": formats.JSON_VERSION,
            "metadata": metadata,
            **self._named,
            **forced,
        }

    def _transcript(self, name: str, start_s: float, end_s: float, text: str, results: list[Message]) -> Message:
        metadata = {"start_time": round(start_s, 3), "end_time": round(end_s, 3), "transcript": text}
        return {
            "message": name, "format": formats.JSON_VERSION, "metadata": metadata, "results": results, **self._named,
        }  # fmt: skip

    def _results(self, turn: Turn) -> Iterable[Message]:
        return ({**self._result(word, turn), **self._named} for word in turn.words)

    def _result(self, word: Word, turn: Turn) -> Message:
        (result,) = formats.json_results(
            [Turn(words=(word,), speaker=turn.speaker, separator=turn.separator)], self._language
        )
        if self._has_speakers:
            result["alternatives"][0].setdefault("speaker", UNKNOWN_SPEAKER)
        return result

    def _text(self, parts: Iterable[str]) -> str:
        return self._separator.join(part for part in parts if part)
