"""`python -m build.sign`: sign a bundle's manifest, which lists every file of the bundle with its hash."""

import sys
from pathlib import Path

import click

from build import locks
from contract import command_line, files, signature, verification
from contract.manifest import MANIFEST_FILE, BundleManifest, load


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    help="An Ed25519 private key, PEM.",
)
@command_line.verbose_option()
def command(bundle: Path, key: Path) -> None:
    """Sign a BUNDLE, such as dist/engines/26.08/sm86, after checking every file in it."""
    signed = sign(bundle, key)
    if signed.signature is not None:
        print(f"signed {bundle} with key {signed.signature.key}", file=sys.stderr)


def sign(bundle: Path, key: Path) -> BundleManifest:
    """Sign a bundle in place; return the signed manifest.

    Raises KeyFileError for an unusable key, BundleError for a bundle whose files differ from its manifest, and
    OutputError for one that a build changes.
    """
    opened = signature.load_private_key(key)
    # A folder that is not a bundle gets no lock file.
    load(bundle)
    with locks.bundle(bundle):
        manifest = load(bundle)
        verification.check(bundle, manifest)
        signed = signature.sign(manifest, opened)
        files.write(bundle / MANIFEST_FILE, signed.to_json())
    return signed


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
