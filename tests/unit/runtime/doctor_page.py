"""Writes docs/doctor.md: what the doctor really prints, under made-up drivers and with made-up bundles.

python -m tests.unit.runtime.doctor_page
"""

import dataclasses
import importlib.util
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contract.arch import Arch
from contract.manifest import BundleManifest
from tests.fakes import driver
from tests.fakes.driver import ROOT, fake_driver, python
from tests.unit.runtime import synthetic

PAGE = ROOT / "docs" / "doctor.md"
MEBIBYTE = 1 << 20
OPENING = """# What the doctor says

    python -m runtime.doctor [the options of python -m runtime] [--json]

It decides as `python -m runtime` does, by the same code, tries all that a start tries before it touches anything
(ports, server, the repository's folder and configuration, every byte of the bundles), and ends with the exit code that
a start would end with: 0 only where it would become the server.

Below is its real output. The GPUs are made up at the driver's interface, and so are the bundles (engines of zeros) and
the size of the host; everything between is what an operator runs. `python -m tests.unit.runtime.doctor_page` writes
this page, and a test holds it against what the doctor says today.
"""
# The machine that the page is written on must not show.
DOCTOR = """
import sys
from runtime import doctor, host
described = host.Host(memory_bytes={memory}, cores=8)
host.describe = lambda: described
sys.argv = ["doctor", *{arguments!r}]
doctor.main()
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A machine, the bundles on it, and the command."""

    title: str
    remark: str
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
        """Say whether the scene needs the embedded server, which the slim environment has not."""
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
    """Make up a bundle whose engines have some size, context, level and origin."""
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


def everywhere() -> tuple[BundleManifest, ...]:
    """Make up a bundle for each architecture."""
    gpus = (plans(arch, "26.08", "standard") for arch in Arch if arch is not Arch.CPU)
    return (*gpus, plans(Arch.CPU, "embedded", "standard"))


SCENES = (
    Scene(title="No GPU", remark="The embedded server on a CPU.", bundles=lambda: (plans(Arch.CPU, "embedded"),)),
    Scene(
        title="An A10 with its bundle",
        remark="Both operating points; the plans were built on such a card.",
        card=driver.A10,
        bundles=lambda: (plans(Arch.SM86, gpu="NVIDIA A10"),),
    ),
    Scene(
        title="A T4, and bundles for every architecture",
        remark="Each engine that is not served has its reason.",
        card=driver.T4,
        bundles=everywhere,
        arguments=("--operating-point", "standard"),
    ),
    Scene(
        title="An L4, and plans of Ampere that admit it",
        remark="Compatibility ampere-plus: slower than plans of its own, which the doctor says.",
        card=driver.L4,
        bundles=lambda: (
            plans(Arch.SM80, "26.08", "standard", level="ampere-plus"),
            plans(Arch.SM86, "26.08", "standard"),
        ),
    ),
    Scene(
        title="A MIG instance of an A100, without NVML",
        remark="CUDA alone does not tell the driver's version, nor the manifest what contexts take.",
        card=driver.A100_SLICE,
        macros={"NVML": "absent"},
        bundles=lambda: (plans(Arch.SM80, "26.08", "standard", context=None),),
        variables={"CUDA_VISIBLE_DEVICES": "MIG-0"},
    ),
    Scene(
        title="An H100 and no bundle",
        remark="",
        card=driver.H100,
        bundles=tuple,
    ),
    Scene(
        title="An A100 outside the serving image, on a small host",
        remark="",
        card=driver.A100,
        bundles=lambda: (plans(Arch.SM80, "26.08", "standard"),),
        host_bytes=16 << 30,
        has_server=False,
    ),
    Scene(
        title="The legacy platform on a T4 with a driver of branch 535",
        remark="A data-centre GPU: the branch is admitted from 535.86 on.",
        card=driver.T4,
        driver="535.104.05",
        macros={"CUDA": "12020"},
        bundles=lambda: (plans(Arch.SM75, "23.12", "standard"),),
        arguments=("--platform", "23.12"),
    ),
    Scene(
        title="A V100",
        remark="",
        card=driver.V100,
        bundles=lambda: (plans(Arch.SM80, "26.08", "standard"),),
    ),
    Scene(
        title="A B200",
        remark="",
        card=driver.B200,
        bundles=lambda: (plans(Arch.SM90, "26.08", "standard"),),
    ),
    Scene(
        title="Two small GeForce cards with an old driver",
        remark="Everything that is wrong, at once.",
        card=driver.RTX3070,
        driver="535.104.05",
        macros={"GPUS": "2", "CUDA": "12020"},
        bundles=lambda: (plans(Arch.SM86, "26.08", "standard"),),
    ),
    Scene(
        title="A CUDA_VISIBLE_DEVICES that names nothing",
        remark="The CPU is not taken instead: that would be a silent fall-back.",
        card=driver.A10,
        bundles=lambda: (plans(Arch.CPU, "embedded", "standard"),),
        variables={"CUDA_VISIBLE_DEVICES": "3"},
    ),
)


def run(scene: Scene, folder: Path, *, as_json: bool = False) -> tuple[int, str]:
    """Run the doctor in a folder that is made into the scene; give its exit code and what it printed."""
    library = prepare(scene, folder)
    arguments = [*scene.arguments, *(["--json"] if as_json else [])]
    script = DOCTOR.format(memory=scene.host_bytes, arguments=arguments)
    result = python(library, "-c", script, cwd=folder, **environment(scene, folder))
    return result.returncode, result.stdout + result.stderr


def prepare(scene: Scene, folder: Path) -> Path | None:
    """Write a scene's bundles, server and driver; give the folder of the driver."""
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
    """Give the variables of a scene: its server on the PATH, and ports that nobody uses."""
    with socket.socket() as first, socket.socket() as second, socket.socket() as third:
        for each in (first, second, third):
            each.bind(("", 0))
        ports = [str(each.getsockname()[1]) for each in (first, second, third)]
    names = ("VOXWRIGHT_HTTP_PORT", "VOXWRIGHT_GRPC_PORT", "VOXWRIGHT_METRICS_PORT")
    return {**dict(zip(names, ports, strict=True)), "PATH": f"{folder}/bin:/usr/bin:/bin", **scene.variables}


def section(scene: Scene, folder: Path) -> str:
    """Write what the page says of a scene."""
    code, output = run(scene, folder)
    settings = [f"{name}={text}" for name, text in scene.variables.items()]
    command = " ".join([*settings, "python -m runtime.doctor", *scene.arguments])
    lines = [
        f"## {scene.title}",
        *([scene.remark] if scene.remark else []),
        f"```\n$ {command}\n{output}[exit code {code}]\n```",
    ]
    return "\n\n".join(lines) + "\n"


def sections() -> Iterator[str]:
    """Write every section that this environment can."""
    for scene in SCENES:
        with tempfile.TemporaryDirectory() as folder:
            yield section(scene, Path(folder))


def can_run(scene: Scene) -> bool:
    """Say whether this environment has what a scene needs."""
    return not scene.is_embedded or importlib.util.find_spec("pytriton") is not None


if __name__ == "__main__":
    PAGE.write_text("\n".join([OPENING, *sections()]))
