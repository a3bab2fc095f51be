"""`python -m build.farm`: write Kubernetes Jobs that build a platform's bundles, one Job for each architecture."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from build import images
from contract import command_line, errors, files
from contract.arch import Arch, ComputeCapability
from contract.errors import SettingError
from contract.platform import Platform, platform, platforms

TEMPLATE = Path(__file__).parent.parent / "deploy" / "build-farm" / "jobs.yaml.jinja"
CPU_IMAGE = "docker.io/library/python:3.12-bookworm"
_SCRIPT = "/farm/checkout/ci/build-engines"
_FOLDERS = ("--onnx", "/farm/onnx", "--out", "/farm/dist/engines")
_MISUSE_EXIT_CODE = 2
# Valid names of Kubernetes objects: RFC 1123.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, kw_only=True, slots=True)
class FarmJob:
    """The Job of one architecture; `capability` is that of the node's GPU, None for the CPU."""

    name: str
    arch: str
    capability: ComputeCapability | None
    image: str
    command: tuple[str, ...]


def gpu_platforms() -> tuple[str, ...]:
    """List the platforms whose engines are built on GPUs, the default first."""
    return tuple(name for name, place in platforms().items() if place.tensorrt is not None)


def jobs(place: Platform, image_name: str | None = None) -> list[FarmJob]:
    """List the Jobs of a platform for all architectures and the CPU; raise SettingError for one without TensorRT."""
    if place.name not in gpu_platforms():
        known = ", ".join(gpu_platforms())
        raise SettingError(
            f"--platform {place.name}", "it has no TensorRT, so its bundles need no farm", f"Choose one of {known}"
        )
    return [_job(arch, place, image_name or images.image(place)) for arch in Arch]


def manifests(place: Platform, claim: str, image_name: str | None = None, runtime_class: str = "") -> str:
    """Return the Jobs of a platform as YAML documents; `claim` names the volume that they share.

    `runtime_class` is the RuntimeClass of pods with a GPU; "" for the cluster's default container runtime.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - `--help` works without it

    _check_name("--claim", claim)
    if runtime_class:
        _check_name("--runtime-class", runtime_class)
    # YAML, not markup: the template quotes values.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    values = {"platform": place.name, "refusals": refusals(), "claim": claim, "runtime_class": runtime_class}
    return template.render(jobs=jobs(place, image_name), **values) + "\n"


def refusals() -> list[int]:
    """List the exit codes after which a retry of the same build would fail again."""
    kinds: list[type[errors.VoxwrightError]] = [errors.SettingError, errors.CatalogueError, errors.ManifestError]
    kinds += errors.BuildError.__subclasses__()
    return sorted([_MISUSE_EXIT_CODE, *(kind.exit_code for kind in kinds)])


def _check_name(option: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        cause, remedy = "it is not a valid Kubernetes name", "Use lower-case letters, digits and dashes"
        raise SettingError(f"{option} {name}", cause, remedy)


def _job(arch: Arch, place: Platform, image_name: str) -> FarmJob:
    on_gpu = arch.capability is not None
    return FarmJob(
        name=f"build-engines-{place.name.replace('.', '-')}-{arch.value}",
        arch=arch.value,
        capability=arch.capability,
        image=image_name if on_gpu else CPU_IMAGE,
        command=(_SCRIPT, arch.value, *(("--platform", place.name) if on_gpu else ()), *_FOLDERS),
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--platform", "platform_name", help="The platform to build for. [default: the newest]")
@click.option("--image", "image_name", help="The image for GPU hosts. [default: NVIDIA's TensorRT of that release]")
@click.option("--claim", default="voxwright-farm", show_default=True, help="The volume claim that the pods share.")
@click.option(
    "--runtime-class",
    default="",
    help="The RuntimeClass of pods with a GPU, usually nvidia. [default: the cluster's own container runtime]",
)
@click.option("--output", type=click.Path(path_type=Path), help="A file. [default: standard output]")
@command_line.verbose_option()
def command(
    platform_name: str | None,
    image_name: str | None,
    claim: str,
    runtime_class: str,
    output: Path | None,
) -> None:
    """Write Kubernetes Jobs that build engines, one for each architecture: see deploy/build-farm/README.md."""
    text = manifests(platform(platform_name or gpu_platforms()[0]), claim, image_name, runtime_class)
    if output is None:
        sys.stdout.write(text)
    else:
        files.write(output, text)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
