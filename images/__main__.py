"""Builds images for real and proves them together: one serves, the other transcribes the dialogue with it.

python -m images [TARGET...]    default: runtime-cpu transcriber

Both run as an operator should run them: on a read-only root with one tmpfs, as their own user, without capabilities.
Needs dist/engines/embedded/cpu, and a Docker engine; or, as root on Debian, buildah, runc and debootstrap, with a base
that debootstrap makes. Debian's packages and Python's come from wherever this host takes them.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from images.buildah import Buildah
from images.docker import Docker
from images.engine import ROOT, SERVER, TARGETS, Engine, Layer
from images.host import fail, run, say
from images.proof import prove
from images.sources import secrets


def main(arguments: Sequence[str]) -> None:
    """Build what was asked for, and prove it when server and client are both there."""
    parser = argparse.ArgumentParser(prog="ci/images", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: {' '.join(TARGETS)}")
    targets = parser.parse_args(arguments).targets or list(TARGETS)
    if SERVER in targets and not (ROOT / "dist/engines/embedded/cpu/manifest.json").is_file():
        fail("dist/engines/embedded/cpu is absent: run `python -m export` and `python -m build.engines --arch cpu`")
    with chosen_engine() as engine:
        for target in targets:
            say(f"building {target} with {engine.name}")
            started = time.monotonic()
            engine.build(target)
            say(f"built {target} in {time.monotonic() - started:.0f} s")
        if set(TARGETS) <= set(targets):
            prove(engine)
        for target in targets:
            tell_sizes(target, engine.layers(target))


def tell_sizes(target: str, layers: Sequence[Layer]) -> None:
    """Print the size of every layer and of the image."""
    print(f"\n{target}: {sum(layer.size_bytes for layer in layers) / 1e6:.1f} MB")
    for layer in layers:
        print(f"  {layer.size_bytes / 1e6:9.1f} MB  {layer.made_by}")


@contextlib.contextmanager
def chosen_engine() -> Iterator[Engine]:
    """Give Docker where an engine runs, else buildah."""
    if shutil.which("docker") and run("docker", "info", check=False).returncode == 0:
        with tempfile.TemporaryDirectory() as folder:
            yield Docker(secrets=secrets(Path(folder)))
        return
    missing = [tool for tool in ("buildah", "runc", "debootstrap") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        fail(f"no Docker engine runs here, and without one this needs root and {', '.join(missing) or 'its tools'}")
    with tempfile.TemporaryDirectory(prefix="voxwright-images-", dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        buildah = Buildah(Path(folder))
        try:
            buildah.prepare()
            yield buildah
        finally:
            buildah.close()


if __name__ == "__main__":
    main(sys.argv[1:])
