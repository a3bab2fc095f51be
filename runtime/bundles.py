"""Finds the bundles below a folder, and says what the signature of each is worth."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.errors import SettingError
from contract.manifest import MANIFEST_FILE, BundleManifest, load
from contract.signature import Verdict, judge, public_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle on the disk."""

    folder: Path
    manifest: BundleManifest
    verdict: Verdict = Verdict.NOT_ASKED


def find(engines: Path, keys: Sequence[Path] = ()) -> tuple[Bundle, ...]:
    """Read `<platform>/<arch>/manifest.json` below a folder, or the one bundle that the folder itself is.

    Where keys are trusted, each signature is judged by them. Raise KeyFileError for a key that is none, SettingError
    where the library for it is missing, ManifestError for a manifest that cannot be read: a start never guesses around.
    """
    paths = [engines / MANIFEST_FILE, *sorted(engines.glob(f"*/*/{MANIFEST_FILE}"))]
    # A name with a dot in front is a bundle that a build is still writing.
    found = [path.parent for path in paths if path.is_file() and not path.parent.name.startswith(".")]
    if keys and importlib.util.find_spec("cryptography") is None:
        remedy = "Install it with `pip install 'voxwright[serve]'`"
        raise SettingError("--trusted-key", "cryptography, which judges signatures, is not installed", remedy)
    trusted = [public_key(key) for key in keys]
    manifests = {folder: load(folder) for folder in found}
    return tuple(Bundle(folder=at, manifest=it, verdict=judge(it, trusted)) for at, it in manifests.items())
