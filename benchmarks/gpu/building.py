"""The step build: every network in both modes, one after the other; one that fails stops no other."""

from typing import Any

from benchmarks.gpu import engines, results
from benchmarks.gpu.detection import arch_of
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import StepFailedError


def run(settings: Settings) -> dict[str, Any]:
    """Build every engine that is absent; return the measurements by engine. Raises StepFailedError at the end."""
    place = engines.platform_of(settings.platform, accept_tensorrt=settings.accept_tensorrt)
    arch = arch_of(settings)
    target = engines.target_of(settings.bundles, arch, place)
    found: dict[str, Any] = {}
    for job in engines.jobs(settings.onnx, arch, settings.models):
        found[job.name] = results.attempt(lambda: engines.build_engine(target, job))  # noqa: B023 - called at once
        if found[job.name].get("failure", {}).get("kind") == "GateError":
            folder = engines.ungated_folder(settings.out, job)
            found[job.name]["ungated"] = results.attempt(
                lambda: engines.compile_plan(target, job, folder)  # noqa: B023 - called at once
            )
        print(job.name, found[job.name], flush=True)
    values = {"platform": place.name, "tensorrt": place.tensorrt, "arch": arch.value, "engines": found}
    failures = results.failures(found)
    if failures:
        raise StepFailedError("build", values, failures)
    return values
