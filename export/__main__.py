"""python -m export: trained networks to ONNX, each held against torch before it is kept."""

import os
from pathlib import Path

import click

from contract import command_line
from contract.catalogue import OPERATING_POINTS, PRECISIONS, catalogue
from export.plan import WEIGHTS, Plan, plan


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--out", type=click.Path(path_type=Path), default=Path("dist/onnx"), show_default=True, help="Folder.")
@click.option("--model", "names", multiple=True, help="A model such as body_standard; may be repeated. [default: all]")
@click.option("--operating-point", type=click.Choice(OPERATING_POINTS), help="Only the models of this point.")
@click.option(
    "--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True, help="May be repeated. [default: all]"
)
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    default="reference",
    show_default=True,
    help="Where weights come from; random ones are for tests, of production size for benchmarks.",
)
@click.option("--force", is_flag=True, help="Export again what is unchanged.")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(
    out: Path,
    names: tuple[str, ...],
    operating_point: str | None,
    precisions: tuple[str, ...],
    weights: str,
    *,
    force: bool,
    verbose: bool,  # noqa: ARG001 - contract.errors.guard reads it
) -> None:
    """Export networks to ONNX, in FP32 for the CPU and in FP16 for GPUs."""
    run(plan(catalogue(), names, operating_point, precisions or PRECISIONS, weights, out, force=force))


def run(wanted: Plan) -> None:
    """Export every model of a plan."""
    # ONNX Runtime otherwise keeps events in the home folder and tells its maker of them.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # torch takes seconds to import, and --help needs none of it.
    from export.exporter import export_all  # noqa: PLC0415

    export_all(wanted)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
