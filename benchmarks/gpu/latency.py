"""The step latency: every network, bucket and batch on TensorRT, PyTorch eager and torch.compile, on this GPU."""

import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import cuda, engines, graphs, results, timing
from benchmarks.gpu.cases import Case, cases, feeds
from benchmarks.gpu.detection import clocks
from benchmarks.gpu.device import Device
from benchmarks.gpu.engines import Built
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import STEPS, StepFailedError
from contract import digest, files

_ROOT = Path(__file__).parents[2]
# What starting, loading and reading results takes beside the measurements.
RESERVE_S = 30.0
_SPIN_UP_BYTES, _SPIN_UP_CASES = 64 << 20, 5


def run(settings: Settings) -> dict[str, Any]:
    """Measure every case; return them by engine. Raises StepFailedError where an engine or torch failed."""
    started = time.monotonic()
    built = engines.built(settings.bundles, settings.onnx)
    with cuda.opened() as device:
        found = measure_all(device, built, settings)
    left_s = STEPS["latency"].budget_s - (time.monotonic() - started) - RESERVE_S
    torch = results.attempt(lambda: torch_times(settings, built, left_s))
    values = {"engines": found, "torch": torch, "ratios": ratios(found, torch.get("cases", [])), "clocks": clocks()}
    failures = results.failures({**found, "torch": torch})
    if failures:
        raise StepFailedError("latency", values, failures)
    return values


def measure_all(device: Device, built: list[Built], settings: Settings) -> dict[str, Any]:
    """Measure every case of every engine; an engine that was measured before a kill is not measured again."""
    spin_up(device, settings.seconds_per_case)
    found = {}
    for each in built:
        # A plan that was built again is measured again.
        path = settings.out / "latency" / f"{each.name}-{digest.of_file(each.plan)[:12]}.json"
        found[each.name] = results.attempt(
            lambda: results.kept(path, lambda: measure(device, each, settings.seconds_per_case))  # noqa: B023
        )
        print(each.name, "failed" if "failure" in found[each.name] else "measured", flush=True)
    return found


def measure(device: Device, built: Built, seconds: float) -> dict[str, Any]:
    """Measure every case of an engine."""
    free_before, _ = device.memory_bytes()
    with device.load(built.plan) as engine:
        rows = [measure_case(device, engine, built, case, seconds) for case in cases(built.mode)]
        free_after, _ = device.memory_bytes()
    return {
        "model": built.model,
        "mode": built.mode.name,
        "passed_gate": built.record is not None,
        "loaded_bytes": free_before - free_after,
        "cases": rows,
    }


def measure_case(device: Device, engine: Any, built: Built, case: Case, seconds: float) -> dict[str, Any]:
    """Measure one case: latency alone and in a full queue, and the hours of audio that an hour holds."""
    with engine.bind(feeds(built.family, built.dims, case)) as work:
        found = timing.measure(device, work.enqueue, work.count, seconds)
    return {
        "case": case.name,
        "sizes": case.sizes,
        "is_optimum": case.is_optimum,
        "audio_s": case.audio_s,
        **found.to_dict(),
        "hours_an_hour": case.hours_an_hour(found.queued_ms),
    }


def spin_up(device: Device, seconds_per_case: float) -> None:
    """Keep the GPU busy until its clocks are up."""
    with device.copying(_SPIN_UP_BYTES) as copy:
        end = time.monotonic() + _SPIN_UP_CASES * seconds_per_case
        while time.monotonic() < end:
            device.elapsed_ms(copy)


def torch_times(settings: Settings, built: list[Built], seconds: float, weights: str | None = None) -> dict[str, Any]:
    """Measure the torch networks in the interpreter that has torch; what is not reached in time is left out."""
    folder = settings.out / "latency"
    name = weights or settings.weights
    wanted, target = folder / f"torch-{name}-cases.json", folder / f"torch-{name}.jsonl"
    rows = [
        {"model": each.model, "mode": each.mode.name, "sizes": case.sizes, "compile": case.is_optimum}
        # The largest first: what is not reached in time is then the least.
        for each in sorted(built, key=lambda each: -each.plan.stat().st_size)
        for case in cases(each.mode)
    ]
    files.write(wanted, json.dumps({"weights": name, "cases": rows}))
    command = [graphs.python(settings), "-m", "benchmarks.gpu.torch_networks", str(wanted.resolve())]
    command += [str(target.resolve()), "--seconds", f"{seconds:.0f}", "--per-case", f"{settings.seconds_per_case}"]
    ended = _run(command, graphs.environment(settings), seconds + RESERVE_S / 2)
    lines = target.read_text(encoding="utf-8").splitlines() if target.is_file() else []
    found = [json.loads(line) for line in lines]
    if ended and not found:
        raise RuntimeError(f"torch measured nothing: {ended}")
    return {"cases": found, "errors": sum("error" in row for row in found), "ended": ended}


def _run(command: list[str], environment: dict[str, str], seconds: float) -> str:
    """Run a command for so many seconds at most; return how it failed, or nothing."""
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            check=False,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            timeout=max(seconds, 1.0),
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s, in the middle of a case"
    return f"exit code {done.returncode}: {done.stderr[-1500:].strip()}" if done.returncode else ""


def ratios(found: dict[str, Any], torch: list[dict[str, Any]]) -> dict[str, Any]:
    """Return by engine how many times TensorRT is as fast as each way of torch: the median over the common cases."""
    times = {(row["model"], row["mode"], row["way"], str(row["sizes"])): row.get("median_ms") for row in torch}
    made: dict[str, Any] = {}
    for name, engine in found.items():
        for way in ("eager", "compile"):
            pairs = [
                (times.get((engine["model"], engine["mode"], way, str(row["sizes"]))), row["median_ms"])
                for row in engine.get("cases", ())
            ]
            known = [slow / fast for slow, fast in pairs if slow and fast]
            if known:
                made.setdefault(name, {})[way] = {"ratio": statistics.median(known), "cases": len(known)}
    return made
