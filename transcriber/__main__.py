"""Transcribe recordings and streams with a running server: `python -m transcriber talk.wav`."""

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

from contract import command_line
from contract.catalogue import OPERATING_POINTS
from contract.errors import OutputError, ServerUnreachableError, SettingError, VoxwrightError, as_output_error, guard
from transcriber import console, results
from transcriber.endpoint import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, RETRY_TIMEOUT_S, checked_endpoint
from transcriber.formats import FORMATS

if TYPE_CHECKING:
    from transcriber.pipeline import Plan, TranscriptionResult
    from transcriber.recogniser import Recogniser, StreamRecogniser


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of the command line."""

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
@click.option(
    "--format", "format_name", type=click.Choice(tuple(FORMATS)), help="Default: by the suffix of --output, else txt."
)
@click.option("--output", help="File for the result, or folder for several; without it, the standard output.")
@click.option(
    "--endpoint", default=DEFAULT_ENDPOINT, envvar=ENDPOINT_VARIABLE, show_default=True, show_envvar=True,
    metavar="HOST:PORT", help="The server's gRPC port.",
)  # fmt: skip
@click.option("--operating-point", type=click.Choice(OPERATING_POINTS), help="Default: the best one that is served.")
@click.option("--language", default="en", show_default=True, help="A language of the catalogue.")
@click.option(
    "--search",
    type=click.Choice(("greedy", "beam", "rescore")),
    help="Default: rescore if the server has a rescorer, else beam.",
)
@click.option("--no-ngram", is_flag=True, help="Search without the n-gram model of the weights.")
@click.option("--no-speakers", is_flag=True, help="Do not distinguish speakers.")
@click.option(
    "--realtime", is_flag=True, help="Transcribe a stream while it is spoken; needs a server in real-time mode."
)
@click.option(
    "--in-flight", default=8, show_default=True, type=click.IntRange(1, 64), help="Number of requests at a time."
)
@click.option("--wait", "wait_s", default=RETRY_TIMEOUT_S, show_default=True, type=click.FloatRange(min=0),
              metavar="SECONDS", help="How long to wait for a server that does not answer.")  # fmt: skip
@command_line.verbose_option("Print more, and add tracebacks to errors.", expose_value=True)
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

    Results go to the standard output or to --output; progress and notes go to the standard error. If part of a
    recording cannot be transcribed, the rest is still written, and the exit code is not zero.
    """
    recordings = tuple(STDIN if file == "-" else Path(file) for file in files)
    if STDIN in recordings and (sys.stdin is None or sys.stdin.isatty()):
        cause = "the standard input is closed" if sys.stdin is None else "the standard input is a terminal"
        raise SettingError("FILE -", cause, "Pipe a recording into it")
    chosen = results.choose_format(format_name, Path(output) if output else None)
    if realtime:
        _check_realtime(recordings, chosen, output)
    if no_speakers and FORMATS[chosen].needs_speakers:
        raise SettingError("--no-speakers", f"{chosen} lists only speakers", "Leave it out")
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
        raise SettingError("--realtime", "there is more than one FILE", "Transcribe one stream at a time")
    if output is None and chosen not in ("txt", "json-v2"):
        cause = f"{chosen} can only be written at the end of the stream"
        raise SettingError("--format", cause, "Name a file for it with --output, or use txt or json-v2")


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; a usage error is printed and ends the program with exit code 2, `--help` with 0."""
    try:
        options = _command.main(list(arguments), prog_name="python -m transcriber", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if not isinstance(options, Options):
        sys.exit(0)
    return options


def run(options: Options) -> None:
    """Transcribe every recording and write the results; print all errors but the last one, and raise that one."""
    # The connection reports outages itself, so gRPC's own log of reconnections is switched off.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Imported here because `--help` needs neither NumPy nor gRPC.
    from transcriber.connection import Connection  # noqa: PLC0415
    from transcriber.triton_recogniser import connect, connect_streams  # noqa: PLC0415

    connection = Connection(
        options.endpoint, retry_timeout_s=options.wait_s, notify=console.message, one_server=options.realtime
    )
    try:
        _check_recordings(options)
        if options.realtime:
            streams = connect_streams(connection, options.language, options.operating_point)
            _print_models(options, streams)
            errors = follow(options, streams)
        else:
            recogniser = connect(connection, options.language, options.operating_point)
            _print_models(options, recogniser)
            errors = transcribe_all(options, recogniser)
    finally:
        connection.close()
    for error in errors[:-1]:
        console.message(f"error: {error}")
    if errors:
        raise errors[-1]


def transcribe_all(options: Options, recogniser: "Recogniser") -> list[VoxwrightError]:
    """Transcribe and write one recording after the other; return the errors, without stopping for them.

    Only a long outage of the server ends the work early, because every further recording would fail as well.
    """
    errors: list[VoxwrightError] = []
    for recording, target in zip(options.recordings, options.targets, strict=True):
        try:
            found = _transcribe(recording, options, recogniser)
        except VoxwrightError as error:
            errors.append(error)
            continue
        errors.extend(_write(found, target, options))
        if any(isinstance(error, ServerUnreachableError) for error in found.errors):
            break
    return errors


def follow(options: Options, recogniser: "StreamRecogniser") -> list[VoxwrightError]:
    """Transcribe a stream until it ends or is interrupted, and write partials and finals; return the errors."""
    from transcriber.output_writer import output_writer  # noqa: PLC0415
    from transcriber.realtime import Final, Partial, Source, transcribe  # noqa: PLC0415

    (path,), (target,), started = options.recordings, options.targets, time.monotonic()
    source = Source(path)
    writer = output_writer(options.format if target is None else results.DEFAULT_FORMAT, options.language)

    def on_event(event: Partial | Final) -> None:
        # A closed standard output ends the program, unless the result is also written to a file.
        with contextlib.suppress(*(() if target is None else (SystemExit,))):
            writer.write(event)

    with _stopped_by_interrupt(source.stop):
        found = transcribe(source, recogniser, _plan(options), on_event)
    console.report(path, found, time.monotonic() - started)
    return list(found.errors) if target is None else _write(found, target, options)


def _write(found: "TranscriptionResult", target: Path | None, options: Options) -> list[VoxwrightError]:
    """Write a transcript; return the errors of the transcription, and the one of the writing if it failed."""
    try:
        results.write(found.transcript, target, options.format, titled=len(options.recordings) > 1)
    except OSError as error:
        return [*found.errors, as_output_error(error)]
    except OutputError as error:
        if target is None:
            # There is no standard output: every other recording would fail as well.
            raise
        return [*found.errors, error]
    return list(found.errors)


@contextlib.contextmanager
def _stopped_by_interrupt(stop: Callable[[], object]) -> Iterator[None]:
    """Let the first interrupt stop a stream, and only the second one end the program."""

    def interrupted(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> NoReturn:
    """Run the command line and exit."""
    guard(lambda: run(parse(sys.argv[1:])))


def _check_recordings(options: Options) -> None:
    # A single mistyped name is reported before the client waits for a server.
    from transcriber.audio import Recording  # noqa: PLC0415

    # A pipe can be read only once.
    if len(options.recordings) == 1 and not options.recordings[0].is_fifo():
        Recording(options.recordings[0]).close()


def _transcribe(path: Path, options: Options, recogniser: "Recogniser") -> "TranscriptionResult":
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.pipeline import transcribe  # noqa: PLC0415

    started = time.monotonic()
    recording = Recording(path)
    with console.progress(path.name, recording.duration_s) as on_progress:
        found = transcribe(recording, recogniser, _plan(options), on_progress)
    console.report(path, found, time.monotonic() - started)
    return found


def _plan(options: Options) -> "Plan":
    from transcriber.pipeline import Plan  # noqa: PLC0415

    return Plan(search=options.search, ngram=options.ngram, speakers=options.speakers, in_flight=options.in_flight)


def _print_models(options: Options, recogniser: "Recogniser") -> None:
    if options.verbose:
        console.message(console.description(options.endpoint, recogniser))


if __name__ == "__main__":
    main()
