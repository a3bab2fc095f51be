"""Engines of graphs whose weights are in files of their own: built, listed, reused, refused when damaged."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import contract.verification
from build import bundle, gate, inspection, quantisation, reference, store
from build.bundle import make
from build.compilers import opset
from build.planning import plan
from contract import digest, manifest
from contract.arch import Arch
from contract.catalogue import INT8, read_catalogue
from contract.errors import BundleError, GraphError, ManifestError
from contract.graph import RECORD_FILE, data_file, load
from tests.unit.engines.exported import cpu, cpu_target, export, jobs
from tests.unit.engines.test_quantisation import decoder

MODEL, DATA = "diar_standard", data_file("model.onnx")
WEIGHTS = data_file("fp32.onnx")


def part(path: Path) -> None:
    """Move the weights of an exported graph into a second file, as export does for large ones, and list it."""
    model = onnx.load(path)
    for each in model.graph.initializer:
        each.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(each), each.name))
    onnx.save(model, path, save_as_external_data=True, location=data_file(path.name), size_threshold=100)
    record = json.loads((path.parent / RECORD_FILE).read_text())
    found = record["graphs"][path.stem]
    found |= _listed(path)
    found["data"] = [_listed(path.with_name(data_file(path.name)))]
    (path.parent / RECORD_FILE).write_text(json.dumps(record))


def _listed(path: Path) -> dict[str, str | int]:
    return {"file": path.name, "sha256": digest.of_file(path), "size_bytes": path.stat().st_size}


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reference, "SMALLEST_DATA_BYTES", 16)
    export(tmp_path / "onnx", MODEL)
    for name in ("fp32", "fp16"):
        part(tmp_path / "onnx" / MODEL / f"{name}.onnx")
    return tmp_path / "onnx"


def built(graphs: Path, folder: Path) -> str:
    """Build the bundle and return the outcome of its engine."""
    outcomes = []
    make(cpu_target(folder), jobs(graphs, MODEL), lambda _job, _record, outcome: outcomes.append(outcome))
    (outcome,) = outcomes
    return outcome


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    # Another file: the store may hold a link to this one.
    path.unlink()
    path.write_bytes(content)


def test_manifest_lists_the_weights(graphs: Path, tmp_path: Path) -> None:
    assert built(graphs, tmp_path) == bundle.BUILT
    made = manifest.load(tmp_path / "cpu")
    (record,) = made.engines
    (data,) = record.data
    path = tmp_path / "cpu" / MODEL / "batch" / DATA
    assert (data.file, data.sha256) == (f"{MODEL}/batch/{DATA}", digest.of_file(path))
    assert record.total_bytes == record.size_bytes + path.stat().st_size
    assert data in list(made.every_file())
    assert json.dumps(data.sha256).encode() in made.signed_bytes()
    assert manifest.BundleManifest.from_json(made.to_json(), "again") == made
    contract.verification.check(tmp_path / "cpu", made)


def test_engine_is_reused_with_its_weights(graphs: Path, tmp_path: Path) -> None:
    built(graphs, tmp_path)
    assert built(graphs, tmp_path) == bundle.UNCHANGED
    flip(tmp_path / "cpu" / MODEL / "batch" / DATA)
    assert built(graphs, tmp_path) == bundle.FROM_STORE
    contract.verification.check(tmp_path / "cpu", manifest.load(tmp_path / "cpu"))
    (entry,) = store.entries(tmp_path / "store")
    flip(entry.folder / MODEL / "batch" / DATA)
    flip(tmp_path / "cpu" / MODEL / "batch" / DATA)
    assert built(graphs, tmp_path) == bundle.BUILT


def test_other_weights_are_another_engine(graphs: Path, tmp_path: Path) -> None:
    """The ONNX file is the same: it only names the file with the weights."""
    (before,) = jobs(graphs, MODEL)
    path = graphs / MODEL / WEIGHTS
    flip(path)
    record = json.loads((path.parent / RECORD_FILE).read_text())
    record["graphs"]["fp32"]["data"] = [_listed(path)]
    (path.parent / RECORD_FILE).write_text(json.dumps(record))
    (after,) = jobs(graphs, MODEL)
    keys = [each.key_parts("onnxruntime", {}, {}) for each in (before, after)]
    assert [name for name in keys[0] if keys[0][name] != keys[1][name]] == ["graph", "reference"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (flip, "its content does not match the manifest"),
        (Path.unlink, "it is missing"),
        (lambda path: path.rename(path.with_name("other.data")), "the manifest does not list it (and 1 more)"),
    ],
    ids=["damaged", "missing", "renamed"],
)
def test_names_defect_of_weights_in_a_bundle(change: object, cause: str, graphs: Path, tmp_path: Path) -> None:
    built(graphs, tmp_path)
    path = tmp_path / "cpu" / MODEL / "batch" / DATA
    change(path)  # type: ignore[operator]
    named = path.with_name("other.data") if "list" in cause else path
    with pytest.raises(BundleError) as error:
        contract.verification.check(tmp_path / "cpu", manifest.load(tmp_path / "cpu"))
    assert str(error.value) == (
        f"{named}: {cause}. Build the bundle again with `python -m build.engines`, or copy it again from an intact "
        "source."
    )


@pytest.mark.parametrize(
    ("change", "cause"),
    [(flip, "it is damaged: its digest is not the one in the export record"), (Path.unlink, "the file is missing")],
    ids=["damaged", "missing"],
)
def test_names_defect_of_weights_of_a_graph(change: object, cause: str, graphs: Path, tmp_path: Path) -> None:
    path = graphs / MODEL / WEIGHTS
    change(path)  # type: ignore[operator]
    with pytest.raises(GraphError) as error:
        built(graphs, tmp_path)
    assert str(error.value) == f"{path}: {cause}. Run `python -m export --model {MODEL} --force`."


def test_names_unlisted_weights_of_a_graph(graphs: Path, tmp_path: Path) -> None:
    path = graphs / MODEL / RECORD_FILE
    record = json.loads(path.read_text())
    record["graphs"]["fp32"]["data"] = []
    path.write_text(json.dumps(record))
    with pytest.raises(GraphError) as error:
        built(graphs, tmp_path)
    assert error.value.subject == str(graphs / MODEL / WEIGHTS)
    assert error.value.cause == "the export record does not list it"


@pytest.mark.parametrize("name", ["../fp32.onnx.data", "/etc/hostname", "folder/fp32.onnx.data", ".."])
def test_record_names_no_file_outside_its_folder(name: str, graphs: Path) -> None:
    path = graphs / MODEL / RECORD_FILE
    record = json.loads(path.read_text())
    record["graphs"]["fp32"]["data"][0]["file"] = name
    path.write_text(json.dumps(record))
    with pytest.raises(ManifestError) as error:
        load(graphs / MODEL)
    assert f"graphs.fp32.data[0].file: {name!r} is not the name of a file in the folder" in str(error.value)


def test_weights_of_an_engine_lie_in_the_bundle(graphs: Path, tmp_path: Path) -> None:
    built(graphs, tmp_path)
    text = (tmp_path / "cpu" / "manifest.json").read_text().replace(f"{MODEL}/batch/{DATA}", f"../{DATA}")
    with pytest.raises(ManifestError, match="leads out of the bundle"):
        manifest.BundleManifest.from_json(text, "a test")


def test_inspection_reads_no_weights(graphs: Path) -> None:
    (graphs / MODEL / WEIGHTS).unlink()
    assert list(inspection.findings(graphs / MODEL / "fp32.onnx", Arch.SM86)) == []
    (job,) = jobs(graphs, MODEL)
    with pytest.raises(GraphError, match="it has no matrix product"):
        quantisation.large_products(job)


def test_older_opset_keeps_the_weights_in_a_file(graphs: Path, tmp_path: Path) -> None:
    source = graphs / MODEL / "fp32.onnx"
    lowered = tmp_path / "lowered" / source.name
    lowered.parent.mkdir()
    model = onnx.load(source, load_external_data=False)
    model.opset_import[0].version = 18
    onnx.save(model, source)
    opset.lower(source, lowered, 17)
    assert (lowered.parent / WEIGHTS).read_bytes() == (graphs / MODEL / WEIGHTS).read_bytes()
    assert onnx.load(lowered).opset_import[0].version == 17


def test_int8_engine_has_its_weights_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes what the INT8 engine of a single file computes, to the last bit."""
    monkeypatch.setattr(reference, "SMALLEST_DATA_BYTES", 16)
    engines = []
    for name in ("whole", "parted"):
        export(tmp_path / name / "onnx", "decoder_standard", decoder())
        if name == "parted":
            part(tmp_path / name / "onnx" / "decoder_standard" / "fp32.onnx")
        (job,) = plan(
            read_catalogue(),
            tmp_path / name / "onnx",
            Arch.CPU,
            cpu(),
            ("decoder_standard",),
            mode="batch",
            precision=INT8,
        )
        made = make(cpu_target(tmp_path / name), [job], lambda *_: None)
        engines.append((job, made.engines[0], tmp_path / name / "cpu" / made.engines[0].file))
        # The quantiser writes beside the graph for a while.
        assert not list(job.folder.glob("*inferred*"))
    (whole, first, ours), (_, second, theirs) = engines
    assert [first.precision, second.precision] == [INT8, INT8]
    assert (len(first.data), len(second.data)) == (0, 1)
    for feed in gate.gate_inputs(whole).values():
        found = (reference.run_session(reference.session(path), feed)["scores"] for path in (ours, theirs))
        assert np.array_equal(*found)
