"""Proves that the images work together: one serves, the other transcribes the dialogue with it."""

import difflib
import json
import time
from collections.abc import Mapping, Sequence

from images.engine import ROOT, SERVER, Container, Engine
from images.host import expect, say

READY_S = 180
# The reference weights reach 0.95 and more; less than this means that something else was transcribed.
LEAST_LIKENESS = 0.85


# The variables of each mode, and how the transcriber is told of it.
MODES: tuple[tuple[dict[str, str], tuple[str, ...]], ...] = (({}, ()), ({"SM_BATCH_MODE": "false"}, ("--realtime",)))


def prove(engine: Engine) -> None:
    """Serve, transcribe, stop, in both modes; end the program with what went wrong."""
    for variables, options in MODES:
        prove_mode(engine, variables, options)


def prove_mode(engine: Engine, variables: Mapping[str, str], options: Sequence[str]) -> None:
    """Serve, transcribe, stop."""
    said = "".join(f", {name}={value}" for name, value in variables.items())
    say(f"starting the server: read-only root, a tmpfs at /tmp, user 10001, no capabilities{said}")
    started = time.monotonic()
    with engine.serve(**variables) as server:
        ready = server.execute(*engine.health_command(SERVER)[:-1], str(READY_S))
        expect(ready.returncode == 0, f"the server is not ready: {ready.stdout}{ready.stderr}")
        say(f"{ready.stdout.strip()} (after {time.monotonic() - started:.0f} s)")
        expect(server.execute(*engine.health_command(SERVER)).returncode == 0, "the health check fails")
        check_confinement(server)
        heard = server.transcribe("dialogue.flac", "--endpoint", "localhost:8001", *options)
        expect(heard.returncode == 0, f"the transcriber ended with {heard.returncode}: {heard.stderr}")
        check_transcript(heard.stdout)
        code = server.stop()
        expect(code == 0, f"the server ended with {code} when it was asked to end")
        say("the server ended with exit code 0 when it was asked to end")


def check_confinement(server: Container) -> None:
    """See that the server runs as its user, can write nowhere but where it should, and what it wrote."""
    user = server.execute("id", "-u").stdout.strip()
    expect(user == "10001", f"the server's user is {user}")
    for place in ("/opt/voxwright/x", "/etc/x", "/x", "/var/tmp/x"):
        expect(server.execute("touch", place).returncode != 0, f"{place} could be written")
    first = server.execute("cat", "/proc/1/comm").stdout.strip()
    expect(first == "tritonserver", f"process 1 is {first}")
    held = server.execute("find", "/tmp", "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\n").stdout.split()
    strange = [name for name in held if name != "voxwright" and not name.startswith("python_env_")]
    expect(not strange, f"something writes to /tmp/{', /tmp/'.join(strange)}")
    written = server.execute("du", "-s", "-k", "/tmp", "/dev/shm").stdout.split()
    say(f"process 1 is tritonserver; it wrote {written[0]} KiB in {written[1]} and {written[2]} KiB in {written[3]}")


def check_transcript(text: str) -> None:
    """Hold the transcript against what was said."""
    said = json.loads((ROOT / "demo/dialogue.json").read_text())["text"].split()
    heard = [word for line in text.splitlines() for word in line.split() if word.isalpha() and word.islower()]
    likeness = difflib.SequenceMatcher(a=said, b=heard, autojunk=False).ratio()
    say(f"transcript: {len(heard)} words for {len(said)}, likeness {likeness:.3f}; it begins: {' '.join(heard[:12])}")
    expect(likeness >= LEAST_LIKENESS, f"the transcript is not the dialogue's:\n{text}")
