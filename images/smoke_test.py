"""Test the built images together: the server's image serves, and the transcriber's and the service's transcribe."""

import difflib
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from images.engine import ROOT, SERVER, SERVICE, USER_ID, Container, Engine
from images.host import expect, log

READY_S = 180
# The reference weights reach 0.95 and more; a lower value means that something else was transcribed.
MIN_SIMILARITY = 0.85
KEYS = "/run/secrets/api-keys"
_CHECK, _RECORDINGS = "/check", "/recordings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """A mode of the server, and how its clients are tested."""

    variables: Mapping[str, str]
    """The environment variables of the server."""
    options: Sequence[str]
    """The options of the transcriber."""
    endpoint: str
    """The variable of the service that names such a server."""
    protocols: Sequence[str]
    """The modes of images/service_client.py."""


MODES = (
    Mode(variables={}, options=(), endpoint="VOXWRIGHT_SERVICE_ENDPOINT", protocols=("job", "openai")),
    Mode(
        variables={"SM_BATCH_MODE": "false"},
        options=("--realtime",),
        endpoint="VOXWRIGHT_SERVICE_REALTIME_ENDPOINT",
        protocols=("session",),
    ),
)


def run_smoke_test(engine: Engine) -> None:
    """Start the server and its clients, transcribe, and stop them, in both modes; end the program on a failure."""
    for mode in MODES:
        check_mode(engine, mode)


def check_mode(engine: Engine, mode: Mode) -> None:
    """Start the server in a mode, transcribe the dialogue with the transcriber and the service, and stop the server."""
    settings = "".join(f", {name}={value}" for name, value in mode.variables.items())
    log(f"starting the server: read-only root, a tmpfs at /tmp, user {USER_ID}, no capabilities{settings}")
    started = time.monotonic()
    with engine.serve(SERVER, mode.variables) as server:
        ready = server.execute(*engine.health_command(SERVER)[:-1], str(READY_S))
        expect(ready.returncode == 0, f"the server is not ready: {ready.stdout}{ready.stderr}")
        log(f"{ready.stdout.strip()} (after {time.monotonic() - started:.0f} s)")
        expect(server.execute(*engine.health_command(SERVER)).returncode == 0, "the health check fails")
        check_confinement(server, "tritonserver")
        check_written(server)
        done = server.transcribe("dialogue.flac", "--endpoint", "localhost:8001", *mode.options)
        expect(done.returncode == 0, f"the transcriber ended with {done.returncode}: {done.stderr}")
        check_transcript("transcriber", done.stdout)
        check_service(engine, server, mode)
        code = server.stop()
        expect(code == 0, f"the server ended with exit code {code} after SIGTERM")
        log("the server ended with exit code 0 after SIGTERM")


def check_service(engine: Engine, server: Container, mode: Mode) -> None:
    """Start the service beside the server, call it by each protocol with a key, and stop it."""
    with tempfile.TemporaryDirectory(prefix="voxwright-check-") as name:
        folder = Path(name)
        # The containers' user must be able to read it, and another user may run this test.
        folder.chmod(0o755)
        (folder / "keys").write_text(f"smoke {secrets.token_hex(16)}\n")
        shutil.copy(ROOT / "images/service_client.py", folder)
        folders = {folder: _CHECK, ROOT / "demo": _RECORDINGS, folder / "keys": KEYS}
        variables = {mode.endpoint: "localhost:8001"}
        with engine.serve(SERVICE, variables, beside=server, folders=folders, volumes=("/data",)) as service:
            for protocol in mode.protocols:
                client = ("python3", f"{_CHECK}/service_client.py", protocol, f"{_RECORDINGS}/dialogue.flac", KEYS)
                done = service.execute(*client)
                expect(done.returncode == 0, f"the service failed ({protocol}): {done.stdout}{done.stderr}")
                check_transcript(f"service, {protocol}", done.stdout)
            expect(service.execute(*engine.health_command(SERVICE)).returncode == 0, "the service's health check fails")
            check_confinement(service, "python3")
            code = service.stop()
            expect(code == 0, f"the service ended with exit code {code} after SIGTERM")
            log("the service ended with exit code 0 after SIGTERM")


def check_confinement(container: Container, program: str) -> None:
    """Check a container's user and first process, and that only the intended folders are writable."""
    user = container.execute("id", "-u").stdout.strip()
    expect(user == str(USER_ID), f"the user of {program} is {user}")
    for path in ("/opt/voxwright/x", "/etc/x", "/x", "/var/tmp/x"):
        expect(container.execute("touch", path).returncode != 0, f"{path} could be written")
    first = container.execute("cat", "/proc/1/comm").stdout.strip()
    expect(first == program, f"process 1 is {first}")
    log(f"process 1 is {program}, of user {user}; the image cannot be written")


def check_written(server: Container) -> None:
    """Check and log what the server wrote."""
    names = server.execute("find", "/tmp", "-mindepth", "1", "-maxdepth", "1", "-printf", "%f\n").stdout.split()
    unexpected = [name for name in names if name != "voxwright" and not name.startswith("python_env_")]
    expect(not unexpected, f"unexpected files: /tmp/{', /tmp/'.join(unexpected)}")
    written = server.execute("du", "-s", "-k", "/tmp", "/dev/shm").stdout.split()
    log(f"the server wrote {written[0]} KiB in {written[1]} and {written[2]} KiB in {written[3]}")


def check_transcript(client: str, text: str) -> None:
    """Compare the transcript with the dialogue's reference text."""
    reference = json.loads((ROOT / "demo/dialogue.json").read_text())["text"].split()
    words = [word for line in text.splitlines() for word in line.split() if word.isalpha() and word.islower()]
    similarity = difflib.SequenceMatcher(a=reference, b=words, autojunk=False).ratio()
    begin = " ".join(words[:12])
    log(f"{client}: {len(words)} words, reference: {len(reference)}, similarity {similarity:.3f}; it begins: {begin}")
    expect(similarity >= MIN_SIMILARITY, f"{client}: the transcript does not match the dialogue:\n{text}")
