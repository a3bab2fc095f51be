"""Bundles: which engines are built, reused or rejected, and the state after a failure."""

import json
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from onnx import numpy_helper

from build import bundle, gate, locks, store
from build.bundle import Target, make
from contract import digest, files, manifest, verification
from contract.arch import Arch
from contract.errors import CompileError, GateError, GraphError, OutputError
from tests.integration.networks import network
from tests.unit.engines import commands
from tests.unit.engines.exported import cpu, cpu_target, export, jobs

ROOT = Path(__file__).parents[3]
KILLS = 20
MODELS = ("am_en_standard", "body_standard", "diar_standard")


def _make(onnx_folder: Path, target: Target, *names: str) -> dict[str, str]:
    outcomes = {}
    make(target, jobs(onnx_folder, *names), lambda job, _, outcome: outcomes.update({job.record.model: outcome}))
    return outcomes


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    for model in MODELS:
        export(tmp_path / "onnx", model)
    return tmp_path / "onnx"


def test_manifest_describes_every_engine(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    made = manifest.load(tmp_path / "cpu")
    assert (made.platform, made.arch, [record.model for record in made.engines]) == ("embedded", Arch.CPU, list(MODELS))
    body = made.engines[1]
    assert (body.file, body.mode, body.precision, body.max_batch) == (
        "body_standard/batch/model.onnx",
        "batch",
        "fp32",
        16,
    )
    assert body.inputs[0] == manifest.BoundTensor(name="audio", type="FP32", dims=(-1, -1))
    assert body.gate.outcome == manifest.PASSED
    assert body.gate.reason == "4 inputs"
    # ONNX Runtime's graphs accept any shape, and a CPU has no device memory.
    assert (body.profile, body.device_memory_bytes, body.files) == (None, None, ())
    assert list(body.built_on) == ["processor"]
    assert [each.output for each in body.gate.parity] == ["encoder_out", "encoder_lengths"]
    assert manifest.BundleManifest.from_json(made.to_json(), "again") == made


def test_report_lists_built_and_reused_engines(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path), "body_standard")
    _make(graphs, cpu_target(tmp_path))
    made, page = manifest.load(tmp_path / "cpu"), tmp_path / "cpu" / "report.html"
    named = {each.file: each.sha256 for each in made.files}
    assert named["report.html"] == digest.of_file(page)
    assert "2 built, 1 reused<" in page.read_text()


def test_reuses_unchanged_engines(graphs: Path, tmp_path: Path) -> None:
    assert set(_make(graphs, cpu_target(tmp_path)).values()) != {"unchanged"}
    engine = tmp_path / "cpu" / "diar_standard" / "batch" / "model.onnx"
    before = engine.stat().st_ino
    assert _make(graphs, cpu_target(tmp_path)) == dict.fromkeys(MODELS, "unchanged")
    assert engine.stat().st_ino == before
    assert "unchanged" not in _make(graphs, cpu_target(tmp_path, force=True)).values()


def test_rebuilds_only_changed_engines(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    changed = onnx.load_from_string(network("diar_standard"))
    changed.producer_name = "another exporter"
    export(graphs, "diar_standard", changed.SerializeToString())
    outcomes = _make(graphs, cpu_target(tmp_path))
    assert [model for model, outcome in outcomes.items() if outcome != "unchanged"] == ["diar_standard"]


def test_rebuilds_damaged_engine(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    (tmp_path / "cpu" / "body_standard" / "batch" / "model.onnx").write_bytes(b"")
    outcomes = _make(graphs, cpu_target(tmp_path))
    assert [model for model, outcome in outcomes.items() if outcome != "unchanged"] == ["body_standard"]


def test_keeps_other_models_in_bundle(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    assert list(_make(graphs, cpu_target(tmp_path), "diar_standard")) == ["diar_standard"]
    assert [record.model for record in manifest.load(tmp_path / "cpu").engines] == list(MODELS)


def test_rejects_damaged_graph_before_building(graphs: Path, tmp_path: Path) -> None:
    path = graphs / "diar_standard" / "fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GraphError) as refusal:
        _make(graphs, cpu_target(tmp_path))
    assert str(refusal.value) == (
        f"{path}: it is damaged: its digest is not the one in the export record. "
        "Run `python -m export --model diar_standard --force`."
    )
    assert not (tmp_path / "cpu").exists()


def test_names_missing_graph(graphs: Path, tmp_path: Path) -> None:
    path = graphs / "diar_standard" / "fp32.onnx"
    path.unlink()
    with pytest.raises(GraphError, match="the file is missing"):
        _make(graphs, cpu_target(tmp_path))


def test_names_missing_precision(graphs: Path, tmp_path: Path) -> None:
    path = graphs / "diar_standard" / "record.json"
    record = json.loads(path.read_text())
    del record["graphs"]["fp32"]
    path.write_text(json.dumps(record))
    with pytest.raises(GraphError) as refusal:
        _make(graphs, cpu_target(tmp_path), "diar_standard")
    assert str(refusal.value) == (
        f"{graphs / 'diar_standard'}: it holds no fp32 graph. "
        "Run `python -m export --model diar_standard`, which exports every graph."
    )


def test_compiler_rejects_file_that_is_no_graph(graphs: Path, tmp_path: Path) -> None:
    export(graphs, "diar_standard", b"not an ONNX graph")
    with pytest.raises(CompileError, match="diar_standard batch: ONNX Runtime rejects the graph"):
        _make(graphs, cpu_target(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx", "store"]
    # Engines built before the failure are in the store.
    kept = sorted(entry.record.model for entry in store.entries(tmp_path / "store"))
    assert kept == ["am_en_standard", "body_standard"]
    assert list((tmp_path / "store").rglob("*.partial")) == []


def test_rejects_types_that_differ_from_catalogue(graphs: Path, tmp_path: Path) -> None:
    changed = onnx.load_from_string(network("diar_standard"))
    changed.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    changed.graph.node[-1].output[0] = "direction_of_unit_length"
    narrow = onnx.helper.make_node("Cast", ["direction_of_unit_length"], ["embedding"], to=onnx.TensorProto.FLOAT16)
    changed.graph.node.append(narrow)
    export(graphs, "diar_standard", changed.SerializeToString())
    with pytest.raises(CompileError) as refusal:
        _make(graphs, cpu_target(tmp_path))
    assert "the engine's tensors are" in str(refusal.value)
    assert "'embedding': 'FP16'" in str(refusal.value)


def test_gate_rejects_engine_that_differs_from_graph(graphs: Path, tmp_path: Path) -> None:
    """The error names the output with the largest value/limit ratio."""
    job = next(job for job in jobs(graphs) if job.record.model == "body_standard")
    wrong = onnx.load_from_string(network("body_standard"))
    hop = next(value for value in wrong.graph.initializer if value.name == "hop")
    hop.CopyFrom(numpy_helper.from_array(np.array([800], dtype=np.int32), "hop"))
    engine = tmp_path / "wrong.onnx"
    onnx.save(wrong, engine)
    with pytest.raises(GateError) as refusal:
        gate.check(job, cpu(), engine)
    assert str(refusal.value) == (
        "body_standard batch for cpu: the engine differs from its graph: encoder_lengths differs by 1.0e+00 "
        "(differing, allowed 0e+00) (random batch 1 samples 32000). "
        "Correct the computation of that output, or set a wider tolerance in the catalogue."
    )


def test_failed_gate_keeps_old_bundle(graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _make(graphs, cpu_target(tmp_path))
    before = (tmp_path / "cpu" / manifest.MANIFEST_FILE).read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise GateError("an engine", "it is wrong", "Correct it")

    monkeypatch.setattr(gate, "check", fail)
    with pytest.raises(GateError):
        _make(graphs, cpu_target(tmp_path, force=True))
    assert (tmp_path / "cpu" / manifest.MANIFEST_FILE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu", "onnx", "store"]
    assert list((tmp_path / "store").rglob("*.partial")) == []


def test_killed_build_keeps_old_bundle_intact(graphs: Path, tmp_path: Path) -> None:
    target = replace(cpu_target(tmp_path / "embedded"), store=tmp_path.parent / f"{tmp_path.name}-store")
    _make(graphs, target)
    command = [sys.executable, "-m", "build.engines", "--arch", "cpu", "--force", "--onnx", str(graphs)]
    command += ["--out", str(tmp_path), "--store", str(target.store)]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=True)
    whole_run = time.monotonic() - began
    _make(graphs, target)
    source = random.Random(7)
    for _ in range(KILLS):
        before = manifest.load(target.folder)
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(source.uniform(0.3, 1.05) * whole_run)
        child.send_signal(signal.SIGKILL)
        child.wait()
        after = manifest.load(target.folder)
        verification.check(target.folder, after)
        assert [record.key for record in after.engines] == [record.key for record in before.engines]
    assert _make(graphs, target) == dict.fromkeys(MODELS, "unchanged")


def test_reports_unwritable_folder_in_one_sentence(graphs: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    command = [sys.executable, "-m", "build.engines", "--arch", "cpu", "--onnx", str(graphs), "--out", str(blocked)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 13
    assert result.stderr == (
        f"error: {blocked}/embedded: cannot be written (Not a directory). Choose a folder that you may write to.\n"
    )


def test_second_bundle_takes_engines_from_store(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    other = replace(cpu_target(tmp_path), folder=tmp_path / "other")
    assert _make(graphs, other) == dict.fromkeys(MODELS, bundle.FROM_STORE)
    verification.check(other.folder, manifest.load(other.folder))


def test_bundle_without_store_is_reused(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    moved = replace(cpu_target(tmp_path), store=tmp_path / "empty")
    assert _make(graphs, moved) == dict.fromkeys(MODELS, bundle.UNCHANGED)
    assert len(list(store.entries(moved.store))) == len(MODELS)


def test_rebuilds_damaged_store_entry(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    entry = next(each for each in store.entries(tmp_path / "store") if each.record.model == "diar_standard")
    engine = entry.folder / entry.record.file
    engine.unlink()
    engine.write_bytes(b"damaged")
    other = replace(cpu_target(tmp_path), folder=tmp_path / "other")
    assert _make(graphs, other) == {**dict.fromkeys(MODELS, bundle.FROM_STORE), "diar_standard": bundle.BUILT}


@pytest.mark.parametrize("engines", [0, 1, 2])
def test_rebuilds_store_entry_of_another_key(graphs: Path, tmp_path: Path, engines: int) -> None:
    """A copied entry, or one without engines, is not the engine of its key."""
    _make(graphs, cpu_target(tmp_path))
    head, body, _ = store.entries(tmp_path / "store")
    made = manifest.load(body.folder)
    files.remove(head.folder)
    for each in body.record.every_file():
        files.link_or_copy(body.folder / each.file, head.folder / each.file)
    files.write(head.folder / manifest.MANIFEST_FILE, replace(made, engines=made.engines * engines).to_json())
    other = replace(cpu_target(tmp_path), folder=tmp_path / "other")
    outcomes = _make(graphs, other)
    assert outcomes == {**dict.fromkeys(MODELS, bundle.FROM_STORE), head.record.model: bundle.BUILT}
    assert [each.model for each in manifest.load(other.folder).engines] == list(MODELS)


def test_does_not_touch_unchanged_bundle(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    path = tmp_path / "cpu" / manifest.MANIFEST_FILE
    before = path.stat()
    _make(graphs, cpu_target(tmp_path))
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_record_lists_changes_since_last_build(graphs: Path, tmp_path: Path) -> None:
    _make(graphs, cpu_target(tmp_path))
    assert all(record.changes == () for record in manifest.load(tmp_path / "cpu").engines)
    changed = onnx.load_from_string(network("diar_standard"))
    changed.producer_name = "another exporter"
    export(graphs, "diar_standard", changed.SerializeToString())
    _make(graphs, cpu_target(tmp_path))
    records = {record.model: record for record in manifest.load(tmp_path / "cpu").engines}
    assert [change.part for change in records["diar_standard"].changes] == ["graph", "reference"]
    assert records["body_standard"].changes == ()


def test_builds_engines_in_parallel_processes(graphs: Path, tmp_path: Path) -> None:
    assert list(_make(graphs, replace(cpu_target(tmp_path), processes=2))) == list(MODELS)
    verification.check(tmp_path / "cpu", manifest.load(tmp_path / "cpu"))


def _refusal(folder: Path) -> str:
    return (
        f"error: {folder}: another build, or build.sign, changes this bundle at the moment. "
        "Run the command again after that one has ended, or name another folder.\n"
    )


def test_second_build_into_the_same_bundle_is_rejected(graphs: Path, tmp_path: Path) -> None:
    """Its manifest would lack the engines of the first one."""
    arguments = ("--arch", "cpu", "--mode", "batch", "--onnx", graphs, "--out", tmp_path)
    folder, results = tmp_path / "embedded" / "cpu", []
    target = replace(cpu_target(tmp_path), folder=folder)

    def second(*_: object) -> None:
        results.append(commands.run("build.engines", *arguments, "--model", "body_standard"))

    make(target, jobs(graphs, "diar_standard"), second)
    assert [(each.returncode, each.stderr) for each in results] == [(13, _refusal(folder))]
    assert commands.run("build.engines", *arguments, "--model", "body_standard").returncode == 0
    assert [record.model for record in manifest.load(folder).engines] == ["body_standard", "diar_standard"]
    assert [path.name for path in folder.parent.iterdir()] == ["cpu"]


def test_does_not_sign_bundle_during_a_build(graphs: Path, tmp_path: Path) -> None:
    """The signed manifest of the old bundle would be written into the new one."""
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key").write_bytes(key)
    _make(graphs, cpu_target(tmp_path), "diar_standard")
    results = []

    def sign(*_: object) -> None:
        results.append(commands.run("build.sign", tmp_path / "cpu", "--key", tmp_path / "key"))

    make(cpu_target(tmp_path, force=True), jobs(graphs, "diar_standard"), sign)
    assert [(each.returncode, each.stderr) for each in results] == [(13, _refusal(tmp_path / "cpu"))]
    assert commands.run("build.sign", tmp_path / "cpu", "--key", tmp_path / "key").returncode == 0


def test_does_not_prune_engines_of_a_running_build(graphs: Path, tmp_path: Path) -> None:
    """They are in no bundle until the build ends."""
    results = []

    def prune(*_: object) -> None:
        results.append(commands.run("build.store", "--store", tmp_path / "store", "--prune"))

    make(cpu_target(tmp_path), jobs(graphs, "diar_standard"), prune)
    assert [(each.returncode, each.stdout, each.stderr) for each in results] == [
        (
            13,
            "",
            f"error: {tmp_path / 'store'}: a build uses this store at the moment, and its engines are in no bundle "
            "yet. Run the command again after the build has ended.\n",
        )
    ]
    verification.check(tmp_path / "cpu", manifest.load(tmp_path / "cpu"))
    assert commands.run("build.store", "--store", tmp_path / "store", "--prune").returncode == 0
    assert commands.run("build.store", "--store", tmp_path / "absent", "--prune").returncode == 0
    assert not (tmp_path / "absent").exists()


def test_lock_of_a_killed_build_is_released(tmp_path: Path) -> None:
    code = f"from build import locks; from pathlib import Path\nwith locks.bundle(Path({str(tmp_path / 'cpu')!r})): "
    code += "print('locked', flush=True); import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"locked\n"
    with pytest.raises(OutputError), locks.bundle(tmp_path / "cpu"):
        pass
    child.kill()
    child.communicate()
    with locks.bundle(tmp_path / "cpu"):
        assert (tmp_path / ".cpu.lock").is_file()
    assert list(tmp_path.iterdir()) == []


def test_two_builds_share_the_store(graphs: Path, tmp_path: Path) -> None:
    """The second build waits for the first and finds the engine in the store, so that each is built once."""
    folders = [tmp_path / name for name in ("one", "two")]
    command = [
        sys.executable,
        "-m",
        "build.engines",
        "--arch",
        "cpu",
        "--mode",
        "batch",
        "--json",
        "--onnx",
        str(graphs),
    ]
    command += ["--store", str(tmp_path / "store"), "--out"]

    def build(folder: Path) -> list[str]:
        result = subprocess.run([*command, folder], cwd=ROOT, capture_output=True, check=True)
        (made,) = json.loads(result.stdout)["bundles"]
        return [engine["outcome"] for engine in made["engines"]]

    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(build, folders))
    assert [sorted(pair) for pair in zip(*outcomes, strict=True)] == [[bundle.BUILT, bundle.FROM_STORE]] * len(MODELS)
    for folder in folders:
        verification.check(folder / "embedded" / "cpu", manifest.load(folder / "embedded" / "cpu"))
