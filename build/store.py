"""The store: every engine by its key, shared by all bundles and all builds; python -m build.store tells and clears it.

dist/store/<2 digits>/<key>/    a bundle of this one engine, manifest and all

An engine is built into its entry, whole or not at all, and linked from there into bundles.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from contract import command_line, files, verification
from contract.errors import BundleError, ManifestError
from contract.manifest import MANIFEST_FILE, BundleFile, BundleManifest, EngineRecord, load

NAME = "store"
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An engine in the store."""

    folder: Path
    record: EngineRecord

    @property
    def is_used(self) -> bool:
        """Say whether a bundle on this file system holds the engine too."""
        return (self.folder / self.record.file).stat().st_nlink > 1


def find(store: Path, key: str) -> Entry | None:
    """Find an engine by its key; None where there is none, or a damaged one."""
    folder = entry_folder(store, key)
    try:
        manifest = load(folder)
        verification.check(folder, manifest)
    except (BundleError, ManifestError):
        return None
    (record,) = manifest.engines
    return Entry(folder=folder, record=record)


def add(staging: Path, manifest: BundleManifest) -> None:
    """Make a folder that holds an engine's files an entry: the manifest names that engine alone."""
    files.write(staging / MANIFEST_FILE, manifest.to_json())


def holding(store: Path, record: EngineRecord) -> Path | None:
    """Give the entry that says it holds this very engine, and not another of the same key; None where none does."""
    folder = entry_folder(store, record.key)
    try:
        (known,) = load(folder).engines
    except (BundleError, ManifestError):
        return None
    return folder if known.sha256 == record.sha256 else None


def adopt(store: Path, bundle: Path, alone: BundleManifest) -> None:
    """Take a whole engine over from a bundle, which may have come from another machine; `alone` names that engine."""
    (record,) = alone.engines
    with files.replacing(entry_folder(store, record.key)) as staging:
        link(bundle, record, staging)
        add(staging, alone)


def engine_files(record: EngineRecord) -> tuple[BundleFile, ...]:
    """List the engine and what was kept of its build."""
    return (BundleFile(file=record.file, sha256=record.sha256, size_bytes=record.size_bytes), *record.files)


def link(folder: Path, record: EngineRecord, into: Path) -> None:
    """Put an engine and its files from a folder into another."""
    for each in engine_files(record):
        files.link_or_copy(folder / each.file, into / each.file)


@contextmanager
def locked(store: Path, key: str) -> Iterator[None]:
    """Let nobody else build an engine of this key meanwhile: who comes second finds it done.

    The lock is that of the folder of the key's first two digits. So no lock file stays behind, a killed process holds
    none, and two keys seldom wait for one another.
    """
    folder = entry_folder(store, key).parent
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def entry_folder(store: Path, key: str) -> Path:
    """Say where an engine of a key lies."""
    return store / key[:2] / key


def entries(store: Path) -> Iterator[Entry]:
    """List what is in the store and whole enough to be read, by key."""
    for path in sorted(store.glob(f"*/*/{MANIFEST_FILE}")):
        entry = None if path.parent.name.startswith(".") else find(store, path.parent.name)
        if entry is not None:
            yield entry


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store", type=click.Path(path_type=Path), default=Path("dist", NAME), show_default=True, help="Its folder."
)
@click.option("--prune", is_flag=True, help="Remove the engines that no bundle on this file system holds.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(store: Path, *, prune: bool, verbose: bool) -> None:  # noqa: ARG001 - contract.errors.guard reads it
    """List the engines in the store, a line each; or remove those that no bundle holds."""
    count = size = 0
    for entry in list(entries(store)):
        if prune and entry.is_used:
            continue
        if prune:
            with locked(store, entry.record.key):
                files.remove(entry.folder)
        count, size = count + 1, size + entry.record.size_bytes
        used = "removed" if prune else "in a bundle" if entry.is_used else "in no bundle"
        arch = entry.record.key_parts.get("arch", "?")
        print(f"{entry.record.key[:12]}  {entry.record.model:<18} {entry.record.mode:<9} {arch:<5} {used}")
    print(f"{store}: {count} engines{' removed' if prune else ''}, {size / _MEBIBYTE:.1f} MiB", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
