"""Write to the standard error: the progress bar, notes, and a summary line per recording."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from transcriber.transcript import clock

if TYPE_CHECKING:
    from transcriber.pipeline import TranscriptionResult
    from transcriber.recogniser import Recogniser

OnProgress = Callable[[float], object]
# Prints a line above the bar of `count_progress`, which would otherwise be in the same line.
_above_bar: list[Callable[[str], object]] = []


def message(text: str) -> None:
    """Write a line to the standard error; a terminal that is gone does not end the work."""
    with contextlib.suppress(OSError):
        if _above_bar:
            _above_bar[-1](text)
        else:
            click.echo(text, err=True)


def report(path: Path, found: "TranscriptionResult", wall_s: float) -> None:
    """Write the notes of a result and its summary; `wall_s` is the time that the transcription took."""
    for line in report_lines(path, found, wall_s):
        message(line)


def report_lines(path: Path, found: "TranscriptionResult", wall_s: float) -> list[str]:
    """Return the notes of a result and its summary; `wall_s` is the time that the transcription took."""
    return [*(f"{path}: {note}" for note in found.notes), _summary(path, found, wall_s)]


def description(endpoint: str, recogniser: "Recogniser") -> str:
    """Return a line about the models of a server: language, operating point, n-gram model, rescorers, speakers."""
    rescored = f"rescoring by {' and '.join(recogniser.rescorers)}" if recogniser.rescorers else "no rescoring"
    spec = recogniser.speaker
    speakers = (
        "no speakers" if spec is None else f"one speaker from a similarity of {spec.same_speaker_similarity:g} on"
    )
    model = recogniser.ngram
    searched = "no n-gram model" if model is None else f"{len(model)} n-grams of up to {model.order} tokens"
    return f"{endpoint}: {recogniser.language} {recogniser.operating_point}, {searched}, {rescored}, {speakers}"


@contextlib.contextmanager
def progress(name: str, duration_s: float | None, *, visible: bool = True) -> Iterator[OnProgress]:
    """Draw a progress bar on the standard error if it is a terminal; yield a function that takes the seconds done."""
    if not visible or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=duration_s, done=clock(0.0))
        yield lambda seconds: bar.update(task, completed=seconds, done=clock(seconds))


@contextlib.contextmanager
def count_progress(total: int) -> Iterator[Callable[[], object]]:
    """Draw the number of finished recordings on the standard error; yield a function that counts one more."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        _above_bar.append(lambda text: bar.console.print(text, markup=False, highlight=False, soft_wrap=True))
        try:
            yield lambda: bar.advance(task)
        finally:
            _above_bar.pop()


def _summary(path: Path, found: "TranscriptionResult", wall_s: float) -> str:
    transcript = found.transcript
    words = sum(len(turn.words) for turn in transcript.turns)
    count = len({turn.speaker for turn in transcript.turns if turn.speaker is not None})
    speakers = f", {count} speaker{'s' * (count != 1)}" if count else ""
    lost_s = sum((loss.end_s or transcript.duration_s) - loss.start_s for loss in transcript.losses)
    transcribed_s = transcript.duration_s - min(lost_s, transcript.duration_s)
    factor = f"{wall_s / transcribed_s:.3f}" if transcribed_s else "-"
    return (
        f"{path}: {clock(transcript.duration_s)} of audio in {clock(wall_s)} (real-time factor {factor}), "
        f"{words} word{'s' * (words != 1)}{speakers}, {transcript.language} {transcript.operating_point}"
    )
