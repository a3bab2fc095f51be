"""python -m demo: weights to graphs to engines to a running server to a transcript, and how right it is."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.catalogue import OPERATING_POINTS
from contract.errors import ServerUnavailableError, VoxwrightError, guard
from demo.ports import free_ports
from demo.scores import Score, score

FOLDER = Path(__file__).parent
DIALOGUE, REFERENCE = FOLDER / "dialogue.flac", FOLDER / "dialogue.json"
TRANSCRIPTS = Path("dist/demo")
_READY_SECONDS, _STOP_SECONDS = 120, 30


class StepError(VoxwrightError):
    """A step of the demonstration failed; it has said why itself, and its exit code is passed on."""

    def __init__(self, step: str, code: int) -> None:
        super().__init__(step, f"it ended with exit code {code}", "Its own message stands above")
        self.exit_code = code  # type: ignore[misc]


def main() -> None:
    """Run the command line."""
    guard(run)


def run() -> None:
    """Show the whole pipeline; every step is the command that a user would type."""
    started = time.monotonic()
    # What is made goes under the checkout's dist/, wherever the command is given.
    os.chdir(FOLDER.parent)
    step("Export: torch networks to ONNX, each held against torch", "export", "--out", "dist/onnx")
    step(
        "Build: ONNX to a bundle of engines for the CPU, each through the gate",
        "build.engines",
        "--arch",
        "cpu",
        "--mode",
        "batch",
    )
    ports = free_ports()
    endpoint = f"localhost:{ports['grpc']}"
    with server(ports) as url:
        step("Probe: the server is live and every model ready", "runtime.probe", "--url", url, "--timeout", "10")
        heading("Transcribe: a dialogue of two voices, in words that are in no training sentence")
        for point in OPERATING_POINTS:
            transcribe(endpoint, point, transcript_path(point))
        show()
        heading("Stop: SIGTERM")
    print(f"the server ended cleanly; all in all {time.monotonic() - started:.0f} s")


def step(title: str, module: str, *arguments: str) -> None:
    """Run a command of the project under a heading."""
    heading(title)
    call(module, *arguments)


def call(module: str, *arguments: str) -> None:
    """Run a command of the project and show it; raise StepError when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    print(f"$ python -m {' '.join([module, *arguments])}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise StepError(f"python -m {module}", code)


@contextmanager
def server(ports: dict[str, int]) -> Iterator[str]:
    """Start the server and give its address when it is ready; stop it as an operator would."""
    heading("Serve: the embedded Triton server with the engines that fit this machine")
    flags = [text for name, port in ports.items() for text in (f"--{name}-port", str(port))]
    arguments = ["--engines", "dist/engines", "--platform", "embedded", *flags]
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
    """Wait until the server is ready; say so at once when it ends instead."""
    probe = [sys.executable, "-m", "runtime.probe", "--url", url, "--timeout", "1"]
    for _ in range(_READY_SECONDS):
        if child.poll() is not None:
            raise StepError("python -m runtime", child.returncode)
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return
    raise ServerUnavailableError(url, f"it was not ready after {_READY_SECONDS} s", "Its own log stands above")


def transcript_path(point: str) -> Path:
    """Say where the transcript of an operating point goes."""
    return TRANSCRIPTS / f"dialogue-{point}.json"


def transcribe(endpoint: str, point: str, target: Path) -> None:
    """Transcribe the dialogue at an operating point into a json-v2 file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    recording = str(DIALOGUE.relative_to(Path.cwd()))
    options = ("--operating-point", point, "--format", "json-v2", "--output", str(target))
    call("transcriber", recording, "--endpoint", endpoint, *options)


def show() -> None:
    """Print what each operating point understood, what was said, and how they differ."""
    reference = json.loads(REFERENCE.read_text())
    scores: dict[str, Score] = {}
    for point in OPERATING_POINTS:
        transcript = json.loads(transcript_path(point).read_text())
        scores[point] = score(transcript, reference)
        heading(f"{point.capitalize()} understood")
        for first, last, speaker, text in turns(transcript):
            print(f"  {first:5.1f} - {last:4.1f}  {speaker}  {text}")
    heading("What was said")
    for turn in reference["turns"]:
        print(f"  {turn['start']:5.1f} - {turn['end']:4.1f}  {turn['speaker']:2}  {turn['text']}")
    print(f"\n  {'':<28}" + "".join(f"{point:>12}" for point in scores))
    for title, texts in (
        ("word error rate", [f"{100 * each.word_error_rate:.1f} %" for each in scores.values()]),
        ("the same, words by speaker", [f"{100 * each.speaker_word_error_rate:.1f} %" for each in scores.values()]),
        (
            f"speakers, of {len({turn['speaker'] for turn in reference['turns']})}",
            [str(each.speakers) for each in scores.values()],
        ),
    ):
        print(f"  {title:<28}" + "".join(f"{text:>12}" for text in texts))


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


def heading(text: str) -> None:
    """Print the title of a step."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def _ended(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


if __name__ == "__main__":
    main()
