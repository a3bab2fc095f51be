"""Transcribe recordings and streams with a running server: `python -m transcriber talk.wav`."""

import contextlib
import functools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from contract import command_line
from contract.catalogue import Catalogue
from contract.errors import (
    AudioError,
    OutputError,
    ServerUnreachableError,
    SettingError,
    VoxwrightError,
    as_output_error,
    guard,
)
from transcriber import console, results
from transcriber.endpoint import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, RETRY_TIMEOUT_S, checked_endpoint
from transcriber.formats import FORMATS
from transcriber.raw import parse as parse_raw

if TYPE_CHECKING:
    from transcriber.phrases import Phrase
    from transcriber.pipeline import Plan, TranscriptionResult
    from transcriber.raw import RawFormat
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
    catalogue: Catalogue
    search: str | None
    ngram: bool
    speakers: bool
    in_flight: int
    wait_s: float
    verbose: bool
    realtime: bool = False
    raw: "RawFormat | None" = None
    track: int | None = None
    channels: bool = False
    vocabulary: tuple["Phrase", ...] = ()


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
@click.option("--operating-point", help="Default: the best one that is served.")
@click.option("--language", default="en", show_default=True, help="A language of the catalogue.")
@click.option(
    "--search",
    type=click.Choice(("greedy", "beam", "rescore")),
    help="Default: rescore if the server has a rescorer, else beam.",
)
@click.option("--no-ngram", is_flag=True, help="Search without the n-gram model of the weights.")
@click.option("--vocabulary", type=click.Path(path_type=Path), metavar="FILE",
              help="Names and terms to prefer, one a line: Voxwright = vox right.")  # fmt: skip
@click.option("--no-speakers", is_flag=True, help="Do not distinguish speakers.")
@click.option(
    "--realtime", is_flag=True, help="Transcribe a stream while it is spoken; needs a server in real-time mode."
)
@click.option("--raw", metavar="FORMAT:RATE[:CHANNELS]",
              help="The files are samples without a header, such as mulaw:8000 or s16le:16000:2.")  # fmt: skip
@click.option("--channels", is_flag=True, help="Transcribe each channel by itself, and label words by channel: C1, C2.")
@click.option("--track", type=click.IntRange(min=1), help="The sound track to transcribe, where a file has several.")
@click.option(
    "--in-flight", default=8, show_default=True, type=click.IntRange(1, 64), help="Number of requests at a time."
)
@click.option("--wait", "wait_s", default=RETRY_TIMEOUT_S, show_default=True, type=click.FloatRange(min=0),
              metavar="SECONDS", help="How long to wait for a server that does not answer.")  # fmt: skip
@command_line.catalogue_option()
@command_line.verbose_option("Print more, and add tracebacks to errors.", expose_value=True)
def _command(
    files: tuple[str, ...],
    format_name: str | None,
    output: str | None,
    endpoint: str,
    operating_point: str | None,
    language: str,
    catalogue: Catalogue,
    search: str | None,
    wait_s: float,
    in_flight: int,
    raw: str | None,
    track: int | None,
    vocabulary: Path | None,
    *,
    no_ngram: bool,
    no_speakers: bool,
    realtime: bool,
    channels: bool,
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
    chosen = results.choose_format(format_name, output or None)
    if realtime:
        _check_realtime(recordings, chosen, output)
    if channels:
        _check_channels(recordings, no_speakers=no_speakers, realtime=realtime)
    if no_speakers and FORMATS[chosen].needs_speakers:
        raise SettingError("--no-speakers", f"{chosen} lists only speakers", "Leave it out")
    return Options(
        recordings=recordings,
        format=chosen,
        targets=tuple(results.targets(recordings, output or None, chosen)),
        endpoint=checked_endpoint(endpoint),
        operating_point=operating_point,
        language=language,
        catalogue=catalogue,
        search=search,
        ngram=not no_ngram,
        speakers=not no_speakers,
        in_flight=in_flight,
        wait_s=wait_s,
        verbose=verbose,
        realtime=realtime,
        raw=None if raw is None else parse_raw(raw),
        track=track,
        channels=channels,
        vocabulary=_vocabulary(vocabulary, search),
    )


def _vocabulary(path: Path | None, search: str | None) -> "tuple[Phrase, ...]":
    if path is None:
        return ()
    if search == "greedy":
        raise SettingError("--vocabulary", "the greedy search takes no phrases", "Leave out --search greedy")
    from transcriber import phrases  # noqa: PLC0415 - it needs NumPy

    return phrases.read(path)


def _check_channels(recordings: tuple[Path, ...], *, no_speakers: bool, realtime: bool) -> None:
    if no_speakers:
        raise SettingError("--channels", "the channels are the speakers", "Leave out --no-speakers")
    if realtime:
        raise SettingError("--channels", "a stream is transcribed as one", "Leave out --channels or --realtime")
    for recording in recordings:
        if recording.is_fifo():
            cause = f"{recording} is a pipe, and a file is read once for each channel"
            raise SettingError("--channels", cause, "Write the recording to a file first")


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
            streams = connect_streams(connection, options.catalogue, options.language, options.operating_point)
            _print_models(options, streams)
            errors = follow(options, streams)
        else:
            recogniser = connect(connection, options.catalogue, options.language, options.operating_point)
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

    An exception that is a defect of the program is printed with its traceback, and is an error of its recording.
    Only a long outage of the server ends the work early, because every further recording would fail as well.
    """
    errors: list[VoxwrightError] = []
    for recording, target in zip(options.recordings, options.targets, strict=True):
        found = _attempt(recording, target, options, recogniser)
        errors.extend(found)
        if any(isinstance(error, ServerUnreachableError) for error in found):
            break
    return errors


def _attempt(recording: Path, target: Path | None, options: Options, recogniser: "Recogniser") -> list[VoxwrightError]:
    try:
        return _write(_transcribe(recording, options, recogniser), target, options)
    except OutputError:
        raise  # the standard output is closed
    except VoxwrightError as error:
        return [error]
    except OSError as error:
        cause = f"it cannot be read ({error.strerror or error})"
        return [AudioError(recording, cause, "Check the disk or the network that it is on")]
    except Exception as error:
        # A defect must not cost the other recordings.
        traceback.print_exc()
        cause = f"it could not be transcribed, by a defect of the program ({type(error).__name__}: {error})"
        return [VoxwrightError(recording, cause, "Report the traceback above")]


def follow(options: Options, recogniser: "StreamRecogniser") -> list[VoxwrightError]:
    """Transcribe a stream until it ends or a signal stops it, and write partials and finals; return the errors."""
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.output_writer import output_writer  # noqa: PLC0415
    from transcriber.realtime import Final, Partial, Source, transcribe  # noqa: PLC0415

    (path,), (target,), started = options.recordings, options.targets, time.monotonic()
    rate_hz = recogniser.audio.sample_rate_hz
    opening = functools.partial(Recording, live=True, raw=options.raw, track=options.track, sample_rate_hz=rate_hz)
    source = Source(path, opening)
    writer = output_writer(options.format if target is None else results.DEFAULT_FORMAT, options.language)

    def on_event(event: Partial | Final) -> None:
        # A standard output that is closed or gone ends the program, unless the result is also written to a file.
        with contextlib.suppress(*(() if target is None else (SystemExit, OSError))):
            writer.write(event)

    with _stopped_by_signals(source.stop):
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
def _stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Let INT, TERM and HUP stop a stream; only a second INT ends the program before everything is written.

    A terminal that is closed sends HUP more than once. Under nohup HUP stays ignored.
    """
    hung_up = signal.getsignal(signal.SIGHUP)
    signals = [signal.SIGINT, signal.SIGTERM, *([] if hung_up is signal.SIG_IGN else [signal.SIGHUP])]

    def stopped(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        stop()

    before = {each: signal.signal(each, stopped) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def main() -> NoReturn:
    """Run the command line and exit."""
    guard(lambda: run(parse(sys.argv[1:])))


def _check_recordings(options: Options) -> None:
    # A single mistyped name is reported before the client waits for a server.
    from transcriber.audio import Recording  # noqa: PLC0415

    # A pipe can be read only once.
    if len(options.recordings) == 1 and not options.recordings[0].is_fifo():
        Recording(options.recordings[0], raw=options.raw, track=options.track).close()


def _transcribe(path: Path, options: Options, recogniser: "Recogniser") -> "TranscriptionResult":
    started = time.monotonic()
    found = (_transcribe_channels if options.channels else _transcribe_mix)(path, options, recogniser)
    console.report(path, found, time.monotonic() - started)
    return found


def _transcribe_mix(
    path: Path, options: Options, recogniser: "Recogniser", channel: int | None = None
) -> "TranscriptionResult":
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.pipeline import transcribe  # noqa: PLC0415

    rate_hz = recogniser.audio.sample_rate_hz
    recording = Recording(path, raw=options.raw, track=options.track, channel=channel, sample_rate_hz=rate_hz)
    name = path.name if channel is None else f"{path.name}, channel {channel}"
    with console.progress(name, recording.duration_s) as on_progress:
        return transcribe(recording, recogniser, _plan(options), on_progress)


def _transcribe_channels(path: Path, options: Options, recogniser: "Recogniser") -> "TranscriptionResult":
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.channels import merge  # noqa: PLC0415

    recording = Recording(path, raw=options.raw, track=options.track)
    recording.close()
    found: list[TranscriptionResult] = []
    for channel in range(1, recording.channels + 1):
        found.append(_transcribe_mix(path, options, recogniser, channel))
        gone = next((error for error in found[-1].errors if isinstance(error, ServerUnreachableError)), None)
        if gone is not None:
            # The other channels would wait for the server as well. All of them are missing.
            missing = _missing(found[-1], gone)
            return merge([*found, *[missing] * (recording.channels - channel)])
    return merge(found)


def _missing(found: "TranscriptionResult", gone: VoxwrightError) -> "TranscriptionResult":
    """Return the result of a channel that was not transcribed."""
    from transcriber.transcript import Loss  # noqa: PLC0415

    transcript = found.transcript
    loss = Loss(start_s=0.0, end_s=transcript.duration_s or None, reason=gone.cause)
    return replace(found, transcript=replace(transcript, turns=(), losses=(loss,)), errors=(gone,))


def _plan(options: Options) -> "Plan":
    from transcriber.pipeline import Plan  # noqa: PLC0415

    return Plan(
        search=options.search,
        ngram=options.ngram,
        speakers=options.speakers and not options.channels,
        in_flight=options.in_flight,
        vocabulary=options.vocabulary,
    )


def _print_models(options: Options, recogniser: "Recogniser") -> None:
    if options.verbose:
        console.message(console.description(options.endpoint, recogniser))


if __name__ == "__main__":
    main()
