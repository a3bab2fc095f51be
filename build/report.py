"""report.html: what a bundle holds and how exact it is, as one page for the release manager's files.

python -m build.report BUNDLE renders it again, from the manifest alone.
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
from contract import command_line, digest, files
from contract.differences import Difference
from contract.errors import SettingError
from contract.manifest import PASSED, Accuracy, BundleFile, BundleManifest, EngineRecord, Gate, GateCase, load

REPORT_FILE = "report.html"
LARGEST_FP16 = 65504.0
"""The largest number that IEEE 754 binary16 holds."""
BUILT, REUSED = "built", "reused"
_MOST_TICKS = 5
# Values of no size at all stand left of every logarithmic axis.
_ZERO_PERCENT, _AXIS_START_PERCENT, _AXIS_END_PERCENT = 2.0, 7.0, 98.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of build.engines: when it ended and where, and the engines it made and took over, as `model/mode`."""

    ended: str
    machine: str
    built: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()

    @classmethod
    def here(cls, built: Iterable[str], reused: Iterable[str]) -> "Run":
        """Describe a run that ends now, on this machine."""
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
        """Give where a value stands: zero left of the axis, what exceeds the axis (or is no number) at its end."""
        if value == 0.0:
            return _ZERO_PERCENT
        share = (math.log10(value) - self.least) / (self.most - self.least) if 0.0 < value < math.inf else 1.0
        width = _AXIS_END_PERCENT - _AXIS_START_PERCENT
        return round(_AXIS_START_PERCENT + width * min(1.0, max(0.0, share)), 2)

    def ticks(self) -> list[tuple[float, int]]:
        """Give place and exponent of at most five powers of ten, 1 among them where the axis holds it."""
        step = math.ceil((self.most - self.least + 1) / _MOST_TICKS)
        wanted = [exponent for exponent in range(self.least, self.most + 1) if exponent % step == 0]
        return [(self.place(10.0**exponent), exponent) for exponent in wanted]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A measured difference relative to its limit, and where it stands in the plot."""

    case: str
    difference: Difference
    share: float
    """Value over limit; zero for a difference of nothing, infinite for any other where nothing is allowed."""
    place: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """The gate of an engine as a plot: a row a case and output."""

    scale: LogScale
    points: tuple[Point, ...]

    def cases(self) -> list[tuple[str, tuple[Point, ...]]]:
        """Group the points by case, in the gate's order."""
        names = dict.fromkeys(point.case for point in self.points)
        return [(name, tuple(point for point in self.points if point.case == name)) for name in names]


def add(manifest: BundleManifest, run: Run, bundle: Path) -> BundleManifest:
    """Write a bundle's report and give the manifest that names it, in place of an earlier report."""
    text = render(manifest, run)
    files.write(bundle / REPORT_FILE, text)
    written = BundleFile(
        file=REPORT_FILE, sha256=digest.of_file(bundle / REPORT_FILE), size_bytes=len(text.encode("utf-8"))
    )
    others = tuple(each for each in manifest.files if each.file != REPORT_FILE)
    return replace(manifest, files=(*others, written))


def render(manifest: BundleManifest, run: Run | None = None) -> str:
    """Give the page; the same manifest and run, the same page. None: the page is made from a manifest alone."""
    # No page can hold its own hash; left out everywhere, a page rendered again lists the same files.
    kept = tuple(each for each in manifest.every_file() if each.file != REPORT_FILE)
    return pages.render(
        "report.html.jinja",
        manifest=manifest,
        run=run,
        outcomes=_outcomes(run),
        plots={place(engine): plot(engine.gate) for engine in manifest.engines},
        worst={place(engine): worst_share(engine.gate) for engine in manifest.engines},
        place=place,
        passed=PASSED,
        unchecked=tuple(engine for engine in manifest.engines if engine.gate.outcome != PASSED),
        activations=_activations(manifest),
        activation_scale=LogScale(least=0, most=6),
        largest=LARGEST_FP16,
        accuracy=tuple((each, *_rates(each)) for each in manifest.accuracy),
        kept=kept,
        total_bytes=sum(each.size_bytes for each in kept),
        build_seconds=sum(engine.build_seconds for engine in manifest.engines),
        machines=tuple({tuple(engine.built_on.items()): engine.built_on for engine in manifest.engines}.values()),
    )


def place(engine: EngineRecord) -> str:
    """Name an engine inside its bundle: `body_standard/batch`."""
    return f"{engine.model}/{engine.mode}"


def plot(gate: Gate) -> Plot:
    """Place every difference that the gate measured; where it kept no cases, the worst of every output."""
    cases = gate.cases or (GateCase(name="worst of all inputs", parity=gate.parity),)
    shares = [(case.name, each, share_of_limit(each)) for case in cases for each in case.parity]
    finite = [share for _, _, share in shares if 0.0 < share < math.inf]
    least = min((math.floor(math.log10(share)) for share in finite), default=-2)
    # One decade beyond the limit shows that nothing lies there; a flat axis would show nothing at all.
    scale = LogScale(least=max(-9, min(-2, least)), most=1)
    points = (Point(case=case, difference=each, share=share, place=scale.place(share)) for case, each, share in shares)
    return Plot(scale=scale, points=tuple(points))


def share_of_limit(difference: Difference) -> float:
    """Give value over limit; NaN where the value is none."""
    if difference.value == 0.0:
        return 0.0
    return difference.value / difference.limit if difference.limit else math.inf


def worst_share(gate: Gate) -> float | None:
    """Give the largest share of a limit that an engine uses up; None where nothing was measured."""
    shares = [share_of_limit(each) for each in (*gate.parity, *(each for case in gate.cases for each in case.parity))]
    return max(shares, key=lambda share: math.inf if math.isnan(share) else share, default=None)


def _outcomes(run: Run | None) -> dict[str, str]:
    if run is None:
        return {}
    return dict.fromkeys(run.built, BUILT) | dict.fromkeys(run.reused, REUSED)


def _activations(manifest: BundleManifest) -> tuple[EngineRecord, ...]:
    # The modes of a model share its graph: one row a network.
    found = {engine.model: engine for engine in manifest.engines if engine.gate.activation is not None}
    return tuple(found[model] for model in sorted(found))


def _rates(accuracy: Accuracy) -> tuple[float, float, float]:
    """Give the word error rate of the engines and of their graphs in FP32, and the difference, in percent."""
    words = max(1, accuracy.words)
    ours, theirs = 100 * accuracy.wrong / words, 100 * accuracy.wrong_in_fp32 / words
    return ours, theirs, ours - theirs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="The page. [default: BUNDLE.report.html]")
@click.option("--verbose", is_flag=True, help="Add the traceback to a refusal.")
def command(bundle: Path, output: Path | None, *, verbose: bool) -> None:  # noqa: ARG001 - guard reads `verbose`
    """Render the report of a bundle again, from its manifest.

    The page in the bundle stays as it is, for the manifest holds its hash.
    """
    target = output or bundle.with_name(f"{bundle.resolve().name}.{REPORT_FILE}")
    manifest = load(bundle)
    if target.resolve().is_relative_to(bundle.resolve()):
        cause = "it lies in the bundle, whose manifest holds the hash of every file"
        raise SettingError(f"--output {target}", cause, "Name a file outside of the bundle")
    files.write(target, render(manifest))
    print(f"report {target}", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
