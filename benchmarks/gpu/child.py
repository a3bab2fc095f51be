"""python -m benchmarks.gpu.child OUT STEP: one step in this process; its result, a failure too, goes into OUT."""

import ctypes
import signal
import sys
import time
from pathlib import Path

from benchmarks.gpu import settings as settings_file
from benchmarks.gpu.results import FAILED, PASSED, Failure, StepResult
from benchmarks.gpu.steps import STEPS, Step, StepFailedError

# prctl(2): the kernel sends this signal when the parent is gone.
_SET_PARENT_DEATH_SIGNAL = 1


def run(out: Path, step: Step) -> StepResult:
    """Run a step with the settings of a results folder, and write what became of it."""
    started = time.monotonic()
    try:
        values, failure = step.run(settings_file.load(out)), None
    except Exception as error:
        values = error.values if isinstance(error, StepFailedError) else {}
        failure = Failure.of(error)
    result = StepResult(
        step=step.name,
        status=FAILED if failure else PASSED,
        elapsed_s=time.monotonic() - started,
        values=values,
        failure=failure,
    )
    result.save(out)
    return result


def main() -> None:
    """Run the command line; the step ends with the process that started it, however that one ends."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    result = run(Path(sys.argv[1]), STEPS[sys.argv[2]])
    if result.failure:
        print(result.failure.traceback, file=sys.stderr)
    sys.exit(result.status != PASSED)


if __name__ == "__main__":
    main()
