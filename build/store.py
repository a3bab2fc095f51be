"""Keep every engine by its key, for all bundles and builds (the store); `python -m build.store` lists and prunes it.

dist/store/<2 digits>/<key>/    a bundle of this one engine, with its manifest

An engine is built into its entry atomically, and hard-linked from there into bundles.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from build import locks
from build.units import mebibytes
from contract import command_line, files, verification
from contract.errors import BundleError, ManifestError
from contract.manifest import MANIFEST_FILE, BundleManifest, EngineRecord, load

NAME = "store"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An engine in the store."""

    folder: Path
    record: EngineRecord

    @property
    def is_used(self) -> bool:
        """Return whether a bundle on this file system also holds the engine (it has another hard link)."""
        return (self.folder / self.record.file).stat().st_nlink > 1


def find(store: Path, key: str) -> Entry | None:
    """Return an engine by its key; None where it is absent or damaged."""
    folder = entry_folder(store, key)
    manifest = _single(folder, key)
    if manifest is None:
        return None
    try:
        verification.check(folder, manifest)
    except BundleError:
        return None
    return Entry(folder=folder, record=manifest.engines[0])


def _single(folder: Path, key: str) -> BundleManifest | None:
    """Return the manifest of an entry; None where it is absent, damaged or of another engine than that of the key."""
    try:
        manifest = load(folder)
    except (BundleError, ManifestError):
        return None
    return manifest if [each.key for each in manifest.engines] == [key] else None


def add(staging: Path, manifest: BundleManifest) -> None:
    """Turn a folder with an engine's files into an entry; the manifest lists that engine only."""
    files.write(staging / MANIFEST_FILE, manifest.to_json())


def holding(store: Path, record: EngineRecord) -> Path | None:
    """Return the entry that holds exactly this engine, not another build of the same key; None where none does."""
    folder = entry_folder(store, record.key)
    manifest = _single(folder, record.key)
    if manifest is None:
        return None
    return folder if list(manifest.engines[0].served_files()) == list(record.served_files()) else None


def adopt(store: Path, bundle: Path, single: BundleManifest) -> None:
    """Add an intact engine of a bundle, perhaps from another machine; `single` is a manifest of that engine only."""
    (record,) = single.engines
    with files.replacing(entry_folder(store, record.key)) as staging:
        link(bundle, record, staging)
        add(staging, single)


def link(folder: Path, record: EngineRecord, into: Path) -> None:
    """Link or copy an engine and its files from one folder into another."""
    for each in record.every_file():
        files.link_or_copy(folder / each.file, into / each.file)


@contextmanager
def locked(store: Path, key: str) -> Iterator[None]:
    """Lock a key, so that a second build of the same engine waits and then finds it in the store.

    The lock is on the folder of the key's first two digits. So no lock file remains, a killed process releases its
    lock, and two keys rarely wait for each other.
    """
    with locks.folder_alone(entry_folder(store, key).parent):
        yield


def entry_folder(store: Path, key: str) -> Path:
    """Return the folder of a key's entry."""
    return store / key[:2] / key


def entries(store: Path) -> Iterator[Entry]:
    """List the intact entries of the store, by key."""
    for path in sorted(store.glob(f"*/*/{MANIFEST_FILE}")):
        entry = None if path.parent.name.startswith(".") else find(store, path.parent.name)
        if entry is not None:
            yield entry


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store", type=click.Path(path_type=Path), default=Path("dist", NAME), show_default=True, help="Its folder."
)
@click.option("--prune", is_flag=True, help="Remove the engines that are in no bundle on this file system.")
@command_line.verbose_option()
def command(store: Path, *, prune: bool) -> None:
    """List the engines in the store, one line each; or remove those that are in no bundle."""
    count = size = 0
    for entry, state in _pruned(store) if prune else _listed(store):
        count, size = count + 1, size + entry.record.total_bytes
        arch = entry.record.key_parts.get("arch", "?")
        print(f"{entry.record.key[:12]}  {entry.record.model:<18} {entry.record.mode:<9} {arch:<5} {state}")
    print(f"{store}: {count} engines{' removed' if prune else ''}, {mebibytes(size)}", file=sys.stderr)


def _listed(store: Path) -> Iterator[tuple[Entry, str]]:
    for entry in entries(store):
        yield entry, "in a bundle" if entry.is_used else "in no bundle"


def _pruned(store: Path) -> Iterator[tuple[Entry, str]]:
    if not store.is_dir():
        return
    # A build has engines in no bundle until its end.
    with locks.store_alone(store):
        for entry in list(entries(store)):
            if not entry.is_used:
                files.remove(entry.folder)
                yield entry, "removed"


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
