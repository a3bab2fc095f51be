"""python -m export: export trained networks to ONNX; each graph is compared with its torch network first."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from click.core import ParameterSource

from contract import command_line
from contract.catalogue import (
    CATALOGUE_FOLDER,
    CATALOGUE_SUBFOLDER,
    CATALOGUE_VARIABLE,
    PRECISIONS,
    check_replaceable,
    read_catalogue,
)
from contract.errors import SettingError
from contract.graph import RECORD_FILE
from export import networks_file
from export.networks_file import OwnNetworks
from export.plan import WEIGHTS, Plan, plan

OWN_FOLDER, FOLDER = Path("dist/own/onnx"), Path("dist/onnx")
OWN_WEIGHTS = "own"
# Options that describe other networks than those of --networks, and why.
_OTHER_NETWORKS = {
    "weights": "the weights are those that the file of --networks names",
    "catalogue": "the catalogue is made of the networks that the file of --networks names",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the graphs.  [default: dist/onnx; with --networks dist/own/onnx]",
)
@click.option("--model", "names", multiple=True, help="A model such as body_standard; may be repeated. [default: all]")
@click.option("--operating-point", help="Export only the models of this point.")
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
@click.option(
    "--networks",
    type=click.Path(path_type=Path),
    help="File that names the checkpoints of your own networks (docs/own-networks.md), instead of --weights.",
)
@click.option("--force", is_flag=True, help="Export unchanged models again.")
@command_line.catalogue_folder_option()
@command_line.verbose_option()
def command(
    out: Path | None,
    names: tuple[str, ...],
    operating_point: str | None,
    precisions: tuple[str, ...],
    weights: str,
    networks: Path | None,
    catalogue: Path | None,
    *,
    force: bool,
) -> None:
    """Export networks to ONNX, in FP32 for CPUs and in FP16 for GPUs."""
    if networks is not None:
        _reject_other_networks(click.get_current_context())
        own = networks_file.read(networks)
        run_own(own, out or OWN_FOLDER, names, operating_point, precisions or PRECISIONS, force=force)
        return
    known = read_catalogue(catalogue or CATALOGUE_FOLDER)
    if operating_point is not None:
        known.check_operating_point(operating_point, "--operating-point")
    folder = out or FOLDER
    if (folder / CATALOGUE_SUBFOLDER).exists():
        cause = "it holds networks of your own, which were exported with --networks"
        raise SettingError(f"--out {folder}", cause, "Name another folder, or remove this one")
    run(plan(known, names, operating_point, precisions or PRECISIONS, weights, folder, force=force))


def _reject_other_networks(context: click.Context) -> None:
    """Raise SettingError for an option that --networks leaves without effect. A variable may stay set for clients."""
    for name, cause in _OTHER_NETWORKS.items():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise SettingError(f"--{name}", cause, f"Leave out --{name} or --networks")


def run(wanted: Plan) -> None:
    """Export every model of a plan."""
    # Otherwise ONNX Runtime stores events in the home folder and sends them to its vendor.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # The import of torch takes seconds, and --help does not need it.
    from export.exporter import export_all  # noqa: PLC0415

    export_all(wanted)


def run_own(
    networks: OwnNetworks,
    out: Path,
    names: tuple[str, ...],
    operating_point: str | None,
    precisions: tuple[str, ...],
    *,
    force: bool,
) -> None:
    """Import a user's own networks, write their catalogue next to the graphs, and export every model.

    The catalogue is written when it is certain what to export: a command that is refused changes nothing.
    """
    if operating_point is not None and operating_point not in networks.operating_points:
        cause = f"{operating_point!r} is not an operating point of {networks.path}"
        raise SettingError("--operating-point", cause, f"Use {' or '.join(networks.operating_points)}")
    folder = out / CATALOGUE_SUBFOLDER
    check_replaceable(folder, f"--out {out}")
    if not folder.exists() and any(out.glob(f"*/{RECORD_FILE}")):
        cause = "it holds graphs that were exported without --networks"
        raise SettingError(f"--out {out}", cause, "Name another folder, or remove this one")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from export.exporter import export_all  # noqa: PLC0415
    from export.own_networks import import_all  # noqa: PLC0415

    imported = import_all(networks)
    for remark in imported.remarks:
        print(f"note: {remark}", file=sys.stderr)
    with TemporaryDirectory() as scratch:
        imported.write_catalogue(Path(scratch) / CATALOGUE_SUBFOLDER)
        catalogue = read_catalogue(Path(scratch) / CATALOGUE_SUBFOLDER)
        wanted = plan(catalogue, names, operating_point, precisions, OWN_WEIGHTS, out, force=force)
    imported.write_catalogue(folder)
    wanted = replace(wanted, catalogue=read_catalogue(folder))
    export_all(replace(wanted, recordings=networks.recordings(), fp16_is_optional=True), imported.open)
    print(f"The catalogue of these networks is {folder}. build.engines and runtime find it there.", file=sys.stderr)
    print(f"For clients: export {CATALOGUE_VARIABLE}={folder}", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
