"""python -m demo: weights to graphs to engines to a running server to a transcript, and how right it is."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import ServerUnavailableError, VoxwrightError, guard
from demo.scores import score

FOLDER = Path(__file__).parent
DIALOGUE, REFERENCE = FOLDER / "dialogue.flac", FOLDER / "dialogue.json"
TRANSCRIPT = Path("dist/demo/dialogue.json")
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
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
    step("Build: ONNX to a bundle of engines for the CPU, each through the gate", "build.engines", "--arch", "cpu")
    ports = free_ports()
    endpoint = f"localhost:{ports['grpc']}"
    with server(ports) as url:
        step("Probe: the server is live and every model ready", "runtime.probe", "--url", url, "--timeout", "10")
        heading("Transcribe: a dialogue of two voices, in words that are in no training sentence")
        transcribe(endpoint, "json-v2", TRANSCRIPT)
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


def transcribe(endpoint: str, form: str, target: Path) -> None:
    """Transcribe the dialogue into a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    recording = str(DIALOGUE.relative_to(Path.cwd()))
    call("transcriber", recording, "--endpoint", endpoint, "--format", form, "--output", str(target))


def show() -> None:
    """Print the transcript beside what was said, and how they differ."""
    transcript, reference = json.loads(TRANSCRIPT.read_text()), json.loads(REFERENCE.read_text())
    print()
    for first, last, speaker, text in turns(transcript):
        print(f"  {first:5.1f} - {last:4.1f}  {speaker}  {text}")
    heading("Score: against what was said")
    for turn in reference["turns"]:
        print(f"  {turn['start']:5.1f} - {turn['end']:4.1f}  {turn['speaker']:2}  {turn['text']}")
    found = score(transcript, reference)
    print(f"\n  word error rate               {100 * found.word_error_rate:5.1f} %")
    print(f"  the same, words by speaker    {100 * found.speaker_word_error_rate:5.1f} %")
    print(f"  speakers                      {found.speakers:5} found, {found.wanted_speakers} there are")


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


def free_ports() -> dict[str, int]:
    """Take the usual ports, or any free ones where one of them is taken."""
    if all(_is_free(port) for port in PORTS.values()):
        return PORTS
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        sockets = dict(zip(PORTS, (first, second, third), strict=True))
        for each in sockets.values():
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in sockets.items()}


def heading(text: str) -> None:
    """Print the title of a step."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def _ended(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(("0.0.0.0", port))  # noqa: S104 - the very address that the server takes
        except OSError:
            return False
        return True


if __name__ == "__main__":
    main()
