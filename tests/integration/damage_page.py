"""Define ten kinds of damage to a bundle, and write docs/damage.md: the error of `python -m runtime` for each.

.venv/bin/python -m tests.integration.damage_page
"""

import dataclasses
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contract import files, manifest, signature
from contract.arch import Arch
from tests.fakes import driver
from tests.fakes.driver import ROOT, python
from tests.unit.runtime import doctor_page
from tests.unit.runtime.doctor_page import Scene, plans

PAGE = ROOT / "docs" / "damage.md"
OPENING = """# Errors of a damaged bundle

A damaged bundle must never be served. Each row below is a bundle with one defect, on a machine with an A10, and the
error with which this command ends:

    .venv/bin/python -m runtime

No server is started, nothing is written, and the repository of an earlier start stays unchanged. The doctor ends with
the same sentence and the same exit code. Signatures are checked only in the two rows about a signature
(`--trusted-key trusted.pem`).

| defect | exit code | sentence |
|---|---|---|
"""
CLOSING = """
This command writes the page, and a test checks that the page is current:

    .venv/bin/python -m tests.integration.damage_page
"""
BUNDLE = Path("dist/engines/26.08/sm86")
ENGINE = BUNDLE / "body_standard" / "batch" / "model.plan"
SERVER_RAN = Path("server-ran")
TRUST = ("--trusted-key", "trusted.pem")
_TRUSTED, _OTHER = (Ed25519PrivateKey.from_private_bytes(letter * 32) for letter in (b"1", b"2"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A defect of a bundle; `inflict` takes the folder that holds `dist`."""

    title: str
    exit_code: int
    inflict: Callable[[Path], None]
    arguments: tuple[str, ...] = ()
    bundle: Callable[[], manifest.BundleManifest] = lambda: plans(Arch.SM86, "26.08", "standard", kilobytes=1)


def flip(folder: Path) -> None:
    """Change one bit in the middle of an engine."""
    data = bytearray((folder / ENGINE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / ENGINE).write_bytes(data)


def truncate(folder: Path) -> None:
    """Remove the last byte of an engine."""
    (folder / ENGINE).write_bytes((folder / ENGINE).read_bytes()[:-1])


def link_out(folder: Path) -> None:
    """Move an engine out of the bundle, and put a link to it in its place."""
    (folder / ENGINE).rename(folder / "outside.plan")
    (folder / ENGINE).symlink_to(Path(*[".."] * (len(ENGINE.parts) - 1), "outside.plan"))


def sign_with_untrusted_key(folder: Path) -> None:
    """Sign the bundle with a key that is not trusted."""
    sign(folder, _OTHER)


def put_newer_schema(folder: Path) -> None:
    """Set the manifest's schema version to the one after this release's."""
    path = folder / BUNDLE / manifest.MANIFEST_FILE
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**table, "schema_version": manifest.SCHEMA_VERSION + 1}), encoding="utf-8")


def other_tensorrt() -> manifest.BundleManifest:
    """Return a synthetic bundle of another build of TensorRT."""
    made = plans(Arch.SM86, "26.08", "standard", kilobytes=1)
    return dataclasses.replace(made, toolchain={**made.toolchain, "tensorrt": "11.2.1.1"})


def nothing(_: Path) -> None:
    """Change nothing: the bundle itself, or the command, causes the error."""


DAMAGES = (
    Damage(title="one flipped bit in an engine", exit_code=42, inflict=flip),
    Damage(title="a truncated engine", exit_code=42, inflict=truncate),
    Damage(title="a missing engine", exit_code=42, inflict=lambda folder: (folder / ENGINE).unlink()),
    Damage(title="an unlisted file", exit_code=42, inflict=lambda folder: (folder / BUNDLE / "notes.txt").touch()),
    Damage(title="a link out of the bundle", exit_code=42, inflict=link_out),
    Damage(
        title="another architecture",
        exit_code=41,
        inflict=nothing,
        bundle=lambda: plans(Arch.SM80, "26.08", "standard", kilobytes=1),
    ),
    Damage(title="another TensorRT", exit_code=41, inflict=nothing, bundle=other_tensorrt),
    Damage(title="no signature, with a trusted key", exit_code=15, inflict=nothing, arguments=TRUST),
    Damage(title="a signature of another key", exit_code=15, inflict=sign_with_untrusted_key, arguments=TRUST),
    Damage(title="a manifest of a newer schema", exit_code=12, inflict=put_newer_schema),
)
SOUND = Damage(title="none", exit_code=0, inflict=lambda folder: sign(folder, _TRUSTED), arguments=TRUST)


def scene(damage: Damage) -> Scene:
    """Return the machine of all rows, with this bundle."""
    made = damage.bundle()
    return Scene(title=damage.title, remark="", card=driver.A10, bundles=lambda: (made,), arguments=damage.arguments)


def prepare(damage: Damage, folder: Path) -> Path | None:
    """Write driver, server, key and the damaged bundle; return the folder of the driver."""
    library = doctor_page.prepare(scene(damage), folder)
    (folder / "bin" / "tritonserver").write_text(f"#!/bin/sh\ntouch {SERVER_RAN}\n")
    public = _TRUSTED.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "trusted.pem").write_bytes(public)
    damage.inflict(folder)
    return library


def run(damage: Damage, folder: Path, library: Path | None, *command: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ...` in the prepared folder, as an operator does."""
    variables = doctor_page.environment(scene(damage), folder)
    return python(library, "-m", *command, *damage.arguments, cwd=folder, **variables)


def sign(folder: Path, key: Ed25519PrivateKey) -> None:
    """Sign the bundle in a prepared folder."""
    signed = signature.sign(manifest.load(folder / BUNDLE), key)
    files.write(folder / BUNDLE / manifest.MANIFEST_FILE, signed.to_json())


def sentences(stderr: str) -> list[str]:
    """Return the errors that a command printed."""
    return [line.removeprefix("error: ") for line in stderr.splitlines() if line.startswith("error: ")]


def row(damage: Damage, code: int, sentence: str) -> str:
    """Return the page's row for a defect."""
    return f"| {damage.title} | {code} | {sentence.replace('|', chr(92) + '|')} |\n"


def page() -> str:
    """Return the page."""
    rows = []
    for damage in DAMAGES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            result = run(damage, folder, prepare(damage, folder), "runtime")
            rows.append(row(damage, result.returncode, *sentences(result.stderr)))
    return OPENING + "".join(rows) + CLOSING


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
