"""Write the results of `python -m build.engines` as a table and as JSON."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contract.arch import Arch
from contract.errors import CompilerUnavailableError, VoxwrightError
from contract.manifest import Change

WOULD_BUILD, REFUSED = "would be built", "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineResult:
    """The outcome of one engine; size and build time where the engine exists."""

    model: str
    mode: str
    precision: str
    outcome: str
    detail: str
    key: str
    changes: tuple[Change, ...] = ()
    size_bytes: int | None = None
    build_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleResult:
    """The bundle of one architecture with every engine, or the refusal."""

    arch: Arch
    platform: str
    folder: Path
    engines: tuple[EngineResult, ...] = ()
    refusal: VoxwrightError | None = None
    dropped_signature: str | None = None
    """The key whose signature this build dropped; None where it dropped none."""

    @property
    def is_beyond_this_host(self) -> bool:
        """Return whether the refusal is no failure, because another host can build that bundle."""
        return isinstance(self.refusal, CompilerUnavailableError)

    def summary(self) -> str:
        """Return the counts of the outcomes: `2 built, 7 unchanged`."""
        if self.refusal is not None:
            return REFUSED
        counts = Counter(engine.outcome for engine in self.engines)
        return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        refusal = None
        if self.refusal is not None:
            refusal = {"exit_code": self.refusal.exit_code, "message": str(self.refusal)}
        return {
            "arch": self.arch.value,
            "platform": self.platform,
            "bundle": str(self.folder),
            "engines": [asdict(engine) for engine in self.engines],
            "dropped_signature": self.dropped_signature,
            "refusal": refusal,
        }


def table(results: Iterable[BundleResult]) -> list[str]:
    """Return the lines of a table, one for each architecture: what was built, reused or refused, and why."""
    rows = [("arch", "platform", "engines", "reason")]
    rows += [
        (each.arch.value, each.platform, each.summary(), str(each.refusal) if each.refusal else "") for each in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join((*map(str.ljust, row[:3], widths), row[3])).rstrip() for row in rows]


def to_json(results: Iterable[BundleResult]) -> Mapping[str, Any]:
    """Return all results as one JSON value."""
    return {"bundles": [each.to_dict() for each in results]}
