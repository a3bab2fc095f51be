"""The step production: a body of 122 million parameters, built and timed against the floor of this very GPU.

The floor of a case is the longer of two times: its operations at the measured peak rate of a large product of matrices,
and the bytes of its weights at the measured bandwidth. Nothing is taken from a data sheet.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import cuda, engines, flops, graphs, latency, layers, peaks, results
from benchmarks.gpu.cases import Case, cases, feeds
from benchmarks.gpu.detection import arch_of
from benchmarks.gpu.device import Device
from benchmarks.gpu.engines import Built
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import STEPS, StepFailedError
from contract.catalogue import BATCH, BATCH_MODE
from contract.differences import compare_all


def run(settings: Settings) -> dict[str, Any]:
    """Build and time the body; raise StepFailedError where a part of the step failed."""
    started = time.monotonic()
    folder = graphs.production_folder(settings)
    place = engines.platform_of(settings.platform, accept_tensorrt=settings.accept_tensorrt)
    arch = arch_of(settings)
    # The timings of the step build are of use here too.
    target = engines.target_of(settings.bundles, arch, place)
    job = next(each for each in engines.jobs(folder, arch) if each.mode.name == BATCH_MODE)
    plan_folder = settings.out / "production" / job.record.model / job.mode.name
    made = results.kept(
        settings.out / "production" / "build.json", lambda: engines.compile_plan(target, job, plan_folder)
    )
    built = Built(
        model=job.record.model,
        family=job.family,
        mode=job.mode,
        dims=job.record.dims,
        plan=plan_folder / engines.PLAN,
        record=None,
    )
    values: dict[str, Any] = {"build": made}
    with cuda.opened() as device:
        latency.spin_up(device, settings.seconds_per_case)
        values["peaks"] = results.attempt(lambda: peaks.measure(device, settings))
        values["cases"] = results.attempt(lambda: latency.measure(device, built, settings.seconds_per_case))
        values["parity"] = results.attempt(lambda: parity(device, built, job.reference))
    values["graph"] = results.attempt(lambda: arithmetic(built, job.reference, job.graph))
    values["floors"] = results.attempt(lambda: {"cases": floors(values["cases"], values["peaks"], values["graph"])})
    values["layers"] = results.attempt(lambda: layers.look(plan_folder / engines.LAYERS, job.graph))
    left_s = STEPS["production"].budget_s - (time.monotonic() - started) - latency.RESERVE_S
    values["torch"] = results.attempt(lambda: latency.torch_times(settings, [built], left_s, "production"))
    failures = results.failures(values)
    if failures:
        raise StepFailedError("production", values, failures)
    return values


def parity(device: Device, built: Built, reference: Path) -> dict[str, Any]:
    """Hold the engine against its FP32 graph on the least case: weights are random, so no limit is set."""
    import onnxruntime  # noqa: PLC0415 - `--help` works without it

    least = min(cases(built.mode), key=_volume)
    feed = feeds(built.family, built.dims, least, 1)[0]
    with device.load(built.plan) as engine, engine.bind([feed]) as work:
        work.enqueue(0)
        actual = work.outputs()
    session = onnxruntime.InferenceSession(str(reference), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    expected = dict(zip(names, session.run(names, feed), strict=True))
    found = compare_all(built.family.outputs, actual, expected, "fp16")
    return {
        "case": least.name,
        "outputs": {each.output: {"measure": each.measure, "value": each.value, "limit": each.limit} for each in found},
    }


def arithmetic(built: Built, reference: Path, half: Path) -> dict[str, Any]:
    """Count the operations of one item of every bucket, and the bytes of the FP16 weights."""
    single = [case for case in cases(built.mode) if case.sizes[BATCH] == built.mode.batch.min]
    counted = {
        _bucket(case.sizes): flops.operations(reference, feeds(built.family, built.dims, case, 1)[0])
        // case.sizes[BATCH]
        for case in single
    }
    return {"operations_per_item": counted, "weight_bytes": flops.weight_bytes(half)}


def floors(measured: dict[str, Any], peak: dict[str, Any], graph: dict[str, Any]) -> list[dict[str, Any]]:
    """Return of every case its floor and how many times as long it took; raise KeyError where a part is absent."""
    rows = []
    for row in measured["cases"]:
        operations = graph["operations_per_item"][_bucket(row["sizes"])] * row["sizes"][BATCH]
        compute_ms = 1e3 * operations / peak["operations_per_s"]
        memory_ms = 1e3 * graph["weight_bytes"] / peak["bytes_per_s"]
        floor_ms = max(compute_ms, memory_ms)
        rows.append(
            {
                "case": row["case"],
                "operations": operations,
                "compute_ms": compute_ms,
                "memory_ms": memory_ms,
                "floor_ms": floor_ms,
                "median_ms": row["median_ms"],
                "times_floor": row["median_ms"] / floor_ms,
            }
        )
    return rows


def _bucket(sizes: dict[str, int]) -> str:
    return " ".join(f"{axis} {size}" for axis, size in sizes.items() if axis != BATCH)


def _volume(case: Case) -> int:
    return sum(case.sizes.values())
