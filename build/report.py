"""Write report.html: the engines of a bundle and their accuracy, as one page for the release manager's records.

`python -m build.report BUNDLE` renders it again from the manifest only.
"""

import math
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from build import pages
from contract import command_line, digest, files, verification
from contract.differences import Difference, closest
from contract.manifest import (
    FP16_MAX,
    PASSED,
    Accuracy,
    BundleFile,
    BundleManifest,
    EngineRecord,
    Gate,
    GateCase,
    load,
)

REPORT_FILE = "report.html"
BUILT, REUSED = "built", "reused"
_MOST_TICKS = 5
# A value of zero stands left of every logarithmic axis.
_ZERO_PERCENT, _AXIS_START_PERCENT, _AXIS_END_PERCENT = 2.0, 7.0, 98.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of build.engines: when and where it ended, and the engines it built and reused, as `model/mode`."""

    ended: str
    machine: str
    built: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()

    @classmethod
    def here(cls, built: Iterable[str], reused: Iterable[str]) -> "Run":
        """Return a run that ends now, on this machine."""
        return cls(
            ended=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            machine=f"{platform.node()} ({platform.system()} {platform.release()}, {platform.machine()})",
            built=tuple(built),
            reused=tuple(reused),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LogScale:
    """A logarithmic axis between two powers of ten; places are percentages of a drawing's width."""

    least: int
    most: int

    def place(self, value: float) -> float:
        """Return the place of a value: zero is left of the axis; a value beyond the axis, or NaN, is at its end."""
        if value == 0.0:
            return _ZERO_PERCENT
        share = (math.log10(value) - self.least) / (self.most - self.least) if 0.0 < value < math.inf else 1.0
        width = _AXIS_END_PERCENT - _AXIS_START_PERCENT
        return round(_AXIS_START_PERCENT + width * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> list[tuple[float, int]]:
        """Return place and exponent of at most five powers of ten; 1 is among them where the axis includes it."""
        step = math.ceil((self.most - self.least + 1) / _MOST_TICKS)
        wanted = [exponent for exponent in range(self.least, self.most + 1) if exponent % step == 0]
        return [(self.place(10.0**exponent), exponent) for exponent in wanted]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A measured difference and its place in the plot."""

    case: str
    difference: Difference
    place: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """The gate of an engine as a plot: one row for each case and output."""

    scale: LogScale
    points: tuple[Point, ...]

    def cases(self) -> list[tuple[str, tuple[Point, ...]]]:
        """Group the points by case, in the gate's order."""
        names = dict.fromkeys(point.case for point in self.points)
        return [(name, tuple(point for point in self.points if point.case == name)) for name in names]


def add(manifest: BundleManifest, run: Run, bundle: Path) -> BundleManifest:
    """Write a bundle's report; return the manifest that lists it instead of an earlier report."""
    text = render(manifest, run)
    files.write(bundle / REPORT_FILE, text)
    written = BundleFile(
        file=REPORT_FILE, sha256=digest.of_file(bundle / REPORT_FILE), size_bytes=len(text.encode("utf-8"))
    )
    others = tuple(each for each in manifest.files if each.file != REPORT_FILE)
    return replace(manifest, files=(*others, written))


def render(manifest: BundleManifest, run: Run | None = None) -> str:
    """Return the page for a manifest and a run; without a run, the page states only what the manifest holds."""
    # A page cannot contain its own hash. It is omitted everywhere, so that a page rendered again lists the same files.
    kept = tuple(each for each in manifest.every_file() if each.file != REPORT_FILE)
    return pages.render(
        "report.html.jinja",
        manifest=manifest,
        run=run,
        outcomes=_outcomes(run),
        plots={place(engine): plot(engine.gate) for engine in manifest.engines},
        worst={place(engine): largest_ratio(engine.gate) for engine in manifest.engines},
        place=place,
        passed=PASSED,
        unchecked=tuple(engine for engine in manifest.engines if engine.gate.outcome != PASSED),
        activations=_activations(manifest),
        activation_scale=LogScale(least=0, most=6),
        largest=FP16_MAX,
        accuracy=tuple((each, *_rates(each)) for each in manifest.accuracy),
        kept=kept,
        total_bytes=sum(each.size_bytes for each in kept),
        build_seconds=sum(engine.build_seconds for engine in manifest.engines),
        machines=tuple({tuple(engine.built_on.items()): engine.built_on for engine in manifest.engines}.values()),
    )


def place(engine: EngineRecord) -> str:
    """Return the name of an engine in its bundle: `body_standard/batch`."""
    return f"{engine.model}/{engine.mode}"


def plot(gate: Gate) -> Plot:
    """Place every difference that the gate measured; without cases, the largest difference of every output."""
    cases = gate.cases or (GateCase(name="worst of all inputs", parity=gate.parity),)
    differences = [(case.name, each) for case in cases for each in case.parity]
    finite = [each.limit_ratio for _, each in differences if 0.0 < each.limit_ratio < math.inf]
    least = min((math.floor(math.log10(ratio)) for ratio in finite), default=-2)
    # One decade beyond the limit shows that no value is there. The axis has at least three decades.
    scale = LogScale(least=max(-9, min(-2, least)), most=1)
    points = (Point(case=case, difference=each, place=scale.place(each.limit_ratio)) for case, each in differences)
    return Plot(scale=scale, points=tuple(points))


def largest_ratio(gate: Gate) -> float | None:
    """Return the largest value/limit ratio of an engine's differences; None where nothing was measured."""
    worst = closest((*gate.parity, *(each for case in gate.cases for each in case.parity)))
    return None if worst is None else worst.limit_ratio


def _outcomes(run: Run | None) -> dict[str, str]:
    if run is None:
        return {}
    return dict.fromkeys(run.built, BUILT) | dict.fromkeys(run.reused, REUSED)


def _activations(manifest: BundleManifest) -> tuple[EngineRecord, ...]:
    # The modes of a model share its graph: one row for each network.
    found = {engine.model: engine for engine in manifest.engines if engine.gate.activation is not None}
    return tuple(found[model] for model in sorted(found))


def _rates(accuracy: Accuracy) -> tuple[float, float, float]:
    """Return the word error rates of the engines and of their graphs in FP32, and the difference, in percent."""
    words = max(1, accuracy.words)
    ours, theirs = 100 * accuracy.wrong / words, 100 * accuracy.wrong_in_fp32 / words
    return ours, theirs, ours - theirs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="The page. [default: BUNDLE.report.html]")
@command_line.verbose_option()
def command(bundle: Path, output: Path | None) -> None:
    """Render the report of a BUNDLE, such as dist/engines/26.08/sm86, again from its manifest.

    The page in the bundle stays as it is, because the manifest contains its hash.
    """
    target = output or bundle.with_name(f"{bundle.resolve().name}.{REPORT_FILE}")
    manifest = load(bundle)
    verification.check_outside_bundles(target, "--output")
    files.write(target, render(manifest))
    print(f"report {target}", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
