"""Tells a transcript while it is made: lines of text for people, or a JSON message a line for programs."""

import shutil
import sys
from typing import Protocol

from transcriber import formats, results
from transcriber.realtime import Final, Partial

_CLEAR_LINE = "\r\x1b[K"


class Announcer(Protocol):
    """What is told of a stream."""

    def tell(self, said: Partial | Final) -> None:
        """Tell what is being said, or what was said."""
        ...


class TextAnnouncer:
    """Writes what was said as `--format txt` does; on a terminal what is being said stands in the last line."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal

    def tell(self, said: Partial | Final) -> None:
        """Tell what is being said, or what was said."""
        if isinstance(said, Final):
            lines = [formats.turn_line(turn) for turn in said.turns]
            lines += [formats.loss_line(said.loss)] if said.loss is not None else []
            results.show((_CLEAR_LINE if self._terminal else "") + "".join(f"{line}\n" for line in lines))
        elif self._terminal:
            # The end of a long sentence says more than its beginning.
            width = shutil.get_terminal_size().columns - 1
            results.show(_CLEAR_LINE + f"... {said.text}"[-width:])


class JsonAnnouncer:
    """Writes a message a line: AddPartialTranscript and AddTranscript, with the results of json-v2.

    A segment that is lost is a message `Error` with the reason; see `formats.json_message`.
    """

    def __init__(self, language: str) -> None:
        self._language = language

    def tell(self, said: Partial | Final) -> None:
        """Tell what is being said, or what was said."""
        if isinstance(said, Partial):
            results.show(formats.json_message("AddPartialTranscript", said.start_s, said.end_s, said.text, []))
        elif said.loss is not None:
            results.show(formats.json_message("Error", said.start_s, said.end_s, said.loss.reason, []))
        else:
            spoken = " ".join(turn.text for turn in said.turns)
            found = formats.json_results(said.turns, self._language)
            results.show(formats.json_message("AddTranscript", said.start_s, said.end_s, spoken, found))


def announcer(format_name: str, language: str) -> Announcer:
    """Choose by the format."""
    if format_name == "json-v2":
        return JsonAnnouncer(language)
    return TextAnnouncer(terminal=sys.stdout is not None and sys.stdout.isatty())
