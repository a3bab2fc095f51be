"""`python -m transcriber talk.wav`: transcribes recordings with a server that runs."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from contract.catalogue import OPERATING_POINTS
from contract.errors import ServerUnreachableError, SettingError, VoxwrightError, as_output_error, guard
from transcriber import results
from transcriber.endpoint import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, PATIENCE_S, checked_endpoint
from transcriber.formats import FORMATS
from transcriber.transcript import clock

if TYPE_CHECKING:
    from transcriber.pipeline import Outcome, Plan
    from transcriber.recogniser import Recogniser, StreamRecogniser

Advance = Callable[[float], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What was asked for on the command line."""

    recordings: tuple[Path, ...]
    format: str
    targets: tuple[Path | None, ...]
    endpoint: str
    operating_point: str | None
    language: str
    search: str | None
    ngram: bool
    speakers: bool
    in_flight: int
    wait_s: float
    verbose: bool
    realtime: bool = False


STDIN = Path("/dev/stdin")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "format_name", type=click.Choice(tuple(FORMATS)), help="By --output's ending, else txt.")
@click.option("--output", help="File for the result, or folder for several; without it, the standard output.")
@click.option(
    "--endpoint", default=DEFAULT_ENDPOINT, envvar=ENDPOINT_VARIABLE, show_default=True, show_envvar=True,
    metavar="HOST:PORT", help="The server's gRPC port.",
)  # fmt: skip
@click.option("--operating-point", type=click.Choice(OPERATING_POINTS), help="The best that is served by default.")
@click.option("--language", default="en", show_default=True, help="A language of the catalogue.")
@click.option(
    "--search", type=click.Choice(("greedy", "beam", "rescore")), help="rescore where the server can, else beam."
)
@click.option("--no-ngram", is_flag=True, help="Search without the n-gram model that the weights may come with.")
@click.option("--no-speakers", is_flag=True, help="Do not tell speakers apart.")
@click.option("--realtime", is_flag=True, help="Follow a stream while it is spoken; wants a server in real-time mode.")
@click.option("--in-flight", default=8, show_default=True, type=click.IntRange(1, 64), help="Requests at a time.")
@click.option("--wait", "wait_s", default=PATIENCE_S, show_default=True, type=click.FloatRange(min=0),
              metavar="SECONDS", help="How long to wait for a server that is away.")  # fmt: skip
@click.option("--verbose", is_flag=True, help="Say more, and add tracebacks to errors.")
def _command(
    files: tuple[str, ...],
    format_name: str | None,
    output: str | None,
    endpoint: str,
    operating_point: str | None,
    language: str,
    search: str | None,
    wait_s: float,
    in_flight: int,
    *,
    no_ngram: bool,
    no_speakers: bool,
    realtime: bool,
    verbose: bool,
) -> Options:
    """Transcribe recordings (wav, flac, mp3, ogg, opus, m4a, ...) into text with speakers and times; - is the standard
    input.

    Results go to the standard output or to --output; progress and remarks go to the standard error. If part of a
    recording cannot be transcribed, the rest is written all the same, and the exit code is not zero.
    """
    recordings = tuple(STDIN if file == "-" else Path(file) for file in files)
    if STDIN in recordings and (sys.stdin is None or sys.stdin.isatty()):
        cause = "the standard input is closed" if sys.stdin is None else "the standard input is a terminal"
        raise SettingError("FILE -", cause, "Pipe a recording into it")
    chosen = results.format_of(format_name, Path(output) if output else None)
    if realtime:
        _check_realtime(recordings, chosen, output)
    if no_speakers and FORMATS[chosen].needs_speakers:
        raise SettingError("--no-speakers", f"{chosen} lists nothing but speakers", "Leave it out")
    return Options(
        recordings=recordings,
        format=chosen,
        targets=tuple(results.targets(recordings, Path(output) if output else None, chosen)),
        endpoint=checked_endpoint(endpoint),
        operating_point=operating_point,
        language=language,
        search=search,
        ngram=not no_ngram,
        speakers=not no_speakers,
        in_flight=in_flight,
        wait_s=wait_s,
        verbose=verbose,
        realtime=realtime,
    )


def _check_realtime(recordings: tuple[Path, ...], chosen: str, output: str | None) -> None:
    if len(recordings) > 1:
        raise SettingError("--realtime", "there is more than one FILE", "Follow one stream at a time")
    if output is None and chosen not in ("txt", "json-v2"):
        cause = f"{chosen} is written when all has been said"
        raise SettingError("--format", cause, "Name a file for it with --output, or use txt or json-v2")


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; misuse is told and ends the program with exit code 2, `--help` with 0."""
    try:
        options = _command.main(list(arguments), prog_name="python -m transcriber", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if not isinstance(options, Options):
        sys.exit(0)
    return options


def run(options: Options) -> None:
    """Transcribe every recording, write what there is, and raise the last refusal after telling the earlier ones."""
    # gRPC's own log of reconnections says nothing that is not told below.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Only now: `--help` needs neither NumPy nor gRPC.
    from transcriber.client import Connection, connect, connect_streams  # noqa: PLC0415

    connection = Connection(options.endpoint, patience_s=options.wait_s, notify=_tell, one_server=options.realtime)
    try:
        _check_recordings(options)
        if options.realtime:
            streams = connect_streams(connection, options.language, options.operating_point)
            _describe(options, streams)
            errors = follow(options, streams)
        else:
            recogniser = connect(connection, options.language, options.operating_point)
            _describe(options, recogniser)
            errors = transcribe_all(options, recogniser)
    finally:
        connection.close()
    for error in errors[:-1]:
        _tell(f"error: {error}")
    if errors:
        raise errors[-1]


def transcribe_all(options: Options, recogniser: "Recogniser") -> list[VoxwrightError]:
    """Transcribe and write one recording after the other; give the refusals, without stopping for them.

    Only a server that stays away ends the work early: it would do the same to every recording that is left.
    """
    errors: list[VoxwrightError] = []
    for recording, target in zip(options.recordings, options.targets, strict=True):
        try:
            found = _transcribe(recording, options, recogniser)
        except VoxwrightError as error:
            errors.append(error)
            continue
        errors.extend(_written(found, target, options))
        if any(isinstance(error, ServerUnreachableError) for error in found.errors):
            break
    return errors


def follow(options: Options, recogniser: "StreamRecogniser") -> list[VoxwrightError]:
    """Transcribe a stream until it ends or is interrupted, telling it on the way; give the refusals."""
    from transcriber.announcer import announcer  # noqa: PLC0415
    from transcriber.realtime import Final, Partial, Source, transcribe  # noqa: PLC0415

    (path,), (target,), started = options.recordings, options.targets, time.monotonic()
    source = Source(path)
    teller = announcer(options.format if target is None else results.DEFAULT_FORMAT, options.language)

    def tell(said: Partial | Final) -> None:
        # Nobody listening any more ends it, unless the whole is to be written as well.
        with contextlib.suppress(*(() if target is None else (SystemExit,))):
            teller.tell(said)

    with _ended_by_interrupt(source.end):
        found = transcribe(source, recogniser, _plan(options), tell)
    _remark(path, found, time.monotonic() - started)
    return list(found.errors) if target is None else _written(found, target, options)


def _written(found: "Outcome", target: Path | None, options: Options) -> list[VoxwrightError]:
    """Write a transcript and give its refusals, and that of the writing."""
    try:
        results.write(found.transcript, target, options.format, titled=len(options.recordings) > 1)
    except OSError as error:
        return [*found.errors, as_output_error(error)]
    return list(found.errors)


@contextlib.contextmanager
def _ended_by_interrupt(end: Callable[[], object]) -> Iterator[None]:
    """Let the first interrupt end a stream as its own end would, and only the second one the program."""

    def interrupted(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        end()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> NoReturn:
    """Run the command line to its end."""
    guard(lambda: run(parse(sys.argv[1:])))


def _check_recordings(options: Options) -> None:
    # A single mistyped name is told at once, not after waiting for a server.
    from transcriber.audio import Recording  # noqa: PLC0415

    # A pipe can be read but once.
    if len(options.recordings) == 1 and not options.recordings[0].is_fifo():
        Recording(options.recordings[0]).close()


def _transcribe(path: Path, options: Options, recogniser: "Recogniser") -> "Outcome":
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.pipeline import transcribe  # noqa: PLC0415

    started = time.monotonic()
    recording = Recording(path)
    with _progress(path.name, recording.duration_s) as advance:
        found = transcribe(recording, recogniser, _plan(options), advance)
    _remark(path, found, time.monotonic() - started)
    return found


def _plan(options: Options) -> "Plan":
    from transcriber.pipeline import Plan  # noqa: PLC0415

    return Plan(search=options.search, ngram=options.ngram, speakers=options.speakers, in_flight=options.in_flight)


def _remark(path: Path, found: "Outcome", wall_s: float) -> None:
    for note in found.notes:
        _tell(f"{path}: {note}")
    _tell(_summary(path, found, wall_s))


def _describe(options: Options, recogniser: "Recogniser") -> None:
    if options.verbose:
        _tell(_described(options.endpoint, recogniser))


def _described(endpoint: str, recogniser: "Recogniser") -> str:
    rescored = f"rescoring by {' and '.join(recogniser.rescorers)}" if recogniser.rescorers else "no rescoring"
    similarity = recogniser.same_speaker_similarity
    voices = "no speakers" if similarity is None else f"one speaker from a similarity of {similarity:g} on"
    model = recogniser.ngram
    searched = "no n-gram model" if model is None else f"{len(model)} n-grams of up to {model.order} tokens"
    return f"{endpoint}: {recogniser.language} {recogniser.operating_point}, {searched}, {rescored}, {voices}"


def _summary(path: Path, found: "Outcome", wall_s: float) -> str:
    transcript = found.transcript
    spoken = sum(len(turn.words) for turn in transcript.turns)
    voices = len({turn.speaker for turn in transcript.turns if turn.speaker is not None})
    told = f", {voices} speaker{'s' * (voices != 1)}" if voices else ""
    lost_s = sum((loss.end_s or transcript.duration_s) - loss.start_s for loss in transcript.losses)
    heard_s = transcript.duration_s - min(lost_s, transcript.duration_s)
    factor = f"{wall_s / heard_s:.3f}" if heard_s else "-"
    return (
        f"{path}: {clock(transcript.duration_s)} of audio in {clock(wall_s)} (real-time factor {factor}), "
        f"{spoken} word{'s' * (spoken != 1)}{told}, {transcript.language} {transcript.operating_point}"
    )


@contextlib.contextmanager
def _progress(name: str, duration_s: float | None) -> Iterator[Advance]:
    """Draw a bar on stderr while somebody looks at it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=duration_s, done=clock(0.0))
        yield lambda seconds: bar.update(task, completed=seconds, done=clock(seconds))


def _tell(message: str) -> None:
    click.echo(message, err=True)


if __name__ == "__main__":
    main()
