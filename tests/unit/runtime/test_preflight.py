"""Test the requirements for a machine: every limit, every sentence, and all findings together."""

import dataclasses
from pathlib import Path

import pytest

from contract.arch import Arch
from contract.platform import platform
from runtime import preflight
from runtime.budget import Budget
from runtime.bundles import Bundle
from runtime.gpu import Driver, Gpu, GpuDetection
from runtime.host import Host
from runtime.selection import Selection, Target, select
from tests.unit.runtime import synthetic

NEW, LEGACY, EMBEDDED = platform("26.08"), platform("23.12"), platform("embedded")
MEBIBYTE, GIBIBYTE = 1 << 20, 1 << 30
A10 = Gpu(name="NVIDIA A10", capability=(8, 6), memory_bytes=22591 * MEBIBYTE, mig="not offered")
T4 = Gpu(name="Tesla T4", capability=(7, 5), memory_bytes=14913 * MEBIBYTE, mig="not offered")
RTX3070 = Gpu(name="NVIDIA GeForce RTX 3070", capability=(8, 6), memory_bytes=7973 * MEBIBYTE, mig="not offered")
V100 = Gpu(name="Tesla V100-SXM2-16GB", capability=(7, 0), memory_bytes=16144 * MEBIBYTE, mig="not offered")
B200 = Gpu(name="NVIDIA B200", capability=(10, 0), memory_bytes=182642 * MEBIBYTE, mig="off")
SLICE = Gpu(name="NVIDIA A100-SXM4-40GB MIG 3g.20gb", capability=(8, 0), memory_bytes=19968 * MEBIBYTE, mig="on")
SMALL_SLICE = dataclasses.replace(SLICE, name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", memory_bytes=4864 * MEBIBYTE)
HOST = Host(memory_bytes=62 * GIBIBYTE, cores=8)
TOO_OLD = (
    "NVIDIA driver: its version is {}, with CUDA {}, on a data-centre GPU, "
    "but 580 or later for platform 26.08 is required. "
    "Install such a driver{}."
)
LEGACY_DRIVERS = (
    "545 or later, or 470.57 or later of branch 470 with CUDA's compatibility library, "
    "or 525.85 or later of branch 525, or 535.86 or later of branch 535"
)
ON_THE_CPU = "serve on the CPU with `--platform embedded`, in containers with the image voxwright-runtime-cpu"
CAPABILITY = (
    "GPU {}: its compute capability is {}, but 7.5, 8.0, 8.6, 8.9 or 9.0 is required. Use a GPU with one of these, or "
    + ON_THE_CPU
)
MEMORY = "GPU {}: its memory is {}, but 16 GB (reported as 14.0 GiB or more) is required. Use {}, or " + ON_THE_CPU


def driver(version: str | None = "580.65.06", cuda: tuple[int, int] = (13, 0)) -> Driver:
    return Driver(cuda=cuda, version=version, reason="" if version else "there is no libnvidia-ml.so.1")


def seen(*gpus: Gpu, version: str | None = "580.65.06", cuda: tuple[int, int] = (13, 0)) -> GpuDetection:
    return GpuDetection(gpus=gpus, driver=driver(version, cuda))


def sentences(detection: GpuDetection, wanted: object = NEW) -> list[str]:
    return [str(finding) for finding in preflight.examine(detection, wanted)]  # type: ignore[arg-type]


@pytest.mark.parametrize("gpu", [A10, T4, SLICE], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("wanted", [NEW, LEGACY], ids=["26.08", "23.12"])
def test_no_finding(gpu: Gpu, wanted: object) -> None:
    assert sentences(seen(gpu), wanted) == []
    assert preflight.refusal([], NEW) is None


@pytest.mark.parametrize(("gpu", "capability"), [(V100, "7.0"), (B200, "10.0")], ids=["V100", "B200"])
def test_capability(gpu: Gpu, capability: str) -> None:
    assert sentences(seen(gpu)) == [CAPABILITY.format(gpu.name, capability) + "."]


@pytest.mark.parametrize(
    ("gpu", "memory", "instead"),
    [(RTX3070, "7.8 GiB", "a GPU with more memory"), (SMALL_SLICE, "4.8 GiB", "a larger MIG instance")],
    ids=["8 GB", "slice"],
)
def test_memory(gpu: Gpu, memory: str, instead: str) -> None:
    assert sentences(seen(gpu)) == [MEMORY.format(gpu.name, memory, instead) + "."]


@pytest.mark.parametrize(("memory_bytes", "count"), [(14 * GIBIBYTE, 0), (14 * GIBIBYTE - 1, 1)])
def test_memory_limit(memory_bytes: int, count: int) -> None:
    assert len(sentences(seen(dataclasses.replace(T4, memory_bytes=memory_bytes)))) == count


@pytest.mark.parametrize(
    ("version", "cuda", "instead"),
    [
        ("575.57.08", (12, 9), ", or serve with `--platform 23.12`, which supports this driver"),
        ("535.104.05", (12, 2), ", or serve with `--platform 23.12`, which supports this driver"),
        ("535.54.03", (12, 2), ""),
        ("470.256.02", (12, 3), ", or serve with `--platform 23.12`, which supports this driver"),
        ("470.256.02", (11, 4), ""),
        ("418.39", (10, 1), ""),
    ],
)
def test_old_driver(version: str, cuda: tuple[int, int], instead: str) -> None:
    assert sentences(seen(T4, version=version, cuda=cuda)) == [TOO_OLD.format(version, f"{cuda[0]}.{cuda[1]}", instead)]


def test_branch_470_needs_the_compatibility_library() -> None:
    assert sentences(seen(T4, version="470.256.02", cuda=(12, 3)), LEGACY) == []
    assert sentences(seen(T4, version="470.256.02", cuda=(11, 4)), LEGACY) == [
        "NVIDIA driver: its version is 470.256.02, with CUDA 11.4, on a data-centre GPU, "
        f"but {LEGACY_DRIVERS} for platform 23.12 is required. Install such a driver."
    ]


def test_driver_that_the_bindings_cannot_use() -> None:
    """The remedy names the drivers of the platform."""
    found = GpuDetection(
        driver=driver("470.256.02", (11, 4)),
        reason="libcuda.so.1 supports CUDA 11.4, which is too old",
        inaccessible=("Tesla T4",),
        remedy="Install a driver that supports CUDA 12.0 or later",
    )
    start = (
        "GPU: CUDA cannot use Tesla T4 of this machine: libcuda.so.1 supports CUDA 11.4, which is too old, "
        "but a GPU that CUDA can use is required. Install a driver that platform "
    )
    assert sentences(found) == [f"{start}26.08 supports instead of 470.256.02: 580 or later; or {ON_THE_CPU}."]
    assert sentences(found, LEGACY) == [
        f"{start}23.12 supports instead of 470.256.02: {LEGACY_DRIVERS}; or {ON_THE_CPU}."
    ]
    unnamed = dataclasses.replace(found, driver=driver(None, (11, 4)), inaccessible=("a GPU that NVML cannot name",))
    assert sentences(unnamed, LEGACY)[0].endswith(f"platform 23.12 supports: 545 or later; or {ON_THE_CPU}.")


def test_driver_branches_apply_to_data_centre_gpus_only() -> None:
    card = dataclasses.replace(RTX3070, memory_bytes=24 * GIBIBYTE)
    assert sentences(seen(T4, version="535.104.05", cuda=(12, 2)), LEGACY) == []
    assert sentences(seen(card, version="535.104.05", cuda=(12, 2)), LEGACY) == [
        "NVIDIA driver: its version is 535.104.05, with CUDA 12.2, on a GPU that is not for data centres, "
        "but 545 or later for platform 23.12 is required. Install such a driver."
    ]
    assert sentences(seen(T4, version="530.30.02", cuda=(12, 1)), LEGACY) == [
        "NVIDIA driver: its version is 530.30.02, with CUDA 12.1, on a data-centre GPU, "
        f"but {LEGACY_DRIVERS} for platform 23.12 is required. Install such a driver."
    ]


def test_driver_with_only_a_cuda_version() -> None:
    assert sentences(seen(T4, version=None)) == []
    assert sentences(seen(T4, version=None, cuda=(12, 2))) == [
        "NVIDIA driver: it supports CUDA 12.2 at most on a data-centre GPU, "
        "but 580 or later for platform 26.08 is required. "
        "Install such a driver, or serve with `--platform 23.12`, which supports this driver."
    ]
    assert sentences(seen(T4, version=None, cuda=(12, 2)), LEGACY) == []
    # A driver that is accepted by its CUDA version alone causes a warning.
    (warning,) = preflight.warnings(seen(T4, version=None), NEW, HOST, None)
    assert str(warning) == (
        "NVIDIA driver: its version is unknown (there is no libnvidia-ml.so.1); "
        "it supports CUDA 13.0, but 580 or later for platform 26.08 is required. "
        "Compare it with the version that `nvidia-smi` prints on the host."
    )


def test_malformed_driver_version_counts_as_unknown() -> None:
    assert sentences(seen(T4, version="R580")) == []
    assert len(sentences(seen(T4, version="R580", cuda=(12, 8)))) == 1


def test_two_gpus() -> None:
    assert sentences(seen(A10, A10)) == [
        "GPUs: 2 are visible, but exactly one is required. "
        "Select one with CUDA_VISIBLE_DEVICES=0, or in a container with `--gpus device=0`."
    ]


def test_no_gpu() -> None:
    assert sentences(GpuDetection(reason="CUDA lists no GPU")) == [
        "platform 26.08: no GPU was found (CUDA lists no GPU), but one is required. "
        "Check `nvidia-smi` and, in a container, `--gpus`; or serve on the CPU with `--platform embedded`, "
        "in containers with the image voxwright-runtime-cpu."
    ]
    assert sentences(GpuDetection(reason="CUDA lists no GPU"), EMBEDDED) == []


def test_inaccessible_gpu() -> None:
    """Only the operator may decide to serve on the CPU of a machine with a GPU."""
    detection = GpuDetection(
        reason="CUDA_VISIBLE_DEVICES=7 names no GPU of this machine",
        inaccessible=("NVIDIA A10", "NVIDIA L4"),
        remedy="Name one as `nvidia-smi -L` lists it",
    )
    assert sentences(detection) == [
        "GPU: CUDA cannot use NVIDIA A10 and NVIDIA L4 of this machine: "
        "CUDA_VISIBLE_DEVICES=7 names no GPU of this machine, but a GPU that CUDA can use is required. "
        "Name one as `nvidia-smi -L` lists it; or serve on the CPU with `--platform embedded`, "
        "in containers with the image voxwright-runtime-cpu."
    ]


def test_cpu_platform_requires_no_gpu() -> None:
    assert sentences(GpuDetection(reason="not looked for"), EMBEDDED) == []
    assert (
        preflight.warnings(GpuDetection(reason="not looked for"), EMBEDDED, Host(memory_bytes=1, cores=1), None) == []
    )


def test_error_of_one_finding() -> None:
    error = preflight.refusal(preflight.examine(seen(V100), NEW), NEW)
    assert error is not None
    assert error.exit_code == 40
    assert str(error) == CAPABILITY.format(V100.name, "7.0") + "."


def test_error_of_several_findings() -> None:
    """One start reports everything, so that an operator need not fix and restart once per finding."""
    poor = dataclasses.replace(V100, memory_bytes=8 * GIBIBYTE)
    error = preflight.refusal(preflight.examine(seen(poor, poor, A10, version="535.54.03"), NEW), NEW)
    assert error is not None
    assert str(error) == (
        "platform 26.08: this machine cannot serve it, for 4 reasons. Fix each of these:\n"
        "  GPUs: 3 are visible, but exactly one is required. "
        "Select one with CUDA_VISIBLE_DEVICES=0, or in a container with `--gpus device=0`.\n"
        f"  {CAPABILITY.format(poor.name, '7.0')}.\n"
        f"  {MEMORY.format(poor.name, '8.0 GiB', 'a GPU with more memory')}.\n"
        f"  {TOO_OLD.format('535.54.03', '13.0', '')}"
    )


@pytest.mark.parametrize(("memory_bytes", "warned"), [(22 * GIBIBYTE, 0), (22 * GIBIBYTE - 1, 1), (None, 0)])
def test_host_memory_limit(memory_bytes: int | None, warned: int) -> None:
    assert len(preflight.warnings(seen(A10), NEW, Host(memory_bytes=memory_bytes, cores=1), None)) == warned


def test_small_host() -> None:
    (warning,) = preflight.warnings(seen(A10), NEW, Host(memory_bytes=16 * GIBIBYTE, cores=1), None)
    assert str(warning) == (
        "host: the memory of the host, or the limit of this container, is 16.0 GiB, "
        "but 24 GB (reported as 22.0 GiB or more) is required. "
        "Loading may be slow or run out of memory: use a larger host, or raise the container's limit."
    )


def budget(known_bytes: int, state_bytes: int = 0) -> Budget:
    return Budget(
        engine_bytes=known_bytes - 3,
        context_bytes=1,
        cuda_pool_bytes=2,
        state_bytes=state_bytes,
        ensemble_bytes=2 - state_bytes,
        unknown=(),
    )


def test_pools_smaller_than_needed() -> None:
    small = dataclasses.replace(
        budget(9),
        cuda_pool_bytes=64 * MEBIBYTE,
        needed_cuda_pool_bytes=151 * MEBIBYTE,
        pinned_pool_bytes=256 * MEBIBYTE,
        needed_pinned_pool_bytes=256 * MEBIBYTE,
    )
    (warning,) = preflight.pool_warnings(small)
    assert str(warning) == (
        "tritonserver flag --cuda-memory-pool-byte-size: it sets a memory pool of 64.0 MiB, "
        "but 151.0 MiB for the states and tensors of these engines is required. "
        "Remove the flag: `python -m runtime` then sets the required size. A full pool slows requests down."
    )
    assert preflight.pool_warnings(dataclasses.replace(small, cuda_pool_bytes=151 * MEBIBYTE)) == []


POINTS = ("standard", "enhanced")


def test_engines_that_do_not_fit() -> None:
    free = A10.memory_bytes - GIBIBYTE
    assert preflight.examine_budget(budget(free), A10, POINTS) == []
    (finding,) = preflight.examine_budget(budget(30 * GIBIBYTE), A10, POINTS)
    assert str(finding) == (
        "GPU NVIDIA A10: the selected engines and Triton's memory pool need 30.0 GiB of its memory, "
        "but 21.1 GiB or less is required. "
        "Serve one operating point with SM_OPERATING_POINT=standard, or use a GPU with more memory."
    )
    (finding,) = preflight.examine_budget(budget(free + 1), A10, POINTS[:1])
    assert finding.remedy == "Use a GPU with more memory"


def test_states_that_do_not_fit() -> None:
    (finding,) = preflight.examine_budget(budget(30 * GIBIBYTE, state_bytes=1), A10, POINTS[:1])
    assert finding.remedy == "Serve fewer streams with VOXWRIGHT_STREAMS, or use a GPU with more memory"
    (finding,) = preflight.examine_budget(budget(30 * GIBIBYTE, state_bytes=1), A10, POINTS)
    assert finding.remedy == (
        "Serve one operating point with SM_OPERATING_POINT=standard, serve fewer streams with VOXWRIGHT_STREAMS, "
        "or use a GPU with more memory"
    )


def chosen(arch: Arch, level: str, built_on: str) -> Selection:
    made = synthetic.full_manifest(arch, "26.08")
    parts = {"options": {"compatibility": level}}
    engines = (dataclasses.replace(it, key_parts=parts, built_on={"gpu": built_on}) for it in made.engines)
    bundle = Bundle(folder=Path("b"), manifest=dataclasses.replace(made, engines=tuple(engines)))
    return select(
        [bundle], synthetic.CATALOGUE, Target(arch=Arch.SM86, platform=NEW, mode="batch", operating_point=None)
    )


def test_plan_built_on_another_model_of_gpu() -> None:
    (warning,) = preflight.warnings(seen(A10), NEW, HOST, chosen(Arch.SM86, "none", "NVIDIA A40"))
    assert str(warning) == (
        "engines: some are built on NVIDIA A40 and this GPU is NVIDIA A10, "
        "but a build on the same model of GPU, or with compatibility same-capability, is required. "
        "TensorRT guarantees neither speed nor safety across GPU models: build the engines on this GPU."
    )
    for level, built_on in (("none", "NVIDIA A10"), ("none", "A10"), ("same-capability", "NVIDIA A40")):
        assert preflight.warnings(seen(A10), NEW, HOST, chosen(Arch.SM86, level, built_on)) == []


def test_plan_built_for_another_architecture() -> None:
    (warning,) = preflight.warnings(seen(A10), NEW, HOST, chosen(Arch.SM80, "ampere-plus", "NVIDIA A100-SXM4-80GB"))
    assert str(warning) == (
        "engines: some are built for sm80 and run here through compatibility level ampere-plus, "
        "but for full speed a build for sm86 is required. "
        "Build them with `python -m build.engines --arch sm86 --platform 26.08`."
    )
