"""`build.sign` and `build.verify` as commands, on a bundle of real engines."""

import json
import subprocess
from pathlib import Path

import pytest

from build.bundle import make
from contract.manifest import MANIFEST_FILE, SCHEMA_VERSION, load
from tests.unit.engines import commands
from tests.unit.engines.exported import cpu_target, export, jobs
from tests.unit.engines.test_quantisation import decoder


def built(folder: Path) -> Path:
    target = cpu_target(folder)
    make(target, jobs(folder / "onnx"), lambda *_: None)
    return target.folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for model in ("am_en_standard", "diar_standard"):
        export(tmp_path / "onnx", model)
    return built(tmp_path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    private, public = folder / "private.pem", folder / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def called(module: str, *arguments: object) -> tuple[int, str]:
    result = commands.run(module, *arguments)
    assert result.stdout == ""
    return result.returncode, result.stderr


def test_verifies_signed_bundle_and_rejects_changed_one(bundle: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    code, printed = called("build.verify", bundle, "--trusted-key", public)
    assert (code, printed.split(". ")[0]) == (15, f"error: {bundle}: it is not signed")
    assert called("build.sign", bundle, "--key", private)[0] == 0
    code, printed = called("build.verify", bundle, "--trusted-key", public)
    assert code == 0
    assert printed.endswith("; signed by a trusted key\n")
    manifest = bundle / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace('"platform": "embedded"', '"platform": "26.08"'))
    code, printed = called("build.verify", bundle, "--trusted-key", public)
    assert (code, printed.split(". ")[0]) == (15, f"error: {bundle}: its signature does not match its manifest")


def test_rejects_one_flipped_byte_in_any_file(bundle: Path) -> None:
    files = [each.file for each in load(bundle).every_file()]
    assert files
    for file in files:
        path = bundle / file
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        code, printed = called("build.verify", bundle)
        assert (code, printed.split(". ")[0]) == (42, f"error: {path}: its content does not match the manifest")
        path.write_bytes(whole)
    assert called("build.verify", bundle)[0] == 0


def test_does_not_sign_damaged_bundle(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "unlisted").write_text("")
    code, printed = called("build.sign", bundle, "--key", keys[0])
    assert (code, printed.split(". ")[0]) == (42, f"error: {bundle / 'unlisted'}: the manifest does not list it")
    assert load(bundle).signature is None


def _engines(folder: Path, *options: object) -> commands.Finished:
    """Run `build.engines` for the CPU with the graphs and the bundle of a folder."""
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", folder / "onnx", "--out", folder / "engines")
    return commands.run("build.engines", *arguments, "--json", *options)


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """A signed bundle, built by the command from the graphs next to it."""
    for model in ("am_en_standard", "decoder_standard"):
        export(tmp_path / "onnx", model, decoder() if model == "decoder_standard" else None)
    assert _engines(tmp_path).returncode == 0
    bundle = tmp_path / "engines" / "embedded" / "cpu"
    assert called("build.sign", bundle, "--key", keys[0])[0] == 0
    return bundle


def _dropped(bundle: Path, key: str) -> str:
    return (
        f"warning: {bundle}: the signature of key {key} was dropped, because the bundle has changed. "
        f"Sign it again with `python -m build.sign {bundle} --key PRIVATE_KEY`."
    )


def _key(bundle: Path) -> str:
    signature = load(bundle).signature
    assert signature is not None
    return signature.key


def test_unchanged_bundle_keeps_its_signature(signed: Path, tmp_path: Path) -> None:
    key = _key(signed)
    result = _engines(tmp_path)
    assert json.loads(result.stdout)["bundles"][0]["dropped_signature"] is None
    assert "warning" not in result.stderr
    assert _key(signed) == key


def test_reports_signature_dropped_by_forced_rebuild(signed: Path, tmp_path: Path) -> None:
    key = _key(signed)
    preview = _engines(tmp_path, "--force", "--dry-run")
    assert preview.stderr.splitlines()[-1] == f"bundle {signed}: a build would drop the signature of key {key}"
    assert _key(signed) == key
    result = _engines(tmp_path, "--force")
    assert _dropped(signed, key) in result.stderr.splitlines()
    assert json.loads(result.stdout)["bundles"][0]["dropped_signature"] == key
    assert load(signed).signature is None


def test_reports_signature_dropped_by_new_graph(signed: Path, tmp_path: Path) -> None:
    key = _key(signed)
    export(tmp_path / "onnx", "diar_standard")
    assert _dropped(signed, key) in _engines(tmp_path).stderr.splitlines()
    assert load(signed).signature is None


def test_reports_dropped_signature_of_older_schema(signed: Path, tmp_path: Path) -> None:
    """Such a manifest cannot be read, so that every engine is built again or taken from the store."""
    key, path = _key(signed), signed / MANIFEST_FILE
    path.write_text(path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 3', 1))
    assert _dropped(signed, key) in _engines(tmp_path).stderr.splitlines()
    assert load(signed).signature is None


def test_does_not_replace_signed_bundle_of_another_precision(signed: Path, tmp_path: Path) -> None:
    before = (signed / MANIFEST_FILE).read_bytes()
    for options in (("--dry-run",), ()):
        result = _engines(tmp_path, "--precision", "int8", *options)
        assert (result.returncode, result.stderr) == (
            13,
            f"error: {signed}: the bundle is signed, and this build would replace its fp32 engine decoder_standard "
            "batch with int8. Name another folder with --out, or replace the signed bundle with --force.\n",
        )
    assert (signed / MANIFEST_FILE).read_bytes() == before


def test_forced_precision_change_reports_precision_and_signature(signed: Path, tmp_path: Path) -> None:
    key = _key(signed)
    result = _engines(tmp_path, "--precision", "int8", "--force")
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines[0].startswith("build cpu am_en_standard batch     fp32 built: ")
    assert lines[1].startswith("build cpu decoder_standard batch   int8 built: replaces fp32; ")
    assert _dropped(signed, key) in lines
    assert lines[-1].startswith(f"bundle {signed}: 2 engines (1 fp32, 1 int8), ")
    assert [each["precision"] for each in json.loads(result.stdout)["bundles"][0]["engines"]] == ["fp32", "int8"]
