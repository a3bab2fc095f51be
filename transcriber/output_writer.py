"""Write a real-time transcript while it is made: lines of text, or one JSON message per line for programs."""

import shutil
import sys
from typing import Protocol

from transcriber import columns, formats, results
from transcriber.session import Final, Partial

_CLEAR_LINE = "\r\x1b[K"


class OutputWriter(Protocol):
    """Write the events of a stream to the standard output."""

    def write(self, event: Partial | Final) -> None:
        """Write a partial or a final."""
        ...


class TextWriter:
    """Write finals as `--format txt` does; on a terminal the partial is shown in the last line."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal

    def write(self, event: Partial | Final) -> None:
        """Write a partial or a final."""
        if isinstance(event, Final):
            lines = [formats.turn_line(turn) for turn in event.turns]
            lines += [formats.loss_line(event.loss)] if event.loss is not None else []
            results.write_stdout((_CLEAR_LINE if self._terminal else "") + "".join(f"{line}\n" for line in lines))
        elif self._terminal:
            # The end of a long sentence is shown, as its newest words are there.
            width = shutil.get_terminal_size().columns - 1
            results.write_stdout(_CLEAR_LINE + columns.tail(f"... {event.text}", width))


class JsonWriter:
    """Write one message per line: AddPartialTranscript and AddTranscript, with the results of json-v2.

    A segment that the server refused is a message `Error` with the reason; see `formats.json_message`.
    """

    def __init__(self, language: str) -> None:
        self._language = language

    def write(self, event: Partial | Final) -> None:
        """Write a partial or a final."""
        if isinstance(event, Partial):
            results.write_stdout(
                formats.json_message("AddPartialTranscript", event.start_s, event.end_s, event.text, [])
            )
        elif event.loss is not None:
            results.write_stdout(formats.json_message("Error", event.start_s, event.end_s, event.loss.reason, []))
        else:
            text = event.turns[0].separator.join(turn.text for turn in event.turns) if event.turns else ""
            found = formats.json_results(event.turns, self._language)
            results.write_stdout(formats.json_message("AddTranscript", event.start_s, event.end_s, text, found))


def output_writer(format_name: str, language: str) -> OutputWriter:
    """Return the writer of a format."""
    if format_name == "json-v2":
        return JsonWriter(language)
    return TextWriter(terminal=sys.stdout is not None and sys.stdout.isatty())
