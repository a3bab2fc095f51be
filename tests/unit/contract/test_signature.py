"""Signatures and verification: what a trusted key vouches for, and every way in which a bundle can be damaged."""

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract import signature, verification
from contract.arch import Arch
from contract.errors import BundleError, KeyFileError, SignatureError
from contract.manifest import MANIFEST_FILE, BundleFile, BundleManifest, Signature
from contract.signature import Verdict

KEY, OTHER = Ed25519PrivateKey.from_private_bytes(b"1" * 32), Ed25519PrivateKey.from_private_bytes(b"2" * 32)
TRUSTED = [KEY.public_key()]
FILES = {"report.html": b"<p>fine", "timing.cache": b"\x00\x01"}
REBUILD = "Build the bundle again with `python -m build.engines`, or copy it again from where it is whole"


def manifest(files: dict[str, bytes]) -> BundleManifest:
    return BundleManifest(platform="embedded", arch=Arch.CPU, toolchain={}, engines=(), files=tuple(_listed(files)))


def _listed(files: dict[str, bytes]) -> list[BundleFile]:
    return [
        BundleFile(file=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in files.items()
    ]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_FILE).write_text(manifest(FILES).to_json(), encoding="utf-8")
    return folder


def test_who_trusts_no_key_asks_for_no_signature() -> None:
    assert signature.judge(manifest(FILES), []) is Verdict.NOT_ASKED


@pytest.mark.parametrize(
    ("signed", "verdict"),
    [
        (signature.sign(manifest(FILES), KEY), Verdict.TRUSTED),
        (manifest(FILES), Verdict.UNSIGNED),
        (signature.sign(manifest(FILES), OTHER), Verdict.UNKNOWN_KEY),
        (replace(signature.sign(manifest(FILES), KEY), platform="26.08"), Verdict.INVALID),
        (
            replace(manifest(FILES), signature=Signature(key=signature.fingerprint(TRUSTED[0]), value="?")),
            Verdict.INVALID,
        ),
    ],
)
def test_what_a_signature_is_worth(signed: BundleManifest, verdict: Verdict) -> None:
    found = signature.judge(BundleManifest.from_json(signed.to_json(), "m"), TRUSTED)
    assert found is verdict
    assert found.is_acceptable == (verdict is Verdict.TRUSTED)


def test_signing_again_replaces_the_signature() -> None:
    twice = signature.sign(signature.sign(manifest(FILES), OTHER), KEY)
    assert twice == signature.sign(manifest(FILES), KEY)


@pytest.mark.parametrize(
    ("verdict", "sentence"),
    [
        (Verdict.UNSIGNED, "b: it is not signed. "),
        (Verdict.UNKNOWN_KEY, "b: it is signed by a key that is not trusted here. "),
        (Verdict.INVALID, "b: its signature does not fit its manifest. "),
    ],
)
def test_what_is_not_genuine_is_refused(verdict: Verdict, sentence: str) -> None:
    with pytest.raises(SignatureError) as refusal:
        verification.check_signature(Path("b"), verdict)
    assert str(refusal.value) == (
        f"{sentence}Sign it with `python -m build.sign`, trust the key that signed it, "
        "or take it from where it is genuine."
    )


def test_keys_that_openssl_makes_are_read(tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    signed = signature.sign(manifest(FILES), signature.private_key(private))
    assert signature.judge(signed, [signature.public_key(public)]) is Verdict.TRUSTED


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (None, "it cannot be read (No such file or directory)"),
        (["genpkey", "-algorithm", "x25519"], "it holds a private key of another kind than Ed25519"),
        (["rand", "40"], "it holds no private key in PEM"),
    ],
)
def test_other_keys_are_refused(tmp_path: Path, make: list[str] | None, cause: str) -> None:
    path = tmp_path / "key.pem"
    if make is not None:
        path.write_bytes(subprocess.run(["openssl", *make], check=True, capture_output=True).stdout)
    with pytest.raises(KeyFileError) as refusal:
        signature.private_key(path)
    remedy = "Make a pair with `openssl genpkey -algorithm ed25519`, or name the right file"
    assert str(refusal.value) == f"{path}: {cause}. {remedy}."


def test_a_locked_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", str(path)]
    subprocess.run(command, check=True)
    with pytest.raises(KeyFileError, match="it is locked with a passphrase, and nobody is there to type it"):
        signature.private_key(path)


def test_a_whole_bundle_has_no_findings(bundle: Path) -> None:
    assert list(verification.findings(bundle, manifest(FILES))) == []
    verification.check(bundle, manifest(FILES))


def _flip(bundle: Path) -> None:
    (bundle / "report.html").write_bytes(b"<q>fine")


def _truncate(bundle: Path) -> None:
    (bundle / "report.html").write_bytes(b"<p>")


def _remove(bundle: Path) -> None:
    (bundle / "report.html").unlink()


def _add(bundle: Path) -> None:
    (bundle / "model.plan").write_bytes(b"mine")


def _link(bundle: Path) -> None:
    _remove(bundle)
    (bundle / "report.html").symlink_to("/etc/hostname")


def _link_folder(bundle: Path) -> None:
    (bundle / "models").symlink_to("/etc")


@pytest.mark.parametrize(
    ("damage", "file", "cause"),
    [
        (_flip, "report.html", "its content is not what the manifest says"),
        (_truncate, "report.html", "it has 3 bytes, and the manifest says 7"),
        (_remove, "report.html", "it is missing"),
        (_add, "model.plan", "the manifest does not name it"),
        (_link, "report.html", "it is a link to /etc/hostname, and a bundle holds files only"),
        (_link_folder, "models", "it is a link to /etc, and a bundle holds files only"),
    ],
)
def test_damage_is_named(bundle: Path, damage: Callable[[Path], None], file: str, cause: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError) as refusal:
        verification.check(bundle, manifest(FILES))
    assert str(refusal.value) == f"{bundle / file}: {cause}. {REBUILD}."


def test_every_damaged_file_is_counted(bundle: Path) -> None:
    _flip(bundle)
    _add(bundle)
    with pytest.raises(BundleError, match=r"model\.plan: the manifest does not name it \(and 1 more\)\."):
        verification.check(bundle, manifest(FILES))
