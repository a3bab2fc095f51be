"""python -m demo: export, build, serve and transcribe with the reference weights, then score the transcripts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from contract import command_line
from contract.catalogue import read_catalogue
from contract.errors import ServerUnavailableError, VoxwrightError
from demo.ports import free_ports, port_options
from demo.scores import Score, score

FOLDER = Path(__file__).parent
OPERATING_POINTS = read_catalogue().operating_points
DIALOGUE, REFERENCE = FOLDER / "dialogue.flac", FOLDER / "dialogue.json"
TRANSCRIPTS = Path("dist/demo")
_READY_SECONDS, _STOP_SECONDS = 120, 30
INTRODUCTION = """\
This demonstration runs the whole pipeline on this machine, without a GPU. Each step prints the command that it runs.
On two cores the first run takes about 7 minutes, mostly for the steps "Export" and "Build". Later runs reuse their
results and take about 20 seconds. Everything is written to dist/."""


class StepError(VoxwrightError):
    """A step of the demonstration failed and has printed its own error; its exit code is passed on."""

    def __init__(self, step: str, code: int) -> None:
        super().__init__(step, f"it ended with exit code {code}", "Its own message stands above")
        self.exit_code = code  # type: ignore[misc]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@command_line.verbose_option()
def command() -> None:
    """Export, build, serve and transcribe with the reference weights, then score the transcripts."""
    run()


def main() -> None:
    """Run the command line."""
    command_line.run(command)


def run() -> None:
    """Run the whole pipeline; every step is the command that a user would type."""
    started = time.monotonic()
    # Results go to dist/ of the checkout, wherever the command is started.
    os.chdir(FOLDER.parent)
    print(INTRODUCTION, flush=True)
    step(
        "Export",
        "Converts the torch networks to ONNX and compares each graph with its torch network. Minutes when nothing is "
        "exported yet.",
        "export", "--out", "dist/onnx",
    )  # fmt: skip
    step(
        "Build",
        "Makes a bundle of engines for the CPU and compares each engine with its graph. Minutes when nothing is built "
        "yet.",
        "build.engines", "--arch", "cpu", "--mode", "batch",
    )  # fmt: skip
    ports = free_ports()
    endpoint = f"localhost:{ports['grpc']}"
    with server(ports) as url:
        step(
            "Probe",
            "Checks that the server is live and every model is ready. Seconds.",
            "runtime.probe", "--url", url, "--timeout", "10",
        )  # fmt: skip
        heading(
            "Transcribe",
            "Transcribes a dialogue of two voices at both operating points. None of its sentences is in a training "
            "set. Seconds.",
        )
        for point in OPERATING_POINTS:
            transcribe(endpoint, point, transcript_path(point))
        show()
        heading("Stop", "Sends SIGTERM to the server and waits for it to end. Seconds.")
    print(f"The server stopped cleanly. Total time: {time.monotonic() - started:.0f} s")
    print("To transcribe your own recordings, run `make serve` and open http://localhost:8080 in a browser.")


def step(title: str, explanation: str, module: str, *arguments: str) -> None:
    """Run a command of the project under a heading."""
    heading(title, explanation)
    call(module, *arguments)


def call(module: str, *arguments: str) -> None:
    """Print a command of the project and run it; raise StepError when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    print(f"$ python -m {' '.join([module, *arguments])}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise StepError(f"python -m {module}", code)


@contextmanager
def server(ports: dict[str, int]) -> Iterator[str]:
    """Start the server and yield its URL when it is ready; stop it with SIGTERM, as an operator would.

    Raises StepError when the server ends with an error, ServerUnavailableError when it does not get ready.
    """
    heading(
        "Serve",
        "Starts the embedded Triton server with the engines that fit this machine, and waits until it is ready. "
        "Seconds.",
    )
    arguments = ["--engines", "dist/engines", "--platform", "embedded", *port_options(ports)]
    print(f"$ python -m runtime {' '.join(arguments)}", flush=True)
    child = subprocess.Popen([sys.executable, "-m", "runtime", *arguments])
    try:
        url = f"http://localhost:{ports['http']}"
        wait(child, url)
        yield url
    finally:
        child.send_signal(signal.SIGTERM)
        code = _ended(child)
    if code:
        raise StepError("python -m runtime", code)


def wait(child: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the server is ready; raise StepError at once when it ends instead."""
    probe = [sys.executable, "-m", "runtime.probe", "--url", url, "--timeout", "1"]
    for _ in range(_READY_SECONDS):
        if child.poll() is not None:
            raise StepError("python -m runtime", child.returncode)
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return
    raise ServerUnavailableError(url, f"it was not ready after {_READY_SECONDS} s", "Its own log stands above")


def transcript_path(point: str) -> Path:
    """Return the path of the transcript of an operating point."""
    return TRANSCRIPTS / f"dialogue-{point}.json"


def transcribe(endpoint: str, point: str, target: Path) -> None:
    """Transcribe the dialogue at an operating point into a json-v2 file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    recording = str(DIALOGUE.relative_to(Path.cwd()))
    options = ("--operating-point", point, "--format", "json-v2", "--output", str(target))
    call("transcriber", recording, "--endpoint", endpoint, *options)


def show() -> None:
    """Print the transcript of each operating point, the reference transcript, and the error rates."""
    reference = json.loads(REFERENCE.read_text())
    scores: dict[str, Score] = {}
    for point in OPERATING_POINTS:
        transcript = json.loads(transcript_path(point).read_text())
        scores[point] = score(transcript, reference)
        heading(f"Transcript ({point})")
        for first, last, speaker, text in turns(transcript):
            print(f"  {first:5.1f} - {last:4.1f}  {speaker}  {text}")
    heading("Reference transcript")
    for turn in reference["turns"]:
        print(f"  {turn['start']:5.1f} - {turn['end']:4.1f}  {turn['speaker']:2}  {turn['text']}")
    heading("Scores", "Error rates are shares of the words of the reference transcript.")
    print("\n".join(score_table(scores)))


def score_table(scores: dict[str, Score]) -> Iterator[str]:
    """Yield the lines of a table of scores, one column for each operating point."""
    yield f"  {'':<28}" + "".join(f"{point:>12}" for point in scores)
    (reference_speakers,) = {each.reference_speakers for each in scores.values()}
    for title, texts in (
        ("word error rate", [f"{100 * each.word_error_rate:.1f} %" for each in scores.values()]),
        ("word error rate by speaker", [f"{100 * each.speaker_word_error_rate:.1f} %" for each in scores.values()]),
        (f"speakers (reference: {reference_speakers})", [str(each.speakers) for each in scores.values()]),
    ):
        yield f"  {title:<28}" + "".join(f"{text:>12}" for text in texts)


def turns(transcript: dict[str, list[dict[str, object]]]) -> Iterator[tuple[float, float, str, str]]:
    """Join the words of a json-v2 transcript into turns: first and last second, speaker, text."""
    speaker, texts, first, last = "", list[str](), 0.0, 0.0
    for result in transcript["results"]:
        best = result["alternatives"][0]  # type: ignore[index]
        if texts and best.get("speaker", "") != speaker:
            yield first, last, speaker, " ".join(texts)
            texts = []
        if not texts:
            first, speaker = float(str(result["start_time"])), best.get("speaker", "")
        last = float(str(result["end_time"]))
        texts.append(best["content"])
    if texts:
        yield first, last, speaker, " ".join(texts)


def heading(title: str, explanation: str = "") -> None:
    """Print the title of a step, and a sentence that explains it."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title}", flush=True)
    if explanation:
        print(explanation, flush=True)


def _ended(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


if __name__ == "__main__":
    main()
