"""python -m benchmarks.throughput: hours of audio an hour and sessions in real time, with cost and errors."""

import json
import os

import click

from benchmarks.server import update_bundle
from benchmarks.throughput import page, plots
from benchmarks.throughput.measure import FOLDER, LONG, PRICE, SHORT, measure, measure_servers, of_servers
from contract import command_line, files
from contract.catalogue import read_catalogue

RESULTS, PAGE = FOLDER / "results.json", FOLDER / "results.md"


@click.command()
@click.option("--operating-point", "points", multiple=True, help="[default: all]")
@click.option(
    "--price", default=PRICE, show_default=True, type=click.FloatRange(min=0), help="Of an hour of the machine."
)
@click.option(
    "--endpoint", metavar="HOST:PORT", help="Measure a running server for recordings, such as one with a GPU, alone."
)
@click.option("--realtime-endpoint", metavar="HOST:PORT", help="Measure a running server for streams, alone.")
@click.option(
    "--transcribers", multiple=True, type=click.IntRange(min=1),
    help="How many transcribe at a time at --endpoint; repeatable.  [default: 1, 2, 4, ... up to one a core]",
)  # fmt: skip
@click.option("--long", "is_long", is_flag=True, help="Measure more rounds, more transcribers and longer streams.")
@click.option("--no-streams", is_flag=True, help="Leave out the sessions in real time.")
@command_line.verbose_option()
def command(
    points: tuple[str, ...],
    price: float,
    endpoint: str | None,
    realtime_endpoint: str | None,
    transcribers: tuple[int, ...],
    *,
    is_long: bool,
    no_streams: bool,
) -> None:
    """Measure the throughput of transcribers and server on this machine, beside the networks alone and sherpa-onnx.

    With --endpoint or --realtime-endpoint, running servers are measured instead, without the other two.
    """
    # As in the Makefile: two pools on two cores are slower than one thread in each of several processes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen, extent = points or read_catalogue().operating_points, LONG if is_long else SHORT
    if endpoint is not None or realtime_endpoint is not None:
        results = measure_servers(endpoint, realtime_endpoint, chosen, of_servers(extent, transcribers), price)
    else:
        update_bundle()
        results = measure(chosen, extent, price, streams=not no_streams)
    drawn = plots.draw(results, FOLDER)
    text = "\n".join(page.sections(results, [path.name for path in drawn])) + "\n"
    files.write(RESULTS, json.dumps(results.to_dict(), indent=2) + "\n")
    files.write(PAGE, text)
    print(f"\n{text}\n" + "\n".join(str(path) for path in (RESULTS, PAGE, *drawn)))


if __name__ == "__main__":
    command_line.run(command)
