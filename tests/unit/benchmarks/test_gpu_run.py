"""The proof on a GPU as one command, on a made-up GPU whose kernels are ONNX Runtime's."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from benchmarks.gpu import proof, results
from benchmarks.gpu.__main__ import command
from benchmarks.gpu.graphs import PRODUCTION_MODEL
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import GPU_BUDGET_S, STEPS, Step
from tests.fakes.driver import ROOT, needs_bindings, python
from tests.fakes.tensorrt import NAMES
from tests.integration.networks import network
from tests.unit.benchmarks.gpu_host import CURRENT, LEGACY, GpuHost, states
from tests.unit.engines.exported import export

ENGINES = {f"{model} {mode}" for model in ("am_en_standard", "body_standard", "diar_standard")
           for mode in ("batch", "realtime")}  # fmt: skip
ALL_PASSED = dict.fromkeys(STEPS, "passed")


@pytest.fixture(scope="module", params=[CURRENT, LEGACY])
def proved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GpuHost:
    host = GpuHost(tmp_path_factory.mktemp("proof"), request.param)
    host.export(host.out / "onnx-production", PRODUCTION_MODEL)
    accepted = ("--accept-tensorrt",) if request.param == LEGACY else ()
    done = host.run("--production", *accepted)
    assert (done.returncode, states(done.stdout)) == (0, ALL_PASSED), done.stdout + done.stderr
    return host


@needs_bindings
class TestWholeRun:
    def test_detects_the_host(self, proved: GpuHost) -> None:
        found = proved.values("detect")
        assert found["gpu"]["name"] == "NVIDIA H100 80GB HBM3"
        assert found["detection"]["gpus"][0]["capability"] == [9, 0]
        assert found["torch"]["torch"] == "2.13.0"
        assert found["doctor"]["exit_code"] == 41

    def test_builds_every_network_in_both_modes(self, proved: GpuHost) -> None:
        found = proved.values("build")
        assert found["engines"].keys() == ENGINES
        assert (found["arch"], found["tensorrt"]) == ("sm90", proved.values("detect")["tensorrt"]["build"])
        body = found["engines"]["body_standard batch"]
        assert (body["gate"], body["device_memory_bytes"]) == ("passed", 1 << 20)
        assert body["size_bytes"] > 1000

    def test_collects_the_gate_over_corners_and_real_audio(self, proved: GpuHost) -> None:
        body = proved.values("gate")["engines"]["body_standard-batch"]
        assert (body["outcome"], body["cases"], body["real_audio_cases"]) == ("passed", 4, 1)
        assert body["outputs"]["encoder_out"]["limit"] == 0.02
        assert body["outputs"]["encoder_out"]["share_of_limit"] < 1.0

    def test_times_every_bucket_and_batch(self, proved: GpuHost) -> None:
        found = proved.values("latency")
        body = found["engines"]["body_standard-batch"]["cases"]
        assert len(body) == 30
        longest = next(row for row in body if row["case"] == "batch 16 samples 320000")
        assert longest["audio_s"] == 320.0
        assert longest["hours_an_hour"] == pytest.approx(320.0 / (longest["queued_ms"] / 1000), rel=1e-3)
        assert [row["case"] for row in body if row["is_optimum"]] == ["batch 8 samples 128000"]
        ratios = found["ratios"]["body_standard-batch"]
        assert (ratios["eager"]["cases"], ratios["compile"]["cases"]) == (30, 1)

    def test_holds_the_production_body_against_the_floor(self, proved: GpuHost) -> None:
        found = proved.values("production")
        row = found["floors"]["cases"][0]
        # Two products of 48 x 48 x 8, and a convolution of 8 samples into 8 channels.
        assert row["operations"] == 2 * 2 * 48 * 48 * 8 + 2 * 48 * 8 * 8
        assert row["floor_ms"] == max(row["compute_ms"], row["memory_ms"])
        assert row["times_floor"] == pytest.approx(row["median_ms"] / row["floor_ms"])
        assert found["parity"]["outputs"]["encoder_out"]["value"] < 0.02

    def test_measures_the_ceiling_with_cuda_graphs(self, proved: GpuHost) -> None:
        found = proved.values("ceiling")["standard"]
        assert found["models"] == ["body_standard", "am_en_standard", "diar_standard"]
        longest = found["cases"][-1]
        # 320 s of audio in segments of 20 s, 16 side by side.
        assert (longest["case"], longest["speaker_runs"]) == ("batch 16 samples 320000", 1)
        assert longest["hours_an_hour_graph"] > longest["hours_an_hour"]

    def test_times_a_body_with_its_softmax_in_half_precision(self, proved: GpuHost) -> None:
        found = proved.values("layers")
        assert found["engines"]["body_standard-batch"]["attention_in_graph"] == 1
        assert (found["softmax"]["engine"], found["softmax"]["softmaxes"]) == ("body_standard-batch", 1)
        graph = onnx.load(proved.out / "layers" / "body_standard-batch" / "fp16-softmax.onnx")
        onnx.checker.check_model(graph, full_check=True)

    def test_reports_all_of_it(self, proved: GpuHost) -> None:
        summary = json.loads((proved.out / "summary.json").read_text())
        assert summary["steps"]["latency"]["status"] == "passed"
        assert summary["hours_an_hour"]["standard"] > 0
        assert summary["attention"]["am_en_standard-batch"] == "no attention"
        page = (proved.out / "report.md").read_text()
        for title in ("Engines", "Gate: the worst of every output", "Latency", "Body of production size", "Layers"):
            assert f"\n## {title}\n" in page
        assert {path.name for path in (proved.out / "plots").iterdir()} == {
            *("latency.png", "ratios.png", "ceiling.png", "floor.png"),
        }

    def test_uses_no_name_that_the_library_lacks(self, proved: GpuHost) -> None:
        calls = proved.folder / "calls"
        arguments = ("-m", "benchmarks.gpu.child", str(proved.out), "ceiling")
        done = python(proved.libraries, *arguments, VOXWRIGHT_CALLS=str(calls))
        assert done.returncode == 0, done.stderr
        version = LEGACY if proved.values("build")["platform"] == "23.12" else CURRENT
        used = [line.split(".") for line in calls.read_text().splitlines()]
        assert [f"{kind}.{name}" for kind, name in used if name not in NAMES[version]["classes"][kind]] == []
        assert ["IExecutionContext", "set_tensor_address"] in used

    def test_skips_what_has_a_result(self, proved: GpuHost) -> None:
        built = proved.out / "build.json"
        before = built.stat().st_mtime_ns
        accepted = ("--accept-tensorrt",) if proved.values("build")["platform"] == "23.12" else ()
        done = proved.run("--step", "build", "--step", "gate", *accepted)
        assert states(done.stdout) == {"detect": "passed", "build": "skipped", "gate": "skipped"}
        assert f"build       skipped: {built} exists" in done.stdout
        assert built.stat().st_mtime_ns == before


@needs_bindings
def test_goes_on_after_an_engine_that_is_wrong(tmp_path: Path) -> None:
    host = GpuHost(tmp_path)
    right = network("diar_standard")
    wrong = onnx.load_model_from_string(right)
    # An embedding in another direction than that of the graph in FP32.
    silence = next(each for each in wrong.graph.initializer if each.name == "silence")
    silence.CopyFrom(onnx.numpy_helper.from_array(np.eye(6, dtype=np.float32)[1], "silence"))
    export(host.onnx, "diar_standard", right, wrong.SerializeToString())
    done = host.run()
    assert done.returncode == 1
    found = states(done.stdout)
    assert {name for name, state in found.items() if state == "failed"} == {"build", "gate"}
    diar = host.values("build")["engines"]["diar_standard batch"]
    assert diar["failure"]["kind"] == "GateError"
    assert diar["failure"]["exit_code"] == 33
    assert "raise GateError" in diar["failure"]["traceback"]
    # It is measured all the same, and the page marks it.
    assert host.values("latency")["engines"]["diar_standard-batch"]["passed_gate"] is False
    assert host.result("gate")["failure"]["sentence"].startswith(
        "gate: 2 failed, the first of them: diar_standard-batch"
    )


@needs_bindings
def test_resumes_after_a_kill(tmp_path: Path) -> None:
    host = GpuHost(tmp_path)
    assert states(host.run("--step", "build").stdout)["build"] == "passed"
    # Slow enough to be killed in the middle.
    slow = host.arguments("--step", "latency", "--seconds-per-case", "0.05")
    script = (
        "from pathlib import Path; from tests.fakes.driver import python;"
        f"python(Path({str(host.libraries)!r}), *{slow!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    first = _wait_for(host.out / "latency", "am_en_standard-batch-*.json")
    _kill_session(process)
    assert not (host.out / "latency.json").exists()
    before = first.stat().st_mtime_ns
    done = host.run("--step", "build", "--step", "latency")
    assert states(done.stdout) == {"detect": "passed", "build": "skipped", "latency": "passed"}, done.stdout
    assert first.stat().st_mtime_ns == before
    assert len(host.values("latency")["engines"]) == 6


@needs_bindings
def test_refuses_another_architecture(tmp_path: Path) -> None:
    host = GpuHost(tmp_path)
    done = host.run("--arch", "sm80")
    assert done.returncode == 31
    found = states(done.stdout)
    assert {name for name, state in found.items() if state == "blocked"} == {"build", "latency", "ceiling", "layers"}
    assert found["detect"] == "failed"
    assert host.values("detect")["gpu"]["failure"]["sentence"] == (
        "--arch sm80: the GPU here is NVIDIA H100 80GB HBM3, which is sm90. Leave --arch out, or use the other GPU."
    )
    assert host.result("build")["failure"]["sentence"] == "the step detect failed"


@needs_bindings
def test_refuses_a_host_without_a_gpu(tmp_path: Path) -> None:
    host = GpuHost(tmp_path, GPUS="0", INIT="100")
    done = host.run("--step", "build")
    assert (done.returncode, states(done.stdout)) == (40, {"detect": "failed", "build": "blocked"})


@needs_bindings
def test_refuses_a_tensorrt_of_no_platform(tmp_path: Path) -> None:
    host = GpuHost(tmp_path, LEGACY)
    done = host.run("--step", "build")
    assert done.returncode == 31
    assert host.values("detect")["tensorrt"]["failure"]["sentence"] == (
        "TensorRT: no platform has TensorRT 8.6.0. "
        "Use the TensorRT container of a platform, or measure with --accept-tensorrt."
    )


@needs_bindings
def test_refuses_results_of_another_gpu(tmp_path: Path) -> None:
    host = GpuHost(tmp_path)
    host.out.mkdir()
    (host.out / "gpu.json").write_text(json.dumps({"gpu": "NVIDIA A10", "tensorrt": CURRENT}))
    done = host.run("--step", "build")
    assert done.returncode == 10
    assert "it holds results of NVIDIA A10 with TensorRT 11.2.1.2" in host.result("detect")["failure"]["sentence"]


def test_a_dry_run_lists_steps_and_runs_none(tmp_path: Path) -> None:
    out = tmp_path / "gpu"
    done = CliRunner().invoke(command, ["--dry-run", "--production", "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines[:-1:2]] == list(STEPS)
    assert lines[3] == f"{'':<24}writes {out}/detect.json"
    assert lines[-1] == "together    1500 s  of 1500 s of GPU time, `graphs` not counted"
    assert not out.exists()


def test_a_dry_run_imports_nothing_heavy() -> None:
    script = (
        "import sys; from benchmarks.gpu.__main__ import command;"
        "command.main(['--dry-run'], standalone_mode=False);"
        "print([name for name in ('torch', 'onnx', 'tensorrt', 'numpy', 'build') if name in sys.modules])"
    )
    assert python(None, "-c", script).stdout.splitlines()[-1] == "[]"


def test_the_budgets_keep_to_the_time_of_a_lent_gpu() -> None:
    assert sum(step.budget_s for step in STEPS.values() if step.name != "graphs") <= GPU_BUDGET_S


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--step", "wait"], "--step wait: there is no such step. Choose from graphs, detect"),
        (["--step", "production"], "--step production: it runs with --production only. Add --production."),
        (["--arch", "sm12"], "architecture 'sm12': Voxwright does not build for it."),
    ],
)
def test_refuses_wrong_options(options: list[str], sentence: str) -> None:
    done = CliRunner().invoke(command, options)
    assert str(done.exception).startswith(sentence)


@pytest.mark.parametrize(
    ("budget_s", "sentence"),
    [
        (60, "its process ended with exit code 1 and left no result"),
        (0, "it was stopped after its time budget of 0 s"),
    ],
)
def test_a_step_without_a_result_is_a_failure(tmp_path: Path, budget_s: int, sentence: str) -> None:
    step = Step(name="unknown", module="unknown", budget_s=budget_s, what="a step that the child does not know")
    (found,) = proof.run(Settings(out=tmp_path, onnx=tmp_path), [step])
    assert found.failure is not None
    assert (found.status, found.failure.kind, found.failure.sentence) == ("failed", "ProcessEnded", sentence)
    assert results.load(tmp_path, "unknown") == found
    assert ("KeyError: 'unknown'" in found.failure.traceback) == (budget_s > 0)
    assert proof.exit_code([found]) == 1


def _wait_for(folder: Path, pattern: str) -> Path:
    end = time.monotonic() + 60
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found[0]


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.3)


def test_a_process_that_aborts_is_named_by_its_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A library that aborts, as TensorRT may, takes its process with it and no other.
    monkeypatch.setattr(sys, "executable", _aborting(tmp_path))
    (found,) = proof.run(Settings(out=tmp_path / "gpu", onnx=tmp_path), [STEPS["gate"]])
    assert found.failure is not None
    assert found.failure.sentence == "its process ended with signal SIGABRT and left no result"
    assert found.failure.traceback == "free(): invalid pointer"


def _aborting(folder: Path) -> str:
    path = folder / "python"
    path.write_text("#!/bin/sh\necho 'free(): invalid pointer' >&2\nkill -ABRT $$\n")
    path.chmod(0o755)
    return str(path)
