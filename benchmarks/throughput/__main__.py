"""python -m benchmarks.throughput: hours of audio an hour and sessions in real time, with cost and errors."""

import json
import os

import click

from benchmarks.server import update_bundle
from benchmarks.throughput import page, plots
from benchmarks.throughput.measure import FOLDER, LONG, PRICE, SHORT, measure
from contract import command_line, files
from contract.catalogue import read_catalogue

RESULTS, PAGE = FOLDER / "results.json", FOLDER / "results.md"


@click.command()
@click.option("--operating-point", "points", multiple=True, help="[default: all]")
@click.option(
    "--price", default=PRICE, show_default=True, type=click.FloatRange(min=0), help="Of an hour of the machine."
)
@click.option("--long", "is_long", is_flag=True, help="Measure more rounds, more transcribers and longer streams.")
@click.option("--no-streams", is_flag=True, help="Leave out the sessions in real time.")
@command_line.verbose_option()
def command(points: tuple[str, ...], price: float, *, is_long: bool, no_streams: bool) -> None:
    """Measure the throughput of transcribers and server on this machine, beside the networks alone and sherpa-onnx."""
    # As in the Makefile: two pools on two cores are slower than one thread in each of several processes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    update_bundle()
    extent = LONG if is_long else SHORT
    results = measure(points or read_catalogue().operating_points, extent, price, streams=not no_streams)
    drawn = plots.draw(results, FOLDER)
    text = "\n".join(page.sections(results, [path.name for path in drawn])) + "\n"
    files.write(RESULTS, json.dumps(results.to_dict(), indent=2) + "\n")
    files.write(PAGE, text)
    print(f"\n{text}\n" + "\n".join(str(path) for path in (RESULTS, PAGE, *drawn)))


if __name__ == "__main__":
    command_line.run(command)
