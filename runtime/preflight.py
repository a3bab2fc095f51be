"""Holds this machine against what its platform asks, and finds all that is wrong at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contract.arch import Arch
from contract.errors import GpuError
from contract.platform import Platform, Requirements, dotted, platforms, requirements, version
from runtime.budget import Budget
from runtime.gpu import Driver, Gpu, Sighting
from runtime.host import Host
from runtime.selection import Choice, Selection

_GIBIBYTE = 1 << 30
_CPU = "serve on the CPU with `--platform embedded`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something about this machine that is not as it should be."""

    subject: str
    found: str
    wanted: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.cause}. {self.remedy}."

    @property
    def cause(self) -> str:
        """Say what is wrong."""
        return f"{self.found}, and {self.wanted} is wanted"


def examine(sighting: Sighting, platform: Platform) -> list[Finding]:
    """List what keeps the visible GPU from serving a platform: their number, capability, memory and driver."""
    found = [*_presence(sighting, platform)]
    if platform.cuda is None:
        return found
    for gpu in sighting.gpus:
        found += [*_capability(gpu), *_memory(gpu, requirements())]
        if sighting.driver is not None:
            found += _driver(sighting.driver, gpu, platform)
    # Two equal GPUs have equal faults.
    return list(dict.fromkeys(found))


def examine_budget(budget: Budget, gpu: Gpu) -> list[Finding]:
    """Find out whether the chosen engines fit into the memory of a GPU."""
    free = gpu.memory_bytes - requirements().gpu_reserve_bytes
    if budget.known_bytes <= free:
        return []
    return [
        Finding(
            subject=f"GPU {gpu.name}",
            found=f"the chosen engines take {gibibytes(budget.known_bytes)} of its memory",
            wanted=f"no more than {gibibytes(free)}",
            remedy="Serve one operating point with SM_OPERATING_POINT=standard, or use a GPU of more memory",
        )
    ]


def advise(sighting: Sighting, platform: Platform, host: Host, selection: Selection | None) -> list[Finding]:
    """List what stops no server and should be known: an unknown driver, a small host, foreign plans."""
    if platform.cuda is None:
        return []
    found = [*_host(host, requirements())]
    for gpu in sighting.gpus:
        if sighting.driver is not None:
            found += _unknown_driver(sighting.driver, gpu, platform)
        found += _plans(selection, gpu) if selection is not None else ()
    return list(dict.fromkeys(found))


def refusal(findings: Sequence[Finding], platform: Platform) -> GpuError | None:
    """Make one refusal of all findings, each with its remedy; None where there are none."""
    if not findings:
        return None
    if len(findings) == 1:
        return GpuError(findings[0].subject, findings[0].cause, findings[0].remedy)
    lines = "".join(f"\n  {finding}" for finding in findings).removesuffix(".")
    cause = f"this machine cannot serve it, for {len(findings)} reasons"
    return GpuError(f"platform {platform.name}", cause, f"Mend each:{lines}")


def gibibytes(size: int) -> str:
    """Write an amount of memory for people."""
    return f"{size / _GIBIBYTE:.1f} GiB"


def _presence(sighting: Sighting, platform: Platform) -> Iterator[Finding]:
    count = len(sighting.gpus)
    if count > 1:
        yield Finding(
            subject="GPUs",
            found=f"{count} are visible",
            wanted="exactly one",
            remedy="Choose one with CUDA_VISIBLE_DEVICES=0, or in a container with `--gpus device=0`",
        )
    elif sighting.out_of_reach:
        yield Finding(
            subject="GPU",
            found=f"this machine has {' and '.join(sighting.out_of_reach)}, and none can be used: {sighting.absence}",
            wanted="one that CUDA shows",
            remedy=f"{sighting.remedy}; or {_CPU}",
        )
    elif count == 0 and platform.cuda is not None:
        yield Finding(
            subject=f"platform {platform.name}",
            found=f"no GPU was found ({sighting.absence})",
            wanted="one",
            remedy=f"Check `nvidia-smi` and, in a container, `--gpus`; or {_CPU}",
        )


def _capability(gpu: Gpu) -> Iterator[Finding]:
    supported = [dotted(arch.capability) for arch in Arch if arch.capability]
    if dotted(gpu.capability) not in supported:
        yield Finding(
            subject=f"GPU {gpu.name}",
            found=f"its compute capability is {dotted(gpu.capability)}",
            wanted=f"{', '.join(supported[:-1])} or {supported[-1]}",
            remedy=f"Use such a GPU, or {_CPU}",
        )


def _memory(gpu: Gpu, rules: Requirements) -> Iterator[Finding]:
    wanted = rules.gpu_memory
    if gpu.memory_bytes < wanted.least_bytes:
        in_slices = gpu.mig == "on"
        yield Finding(
            subject=f"GPU {gpu.name}",
            found=f"its memory is {gibibytes(gpu.memory_bytes)}",
            wanted=f"{wanted.nominal_gb} GB, reported as {gibibytes(wanted.least_bytes)} or more,",
            remedy=f"Use {'a larger MIG instance' if in_slices else 'a GPU of more memory'}, or {_CPU}",
        )


def _driver(driver: Driver, gpu: Gpu, platform: Platform) -> Iterator[Finding]:
    kind = requirements().is_data_centre(gpu.name)
    if _admits(platform, driver, data_centre=kind):
        return
    others = [
        name
        for name, other in platforms().items()
        if other.cuda and other.backend and _admits(other, driver, data_centre=kind)
    ]
    text = f"its version is {driver.version}" if driver.version else f"it runs CUDA {dotted(driver.cuda)} at most"
    yield Finding(
        subject="NVIDIA driver",
        found=f"{text}, on {'a data-centre GPU' if kind else 'a GPU that is not for the data centre'}",
        wanted=f"{platform.wanted_drivers(data_centre=kind)}, for platform {platform.name},",
        remedy="Install such a driver"
        + "".join(f", or serve `--platform {name}`, which runs with this one" for name in others),
    )


def _admits(platform: Platform, driver: Driver, *, data_centre: bool) -> bool:
    numbers = version(driver.version) if driver.version else None
    if numbers is None:
        return platform.admits_cuda(driver.cuda, data_centre=data_centre)
    return platform.admits_driver(numbers, data_centre=data_centre)


def _unknown_driver(driver: Driver, gpu: Gpu, platform: Platform) -> Iterator[Finding]:
    if driver.version is None:
        kind = requirements().is_data_centre(gpu.name)
        yield Finding(
            subject="NVIDIA driver",
            found=f"its version is unknown ({driver.reason}), and that it runs CUDA {dotted(driver.cuda)} is no proof",
            wanted=f"{platform.wanted_drivers(data_centre=kind)}, for platform {platform.name},",
            remedy="Compare it with what `nvidia-smi` says on the host",
        )


def _host(host: Host, rules: Requirements) -> Iterator[Finding]:
    wanted = rules.host_memory
    if host.memory_bytes is not None and host.memory_bytes < wanted.least_bytes:
        yield Finding(
            subject="host",
            found=f"its memory, or what this container may use of it, is {gibibytes(host.memory_bytes)}",
            wanted=f"{wanted.nominal_gb} GB, reported as {gibibytes(wanted.least_bytes)} or more,",
            remedy="Loading may be slow or run out of memory: use a host of more, or raise the container's limit",
        )


def _plans(selection: Selection, gpu: Gpu) -> Iterator[Finding]:
    arch, platform = selection.target.arch.value, selection.target.platform.name
    origins = {(choice.bundle.manifest.arch.value, choice.level) for choice in selection.compatible()}
    for built, level in sorted(origins):
        yield Finding(
            subject="engines",
            found=f"some are built for {built}, and run here by compatibility {level}",
            wanted=f"one built for {arch}, which is faster,",
            remedy=f"Build them with `python -m build.engines --arch {arch} --platform {platform}`",
        )
    strangers = {choice.record.built_on["gpu"] for choice in selection.chosen if _built_on_another(choice, gpu)}
    for built_on in sorted(strangers):
        yield Finding(
            subject="engines",
            found=f"some are built on {built_on}, and this is {gpu.name}",
            wanted="the same model of GPU, or compatibility same-capability,",
            remedy="TensorRT promises neither speed nor safety between two models: build the engines on this one",
        )


def _built_on_another(choice: Choice, gpu: Gpu) -> bool:
    built_on = choice.record.built_on.get("gpu")
    # A MIG instance is a part of the same model.
    return choice.level == "none" and built_on is not None and _model(built_on) != _model(gpu.name)


def _model(name: str) -> str:
    return name.partition(" MIG ")[0].removeprefix("NVIDIA ")
