"""Write docs/doctor.md: the real output of the doctor, with fake drivers and synthetic bundles.

.venv/bin/python -m tests.unit.runtime.doctor_page
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contract.arch import Arch
from contract.manifest import BundleManifest
from tests.fakes import driver
from tests.fakes.driver import ROOT, fake_driver, python
from tests.ports import free_ports
from tests.unit.runtime import synthetic

PAGE = ROOT / "docs" / "doctor.md"
MEBIBYTE = 1 << 20
OPENING = """# Output of the doctor

A start of the server can fail for many reasons: no GPU, an old driver, engines for another GPU, a damaged bundle, a
port in use. The doctor reports all of them at once. It starts nothing and writes nothing:

    .venv/bin/python -m runtime.doctor

It takes the options of `python -m runtime`, and `--json` for output as JSON. It decides with the same code as a start,
and runs every check that a start runs before it changes anything: ports, server, the repository's folder and
configuration, the SHA-256 of every file of the bundles. Its exit code is the one with which a start would end: 0 only
where the server would start.

Below is its real output on different machines. The GPUs are simulated at the driver's interface; the bundles (engines
of zeros) and the host's memory are synthetic as well. Everything else is the code that an operator runs. This command
writes the page, and a test checks that the page is current:

    .venv/bin/python -m tests.unit.runtime.doctor_page
"""
# The page must not depend on the machine that it is written on.
DOCTOR = """
import sys
from runtime import doctor, host, listening
listening.families = lambda: listening.Families(ipv4=True, ipv6=False)
described = host.Host(memory_bytes={memory}, cores=8)
host.describe = lambda: described
sys.argv = ["doctor", *{arguments!r}]
doctor.main()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A machine, the bundles on it, the command, and the exit code that it must have."""

    title: str
    remark: str
    exit_code: int = 0
    card: dict[str, str] | None = None
    driver: str = "580.65.06"
    macros: dict[str, str] = field(default_factory=dict)
    bundles: Callable[[], tuple[BundleManifest, ...]]
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    host_bytes: int = 62 << 30
    has_server: bool = True

    @property
    def is_embedded(self) -> bool:
        """Whether the scene needs the embedded server, which the slim environment does not have."""
        return self.card is None


def plans(
    arch: Arch,
    name: str = "26.08",
    *points: str,
    kilobytes: int = 48,
    context: int | None = 96 * MEBIBYTE,
    level: str = "none",
    gpu: str = "",
) -> BundleManifest:
    """Return a synthetic bundle: engine size, context memory, compatibility level and build GPU as given."""
    made = synthetic.full_manifest(arch, name, *points)
    content = bytes(kilobytes << 10)
    engines = (
        dataclasses.replace(
            synthetic.record(synthetic.engine_models()[engine.model], content, engine.compiler),
            device_memory_bytes=context,
            key_parts={"options": {"compatibility": level}},
            built_on={"gpu": gpu} if gpu else {},
        )
        for engine in made.engines
    )
    return dataclasses.replace(made, engines=tuple(engines))


def int8_plans() -> BundleManifest:
    """Return a synthetic bundle for sm86 with the encoder and the CTC head in INT8."""
    made = plans(Arch.SM86, "26.08", "standard")
    engines = (
        dataclasses.replace(it, precision="int8") if it.family in ("body", "am_en") else it for it in made.engines
    )
    return dataclasses.replace(made, engines=tuple(engines))


def recogniser_plans() -> BundleManifest:
    """Return a synthetic bundle for sm86 with neither language model nor speaker network."""
    made = plans(Arch.SM86, "26.08", "enhanced", gpu="NVIDIA A10")
    return dataclasses.replace(made, engines=tuple(it for it in made.engines if it.family not in ("lm", "diar")))


def everywhere() -> tuple[BundleManifest, ...]:
    """Return a synthetic bundle for each architecture."""
    gpus = (plans(arch, "26.08", "standard") for arch in Arch if arch is not Arch.CPU)
    return (*gpus, plans(Arch.CPU, "embedded", "standard"))


SCENES = (
    Scene(title="No GPU", remark="The embedded server on a CPU.", bundles=lambda: (plans(Arch.CPU, "embedded"),)),
    Scene(
        title="An A10 with its bundle",
        remark="Both operating points are served. The plans were built on an A10.",
        card=driver.A10,
        bundles=lambda: (plans(Arch.SM86, gpu="NVIDIA A10"),),
    ),
    Scene(
        title="An A10 with INT8 engines",
        remark="The precision is in each engine's row and in the summary. This bundle is made up, because no compiler "
        "for GPUs builds INT8 yet.",
        card=driver.A10,
        bundles=lambda: (int8_plans(),),
        arguments=("--operating-point", "standard"),
    ),
    Scene(
        title="An A10 and a bundle without language model and speaker network",
        remark="Models of these roles are optional. What clients do without is stated.",
        card=driver.A10,
        bundles=lambda: (recogniser_plans(),),
        arguments=("--operating-point", "enhanced"),
    ),
    Scene(
        title="A T4, and bundles for every architecture",
        remark="Each engine that is not served is listed with the reason.",
        card=driver.T4,
        bundles=everywhere,
        arguments=("--operating-point", "standard"),
    ),
    Scene(
        title="An L4, and plans with compatibility level ampere-plus",
        remark="They run, but slower than plans for sm89. The doctor warns about it.",
        card=driver.L4,
        bundles=lambda: (
            plans(Arch.SM80, "26.08", "standard", level="ampere-plus"),
            plans(Arch.SM86, "26.08", "standard"),
        ),
    ),
    Scene(
        title="A MIG instance of an A100, without NVML",
        remark="Without NVML the driver version is unknown. This manifest does not state the context memory either.",
        card=driver.A100_SLICE,
        macros={"NVML": "absent"},
        bundles=lambda: (plans(Arch.SM80, "26.08", "standard", context=None),),
        variables={"CUDA_VISIBLE_DEVICES": "MIG-0"},
    ),
    Scene(
        title="An H100 and no bundle",
        remark="",
        exit_code=41,
        card=driver.H100,
        bundles=tuple,
    ),
    Scene(
        title="An A100 outside the serving image, on a small host",
        remark="",
        exit_code=43,
        card=driver.A100,
        bundles=lambda: (plans(Arch.SM80, "26.08", "standard"),),
        host_bytes=16 << 30,
        has_server=False,
    ),
    Scene(
        title="The legacy platform on a T4 with a driver of branch 535",
        remark="On a data-centre GPU this branch is supported from 535.86 on.",
        card=driver.T4,
        driver="535.104.05",
        macros={"CUDA": "12020"},
        bundles=lambda: (plans(Arch.SM75, "23.12", "standard"),),
        arguments=("--platform", "23.12"),
    ),
    Scene(
        title="The legacy platform on a T4 with a driver of branch 470 and CUDA's compatibility library",
        remark="The CUDA library is the one of the image, and NVML reports the driver in the kernel.",
        card=driver.T4,
        driver="470.256.02",
        macros={"CUDA": "12030"},
        bundles=lambda: (plans(Arch.SM75, "23.12", "standard"),),
        arguments=("--platform", "23.12"),
    ),
    Scene(
        title="The same without the compatibility library",
        remark="The library of branch 470 supports CUDA 11.4, and cuda-bindings cannot use it.",
        exit_code=40,
        card=driver.T4,
        driver="470.256.02",
        macros={"CUDA": "11040"},
        bundles=lambda: (plans(Arch.SM75, "23.12", "standard"),),
        arguments=("--platform", "23.12"),
    ),
    Scene(
        title="A V100",
        remark="",
        exit_code=40,
        card=driver.V100,
        bundles=lambda: (plans(Arch.SM80, "26.08", "standard"),),
    ),
    Scene(
        title="A B200",
        remark="",
        exit_code=40,
        card=driver.B200,
        bundles=lambda: (plans(Arch.SM90, "26.08", "standard"),),
    ),
    Scene(
        title="Two small GeForce cards with an old driver",
        remark="All findings are reported at once.",
        exit_code=40,
        card=driver.RTX3070,
        driver="535.104.05",
        macros={"GPUS": "2", "CUDA": "12020"},
        bundles=lambda: (plans(Arch.SM86, "26.08", "standard"),),
    ),
    Scene(
        title="A CUDA_VISIBLE_DEVICES that names no GPU",
        remark="The server does not fall back to the CPU silently.",
        exit_code=40,
        card=driver.A10,
        bundles=lambda: (plans(Arch.CPU, "embedded", "standard"),),
        variables={"CUDA_VISIBLE_DEVICES": "3"},
    ),
)


def run(scene: Scene, folder: Path, *, as_json: bool = False) -> tuple[int, str]:
    """Prepare a scene in a folder and run the doctor there; return its exit code and its output."""
    library = prepare(scene, folder)
    arguments = [*(["--json"] if as_json else []), *scene.arguments]
    script = DOCTOR.format(memory=scene.host_bytes, arguments=arguments)
    result = python(library, "-c", script, cwd=folder, **environment(scene, folder))
    return result.returncode, result.stdout + result.stderr


def prepare(scene: Scene, folder: Path) -> Path | None:
    """Write a scene's bundles, server and driver; return the folder of the driver."""
    for made in scene.bundles():
        size = made.engines[0].size_bytes
        place = folder / "dist" / "engines" / made.platform / made.arch.value
        synthetic.write(place, made, lambda _, size=size: bytes(size))  # type: ignore[misc]
    if scene.has_server:
        server = folder / "bin" / "tritonserver"
        server.parent.mkdir(exist_ok=True)
        server.write_text("#!/bin/sh\nexit 0\n")
        server.chmod(0o755)
    if scene.card is None:
        return None
    library = folder / "driver"
    library.mkdir(exist_ok=True)
    return fake_driver(library, scene.driver, **{**scene.card, **scene.macros})


def environment(scene: Scene, folder: Path) -> dict[str, str]:
    """Return the environment variables of a scene: its server on the PATH, and free ports."""
    ports = map(str, free_ports(3))
    names = ("VOXWRIGHT_HTTP_PORT", "VOXWRIGHT_GRPC_PORT", "VOXWRIGHT_METRICS_PORT")
    return {**dict(zip(names, ports, strict=True)), "PATH": f"{folder}/bin:/usr/bin:/bin", **scene.variables}


def section(scene: Scene, folder: Path) -> str:
    """Return the page's section about a scene."""
    code, output = run(scene, folder)
    settings = [f"{name}={text}" for name, text in scene.variables.items()]
    command = " ".join([*settings, ".venv/bin/python -m runtime.doctor", *scene.arguments])
    lines = [
        f"## {scene.title}",
        *([scene.remark] if scene.remark else []),
        f"```\n$ {command}\n{output}[exit code {code}]\n```",
    ]
    return "\n\n".join(lines) + "\n"


def page() -> str:
    """Return the whole page; needs the embedded server and the driver bindings."""
    return "\n".join([OPENING, *_sections()])


def _sections() -> Iterator[str]:
    for scene in SCENES:
        with tempfile.TemporaryDirectory() as folder:
            yield section(scene, Path(folder))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
