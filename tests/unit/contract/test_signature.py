"""Signatures of manifests, the files of their keys, and the verification of damaged bundles."""

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
REBUILD = "Build the bundle again with `python -m build.engines`, or copy it again from an intact source"


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


def test_no_trusted_keys_check_nothing() -> None:
    assert signature.verify(manifest(FILES), []) is Verdict.NOT_CHECKED


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
def test_verdicts(signed: BundleManifest, verdict: Verdict) -> None:
    found = signature.verify(BundleManifest.from_json(signed.to_json(), "m"), TRUSTED)
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
        (Verdict.INVALID, "b: its signature does not match its manifest. "),
    ],
)
def test_rejects_unacceptable_verdicts(verdict: Verdict, sentence: str) -> None:
    with pytest.raises(SignatureError) as error:
        verification.check_signature(Path("b"), verdict)
    assert str(error.value) == (
        f"{sentence}Sign it with `python -m build.sign`, trust the key that signed it, "
        "or copy it from a trusted source."
    )


def test_reads_keys_of_openssl(tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    signed = signature.sign(manifest(FILES), signature.load_private_key(private))
    assert signature.verify(signed, [signature.load_public_key(public)]) is Verdict.TRUSTED


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (None, "it cannot be read (No such file or directory)"),
        (["genpkey", "-algorithm", "x25519"], "its private key is not an Ed25519 key"),
        (["rand", "40"], "it holds no private key in PEM format"),
    ],
)
def test_rejects_other_keys(tmp_path: Path, make: list[str] | None, cause: str) -> None:
    path = tmp_path / "key.pem"
    if make is not None:
        path.write_bytes(subprocess.run(["openssl", *make], check=True, capture_output=True).stdout)
    with pytest.raises(KeyFileError) as error:
        signature.load_private_key(path)
    remedy = (
        "Make a private key with `openssl genpkey -algorithm ed25519 -out release.key` and its public key with "
        "`openssl pkey -in release.key -pubout -out release.pub`, or pass the right file"
    )
    assert str(error.value) == f"{path}: {cause}. {remedy}."


def test_rejects_key_with_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    command = ["openssl", "genpkey", "-algorithm", "ed25519", "-aes256", "-pass", "pass:x", "-out", str(path)]
    subprocess.run(command, check=True)
    with pytest.raises(KeyFileError, match="it needs a passphrase, and keys with a passphrase are not supported"):
        signature.load_private_key(path)


def test_intact_bundle_has_no_findings(bundle: Path) -> None:
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
        (_flip, "report.html", "its content does not match the manifest"),
        (_truncate, "report.html", "it has 3 bytes, and the manifest states 7"),
        (_remove, "report.html", "it is missing"),
        (_add, "model.plan", "the manifest does not list it"),
        (_link, "report.html", "it is a symbolic link to /etc/hostname, and a bundle may hold only regular files"),
        (_link_folder, "models", "it is a symbolic link to /etc, and a bundle may hold only regular files"),
    ],
)
def test_names_the_damaged_file(bundle: Path, damage: Callable[[Path], None], file: str, cause: str) -> None:
    damage(bundle)
    with pytest.raises(BundleError) as error:
        verification.check(bundle, manifest(FILES))
    assert str(error.value) == f"{bundle / file}: {cause}. {REBUILD}."


def test_counts_every_damaged_file(bundle: Path) -> None:
    _flip(bundle)
    _add(bundle)
    with pytest.raises(BundleError, match=r"model\.plan: the manifest does not list it \(and 1 more\)\."):
        verification.check(bundle, manifest(FILES))
