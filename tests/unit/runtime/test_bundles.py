"""Test the search for bundles: what is found, and the error where a folder holds none."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.arch import Arch
from contract.errors import BundleError, ManifestError, NoEngineError
from contract.manifest import MANIFEST_FILE
from runtime import bundles
from runtime.decision import observe
from runtime.options import command, parse, read
from tests.unit.runtime import synthetic

NAME_IT = (
    "Name the folder that holds the bundles with --engines or VOXWRIGHT_ENGINES, "
    "or build one with `python -m build.engines --arch cpu --platform embedded`."
)
NONE = f"it holds no bundle; the manifest of a bundle lies at <platform>/<arch>/{MANIFEST_FILE}"


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """Write one bundle and return the folder of bundles."""
    folder = tmp_path / "dist" / "engines"
    synthetic.write(folder / "embedded" / "cpu", synthetic.full_manifest(Arch.CPU, "embedded", "standard"))
    return folder


def error(folder: Path) -> str:
    """Return the error of a start, which must have exit code 41."""
    chosen = read(parse(command("test", ""), ["--engines", str(folder), "--platform", "embedded"]))
    with pytest.raises(NoEngineError) as refusal:
        observe(chosen, {}).selection_or_raise()
    assert refusal.value.exit_code == 41
    return str(refusal.value)


def test_rejects_bundle_whose_networks_take_features(tmp_path: Path) -> None:
    """Schema 3 is that of releases whose clients sent features and not audio."""
    folder = tmp_path / "embedded" / "cpu"
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("manifest-3.json"), folder / MANIFEST_FILE)
    chosen = read(parse(command("test", ""), ["--engines", str(tmp_path), "--platform", "embedded"]))
    with pytest.raises(ManifestError) as refusal:
        observe(chosen, {}).selection_or_raise()
    assert str(refusal.value) == (
        f"{folder}/{MANIFEST_FILE}: schema_version: it is 3, and this release reads 4. "
        "Build the bundle again with `python -m build.engines`, or use the release that wrote it."
    )


@pytest.mark.parametrize("level", [0, 1, 2])
def test_rejects_folder_that_cannot_be_read(engines: Path, monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    """It may hold the bundle that an operator wants, and another one would be served."""
    closed = (engines, engines / "embedded", engines / "embedded" / "cpu")[level]
    paths: dict[str, Callable[[Path], object]] = {"iterdir": Path.iterdir, "is_file": Path.is_file}

    def refusing(name: str) -> Callable[[Path], object]:
        def refuse(path: Path) -> object:
            if closed in (path, path.parent) and (name == "is_file") == (level == 2):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return paths[name](path)

        return refuse

    for name in paths:
        monkeypatch.setattr(Path, name, refusing(name))
    with pytest.raises(BundleError) as refusal:
        bundles.find(engines)
    remedy = f"Give the user with the id {os.geteuid()} the right to read it."
    assert str(refusal.value) == f"{closed}: it cannot be read (Permission denied). {remedy}"


def test_finds_bundles_below_a_folder_and_a_single_bundle(engines: Path) -> None:
    cpu = engines / "embedded" / "cpu"
    assert [bundle.folder for bundle in bundles.find(engines)] == [cpu]
    assert [bundle.folder for bundle in bundles.find(cpu)] == [cpu]


def test_rejects_missing_folder(tmp_path: Path) -> None:
    absent = tmp_path / "nope"
    assert error(absent) == f"--engines {absent}: there is no such folder. {NAME_IT}"


def test_rejects_empty_folder(tmp_path: Path) -> None:
    assert error(tmp_path) == f"--engines {tmp_path}: {NONE}. {NAME_IT}"


def test_rejects_file(tmp_path: Path) -> None:
    file = tmp_path / "engines.tar"
    file.touch()
    assert error(file) == f"--engines {file}: it is a file, and a folder of bundles is needed. {NAME_IT}"


def test_ignores_unfinished_bundle(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "embedded" / ".cpu.abc.partial", synthetic.full_manifest())
    assert error(tmp_path) == f"--engines {tmp_path}: {NONE}. {NAME_IT}"
    assert error(tmp_path / "embedded") == f"--engines {tmp_path}/embedded: {NONE}. {NAME_IT}"


@pytest.mark.parametrize(
    ("wrong", "cause", "intended"),
    [
        (lambda engines: engines / "embedded", NONE, ""),
        (lambda engines: engines.parent, NONE, ""),
        (lambda engines: engines / "embedded/cpu/body_standard", NONE, "embedded/cpu"),
        (lambda engines: engines / "embedded/cpu/body_standard/batch", NONE, "embedded/cpu"),
        (
            lambda engines: engines / "embedded/cpu" / MANIFEST_FILE,
            "it is a file, and a folder of bundles is needed",
            "embedded/cpu",
        ),
        (lambda engines: engines / "embedded/cpu/nope", "there is no such folder", "embedded/cpu"),
    ],
    ids=["one level too deep", "one level too high", "model", "mode", "manifest", "absent inside a bundle"],
)
def test_names_the_folder_near_by(engines: Path, wrong: Callable[[Path], Path], cause: str, intended: str) -> None:
    folder, right = wrong(engines), engines / intended
    assert error(folder) == f"--engines {folder}: {cause}. Use `--engines {right}` (or set VOXWRIGHT_ENGINES={right})."
    # The named folder works.
    assert len(bundles.find(right)) == 1


def test_relative_folder_one_level_too_deep(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(engines / "embedded")
    assert error(Path()) == f"--engines .: {NONE}. Use `--engines ..` (or set VOXWRIGHT_ENGINES=..)."
    monkeypatch.chdir(engines)
    assert error(Path("embedded")) == f"--engines embedded: {NONE}. Use `--engines .` (or set VOXWRIGHT_ENGINES=.)."


def test_folder_of_a_variable(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXWRIGHT_ENGINES", str(engines / "embedded"))
    chosen = read(parse(command("test", ""), ["--platform", "embedded"]))
    (refusal,) = observe(chosen, {}).refusals
    assert refusal.remedy == f"Use `--engines {engines}` (or set VOXWRIGHT_ENGINES={engines})"


def test_build_command_without_a_target(tmp_path: Path) -> None:
    refusal = bundles.explain_absence(tmp_path).error("python -m build.engines")
    assert refusal.remedy.endswith("or build one with `python -m build.engines`")
