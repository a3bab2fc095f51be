"""python -m benchmarks: every measurement of speed that takes minutes, side by side; it writes docs/performance.md."""

import json
import os
import time
from pathlib import Path

import click

from benchmarks import page, quantised, serving, startup
from benchmarks.measuring import show
from benchmarks.server import update_bundle
from benchmarks.throughput import plots
from benchmarks.throughput.measure import LONG, PRICE, SHORT, measure
from contract import command_line, files
from contract.catalogue import read_catalogue

RESULTS, PAGE, PICTURES = Path("dist/benchmarks/results.json"), Path("docs/performance.md"), Path("docs/pictures")


@click.command()
@click.option("--price", default=PRICE, show_default=True, type=click.FloatRange(min=0),
              help="Of an hour of this machine, in any currency.")  # fmt: skip
@click.option("--long", "is_long", is_flag=True, help="Measure more rounds and longer streams: an hour, not minutes.")
@command_line.verbose_option()
def command(price: float, *, is_long: bool) -> None:
    """Measure throughput, sessions, server, precision and start; write the figures and the page."""
    # As in the Makefile: two pools on two cores are slower than one thread in each of several processes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    began = time.monotonic()
    update_bundle()
    results = measure(read_catalogue().operating_points, LONG if is_long else SHORT, price)
    comparisons = [*serving.measure(), *quantised.measure(), *startup.measure()]
    for comparison in comparisons:
        show(comparison)
    pictures = plots.draw(results, PICTURES, prefix="performance-")
    record = {**results.to_dict(), "comparisons": [each.to_dict() for each in comparisons]}
    files.write(RESULTS, json.dumps(record, indent=2) + "\n")
    names = [str(path.relative_to(PAGE.parent)) for path in pictures]
    files.write(PAGE, page.page(results, comparisons, names, minutes=(time.monotonic() - began) / 60, is_long=is_long))
    print(f"\n{RESULTS}, {PAGE}")


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
