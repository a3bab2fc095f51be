"""Test the built images together: start the server's image and transcribe the dialogue with the client's image."""

import difflib
import json
import time
from collections.abc import Mapping, Sequence

from images.engine import ROOT, SERVER, Container, Engine
from images.host import expect, log

READY_S = 180
# The reference weights reach 0.95 and more; a lower value means that something else was transcribed.
MIN_SIMILARITY = 0.85


# The environment variables of each mode of the server, and the options of the transcriber for that mode.
MODES: tuple[tuple[dict[str, str], tuple[str, ...]], ...] = (({}, ()), ({"SM_BATCH_MODE": "false"}, ("--realtime",)))


def run_smoke_test(engine: Engine) -> None:
    """Start the server, transcribe and stop the server, in both modes; end the program with the error of a failure."""
    for variables, options in MODES:
        check_mode(engine, variables, options)


def check_mode(engine: Engine, variables: Mapping[str, str], options: Sequence[str]) -> None:
    """Start the server with some environment variables, transcribe the dialogue, and stop the server."""
    settings = "".join(f", {name}={value}" for name, value in variables.items())
    log(f"starting the server: read-only root, a tmpfs at /tmp, user 10001, no capabilities{settings}")
    started = time.monotonic()
    with engine.serve(**variables) as server:
        ready = server.execute(*engine.health_command(SERVER)[:-1], str(READY_S))
        expect(ready.returncode == 0, f"the server is not ready: {ready.stdout}{ready.stderr}")
        log(f"{ready.stdout.strip()} (after {time.monotonic() - started:.0f} s)")
        expect(server.execute(*engine.health_command(SERVER)).returncode == 0, "the health check fails")
        check_confinement(server)
        done = server.transcribe("dialogue.flac", "--endpoint", "localhost:8001", *options)
        expect(done.returncode == 0, f"the transcriber ended with {done.returncode}: {done.stderr}")
        check_transcript(done.stdout)
        code = server.stop()
        expect(code == 0, f"the server ended with exit code {code} after SIGTERM")
        log("the server ended with exit code 0 after SIGTERM")


def check_confinement(server: Container) -> None:
    """Check the server's user, that only the intended folders are writable, and what was written to them."""
    user = server.execute("id", "-u").stdout.strip()
    expect(user == "10001", f"the server's user is {user}")
    for path in ("/opt/voxwright/x", "/etc/x", "/x", "/var/tmp/x"):
        expect(server.execute("touch", path).returncode != 0, f"{path} could be written")
    first = server.execute("cat", "/proc/1/comm").stdout.strip()
    expect(first == "tritonserver", f"process 1 is {first}")
    names = server.execute("find", "/tmp", "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\n").stdout.split()
    unexpected = [name for name in names if name != "voxwright" and not name.startswith("python_env_")]
    expect(not unexpected, f"unexpected files: /tmp/{', /tmp/'.join(unexpected)}")
    written = server.execute("du", "-s", "-k", "/tmp", "/dev/shm").stdout.split()
    log(f"process 1 is tritonserver; it wrote {written[0]} KiB in {written[1]} and {written[2]} KiB in {written[3]}")


def check_transcript(text: str) -> None:
    """Compare the transcript with the dialogue's reference text."""
    reference = json.loads((ROOT / "demo/dialogue.json").read_text())["text"].split()
    words = [word for line in text.splitlines() for word in line.split() if word.isalpha() and word.islower()]
    similarity = difflib.SequenceMatcher(a=reference, b=words, autojunk=False).ratio()
    begin = " ".join(words[:12])
    log(f"transcript: {len(words)} words, reference: {len(reference)}, similarity {similarity:.3f}; it begins: {begin}")
    expect(similarity >= MIN_SIMILARITY, f"the transcript does not match the dialogue:\n{text}")
