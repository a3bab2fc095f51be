"""Transcribe recordings and streams with a running server: `python -m transcriber talk.wav`."""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from contract import command_line, files
from contract.access import PLAIN, Access
from contract.access import options as access_options
from contract.catalogue import SPEAKER, Catalogue
from contract.errors import (
    INTERRUPTED_EXIT_CODE,
    AudioError,
    OutputError,
    ServerUnreachableError,
    SettingError,
    VoxwrightError,
    as_output_error,
    guard,
)
from transcriber import batch, console, existing, inputs, results
from transcriber.endpoint import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, RETRY_TIMEOUT_S, checked_endpoint
from transcriber.formats import FORMATS
from transcriber.raw import parse as parse_raw
from transcriber.voice_detection import DETECTORS, OPTION_HELP, WEBRTC

_SIGNALLED = 128  # plus the number of the signal: the exit code of a program that it ended, in a shell

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
    in_flight: int | None
    wait_s: float
    verbose: bool
    realtime: bool = False
    raw: "RawFormat | None" = None
    track: int | None = None
    channels: bool = False
    vocabulary: tuple["Phrase", ...] = ()
    voice_detection: str = WEBRTC
    places: tuple[Path | None, ...] = ()
    jobs: int = 1
    skip_existing: bool = False
    remarks: tuple[str, ...] = ()
    unread: tuple[VoxwrightError, ...] = ()
    access: Access = PLAIN
    speaker_count: int | None = None
    max_speakers: int | None = None


@click.command()
@click.argument("files", nargs=-1, metavar="FILE|FOLDER|@LIST...")
@click.option("--list", "lists", multiple=True, metavar="LIST",
              help="A text file with one recording or folder a line; - is the standard input.")  # fmt: skip
@click.option(
    "--format", "format_name", type=click.Choice(tuple(FORMATS)), help="Default: by the suffix of --output, else txt."
)
@click.option("--output", help="File for the result, or folder for several; without it, the standard output.")
@click.option(
    "--endpoint", default=DEFAULT_ENDPOINT, envvar=ENDPOINT_VARIABLE, show_default=True, show_envvar=True,
    metavar="HOST:PORT", help="The server's gRPC port.",
)  # fmt: skip
@click.option("--operating-point", help="Default: the best one that is served.")
@click.option("--language", help="A language of the catalogue.  [default: its only language, or en]")
@click.option(
    "--search",
    type=click.Choice(("greedy", "beam", "rescore")),
    help="Default: rescore if the server has a rescorer, else beam.",
)
@click.option("--no-ngram", is_flag=True, help="Search without the n-gram model of the weights.")
@click.option("--vocabulary", type=click.Path(path_type=Path), metavar="FILE",
              help="Names and terms to prefer, one a line: Voxwright = vox right.")  # fmt: skip
@click.option("--voice-detection", type=click.Choice(DETECTORS), default=WEBRTC, show_default=True, help=OPTION_HELP)
@click.option("--no-speakers", is_flag=True, help="Do not distinguish speakers.")
@click.option("--speakers", "speaker_count", type=click.IntRange(min=1),
              help="The number of speakers, where it is known; of a stream the largest one.")  # fmt: skip
@click.option("--max-speakers", type=click.IntRange(min=1), help="The largest number of speakers.")
@click.option(
    "--realtime", is_flag=True, help="Transcribe a stream while it is spoken; needs a server in real-time mode."
)
@click.option("--raw", metavar="FORMAT:RATE[:CHANNELS]",
              help="The files are samples without a header, such as mulaw:8000 or s16le:16000:2.")  # fmt: skip
@click.option("--channels", is_flag=True, help="Transcribe each channel by itself, and label words by channel: C1, C2.")
@click.option("--track", type=click.IntRange(min=1), help="The sound track to transcribe, where a file has several.")
@click.option(
    "--in-flight", type=click.IntRange(1, 256),
    help="Number of segments at a time.  [default: 8, or enough for its batches where the server joins requests]",
)  # fmt: skip
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1, 64),
    help="Number of recordings at a time; they share the segments of --in-flight.",
)  # fmt: skip
@click.option(
    "--skip-existing", is_flag=True,
    help="Leave out recordings whose result in --output is whole and newer than they are.",
)  # fmt: skip
@click.option("--wait", "wait_s", default=RETRY_TIMEOUT_S, show_default=True, type=click.FloatRange(min=0),
              metavar="SECONDS", help="How long to wait for a server that does not answer.")  # fmt: skip
@access_options
@command_line.catalogue_option()
@command_line.verbose_option("Print more, and add tracebacks to errors.", expose_value=True)
def _command(
    files: tuple[str, ...],
    lists: tuple[str, ...],
    format_name: str | None,
    output: str | None,
    endpoint: str,
    operating_point: str | None,
    language: str | None,
    catalogue: Catalogue,
    search: str | None,
    wait_s: float,
    in_flight: int | None,
    jobs: int,
    raw: str | None,
    track: int | None,
    vocabulary: Path | None,
    voice_detection: str,
    access: Access,
    speaker_count: int | None,
    max_speakers: int | None,
    *,
    no_ngram: bool,
    no_speakers: bool,
    realtime: bool,
    channels: bool,
    skip_existing: bool,
    verbose: bool,
) -> Options:
    """Transcribe recordings (wav, flac, mp3, ogg, opus, m4a, ...) into text with speakers and times; - is the standard
    input.

    A FOLDER stands for the recordings in it and below it, @LIST for those that a text file names. Their results keep
    their places below --output: calls/1.wav becomes calls/1.wav.txt.

    Results go to the standard output or to --output; progress and notes go to the standard error. If part of a
    recording cannot be transcribed, the rest is still written, and the exit code is not zero.
    """
    if not files and not lists:
        raise click.UsageError("Missing argument 'FILE|FOLDER|@LIST...'.")
    sample_format = None if raw is None else parse_raw(raw)
    found = inputs.find(files, lists, raw=raw is not None)
    recordings = tuple(each.path for each in found.recordings)
    _check_stdin(recordings, lists)
    chosen = results.choose_format(format_name, output or None)
    if realtime:
        _check_realtime(recordings, chosen, output, jobs=jobs, skip_existing=skip_existing)
    if skip_existing and not output:
        cause = "results on the standard output cannot be looked up"
        raise SettingError("--skip-existing", cause, "Name a file or a folder with --output")
    if channels:
        _check_channels(recordings, no_speakers=no_speakers, realtime=realtime)
    numbers = {"--speakers": speaker_count, "--max-speakers": max_speakers}
    _check_numbers(numbers, catalogue, no_speakers=no_speakers, channels=channels)
    if no_speakers and FORMATS[chosen].needs_speakers:
        raise SettingError("--no-speakers", f"{chosen} lists only speakers", "Leave it out")
    places = tuple(each.place for each in found.recordings)
    return Options(
        recordings=recordings,
        format=chosen,
        targets=tuple(results.targets(recordings, output or None, chosen, places)),
        endpoint=checked_endpoint(endpoint),
        operating_point=operating_point,
        language=_language(catalogue) if language is None else language,
        catalogue=catalogue,
        search=search,
        ngram=not no_ngram,
        speakers=not no_speakers,
        in_flight=in_flight,
        wait_s=wait_s,
        verbose=verbose,
        realtime=realtime,
        raw=sample_format,
        track=track,
        channels=channels,
        vocabulary=_vocabulary(vocabulary, search),
        voice_detection=voice_detection,
        places=places,
        jobs=jobs,
        skip_existing=skip_existing,
        remarks=tuple(found.remarks),
        unread=tuple(found.errors),
        access=access,
        speaker_count=speaker_count,
        max_speakers=max_speakers,
    )


def _check_stdin(recordings: tuple[Path, ...], lists: tuple[str, ...]) -> None:
    if inputs.STDIN not in recordings:
        return
    if "-" in lists:
        raise SettingError("FILE -", "the standard input is the list already", "Write the list to a file")
    if sys.stdin is None or sys.stdin.isatty():
        cause = "the standard input is closed" if sys.stdin is None else "the standard input is a terminal"
        raise SettingError("FILE -", cause, "Pipe a recording into it")


def _language(catalogue: Catalogue) -> str:
    """Return the language of a command line that names none."""
    usual = catalogue.usual_language()
    if usual is not None:
        return usual
    known = catalogue.languages()
    cause = f"it is missing, and {catalogue.folder} has {len(known)} languages"
    raise SettingError("--language", cause, f"Use {' or '.join(known)}")


def _vocabulary(path: Path | None, search: str | None) -> "tuple[Phrase, ...]":
    if path is None:
        return ()
    if search == "greedy":
        raise SettingError("--vocabulary", "the greedy search takes no phrases", "Leave out --search greedy")
    from transcriber import phrases  # noqa: PLC0415 - it needs NumPy

    return phrases.read(path)


def _check_numbers(
    numbers: Mapping[str, int | None], catalogue: Catalogue, *, no_speakers: bool, channels: bool
) -> None:
    given = [name for name, number in numbers.items() if number is not None]
    if not given:
        return
    if len(given) > 1:
        raise SettingError(given[0], f"{given[1]} is given too", f"Leave out {given[1]}")
    if no_speakers:
        raise SettingError(given[0], "speakers are not distinguished with --no-speakers", "Leave out one of the two")
    if channels:
        raise SettingError(given[0], "with --channels every channel is one speaker", "Leave out one of the two")
    if not catalogue.of_role(SPEAKER):
        cause = "the catalogue has no speaker network"
        raise SettingError(given[0], cause, "Leave it out, or add a network with the role `speaker` to the catalogue")


def _check_channels(recordings: tuple[Path, ...], *, no_speakers: bool, realtime: bool) -> None:
    if no_speakers:
        raise SettingError("--channels", "the channels are the speakers", "Leave out --no-speakers")
    if realtime:
        raise SettingError("--channels", "a stream is transcribed as one", "Leave out --channels or --realtime")
    for recording in recordings:
        if recording.is_fifo():
            cause = f"{recording} is a pipe, and a file is read once for each channel"
            raise SettingError("--channels", cause, "Write the recording to a file first")


def _check_realtime(
    recordings: tuple[Path, ...], chosen: str, output: str | None, *, jobs: int, skip_existing: bool
) -> None:
    for option, is_given in (("--jobs", jobs > 1), ("--skip-existing", skip_existing)):
        if is_given:
            raise SettingError(option, "it is for recordings, not for a stream", "Leave it out")
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
    for remark in options.remarks:
        console.message(remark)
    options = _without_existing(options)
    errors = list(options.unread)
    if options.recordings:
        try:
            errors = _connect_and_transcribe(options)
        except VoxwrightError as failure:
            errors.append(failure)
    for error in errors[:-1]:
        console.message(f"error: {error}")
    if errors:
        raise errors[-1]


def _connect_and_transcribe(options: Options) -> list[VoxwrightError]:
    # The connection reports outages itself, so gRPC's own log of reconnections is switched off.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Imported here because `--help` needs neither NumPy nor gRPC.
    from transcriber.connection import Connection  # noqa: PLC0415
    from transcriber.triton_recogniser import connect, connect_streams  # noqa: PLC0415

    connection = Connection(
        options.endpoint,
        access=options.access,
        retry_timeout_s=options.wait_s,
        notify=console.message,
        one_server=options.realtime,
    )
    try:
        _check_recordings(options)
        if options.realtime:
            streams = connect_streams(connection, options.catalogue, options.language, options.operating_point)
            _check_served(options, streams)
            _print_models(options, streams)
            return follow(options, streams)
        recogniser = connect(connection, options.catalogue, options.language, options.operating_point)
        _check_served(options, recogniser)
        _print_models(options, recogniser)
        return transcribe_all(options, recogniser)
    finally:
        connection.close()


def _without_existing(options: Options) -> Options:
    """Return the options without the recordings whose results are whole, if such are to be skipped.

    The result of another recording is an error of its own: it is neither counted nor replaced.
    """
    if not options.skip_existing:
        return options
    places = options.places or (None,) * len(options.recordings)
    tasks = list(zip(options.recordings, options.targets, places, strict=True))
    left: list[tuple[Path, Path | None, Path | None]] = []
    done, errors = list[Path](), list(options.unread)
    for recording, target, place in tasks:
        if target is None:
            left.append((recording, target, place))
        elif (other := existing.other_recording(recording, target, options.format)) is not None:
            cause = f"it is the result of another recording, {other}"
            errors.append(OutputError(target, cause, "Use another --output; without --skip-existing it is replaced"))
        elif existing.is_done(recording, target, options.format):
            done.append(target)
        else:
            left.append((recording, target, place))
    console.message(f"{len(done)} of {len(tasks)} results exist and are whole")
    by_name = [target for target in done if existing.stated_recording(target) is None]
    if by_name:
        console.message(f"{len(by_name)} of them count by their names, such as {by_name[0]}: they state no recording")
    files.remove_leftovers(target.resolve() for target in options.targets if target is not None)
    recordings, targets, places = (tuple(column) for column in zip(*left, strict=True)) if left else ((), (), ())
    return replace(options, recordings=recordings, targets=targets, places=places, unread=tuple(errors))


def transcribe_all(options: Options, recogniser: "Recogniser") -> list[VoxwrightError]:
    """Transcribe and write the recordings, `options.jobs` at a time; return the errors, without stopping for them.

    An exception that is a defect of the program is printed with its traceback, and is an error of its recording.
    A long outage of the server ends the work early, because every further recording would fail as well. So does a
    signal, with everything written that is finished; its exit code is that of a shell, 130 for INT.
    """
    errors, shown = list(options.unread), 0
    shared = _Shared.of(options, recogniser)

    def work(task: _Task) -> _Outcome:
        outcome = _attempt(task, shared)
        if any(isinstance(error, ServerUnreachableError) for error in outcome.all_errors):
            shared.stop.set()
        return outcome

    def show(outcome: _Outcome) -> None:
        nonlocal shown
        shown += 1
        errors.extend(outcome.show(options.format))
        count()

    with _stopped_by_signals(shared.stop.set), _count_progress(options) as count:
        batch.run(work, _tasks(options), options.jobs, shared.stop, show)
    missed = len(options.recordings) - shown
    if missed:
        console.message(f"{missed} of {len(options.recordings)} recordings were not transcribed")
    if shared.stop.signal is not None:
        _interrupted(errors, shared.stop.signal)
    return errors


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A recording, the file of its result (None: the standard output), and its title there."""

    recording: Path
    target: Path | None
    title: str | None


def _tasks(options: Options) -> Iterator[_Task]:
    places = options.places or (None,) * len(options.recordings)
    titled = len(options.recordings) > 1 or any(places)
    for recording, target, place in zip(options.recordings, options.targets, places, strict=True):
        name = recording.name if place is None else recording
        # A file name that is not UTF-8 is written with replacement characters.
        title = os.fsencode(name).decode(errors="replace") if titled else None
        yield _Task(recording=recording, target=target, title=title)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shared:
    """What all recordings of a command share."""

    options: Options
    recogniser: "Recogniser"
    plan: "Plan"
    stop: batch.Stop

    @classmethod
    def of(cls, options: Options, recogniser: "Recogniser") -> "_Shared":
        """Return the plan with one limit for the requests of all recordings."""
        plan = replace(_plan(options), permits=threading.Semaphore(options.in_flight or recogniser.in_flight))
        return cls(options=options, recogniser=recogniser, plan=plan, stop=batch.Stop())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outcome:
    """What a recording leaves for the main thread: lines for the terminal, errors, a result for the standard output."""

    lines: Sequence[str] = ()
    errors: Sequence[VoxwrightError] = ()
    found: "TranscriptionResult | None" = None
    title: str | None = None

    @property
    def all_errors(self) -> list[VoxwrightError]:
        """Return the errors without that of the standard output."""
        return [*self.errors, *(() if self.found is None else self.found.errors)]

    def show(self, format_name: str) -> list[VoxwrightError]:
        """Print everything and return all errors. Raise OutputError when the standard output is closed."""
        for line in self.lines:
            console.message(line)
        written = [] if self.found is None else _write(self.found, None, format_name, title=self.title)
        return [*self.errors, *written]


def _interrupted(errors: list[VoxwrightError], number: int) -> NoReturn:
    for error in errors:
        console.message(f"error: {error}")
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    console.message("terminated")
    sys.exit(_SIGNALLED + number)


def _count_progress(options: Options) -> contextlib.AbstractContextManager[Callable[[], object]]:
    # One recording at a time has a bar of its own, and results on a terminal show the progress themselves.
    if options.jobs == 1 or None in options.targets or not sys.stderr.isatty():
        return contextlib.nullcontext(lambda: None)
    return console.count_progress(len(options.recordings))


def _attempt(task: _Task, shared: _Shared) -> _Outcome:
    recording, options = task.recording, shared.options
    try:
        started, before_ns = time.monotonic(), existing.modified_ns(recording)
        found = (_transcribe_channels if options.channels else _transcribe_mix)(recording, shared)
        lines = console.report_lines(recording, found, time.monotonic() - started)
        has_changed = before_ns is not None and existing.modified_ns(recording) != before_ns
        if has_changed:
            lines.insert(0, f"{recording}: it was changed while it was transcribed, so transcribe it again")
        if task.target is None:
            return _Outcome(lines=lines, found=found, title=task.title)
        # A result is written at once: whatever ends the program later, it is there.
        errors = _write(found, task.target, options.format, recording=recording)
        if has_changed and before_ns is not None:
            existing.mark_as_outdated(task.target, before_ns)
        return _Outcome(lines=lines, errors=errors)
    except batch.StoppedError:
        raise
    except VoxwrightError as error:
        return _Outcome(errors=[error])
    except OSError as error:
        cause = f"it cannot be read ({error.strerror or error})"
        return _Outcome(errors=[AudioError(recording, cause, "Check the disk or the network that it is on")])
    except Exception as error:
        # A defect must not cost the other recordings.
        traceback.print_exc()
        cause = f"it could not be transcribed, by a defect of the program ({type(error).__name__}: {error})"
        return _Outcome(errors=[VoxwrightError(recording, cause, "Report the traceback above")])


def follow(options: Options, recogniser: "StreamRecogniser") -> list[VoxwrightError]:
    """Transcribe a stream until it ends or a signal stops it, and write partials and finals; return the errors."""
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.output_writer import output_writer  # noqa: PLC0415
    from transcriber.realtime import Source, transcribe  # noqa: PLC0415
    from transcriber.session import Final, Partial  # noqa: PLC0415

    (path,), (target,), started = options.recordings, options.targets, time.monotonic()
    rate_hz = recogniser.audio.sample_rate_hz
    opening = functools.partial(Recording, live=True, raw=options.raw, track=options.track, sample_rate_hz=rate_hz)
    source = Source(path, opening)
    writer = output_writer(options.format if target is None else results.DEFAULT_FORMAT, options.language)

    def on_event(event: Partial | Final) -> None:
        # A standard output that is closed or gone ends the program, unless the result is also written to a file.
        with contextlib.suppress(*(() if target is None else (SystemExit, OSError))):
            writer.write(event)

    with _stopped_by_signals(lambda _: source.stop()):
        found = transcribe(source, recogniser, _plan(options), on_event)
        if found is None:
            console.message("interrupted")
            sys.exit(INTERRUPTED_EXIT_CODE)
        console.report(path, found, time.monotonic() - started)
        return list(found.errors) if target is None else _write(found, target, options.format, recording=path)


def _write(
    found: "TranscriptionResult",
    target: Path | None,
    format_name: str,
    *,
    title: str | None = None,
    recording: Path | None = None,
) -> list[VoxwrightError]:
    """Write a transcript; return the errors of the transcription, and the one of the writing if it failed."""
    try:
        results.write(found.transcript, target, format_name, title=title)
        if target is not None and recording is not None and not results.is_special(target):
            existing.state_recording(target, recording)
    except OSError as error:
        return [*found.errors, as_output_error(error)]
    except OutputError as error:
        if target is None:
            # There is no standard output: every other recording would fail as well.
            raise
        return [*found.errors, error]
    return list(found.errors)


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[int], object]) -> Iterator[None]:
    """Let INT, TERM and HUP stop a stream or a batch; `stop` is called with the number of the signal.

    Only a second INT ends the program before everything is written.

    A terminal that is closed sends HUP more than once. Under nohup HUP stays ignored.
    """
    hung_up = signal.getsignal(signal.SIGHUP)
    signals = [signal.SIGINT, signal.SIGTERM, *([] if hung_up is signal.SIG_IGN else [signal.SIGHUP])]

    def stopped(number: int, _: object) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        stop(number)

    before = {each: signal.signal(each, stopped) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def main() -> NoReturn:
    """Run the command line and exit."""
    command_line.use_one_blas_thread()
    guard(lambda: run(parse(sys.argv[1:])))


def _check_recordings(options: Options) -> None:
    # A single mistyped name is reported before the client waits for a server.
    from transcriber.audio import Recording  # noqa: PLC0415

    # A pipe can be read only once.
    if len(options.recordings) == 1 and not options.recordings[0].is_fifo():
        Recording(options.recordings[0], raw=options.raw, track=options.track).close()


def _transcribe_mix(path: Path, shared: _Shared, channel: int | None = None) -> "TranscriptionResult":
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.pipeline import transcribe  # noqa: PLC0415

    options, rate_hz = shared.options, shared.recogniser.audio.sample_rate_hz
    recording = Recording(path, raw=options.raw, track=options.track, channel=channel, sample_rate_hz=rate_hz)
    name = path.name if channel is None else f"{path.name}, channel {channel}"
    # Several bars at a time would overwrite one another.
    with console.progress(name, recording.duration_s, visible=options.jobs == 1) as on_progress:

        def progressed(done_s: float) -> None:
            shared.stop.check()
            on_progress(done_s)

        return transcribe(recording, shared.recogniser, shared.plan, progressed)


def _transcribe_channels(path: Path, shared: _Shared) -> "TranscriptionResult":
    from transcriber.audio import Recording  # noqa: PLC0415
    from transcriber.channels import merge  # noqa: PLC0415

    recording = Recording(path, raw=shared.options.raw, track=shared.options.track)
    recording.close()
    found: list[TranscriptionResult] = []
    for channel in range(1, recording.channels + 1):
        found.append(_transcribe_mix(path, shared, channel))
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
    from transcriber.clustering import SpeakerLimits  # noqa: PLC0415
    from transcriber.pipeline import Plan  # noqa: PLC0415

    exactly = options.speaker_count
    return Plan(
        search=options.search,
        ngram=options.ngram,
        speakers=options.speakers and not options.channels,
        in_flight=options.in_flight,
        vocabulary=options.vocabulary,
        voice_detection=options.voice_detection,
        speaker_limits=SpeakerLimits(least=exactly or 1, most=exactly or options.max_speakers),
    )


def _check_served(options: Options, recogniser: "Recogniser") -> None:
    if FORMATS[options.format].needs_speakers and recogniser.speaker is None and not options.channels:
        cause = f"{options.format} lists only speakers, and {options.endpoint} serves no speaker network"
        raise SettingError("--format", cause, "Use another format, or serve a speaker network")


def _print_models(options: Options, recogniser: "Recogniser") -> None:
    if options.verbose:
        console.message(console.description(options.endpoint, recogniser))


if __name__ == "__main__":
    main()
