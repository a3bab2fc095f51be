"""The steps of a proof: a table of names, and for each its module, its time budget and what it writes."""

import importlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from benchmarks.gpu.settings import Settings
from contract.errors import SettingError, VoxwrightError

GPU_BUDGET_S = 25 * 60


class StepFailedError(VoxwrightError):
    """Some items of a step failed; `values` holds what the others gave."""

    def __init__(self, step: str, values: dict[str, Any], failures: list[str]) -> None:
        cause = f"{len(failures)} failed, the first of them: {failures[0].rstrip('.')}"
        super().__init__(step, cause, f"Run the same command again, which repeats the step {step}")
        self.values = values


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step: what it does, and within which time."""

    name: str
    module: str
    """The module whose `run(settings)` returns the measurements."""
    budget_s: int
    what: str
    needs_gpu: bool = True
    always: bool = False
    """Whether it runs again where a result exists."""

    def run(self, settings: Settings) -> dict[str, Any]:
        """Run the step in this process."""
        made: dict[str, Any] = importlib.import_module(f"benchmarks.gpu.{self.module}").run(settings)
        return made


_STEPS = (
    Step(
        name="graphs",
        module="graphs",
        budget_s=900,
        what="export the graphs that are absent (CPU; the production body too with --production)",
        needs_gpu=False,
    ),
    Step(
        name="detect",
        module="detection",
        budget_s=60,
        what="detection, preflight and doctor on the real driver, nvidia-smi -q, versions of the libraries",
        always=True,
    ),
    Step(
        name="build",
        module="building",
        budget_s=480,
        what="every network in both modes with the tensorrt compiler: build time, engine size, device memory",
    ),
    Step(
        name="gate",
        module="gates",
        budget_s=20,
        what="the worst value over limit of every output, at every corner and on real audio, from the manifest",
        needs_gpu=False,
    ),
    Step(
        name="latency",
        module="latency",
        budget_s=400,
        what="every network, bucket and batch: TensorRT FP16 against PyTorch eager and torch.compile",
    ),
    Step(
        name="production",
        module="production",
        budget_s=360,
        what="a body of 122 M parameters (--production): built, timed, against the floor of this GPU",
    ),
    Step(
        name="ceiling",
        module="ceiling",
        budget_s=60,
        what="body, head and speaker network with and without CUDA graphs: hours of audio an hour",
    ),
    Step(
        name="layers",
        module="layers",
        budget_s=90,
        what="fused attention and FP32 layers by the inspector's layers.json; one body with its softmax in FP16",
    ),
    Step(
        name="report",
        module="report",
        budget_s=30,
        what="summary.json, plots and report.md of all results",
        needs_gpu=False,
        always=True,
    ),
)
STEPS = MappingProxyType({step.name: step for step in _STEPS})


def chosen(names: tuple[str, ...], settings: Settings) -> list[Step]:
    """List the steps to run, in their order; `detect` comes before every step that needs the GPU.

    Raises SettingError for a name that is no step, and for `production` without --production.
    """
    for name in names:
        if name not in STEPS:
            raise SettingError(f"--step {name}", "there is no such step", f"Choose from {', '.join(STEPS)}")
    if "production" in names and not settings.production:
        raise SettingError("--step production", "it runs with --production only", "Add --production")
    wanted = [step for step in STEPS.values() if not names or step.name in names]
    wanted = [step for step in wanted if settings.production or step.name != "production"]
    detect = STEPS["detect"]
    if any(step.needs_gpu for step in wanted) and detect not in wanted:
        wanted.insert(0, detect)
    return wanted
