"""The commands of README.md and of pages in docs/ run as typed, in the order of the page, from a checkout's root.

Those of deploy/README.md that can run here are run by tests/unit/deploy/test_readme.py; their options and files are
checked here too.
"""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.integration import reference, serving
from tests.integration.reference import ROOT
from tests.pages import NOT_RUN, RUN, SERVER, Block, blocks
from tests.ports import free_ports

pytestmark = pytest.mark.integration
README, DIALOGUE = ROOT / "README.md", ROOT / "demo" / "dialogue.flac"
CLIENTS = ROOT / "docs" / "clients.md"
SERVICES = ROOT / "docs" / "services.md"
LICENCE = ROOT / "docs" / "licence.md"
NETWORK = ROOT / "docs" / "network.md"
PAGES = (README, CLIENTS, LICENCE, NETWORK, ROOT / "deploy" / "README.md")
BLOCKS = [block for page in PAGES for block in blocks(page)]
READY_S, STOP_S, COMMAND_S = 120, 30, 600
# What the commands themselves make outside dist/.
CREATED = {f"deploy/compose/{name}" for name in (".env", "api-keys", "recordings", "recordings/", "transcripts")}


@pytest.fixture(scope="module")
def checkout(reference_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like this checkout after export and build, and whose `dist` may be written to."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.name not in ("dist", ".venv", ".git"):
            (folder / path.name).symlink_to(path)
    # As `make env` has it, whichever environment runs this test.
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("onnx", "engines", "store"):
        if (reference.OUT / name).is_dir():
            shutil.copytree(reference.OUT / name, folder / "dist" / name, copy_function=os.link)
    assert (folder / "dist" / "engines").is_dir(), reference_engines
    return folder


def environment() -> dict[str, str]:
    """Return variables that move the default ports, so that this test disturbs no server of this machine."""
    http, grpc, metrics = map(str, free_ports(3))
    ports = {"VOXWRIGHT_HTTP_PORT": http, "VOXWRIGHT_GRPC_PORT": grpc, "VOXWRIGHT_METRICS_PORT": metrics}
    return serving.environment(**ports, SM_INFERENCE_ENDPOINT=f"localhost:{grpc}")


def run(text: str, folder: Path, variables: dict[str, str]) -> str:
    """Run a block in a shell and return what it prints; fail with its output unless every command exits with 0."""
    shell = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        shell, cwd=folder, env=variables, capture_output=True, text=True, timeout=COMMAND_S, check=False
    )
    assert done.returncode == 0, f"{text}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def server(text: str, folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """Start the server of a block and wait until it is ready; stop it as Ctrl-C does."""
    log = folder / "dist" / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {text}"],
            cwd=folder, env=variables, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        probe = f".venv/bin/python -m runtime.probe --timeout {READY_S}"
        run(probe, folder, variables)
        yield
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(STOP_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            serving.kill(process)


def run_page(page: list[Block], folder: Path, variables: dict[str, str] | None = None) -> None:
    """Run the blocks of a page in order; a server runs until the next one starts or the page ends."""
    variables = variables or environment()
    while page:
        if page[0].needs == SERVER:
            after = next((index for index, block in enumerate(page[1:], 1) if block.needs == SERVER), len(page))
            with server(page[0].text, folder, variables):
                run_page_without_server(page[1:after], folder, variables)
            page = page[after:]
        else:
            run_page_without_server(page[:1], folder, variables)
            page = page[1:]


def run_page_without_server(page: list[Block], folder: Path, variables: dict[str, str]) -> None:
    """Run those blocks of a page that need nothing which this machine lacks."""
    for block in page:
        if block.needs == RUN:
            run(block.text, folder, variables)


def test_commands_run_in_the_order_of_the_page(checkout: Path) -> None:
    found = blocks(README)
    assert sum(block.needs in (RUN, SERVER) for block in found) >= 8
    run_page(found, checkout)


def test_network_page(checkout: Path) -> None:
    """TLS with certificates, a header, and IPv6."""
    found = blocks(NETWORK)
    assert sum(block.needs in (RUN, SERVER) for block in found) == 7
    variables = environment()
    own_port = variables["SM_INFERENCE_ENDPOINT"].rpartition(":")[2]
    run_page([replace(block, text=block.text.replace(":8001", f":{own_port}")) for block in found], checkout, variables)


def test_clients_print_the_words_of_the_page(checkout: Path) -> None:
    """Both example programs get the text that the page shows; only the ports are those of this test."""
    page, variables = blocks(CLIENTS), environment()
    served, clients, requests = [block.text for block in page if block.needs in (RUN, SERVER)]
    (words,) = re.findall(r"^```text\n(.*\n)```$", CLIENTS.read_text(), re.MULTILINE)
    for port, variable in (("8000", "VOXWRIGHT_HTTP_PORT"), ("8001", "VOXWRIGHT_GRPC_PORT")):
        clients = clients.replace(f"localhost:{port}", f"localhost:{variables[variable]}")
    with server(served, checkout, variables):
        assert run(clients, checkout, variables) == 2 * words
    script = json.loads((ROOT / "demo" / "dialogue.json").read_text())["text"]
    assert words.split()[:8] == script.split()[:8]
    assert run(requests, checkout, variables) == "8 requests of 8 s in dist/requests.json\n"
    first = json.loads((checkout / "dist" / "requests.json").read_text())["data"][0]
    assert (first["audio"]["shape"], first["audio_lengths"]) == ([128_000], {"content": [128_000], "shape": [1]})
    audio = np.frombuffer(base64.b64decode(first["audio"]["content"]["b64"]), dtype="<f4")
    np.testing.assert_array_equal(audio, soundfile.read(DIALOGUE, frames=128_000, dtype="float32")[0])


def test_licence_limits_what_is_served(checkout: Path) -> None:
    """The doctor and the server of the page serve one of two operating points, because the licence has one."""
    run_page(blocks(LICENCE), checkout)
    log = (checkout / "dist" / "server.log").read_text()
    assert "licensed to Example Ltd until 2036-12-31 00:00 UTC: standard in en; not licensed" in log
    assert "serving standard: " in log
    assert "protects nothing" not in log


def test_examples_are_independent_of_this_project() -> None:
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert packages > {"contract", "transcriber"}
    for program in (ROOT / "docs" / "examples").glob("*.py"):
        imported = re.findall(r"^(?:import|from) (\w+)", program.read_text(), re.MULTILINE)
        assert not packages & set(imported), program.name


def test_a_broken_command_fails(checkout: Path) -> None:
    """The test above would find a page that is wrong."""
    good, broken = "test -d dist/onnx\n", "test -d dist/onyx\n"
    run_page([Block(page="page.md", needs=RUN, text=good)], checkout)
    with pytest.raises(AssertionError, match="dist/onyx"):
        run_page([Block(page="page.md", needs=RUN, text=good + broken + good)], checkout)


def test_every_block_states_what_it_needs() -> None:
    assert {block.needs for block in BLOCKS} <= {RUN, SERVER, *NOT_RUN}


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(module, arguments) for block in BLOCKS if block.needs in NOT_RUN for module, arguments in block.modules()],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_exist_of_commands_that_cannot_run_here(module: str, arguments: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for word in arguments:
        if word.startswith("--"):
            assert word.partition("=")[0] in shown, f"python -m {module} has no option {word}"


def test_files_exist_that_commands_name() -> None:
    for block in BLOCKS:
        for command in block.commands:
            for word in command:
                if word.partition("/")[0] in ("ci", "demo", "deploy", "docs") and word not in CREATED:
                    assert (ROOT / word).exists(), f"{block.page}: {word}"


def test_commands_use_the_environment_of_the_checkout() -> None:
    for block in BLOCKS:
        for command in block.commands:
            assert not any(word in ("python", "python3") for word in command), f"{block.page}: {' '.join(command)}"


def test_services_run_as_the_page_shows(checkout: Path) -> None:
    """One command starts both servers and the service; the page's clients get the transcript from it."""
    page, (port,) = blocks(SERVICES), free_ports(1)
    home = checkout / "dist" / "home"
    home.mkdir(exist_ok=True)
    variables = {**serving.environment(VOXWRIGHT_SERVICE_PORT=str(port)), "HOME": str(home)}
    assert [block.needs for block in page] == [SERVER, *[RUN] * (len(page) - 1)]
    log = checkout / "dist" / "services.log"
    with log.open("wb") as file:
        command = ["bash", "-c", f"exec {page[0].text}"]
        process = subprocess.Popen(command, cwd=checkout, env=variables, stdout=file, stderr=subprocess.STDOUT)
    try:
        ready = f"curl --fail --silent --retry {3 * READY_S} --retry-delay 1 --retry-all-errors http://127.0.0.1:{port}/ready"
        run(ready, checkout, variables)
        printed = [run(block.text.replace(":8080", f":{port}"), checkout, variables) for block in page[1:]]
        process.send_signal(signal.SIGINT)
        assert process.wait(2 * STOP_S) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(4 * STOP_S)
    assert re.fullmatch(r'{"id":"\w+"}', printed[0])
    assert "hello sarah good to have you back" in json.loads(printed[1])["txt"].lower()
    assert json.loads(printed[2])["jobs"][0]["status"] == "done"
    assert "hello sarah good to have you back" in json.loads(printed[4])["text"].lower()
    # Those of the published command lines, for jobs and in real time.
    for text in (printed[3], printed[5]):
        assert "hello sarah good to have you back" in " ".join(text.lower().split()), text
