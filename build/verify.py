"""python -m build.verify: says whether a bundle is whole and genuine."""

import sys
from pathlib import Path

import click

from contract import command_line, signature, verification
from contract.manifest import BundleManifest, load

_MEBIBYTE = 1 << 20


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--trusted-key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An Ed25519 public key, PEM; repeatable.",
)
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(bundle: Path, keys: tuple[Path, ...], *, verbose: bool) -> None:  # noqa: ARG001 - guard reads it
    """Hold every file of a BUNDLE against its manifest, and the manifest's signature against the trusted keys."""
    manifest, verdict = verify(bundle, keys)
    total = sum(each.size_bytes for each in manifest.every_file())
    count = sum(1 for _ in manifest.every_file())
    print(f"{bundle} is whole: {count} files, {total / _MEBIBYTE:.1f} MiB; {verdict.value}", file=sys.stderr)


def verify(bundle: Path, keys: tuple[Path, ...]) -> tuple[BundleManifest, signature.Verdict]:
    """Give the manifest and what its signature is worth.

    Raise BundleError for a file that is not what the manifest says, SignatureError where keys are trusted and none of
    them signed this manifest, KeyFileError for a key that is none.
    """
    trusted = [signature.public_key(key) for key in keys]
    manifest = load(bundle)
    verdict = signature.judge(manifest, trusted)
    verification.check_signature(bundle, verdict)
    verification.check(bundle, manifest)
    return manifest, verdict


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
