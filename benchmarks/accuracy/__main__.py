"""python -m benchmarks.accuracy: error rates of words and speakers through the real server."""

import json
from pathlib import Path

import click

from benchmarks import recordings
from benchmarks.accuracy.measure import measure
from benchmarks.accuracy.page import PICTURE, page, pooled
from benchmarks.accuracy.reliability import draw
from benchmarks.server import update_bundle
from contract import command_line, files

RESULTS, PAGE = Path("dist/accuracy/results.json"), Path("docs/accuracy.md")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--recordings", "folder", type=click.Path(path_type=Path), default=recordings.FOLDER, show_default=True,
              help="Folder of the sets that `python -m training evaluation` writes.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=2), help="Measure at most this many recordings of each set.")
@click.option("--keep", is_flag=True, help=f"Write the tables to {PAGE} and the curves to {PICTURE} as well.")
@command_line.verbose_option()
def command(folder: Path, limit: int | None, *, keep: bool) -> None:
    """Measure word error rates, equal error rates and diarization error rates through the embedded server."""
    chosen, dialogues = recordings.load_all(folder, limit), recordings.load_dialogues(folder, limit)
    update_bundle()
    results = measure(chosen, dialogues)
    files.write(RESULTS, json.dumps(results.to_dict(), indent=2) + "\n")
    text = page(results)
    print(text)
    if keep:
        files.write(PAGE, text)
        draw(PICTURE, pooled(results))
    print(f"\n{RESULTS}" + (f", {PAGE}, {PICTURE}" if keep else ""))


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
