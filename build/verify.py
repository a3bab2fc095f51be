"""`python -m build.verify`: check that a bundle is complete, unchanged and signed by a trusted key."""

import sys
from pathlib import Path

import click

from build.units import mebibytes
from contract import command_line, signature, verification
from contract.manifest import BundleManifest, load


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--trusted-key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An Ed25519 public key, PEM; repeatable.",
)
@command_line.verbose_option()
def command(bundle: Path, keys: tuple[Path, ...]) -> None:
    """Check every file of a BUNDLE against its manifest, and the manifest's signature against the trusted keys."""
    manifest, verdict = verify(bundle, keys)
    total = sum(each.size_bytes for each in manifest.every_file())
    count = sum(1 for _ in manifest.every_file())
    print(f"{bundle} is intact: {count} files, {mebibytes(total)}; {verdict.value}", file=sys.stderr)


def verify(bundle: Path, keys: tuple[Path, ...]) -> tuple[BundleManifest, signature.Verdict]:
    """Return the manifest and the verdict on its signature.

    Raises BundleError for a file that differs from the manifest, SignatureError where keys are trusted and none of them
    signed this manifest, and KeyFileError for an unusable key.
    """
    trusted = [signature.load_public_key(key) for key in keys]
    manifest = load(bundle)
    verdict = signature.verify(manifest, trusted)
    verification.check_signature(bundle, verdict)
    verification.check(bundle, manifest)
    return manifest, verdict


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
