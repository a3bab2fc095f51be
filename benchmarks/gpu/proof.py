"""Runs the steps one after the other, each in a process of its own, and goes on after a failure.

A process of its own, because a TensorRT that aborts or a CUDA error that stays would take the other steps with it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.gpu import results
from benchmarks.gpu.results import BLOCKED, FAILED, PASSED, Failure, StepResult
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import GPU_BUDGET_S, Step

_ROOT = Path(__file__).parents[2]
_LOG_LINES = 15


def run(settings: Settings, steps: Iterable[Step], *, force: bool = False) -> list[StepResult]:
    """Run the steps that have no result yet, print what became of each, and return all results."""
    settings.save()
    found: list[StepResult] = []
    started = time.monotonic()
    for step in steps:
        known = results.load(settings.out, step.name)
        if known and known.status == PASSED and not (force or step.always):
            _print(f"{step.name:<11} skipped: {results.path_of(settings.out, step.name)} exists")
            found.append(known)
            continue
        _print(f"{step.name:<11} starts, at most {step.budget_s} s: {step.what}")
        result = _blocked(step, found) or _in_process(step, settings, force=force)
        result.save(settings.out)
        found.append(result)
        elapsed = f"{time.monotonic() - started:.0f} of {GPU_BUDGET_S} s"
        _print(f"{step.name:<11} {result.status} in {result.elapsed_s:.1f} s (elapsed {elapsed}){_why(result)}")
    return found


def exit_code(found: Iterable[StepResult]) -> int:
    """Return the exit code of the first failure, 0 where all steps passed."""
    return next((each.failure.exit_code or 1 for each in found if each.failure), 0)


def _blocked(step: Step, found: Iterable[StepResult]) -> StepResult | None:
    detection = next((each for each in found if each.step == "detect" and each.failure), None)
    if detection is None or detection.failure is None or not step.needs_gpu:
        return None
    failure = Failure(kind="Blocked", sentence="the step detect failed", exit_code=detection.failure.exit_code)
    return StepResult(step=step.name, status=BLOCKED, elapsed_s=0.0, failure=failure)


def _in_process(step: Step, settings: Settings, *, force: bool) -> StepResult:
    # What an earlier run left must not be taken for the result of this one.
    results.path_of(settings.out, step.name).unlink(missing_ok=True)
    if force:
        shutil.rmtree(settings.out / step.name, ignore_errors=True)
    log = settings.out / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.child", str(settings.out.resolve()), step.name]
    started = time.monotonic()
    try:
        code = _run_group(command, log, step.budget_s)
        sentence = f"its process ended with {_ending(code)} and left no result"
    except subprocess.TimeoutExpired:
        sentence = f"it was stopped after its time budget of {step.budget_s} s"
    result = results.load(settings.out, step.name)
    if result is not None:
        return result
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])
    failure = Failure(kind="ProcessEnded", sentence=sentence, traceback=tail)
    return StepResult(step=step.name, status=FAILED, elapsed_s=time.monotonic() - started, failure=failure)


def _run_group(command: list[str], log: Path, seconds: float) -> int:
    """Run a command; whatever happens, none of the processes that it started is left on the GPU."""
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(command, cwd=_ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            return process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _why(result: StepResult) -> str:
    return f": {result.failure.kind}: {result.failure.sentence}" if result.failure else ""


def _print(line: str) -> None:
    print(line, flush=True)
