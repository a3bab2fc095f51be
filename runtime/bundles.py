"""Finds the bundles below a folder."""

from pathlib import Path

from contract.manifest import MANIFEST_FILE, BundleManifest, load

Bundle = tuple[Path, BundleManifest]


def find(engines: Path) -> tuple[Bundle, ...]:
    """Read `<platform>/<arch>/manifest.json` below a folder, or the one bundle that the folder itself is.

    Raise ManifestError for a manifest that cannot be read: a start never guesses around one.
    """
    paths = [engines / MANIFEST_FILE, *sorted(engines.glob(f"*/*/{MANIFEST_FILE}"))]
    # A name with a dot in front is a bundle that a build is still writing.
    found = [path.parent for path in paths if path.is_file() and not path.parent.name.startswith(".")]
    return tuple((folder, load(folder)) for folder in found)
