"""The parts of the proof on a GPU: cases, times, floors, layers, results, and the networks in torch."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx.parser
import pytest

from benchmarks.gpu import (
    cases,
    ceiling,
    flops,
    latency,
    layers,
    production,
    report,
    results,
    settings,
    steps,
    timing,
)
from benchmarks.gpu.cases import Case
from benchmarks.gpu.device import Arrays, Buffer, Device, Engine
from benchmarks.gpu.engines import Built
from benchmarks.gpu.results import Failure, StepResult
from benchmarks.gpu.settings import Settings
from contract.arch import Arch
from contract.catalogue import read_catalogue
from contract.errors import BundleError, CompilerUnavailableError, GateError, GraphError
from contract.manifest import GateCase
from tests.fakes.driver import ROOT
from tests.pages import blocks
from tests.unit.engines.exported import DIMS
from tests.unit.engines.made_up import manifest


class TimedDevice:
    """A device (benchmarks.gpu.device.Device) on which every run takes one millisecond; it keeps what was run."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    @contextmanager
    def load(self, plan: Path) -> Iterator[Engine]:
        yield TimedEngine(self)

    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        before = len(self.runs)
        enqueue()
        return float(len(self.runs) - before)

    @contextmanager
    def captured(self, enqueue: Callable[[], None]) -> Iterator[Callable[[], None]]:
        yield lambda: self.runs.append(0)

    @contextmanager
    def copying(self, size_bytes: int) -> Iterator[Callable[[], None]]:
        yield lambda: self.runs.append(0)

    def memory_bytes(self) -> tuple[int, int]:
        return 1 << 30, 2 << 30


class TimedEngine:
    def __init__(self, device: TimedDevice) -> None:
        self.device = device

    @contextmanager
    def bind(self, feeds: Sequence[Arrays], after: Mapping[str, Buffer] | None = None) -> Iterator["TimedWork"]:
        yield TimedWork(self.device, len(feeds))


class TimedWork:
    buffers: Mapping[str, Buffer] = {}

    def __init__(self, device: TimedDevice, count: int) -> None:
        self.device, self.count = device, count

    def enqueue(self, number: int) -> None:
        self.device.runs.append(number)

    def outputs(self) -> Arrays:
        return {}


def built(family: str, mode: str = "batch") -> Built:
    chosen = read_catalogue().families[family].in_mode(mode)
    return Built(
        model=f"{family}_standard", family=chosen, mode=chosen.modes[mode], dims=DIMS, plan=Path("p"), record=None
    )


@pytest.mark.parametrize(
    ("family", "mode", "count", "first", "audio_s"),
    [
        ("body", "batch", 30, "batch 1 samples 32000", 2.0),
        # A window of 365 ms, of which the next one reads 45 ms again.
        ("body", "realtime", 3, "batch 1 samples 5840", 0.32),
        ("am_en", "batch", 30, "batch 1 encoder_frames 48", 1.92),
        ("diar", "batch", 30, "batch 1 samples 8000", 0.5),
        ("decoder", "batch", 30, "batch 1 encoder_frames 48 hypothesis_count 16 hypothesis_tokens 64", 1.92),
        ("lm", "realtime", 6, "batch 1 hypothesis_count 4 hypothesis_tokens 32", None),
    ],
)
def test_cases_are_buckets_and_batches(family: str, mode: str, count: int, first: str, audio_s: float | None) -> None:
    found = cases.cases(read_catalogue().families[family].modes[mode])
    assert (len(found), found[0].name) == (count, first)
    assert found[0].audio_s == (None if audio_s is None else pytest.approx(audio_s))
    assert sum(case.is_optimum for case in found) == 1


def test_inputs_of_a_case_are_distinct_and_the_same_at_every_call() -> None:
    body, case = built("body"), cases.cases(built("body").mode)[0]
    first, second = cases.feeds(body.family, DIMS, case), cases.feeds(body.family, DIMS, case)
    assert len(first) == cases.DISTINCT_INPUTS
    assert (first[0]["audio"] == second[0]["audio"]).all()
    assert not (first[0]["audio"] == first[1]["audio"]).all()


def test_hours_an_hour() -> None:
    case = Case(sizes={"batch": 1}, audio_s=7.2, is_optimum=True)
    assert case.hours_an_hour(2.0) == pytest.approx(3600.0)
    assert replace(case, audio_s=None).hours_an_hour(2.0) is None


def test_times_turn_through_all_inputs() -> None:
    device = TimedDevice()
    found = timing.measure(device, device.runs.append, 4, seconds=0.1)
    # Half of the tenth of a second, at a millisecond a run.
    assert found.to_dict() == {"median_ms": 1.0, "p90_ms": 1.0, "least_ms": 1.0, "queued_ms": 1.0, "rounds": 50}
    assert device.runs[-4:] == [0, 1, 2, 3]
    assert set(device.runs) == {0, 1, 2, 3}


def test_an_engine_is_measured_on_any_device(tmp_path: Path) -> None:
    device: Device = TimedDevice()
    found = latency.measure(device, built("diar"), 0.01)
    assert (found["model"], found["loaded_bytes"], len(found["cases"])) == ("diar_standard", 0, 30)
    assert found["cases"][0]["hours_an_hour"] == pytest.approx(500.0)


def test_a_ceiling_needs_all_three_networks() -> None:
    chain = [built("body"), built("am_en"), built("diar")]
    assert ceiling.chain(chain) == chain
    with pytest.raises(BundleError, match="it holds no speaker network in the mode batch"):
        ceiling.chain(chain[:2])
    found = ceiling.measure(TimedDevice(), chain, Settings(out=Path(), onnx=Path(), seconds_per_case=0.001))
    # Body, head and speaker network, or one launch.
    longest = found["cases"][-1]
    assert (longest["plain"]["median_ms"], longest["graph"]["median_ms"]) == (3.0, 1.0)
    assert longest["hours_an_hour_graph"] == pytest.approx(320_000.0)


def test_operations_of_a_graph_are_counted(tmp_path: Path) -> None:
    source = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[b, 4, n] x) => (float[b, k] y)
    <float[6, 4, 3] kernel = {KERNEL}, float[6, 5] weight = {WEIGHT}, int64[1] last = {-1}>
    {
        convolved = Conv (x, kernel)
        summed = ReduceSum <keepdims = 0> (convolved, last)
        g5 = Gemm (summed, weight)
        y = MatMul (g5, square)
    }"""
    source = source.replace("KERNEL", ", ".join(["1.0"] * 72)).replace("WEIGHT", ", ".join(["1.0"] * 30))
    source = source.replace("int64[1] last", f"float[5, 5] square = {{{', '.join(['1.0'] * 25)}}}, int64[1] last")
    path = tmp_path / "g.onnx"
    onnx.save(onnx.parser.parse_model(source), path)
    import numpy as np

    found = flops.operations(path, {"x": np.zeros((2, 4, 10), dtype=np.float32)})
    assert found == 2 * (2 * 6 * 8 * 4 * 3) + 2 * (2 * 5 * 6) + 2 * (2 * 5 * 5)
    assert flops.weight_bytes(path) == 4 * (72 + 30 + 25) + 8


def test_the_floor_is_the_longer_of_operations_and_weights() -> None:
    rows = [{"case": "c", "sizes": {"batch": batch, "samples": 32000}, "median_ms": 4.0} for batch in (1, 16)]
    peak = {"operations_per_s": 1e12, "bytes_per_s": 1e9}
    graph = {"operations_per_item": {"samples 32000": 10**9}, "weight_bytes": 2_000_000}
    found = production.floors({"cases": rows}, peak, graph)
    assert [(row["compute_ms"], row["memory_ms"], row["floor_ms"]) for row in found] == [(1, 2, 2), (16, 2, 16)]
    assert [row["times_floor"] for row in found] == [2.0, 0.25]


_FUSED = {"Name": "_gemm_mha_v2_myl0_12", "LayerType": "kgen", "Outputs": [{"Format/Datatype": "Half"}]}
_OPAQUE = {"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin", "TacticName": "", "Outputs": []}
_SOFTMAX = {"Name": "s", "LayerType": "SoftMax", "Outputs": [{"Format/Datatype": "Row major linear FP32 format"}]}


@pytest.mark.parametrize(
    ("listed", "verdict"),
    [
        ([_FUSED], "fused"),
        ([_FUSED, _SOFTMAX], "fused"),
        ([_OPAQUE], "hidden in an opaque layer"),
        ([_OPAQUE, _SOFTMAX], "not fused"),
        ([_SOFTMAX], "not fused"),
        (["a layer without details"], "not fused"),
    ],
)
def test_layers_show_whether_attention_is_fused(listed: list[Any], verdict: str, tmp_path: Path) -> None:
    from tests.unit.benchmarks.gpu_host import body

    path, graph = tmp_path / "layers.json", tmp_path / "g.onnx"
    path.write_text(json.dumps({"Layers": listed, "Bindings": []}))
    graph.write_bytes(body(10))
    found = layers.look(path, graph)
    assert (found["attention_in_graph"], found["verdict"], found["layers"]) == (1, verdict, len(listed))
    assert found["fp32_layers"] == listed.count(_SOFTMAX)


@pytest.mark.parametrize(
    ("expected", "fused", "verdict"),
    [(0, 0, "no attention"), (6, 2, "partly fused"), (None, 0, "not fused")],
)
def test_the_verdict_on_attention(expected: int | None, fused: int, verdict: str) -> None:
    assert layers.verdict(expected, fused, 0, 0) == verdict


def test_the_worst_of_every_output_is_kept() -> None:
    from benchmarks.gpu import gates

    record = next(each for each in manifest().engines if each.family == "body")
    half = GateCase(name="FP16 graph, real sample 0", parity=record.gate.cases[0].parity)
    record = replace(record, gate=replace(record.gate, cases=(*record.gate.cases, half)))
    found = gates.worst(record)
    assert (found["outcome"], found["cases"], found["real_audio_cases"]) == ("passed", 3, 1)
    assert found["outputs"]["encoder_out"]["case"] == "batch 1 samples 32000"
    assert found["outputs"]["encoder_out"]["share_of_limit"] == pytest.approx(math.exp(-0.7))


def test_settings_are_read_back_equal(tmp_path: Path) -> None:
    wanted = Settings(out=tmp_path, onnx=Path("dist/onnx"), arch=Arch.SM90, models=("body_standard",), production=True)
    wanted.save()
    assert settings.load(tmp_path) == wanted


def test_results_are_read_back_and_hold_no_infinity(tmp_path: Path) -> None:
    failure = Failure.of(GateError("body", "it is wrong", "Look"))
    found = StepResult(step="gate", status="failed", elapsed_s=1.0, values={"share": math.inf}, failure=failure)
    found.save(tmp_path)
    assert results.load(tmp_path, "gate") == replace(found, values={"share": "inf"})
    assert (failure.kind, failure.exit_code, failure.sentence) == ("GateError", 33, "body: it is wrong. Look.")
    (tmp_path / "gate.json").write_text("{")
    assert results.load(tmp_path, "gate") is None
    assert results.values(tmp_path, "gate") == {}


def test_what_is_kept_is_not_made_twice(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"value": 1}

    path = tmp_path / "a" / "b.json"
    assert [results.kept(path, make) for _ in range(2)] == [{"value": 1}] * 2
    assert made == [1]


def test_a_report_of_nothing_is_still_a_report(tmp_path: Path) -> None:
    made = report.run(Settings(out=tmp_path, onnx=tmp_path))
    assert made["plots"] == {"files": []}
    page = (tmp_path / "report.md").read_text()
    assert "No usable GPU: the step detect has no result" in page
    assert "| latency | not run | - | 400 | - |" in page


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.12345, "0.123"), (123456.7, "123,457"), ("a|b\nc", "a\\|b c"), (7, "7")]
)
def test_cells_of_a_table(value: object, text: str) -> None:
    assert report.cell(value) == text


def test_torch_measures_what_was_exported(tmp_path: Path) -> None:
    import torch

    from benchmarks.gpu import torch_networks

    sizes = {"batch": 2, "hypothesis_count": 2, "hypothesis_tokens": 16}
    stream = {"batch": 1, "samples": 5840}
    rows = [
        {"model": "lm_enhanced", "mode": "batch", "sizes": sizes, "compile": False},
        {"model": "body_standard", "mode": "realtime", "sizes": stream, "compile": False},
        {"model": "body_standard", "mode": "realtime", "sizes": {**stream, "samples": 1}, "compile": False},
    ]
    target = tmp_path / "torch.jsonl"
    for _ in range(2):
        # The second time, all have a result.
        torch_networks.measure_all({"weights": "random", "cases": rows}, target, math.inf, 0.001, torch.device("cpu"))
    found = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["model"], row["way"], row["sizes"]) for row in found] == [
        (row["model"], "eager", row["sizes"]) for row in rows
    ]
    assert found[0]["median_ms"] > 0
    assert found[1]["rounds"] >= 8
    # A case that fails is a result too.
    assert "Error" in found[2]["error"]


def test_torch_that_measures_nothing_is_a_failure(tmp_path: Path) -> None:
    chosen = Settings(out=tmp_path, onnx=tmp_path, torch_python="/bin/false")
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"plan")
    with pytest.raises(RuntimeError, match="torch measured nothing: exit code 1"):
        latency.torch_times(chosen, [replace(built("diar"), plan=plan)], 10.0)


def test_another_interpreter_does_not_get_these_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import graphs

    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/x/tensorrt:/driver")
    chosen = Settings(out=Path(), onnx=Path())
    assert graphs.environment(chosen) == dict(os.environ)
    found = graphs.environment(replace(chosen, torch_python=sys.executable))
    assert "PYTHONHOME" not in found
    assert found["LD_LIBRARY_PATH"] == "/driver"


def test_graphs_that_cannot_be_exported_are_named(tmp_path: Path) -> None:
    from benchmarks.gpu import graphs

    chosen = Settings(out=tmp_path, onnx=tmp_path / "onnx", models=("lm_enhanced",), torch_python="/bin/false")
    with pytest.raises(GraphError) as refusal:
        graphs.run(chosen)
    assert str(refusal.value) == (
        f"{tmp_path / 'onnx'}: the export of lm_enhanced ended with exit code 1 (it printed no error). "
        "Export on a host with torch, and name the folder with --onnx."
    )


def test_the_commands_of_the_page_are_right() -> None:
    from benchmarks.gpu.__main__ import command

    found = [
        words[words.index("benchmarks.gpu") + 1 :]
        for block in blocks(ROOT / "docs" / "architecture" / "45-first-gpu.md")
        for words in block.commands
        if "benchmarks.gpu" in words
    ]
    assert len(found) == 5
    for arguments in found:
        context = command.make_context("benchmarks.gpu", arguments)
        assert steps.chosen(context.params["names"], Settings(out=Path(), onnx=Path(), production=True))


def test_the_page_names_every_step_and_its_limit() -> None:
    rows = (ROOT / "docs" / "architecture" / "45-first-gpu.md").read_text().splitlines()
    assert [row.split("`")[1] for row in rows if row.startswith("| `")][: len(steps.STEPS)] == list(steps.STEPS)


def test_refuses_a_host_without_a_cuda_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    from polygraphy import cuda

    from benchmarks.gpu import engines

    def absent() -> None:
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(engines, "library", lambda: None)
    monkeypatch.setattr(cuda, "wrapper", absent)
    with pytest.raises(CompilerUnavailableError) as refusal:
        engines.cuda_runtime()
    assert str(refusal.value) == (
        "libcudart.so: Polygraphy, which runs the gate, finds no CUDA runtime "
        "(libcudart.so: cannot open shared object file). Name the folder of libcudart.so with LD_LIBRARY_PATH."
    )
