"""build.sign and build.verify as commands, on a bundle of real engines."""

import subprocess
import sys
from pathlib import Path

import pytest

from build.bundle import Target, make
from contract.arch import Arch
from contract.manifest import MANIFEST_FILE, load
from contract.platform import platform
from tests.unit.engines.exported import cpu, export, jobs

ROOT = Path(__file__).parents[3]


def built(folder: Path, *, force: bool = False) -> Path:
    target = Target(
        folder=folder / "cpu",
        platform=platform("embedded"),
        arch=Arch.CPU,
        compiler=cpu(),
        store=folder / "store",
        force=force,
    )
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
    command = [sys.executable, "-m", module, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.stdout == ""
    return result.returncode, result.stderr


def test_a_signed_bundle_is_genuine_and_a_changed_one_is_not(bundle: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    code, said = called("build.verify", bundle, "--trusted-key", public)
    assert (code, said.split(". ")[0]) == (15, f"error: {bundle}: it is not signed")
    assert called("build.sign", bundle, "--key", private)[0] == 0
    code, said = called("build.verify", bundle, "--trusted-key", public)
    assert code == 0
    assert said.endswith("; signed by a trusted key\n")
    manifest = bundle / MANIFEST_FILE
    manifest.write_text(manifest.read_text().replace('"platform": "embedded"', '"platform": "26.08"'))
    code, said = called("build.verify", bundle, "--trusted-key", public)
    assert (code, said.split(". ")[0]) == (15, f"error: {bundle}: its signature does not fit its manifest")


def test_one_flipped_byte_in_any_file_fails(bundle: Path) -> None:
    files = [each.file for each in load(bundle).every_file()]
    assert files
    for file in files:
        path = bundle / file
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        code, said = called("build.verify", bundle)
        assert (code, said.split(". ")[0]) == (42, f"error: {path}: its content is not what the manifest says")
        path.write_bytes(whole)
    assert called("build.verify", bundle)[0] == 0


def test_a_damaged_bundle_is_not_signed(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "stranger").write_text("")
    code, said = called("build.sign", bundle, "--key", keys[0])
    assert (code, said.split(". ")[0]) == (42, f"error: {bundle / 'stranger'}: the manifest does not name it")
    assert load(bundle).signature is None


def test_building_again_takes_the_signature_away(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    called("build.sign", bundle, "--key", keys[0])
    assert load(bundle).signature is not None
    built(tmp_path, force=True)
    assert load(bundle).signature is None
