"""Ten kinds of damage to a bundle, and docs/damage.md: what `python -m runtime` says of each.

python -m tests.integration.damage_page
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
OPENING = """# What is said of a damaged bundle

Each row is a bundle with one thing wrong, on a machine with an A10, and what `python -m runtime` says of it before it
ends. No server is started, nothing is written, and a repository of an earlier start stays as it was.
`python -m runtime.doctor` ends with the same sentence and the same code. A test does all of it again, and
`python -m tests.integration.damage_page` writes this page.

Signatures are asked for only in the two rows that speak of one (`--trusted-key trusted.pem`).

| damage | exit code | sentence |
|---|---|---|
"""
BUNDLE = Path("dist/engines/26.08/sm86")
ENGINE = BUNDLE / "body_standard" / "batch" / "model.plan"
SERVER_RAN = Path("server-ran")
TRUST = ("--trusted-key", "trusted.pem")
_TRUSTED, _OTHER = (Ed25519PrivateKey.from_private_bytes(letter * 32) for letter in (b"1", b"2"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Something that can be wrong with a bundle; `inflict` is given the folder that holds `dist`."""

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
    """Take the last byte of an engine away."""
    (folder / ENGINE).write_bytes((folder / ENGINE).read_bytes()[:-1])


def lead_out(folder: Path) -> None:
    """Leave an engine's very content outside, and a link to it in its place."""
    (folder / ENGINE).rename(folder / "outside.plan")
    (folder / ENGINE).symlink_to(Path(*[".."] * (len(ENGINE.parts) - 1), "outside.plan"))


def sign_by_another(folder: Path) -> None:
    """Sign the bundle with a key that nobody trusts."""
    sign(folder, _OTHER)


def put_newer_schema(folder: Path) -> None:
    """Say that the manifest is of the schema after this release's."""
    path = folder / BUNDLE / manifest.MANIFEST_FILE
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**table, "schema_version": manifest.SCHEMA_VERSION + 1}), encoding="utf-8")


def other_tensorrt() -> manifest.BundleManifest:
    """Make up a bundle of another build of TensorRT."""
    made = plans(Arch.SM86, "26.08", "standard", kilobytes=1)
    return dataclasses.replace(made, toolchain={**made.toolchain, "tensorrt": "11.2.1.1"})


def nothing(_: Path) -> None:
    """Leave everything as it is: the bundle itself, or what is asked of it, is wrong."""


DAMAGES = (
    Damage(title="one flipped bit in an engine", exit_code=42, inflict=flip),
    Damage(title="an engine cut short", exit_code=42, inflict=truncate),
    Damage(title="an engine that is not there", exit_code=42, inflict=lambda folder: (folder / ENGINE).unlink()),
    Damage(title="a file more", exit_code=42, inflict=lambda folder: (folder / BUNDLE / "notes.txt").touch()),
    Damage(title="a link out of the bundle", exit_code=42, inflict=lead_out),
    Damage(
        title="another architecture",
        exit_code=41,
        inflict=nothing,
        bundle=lambda: plans(Arch.SM80, "26.08", "standard", kilobytes=1),
    ),
    Damage(title="another TensorRT", exit_code=41, inflict=nothing, bundle=other_tensorrt),
    Damage(title="no signature, where a key is trusted", exit_code=15, inflict=nothing, arguments=TRUST),
    Damage(title="a signature of another key", exit_code=15, inflict=sign_by_another, arguments=TRUST),
    Damage(title="a manifest of a newer schema", exit_code=12, inflict=put_newer_schema),
)
SOUND = Damage(title="none", exit_code=0, inflict=lambda folder: sign(folder, _TRUSTED), arguments=TRUST)


def scene(damage: Damage) -> Scene:
    """Give the machine that all rows share."""
    made = damage.bundle()
    return Scene(title=damage.title, remark="", card=driver.A10, bundles=lambda: (made,), arguments=damage.arguments)


def prepare(damage: Damage, folder: Path) -> Path | None:
    """Write driver, server, key and the damaged bundle; give the folder of the driver."""
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
    """Give the refusals that a command printed."""
    return [line.removeprefix("error: ") for line in stderr.splitlines() if line.startswith("error: ")]


def row(damage: Damage, code: int, sentence: str) -> str:
    """Write the page's row of a damage."""
    return f"| {damage.title} | {code} | {sentence.replace('|', chr(92) + '|')} |\n"


def page() -> str:
    """Write the page."""
    rows = []
    for damage in DAMAGES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            result = run(damage, folder, prepare(damage, folder), "runtime")
            rows.append(row(damage, result.returncode, *sentences(result.stderr)))
    return OPENING + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
