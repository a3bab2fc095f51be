"""python -m export: export trained networks to ONNX; each graph is compared with its torch network first."""

import os
from pathlib import Path

import click

from contract import command_line
from contract.catalogue import OPERATING_POINTS, PRECISIONS, catalogue
from export.plan import WEIGHTS, Plan, plan


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("dist/onnx"),
    show_default=True,
    help="Folder for the graphs.",
)
@click.option("--model", "names", multiple=True, help="A model such as body_standard; may be repeated. [default: all]")
@click.option("--operating-point", type=click.Choice(OPERATING_POINTS), help="Export only the models of this point.")
@click.option(
    "--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True, help="May be repeated. [default: all]"
)
@click.option(
    "--weights",
    type=click.Choice(WEIGHTS),
    default="reference",
    show_default=True,
    help="Where weights come from; random is for tests, production (random, of production size) for benchmarks.",
)
@click.option("--force", is_flag=True, help="Export unchanged models again.")
@command_line.verbose_option()
def command(
    out: Path,
    names: tuple[str, ...],
    operating_point: str | None,
    precisions: tuple[str, ...],
    weights: str,
    *,
    force: bool,
) -> None:
    """Export networks to ONNX, in FP32 for CPUs and in FP16 for GPUs."""
    run(plan(catalogue(), names, operating_point, precisions or PRECISIONS, weights, out, force=force))


def run(wanted: Plan) -> None:
    """Export every model of a plan."""
    # Otherwise ONNX Runtime stores events in the home folder and sends them to its vendor.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # The import of torch takes seconds, and --help does not need it.
    from export.exporter import export_all  # noqa: PLC0415

    export_all(wanted)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
