"""Compare this machine with the requirements of its platform, and return all findings at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contract.arch import Arch
from contract.errors import GpuError
from contract.platform import Platform, Requirements, format_version, parse_version, platforms, requirements
from runtime import flags
from runtime.budget import Budget
from runtime.gpu import Driver, Gpu, GpuDetection
from runtime.host import Host
from runtime.selection import Choice, Selection

_MEBIBYTE, _GIBIBYTE = 1 << 20, 1 << 30
# The image for GPUs has no embedded server.
_CPU = "serve on the CPU with `--platform embedded`, in containers with the image voxwright-runtime-cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A property of this machine that does not meet a requirement."""

    subject: str
    found: str
    wanted: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.cause}. {self.remedy}."

    @property
    def cause(self) -> str:
        """Return what was found and what is required."""
        return f"{self.found}, but {self.wanted} is required"


def examine(detection: GpuDetection, platform: Platform) -> list[Finding]:
    """Return what prevents the visible GPUs from serving a platform: number, compute capability, memory, driver."""
    found = [*_presence(detection, platform)]
    if platform.cuda is None:
        return found
    for gpu in detection.gpus:
        found += [*_capability(gpu), *_memory(gpu, requirements())]
        if detection.driver is not None:
            found += _driver(detection.driver, gpu, platform)
    # Two equal GPUs have equal findings.
    return list(dict.fromkeys(found))


def examine_budget(budget: Budget, gpu: Gpu, operating_points: Sequence[str]) -> list[Finding]:
    """Return a finding where the chosen engines, those of some operating points, do not fit into a GPU's memory."""
    one = f"serve one operating point with SM_OPERATING_POINT={operating_points[0]}, "
    fewer = "serve fewer streams with VOXWRIGHT_STREAMS, "
    ways = f"{one if len(operating_points) > 1 else ''}{fewer if budget.state_bytes else ''}"
    remedy = f"{ways}{'or ' if ways else ''}use a GPU with more memory"
    free = gpu.memory_bytes - requirements().gpu_reserve_bytes
    if budget.known_bytes <= free:
        return []
    return [
        Finding(
            subject=f"GPU {gpu.name}",
            found=f"the selected engines and Triton's memory pool need {gibibytes(budget.known_bytes)} of its memory",
            wanted=f"{gibibytes(free)} or less",
            remedy=remedy[0].upper() + remedy[1:],
        )
    ]


def pool_warnings(budget: Budget) -> list[Finding]:
    """Return a finding for each memory pool that an operator's flag makes smaller than needed."""
    pools = (
        (flags.CUDA_POOL, budget.cuda_pool_bytes, budget.needed_cuda_pool_bytes),
        (flags.PINNED_POOL, budget.pinned_pool_bytes, budget.needed_pinned_pool_bytes),
    )
    return [
        Finding(
            subject=f"tritonserver flag {flag}",
            found=f"it sets a memory pool of {mebibytes(size)}",
            wanted=f"{mebibytes(needed)} for the states and tensors of these engines",
            remedy="Remove the flag: `python -m runtime` then sets the required size. A full pool slows requests down",
        )
        for flag, size, needed in pools
        if size < needed
    ]


def warnings(detection: GpuDetection, platform: Platform, host: Host, selection: Selection | None) -> list[Finding]:
    """Return findings that do not stop a start: unknown driver, small host, plans built for or on another GPU."""
    if platform.cuda is None:
        return []
    found = [*_host(host, requirements())]
    for gpu in detection.gpus:
        if detection.driver is not None:
            found += _unknown_driver(detection.driver, gpu, platform)
        found += _plans(selection, gpu) if selection is not None else ()
    return list(dict.fromkeys(found))


def refusal(findings: Sequence[Finding], platform: Platform) -> GpuError | None:
    """Return one error for all findings, each with its remedy; None where there are none."""
    if not findings:
        return None
    if len(findings) == 1:
        return GpuError(findings[0].subject, findings[0].cause, findings[0].remedy)
    lines = "".join(f"\n  {finding}" for finding in findings).removesuffix(".")
    cause = f"this machine cannot serve it, for {len(findings)} reasons"
    return GpuError(f"platform {platform.name}", cause, f"Fix each of these:{lines}")


def gibibytes(size: int) -> str:
    """Return a number of bytes as text in GiB."""
    return f"{size / _GIBIBYTE:.1f} GiB"


def mebibytes(size: int) -> str:
    """Return a number of bytes as text in MiB."""
    return f"{size / _MEBIBYTE:.1f} MiB"


def _presence(detection: GpuDetection, platform: Platform) -> Iterator[Finding]:
    count = len(detection.gpus)
    if count > 1:
        yield Finding(
            subject="GPUs",
            found=f"{count} are visible",
            wanted="exactly one",
            remedy="Select one with CUDA_VISIBLE_DEVICES=0, or in a container with `--gpus device=0`",
        )
    elif detection.inaccessible:
        yield Finding(
            subject="GPU",
            found=f"CUDA cannot use {' and '.join(detection.inaccessible)} of this machine: {detection.reason}",
            wanted="a GPU that CUDA can use",
            remedy=f"{_accessible(detection, platform)}; or {_CPU}",
        )
    elif count == 0 and platform.cuda is not None:
        yield Finding(
            subject=f"platform {platform.name}",
            found=f"no GPU was found ({detection.reason})",
            wanted="one",
            remedy=f"Check `nvidia-smi` and, in a container, `--gpus`; or {_CPU}",
        )


def _accessible(detection: GpuDetection, platform: Platform) -> str:
    driver = detection.driver
    if driver is None:
        return detection.remedy
    kind = all(requirements().is_data_centre(name) for name in detection.inaccessible)
    installed = f" instead of {driver.version}" if driver.version else ""
    return (
        f"Install a driver that platform {platform.name} supports{installed}: "
        f"{platform.supported_drivers(data_centre=kind)}"
    )


def _capability(gpu: Gpu) -> Iterator[Finding]:
    supported = [format_version(arch.capability) for arch in Arch if arch.capability]
    if format_version(gpu.capability) not in supported:
        yield Finding(
            subject=f"GPU {gpu.name}",
            found=f"its compute capability is {format_version(gpu.capability)}",
            wanted=f"{', '.join(supported[:-1])} or {supported[-1]}",
            remedy=f"Use a GPU with one of these, or {_CPU}",
        )


def _memory(gpu: Gpu, rules: Requirements) -> Iterator[Finding]:
    wanted = rules.gpu_memory
    if gpu.memory_bytes < wanted.min_bytes:
        in_slices = gpu.mig == "on"
        yield Finding(
            subject=f"GPU {gpu.name}",
            found=f"its memory is {gibibytes(gpu.memory_bytes)}",
            wanted=f"{wanted.nominal_gb} GB (reported as {gibibytes(wanted.min_bytes)} or more)",
            remedy=f"Use {'a larger MIG instance' if in_slices else 'a GPU with more memory'}, or {_CPU}",
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
    text = f"it supports CUDA {format_version(driver.cuda)} at most"
    if driver.version:
        # Only the CUDA version shows whether CUDA's compatibility library is in use.
        text = f"its version is {driver.version}, with CUDA {format_version(driver.cuda)},"
    yield Finding(
        subject="NVIDIA driver",
        found=f"{text} on {'a data-centre GPU' if kind else 'a GPU that is not for data centres'}",
        wanted=f"{platform.supported_drivers(data_centre=kind)} for platform {platform.name}",
        remedy="Install such a driver"
        + "".join(f", or serve with `--platform {name}`, which supports this driver" for name in others),
    )


def _admits(platform: Platform, driver: Driver, *, data_centre: bool) -> bool:
    numbers = parse_version(driver.version) if driver.version else None
    if numbers is None:
        return platform.admits_cuda(driver.cuda, data_centre=data_centre)
    return platform.admits_driver(numbers, driver.cuda, data_centre=data_centre)


def _unknown_driver(driver: Driver, gpu: Gpu, platform: Platform) -> Iterator[Finding]:
    if driver.version is None:
        kind = requirements().is_data_centre(gpu.name)
        yield Finding(
            subject="NVIDIA driver",
            found=f"its version is unknown ({driver.reason}); it supports CUDA {format_version(driver.cuda)}",
            wanted=f"{platform.supported_drivers(data_centre=kind)} for platform {platform.name}",
            remedy="Compare it with the version that `nvidia-smi` prints on the host",
        )


def _host(host: Host, rules: Requirements) -> Iterator[Finding]:
    wanted = rules.host_memory
    if host.memory_bytes is not None and host.memory_bytes < wanted.min_bytes:
        yield Finding(
            subject="host",
            found=f"the memory of the host, or the limit of this container, is {gibibytes(host.memory_bytes)}",
            wanted=f"{wanted.nominal_gb} GB (reported as {gibibytes(wanted.min_bytes)} or more)",
            remedy="Loading may be slow or run out of memory: use a larger host, or raise the container's limit",
        )


def _plans(selection: Selection, gpu: Gpu) -> Iterator[Finding]:
    arch, platform = selection.target.arch.value, selection.target.platform.name
    origins = {(choice.bundle.manifest.arch.value, choice.level) for choice in selection.compatible()}
    for built, level in sorted(origins):
        yield Finding(
            subject="engines",
            found=f"some are built for {built} and run here through compatibility level {level}",
            wanted=f"for full speed a build for {arch}",
            remedy=f"Build them with `python -m build.engines --arch {arch} --platform {platform}`",
        )
    others = {choice.record.built_on["gpu"] for choice in selection.chosen if _built_on_another(choice, gpu)}
    for built_on in sorted(others):
        yield Finding(
            subject="engines",
            found=f"some are built on {built_on} and this GPU is {gpu.name}",
            wanted="a build on the same model of GPU, or with compatibility same-capability,",
            remedy="TensorRT guarantees neither speed nor safety across GPU models: build the engines on this GPU",
        )


def _built_on_another(choice: Choice, gpu: Gpu) -> bool:
    built_on = choice.record.built_on.get("gpu")
    # A MIG instance is a part of the same model of GPU.
    return choice.level == "none" and built_on is not None and _model(built_on) != _model(gpu.name)


def _model(name: str) -> str:
    return name.partition(" MIG ")[0].removeprefix("NVIDIA ")
