"""Find the bundles below a folder and check the signature of each."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.errors import BundleError, NoEngineError, SettingError
from contract.manifest import MANIFEST_FILE, BundleManifest, load
from contract.signature import Verdict, load_public_key, verify

PLACE = f"<platform>/<arch>/{MANIFEST_FILE}"
"""Where a bundle's manifest lies below the folder of bundles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle on the disk."""

    folder: Path
    manifest: BundleManifest
    verdict: Verdict = Verdict.NOT_CHECKED


@dataclass(frozen=True, kw_only=True, slots=True)
class NoBundle:
    """The reason why no bundle was found, and the folder that was probably meant."""

    engines: Path
    cause: str
    intended: Path | None = None
    """A folder near by that holds bundles, or that is one; None where there is no such folder."""

    def error(self, build: str) -> NoEngineError:
        """Return the error; `build` is the command that builds a bundle for this machine."""
        remedy = (
            f"Name the folder that holds the bundles with --engines or VOXWRIGHT_ENGINES, or build one with `{build}`"
        )
        if self.intended is not None:
            remedy = f"Use `--engines {self.intended}` (or set VOXWRIGHT_ENGINES={self.intended})"
        return NoEngineError(f"--engines {self.engines}", self.cause, remedy)


def find(engines: Path, keys: Sequence[Path] = ()) -> tuple[Bundle, ...]:
    """Return the bundles at `<platform>/<arch>` below a folder; or the one bundle that the folder itself is.

    With trusted keys, each signature is checked against them. Raise KeyFileError for an unusable key, SettingError
    where the library for signatures is not installed, ManifestError or BundleError for a manifest or a folder that
    cannot be read: an unreadable bundle is never skipped.
    """
    folders = [engines, *(arch for platform in _folders(engines) for arch in _folders(platform))]
    # A folder whose name begins with a dot is a bundle that a build is still writing.
    found = [folder for folder in folders if not folder.name.startswith(".") and _has_manifest(folder)]
    if keys and importlib.util.find_spec("cryptography") is None:
        remedy = "Install it with `pip install 'voxwright[serve]'`"
        raise SettingError("--trusted-key", "cryptography, which checks signatures, is not installed", remedy)
    trusted = [load_public_key(key) for key in keys]
    manifests = {folder: load(folder) for folder in found}
    return tuple(Bundle(folder=at, manifest=it, verdict=verify(it, trusted)) for at, it in manifests.items())


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted; none where it is absent or a file."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _has_manifest(folder: Path) -> bool:
    try:
        return (folder / MANIFEST_FILE).is_file()
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> BundleError:
    remedy = f"Give the user with the id {os.geteuid()} the right to read it"
    return BundleError(folder, f"it cannot be read ({error.strerror})", remedy)


def explain_absence(engines: Path) -> NoBundle:
    """Return why `find` returns nothing for a folder, and which folder near by was probably meant."""
    intended = next(_intended(engines), None)
    if not engines.exists():
        cause = "there is no such folder"
    elif not engines.is_dir():
        cause = "it is a file, and a folder of bundles is needed"
    else:
        cause = f"it holds no bundle; the manifest of a bundle lies at {PLACE}"
    return NoBundle(engines=engines, cause=cause, intended=intended)


def _intended(engines: Path) -> Iterator[Path]:
    # The folder of one platform, such as `dist/engines/26.08`: one level too deep.
    if any(_manifests(engines, "*")):
        yield engines / ".." if engines.name in ("", "..") else engines.parent
    # A file or a folder inside a bundle, such as its manifest.json.
    yield from (folder for folder in [*engines.parents][:3] if (folder / MANIFEST_FILE).is_file())
    # One level too high, such as `dist` for `dist/engines`.
    yield from (path.parents[2] for path in _manifests(engines, "*/*/*"))


def _manifests(folder: Path, pattern: str) -> Iterator[Path]:
    # As in `find`, a bundle that is still being written does not count.
    return (path for path in sorted(folder.glob(f"{pattern}/{MANIFEST_FILE}")) if path.parent.name[0] != ".")
