"""python -m demo.serve: one command that starts a server for recordings, one for streams, and the service."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from contract import command_line
from contract.catalogue import MODES
from demo.__main__ import FOLDER, StepError, call, heading, wait
from demo.ports import free_ports, port_options

_STOP_SECONDS = 60
_MODES = {"recordings": "true", "streams": "false"}


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True},
    options_metavar="[OPTIONS OF python -m service]",
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="")
def command(options: tuple[str, ...]) -> None:
    """Serve recordings and streams with one command: a server for each, and the service in front of them.

    All options go to `python -m service`, whose --help lists them. Without engines for recordings and for streams it
    exports and builds those of the reference networks for the CPU.
    """
    run(options)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


def run(options: Sequence[str]) -> None:
    """Serve until SIGINT or SIGTERM; then stop the service and its servers in this order."""
    os.chdir(FOLDER.parent)
    if not has_engines(Path("dist/engines")):
        heading("Build", "Exports and builds what is missing for the CPU of the reference networks. Minutes, once.")
        call("export", "--out", "dist/onnx")
        call("build.engines", "--arch", "cpu")
    # A terminal sends SIGINT to all programs at once; the service must be the first that ends.
    signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
        endpoints = [stack.enter_context(_server(name, mode)) for name, mode in _MODES.items()]
        places = [f"--endpoint={endpoints[0]}", f"--realtime-endpoint={endpoints[1]}"]
        heading("Service", "Press Ctrl-C to stop it. Its address is in the next lines; open it in a browser.")
        service = stack.enter_context(_child("service", *places, *options))
        code = service.wait()
        if code:
            raise StepError("python -m service", code)


def has_engines(folder: Path) -> bool:
    """Return whether one bundle has engines for recordings and for streams; `make demo` builds those for recordings."""
    bundles = [manifest.parent for manifest in folder.glob("*/*/manifest.json")]
    return any(all(any(bundle.glob(f"*/{mode}")) for mode in MODES) for bundle in bundles)


@contextmanager
def _server(name: str, batch_mode: str) -> Iterator[str]:
    """Start a server in a mode and yield its endpoint when it is ready."""
    ports = free_ports()
    heading(f"Server of {name}", "Starts Triton with the engines that fit this machine. Seconds.")
    repository = f"dist/serve/{name}"
    arguments = [f"--batch-mode={batch_mode}", f"--repository={repository}", *port_options(ports)]
    with _child("runtime", *arguments) as server:
        wait(server, f"http://localhost:{ports['http']}")
        yield f"localhost:{ports['grpc']}"


@contextmanager
def _child(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    print(f"$ python -m {' '.join([module, *arguments])}", flush=True)
    child = subprocess.Popen([sys.executable, "-m", module, *arguments], start_new_session=True)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
