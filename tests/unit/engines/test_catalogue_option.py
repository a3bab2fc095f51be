"""`--catalogue` and `--operating-point` of the build commands, and a catalogue without any optional role."""

import json
import shutil
from pathlib import Path

import pytest

from contract.catalogue import CATALOGUE_FOLDER, CATALOGUE_VARIABLE, read_catalogue
from contract.manifest import load
from tests.unit.engines import commands
from tests.unit.engines.exported import export, speak

FAMILIES = ("body", "am_en", "ensemble_en")
MODEL = "am_en_only"


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """Return the folder of a catalogue with body and head alone, at one operating point of another name."""
    folder = tmp_path / "catalogue"
    for family in FAMILIES:
        shutil.copytree(CATALOGUE_FOLDER / family, folder / family)
        path = folder / family / "model.toml"
        path.write_text(path.read_text().replace('["standard", "enhanced"]', '["only"]'))
    (folder / "catalogue.toml").write_text('schema_version = 2\noperating_points = ["only"]\n')
    return folder


@pytest.fixture
def graphs(catalogue: Path, tmp_path: Path) -> Path:
    for model in read_catalogue(catalogue).models():
        if not model.startswith("ensemble"):
            export(tmp_path / "onnx", model)
    speak(tmp_path / "onnx", "am_en_only", "one two", "three four")
    return tmp_path / "onnx"


def test_builds_body_and_head_alone(graphs: Path, catalogue: Path, tmp_path: Path) -> None:
    options = ("--catalogue", catalogue, "--onnx", graphs, "--out", tmp_path / "engines")
    result = commands.run("build.engines", "--arch", "cpu", *options)
    assert result.returncode == 0, result.stderr
    made = load(tmp_path / "engines" / "embedded" / "cpu")
    assert [(each.model, each.mode) for each in made.engines] == [
        ("am_en_only", "batch"),
        ("am_en_only", "realtime"),
        ("body_only", "batch"),
        ("body_only", "realtime"),
    ]
    assert [(each.model, each.mode, each.words, each.wrong) for each in made.accuracy] == [
        ("ensemble_en_only", "batch", 4, 0),
        ("ensemble_en_only", "realtime", 4, 0),
    ]


def test_variable_names_the_catalogue(
    graphs: Path, catalogue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CATALOGUE_VARIABLE, str(catalogue))
    options = ("--mode", "batch", "--operating-point", "only", "--onnx", graphs, "--out", tmp_path / "engines")
    result = commands.run("build.engines", "--arch", "cpu", *options, "--dry-run", "--json")
    assert [each["model"] for each in json.loads(result.stdout)["bundles"][0]["engines"]] == ["am_en_only", "body_only"]


@pytest.mark.parametrize("module", ["build.engines", "build.check"])
def test_rejects_folder_that_is_no_catalogue(module: str, tmp_path: Path) -> None:
    arch = {"build.engines": "cpu", "build.check": "sm80"}[module]
    result = commands.run(module, "--arch", arch, "--catalogue", tmp_path)
    assert (result.returncode, result.stderr) == (
        11,
        f"error: {tmp_path}: it holds no catalogue.toml, so it is not a catalogue. "
        "Name the folder of a catalogue, or reinstall the package.\n",
    )


def test_rejects_operating_point_that_the_catalogue_lacks(catalogue: Path) -> None:
    arguments = ("--arch", "cpu", "--catalogue", catalogue, "--operating-point", "standard")
    result = commands.run("build.engines", *arguments)
    assert (result.returncode, result.stderr) == (
        10,
        f"error: --operating-point: 'standard' is not an operating point of {catalogue}. Use only.\n",
    )
    reference = commands.run("build.engines", "--arch", "cpu", "--operating-point", "only")
    assert reference.stderr == (
        f"error: --operating-point: 'only' is not an operating point of {CATALOGUE_FOLDER}. Use standard or enhanced.\n"
    )


def test_rejects_exports_of_an_earlier_release(graphs: Path, catalogue: Path, tmp_path: Path) -> None:
    """Their graphs take features, and their records have no facts for clients."""
    path = graphs / "body_only" / "record.json"
    path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 1', 1))
    options = ("--catalogue", catalogue, "--onnx", graphs, "--out", tmp_path / "engines")
    result = commands.run("build.engines", "--arch", "cpu", *options)
    assert (result.returncode, result.stderr) == (
        12,
        f"error: {path}: schema_version: it is 1, and this release reads 2. "
        "Run `python -m export` again, or use the release that wrote it.\n",
    )
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("own", [False, True])
def test_does_not_replace_folder_of_other_files(own: bool, graphs: Path, catalogue: Path, tmp_path: Path) -> None:
    kept = tmp_path / "engines" / "catalogue" / "customers.csv"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    chosen = ("--catalogue", catalogue if own else CATALOGUE_FOLDER)
    result = commands.run(
        "build.engines", "--arch", "cpu", "--onnx", graphs, "--out", tmp_path / "engines", *chosen, "--model", MODEL
    )
    assert (result.returncode, result.stderr) == (
        10,
        f"error: --out {tmp_path / 'engines'}: {kept.parent} is not a catalogue, and it would be replaced. "
        "Name another folder, or move this one to another place.\n",
    )
    assert kept.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "engines", "onnx"]


def test_replaces_catalogue_of_an_earlier_build(tmp_path: Path, catalogue: Path, graphs: Path) -> None:
    out = tmp_path / "engines"
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", out)
    own = commands.run("build.engines", *arguments, "--catalogue", catalogue, "--model", MODEL)
    assert (own.returncode, read_catalogue(out / "catalogue").operating_points) == (0, ("only",))
    export(graphs, "am_en_standard")
    reference = commands.run("build.engines", *arguments, "--catalogue", CATALOGUE_FOLDER, "--model", "am_en_standard")
    assert reference.returncode == 0, reference.stderr
    assert not (out / "catalogue").exists()


def test_copies_only_the_files_of_a_catalogue_that_contains_out(graphs: Path, catalogue: Path) -> None:
    (catalogue / "README.md").touch()
    for _ in range(2):
        result = commands.run(
            "build.engines", "--arch", "cpu", "--mode", "batch", "--model", MODEL, "--onnx", graphs,
            "--catalogue", catalogue, "--out", catalogue / "engines",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    kept = catalogue / "engines" / "catalogue"
    assert sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()) == [
        "am_en/model.toml",
        "body/model.toml",
        "catalogue.toml",
        "ensemble_en/model.toml",
    ]
    assert read_catalogue(kept).families == read_catalogue(catalogue).families
