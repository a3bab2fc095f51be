"""python -m benchmarks.gpu: the whole proof on a GPU as one command that can be resumed, in 25 minutes."""

import sys
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu import proof
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import GPU_BUDGET_S, STEPS, Step, chosen
from contract import command_line
from contract.arch import Arch
from export.plan import WEIGHTS

_FOLDER = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=_FOLDER, default=Path("dist/gpu"), show_default=True, help="Results; a run resumes there.")
@click.option("--onnx", type=_FOLDER, default=Path("dist/onnx"), show_default=True, help="Exported graphs.")
@click.option("--arch", help="The architecture that the GPU must have, such as sm90. [default: what is found]")
@click.option("--platform", help="The platform to build for. [default: the one whose TensorRT is installed]")
@click.option("--model", "models", multiple=True, help="A model such as body_standard; may be repeated. [default: all]")
@click.option(
    "--weights", type=click.Choice(WEIGHTS), default="reference", show_default=True, help="Those of the graphs."
)
@click.option("--production", is_flag=True, help="Measure a body of production size as well (122 M parameters).")
@click.option(
    "--torch-python",
    default="",
    help="The Python interpreter that has torch with CUDA, where this one has not. [default: this one]",
)
@click.option(
    "--accept-tensorrt",
    is_flag=True,
    help="Build with a TensorRT that no platform has: measurements only, no server loads such engines.",
)
@click.option(
    "--seconds-per-case",
    type=click.FloatRange(0, min_open=True),
    default=0.3,
    show_default=True,
    help="How long one case is measured.",
)
@click.option(
    "--peak-size",
    type=click.IntRange(min=16),
    default=8192,
    show_default=True,
    help="Rows of the matrices whose product gives the GPU's peak rate.",
)
@click.option("--step", "names", multiple=True, help=f"Only this step: {', '.join(STEPS)}; may be repeated.")
@click.option("--force", is_flag=True, help="Run the steps again that have a result.")
@click.option("--dry-run", is_flag=True, help="List the steps, their time and what they write, and run none.")
@command_line.verbose_option()
def command(names: tuple[str, ...], *, arch: str | None, force: bool, dry_run: bool, **options: Any) -> None:
    """Prove on this GPU that the engines are right, and measure how fast they are."""
    settings = Settings(arch=Arch.parse(arch) if arch else None, **options)
    steps = chosen(names, settings)
    if dry_run:
        print(table(steps, settings))
        return
    found = proof.run(settings, steps, force=force)
    sys.exit(proof.exit_code(found))


def table(steps: list[Step], settings: Settings) -> str:
    """Return the steps as text: the time budget, what each does and writes."""
    lines = [
        f"{step.name:<11} {step.budget_s:>4} s  {'GPU' if step.needs_gpu else '   '}  {step.what}\n"
        f"{'':<24}writes {settings.out / step.name}.json"
        for step in steps
    ]
    timed = sum(step.budget_s for step in steps if step.name != "graphs")
    lines.append(f"{'together':<11} {timed:>4} s  of {GPU_BUDGET_S} s of GPU time, `graphs` not counted")
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
