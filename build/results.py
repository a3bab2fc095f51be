"""What a run of build.engines did or would do, for people and for machines."""

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
    """One engine: what became of it, or would; size and build time where it exists."""

    model: str
    mode: str
    outcome: str
    detail: str
    key: str
    changes: tuple[Change, ...] = ()
    size_bytes: int | None = None
    build_seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleResult:
    """One architecture: its bundle with every engine, or the refusal."""

    arch: Arch
    platform: str
    folder: Path
    engines: tuple[EngineResult, ...] = ()
    refusal: VoxwrightError | None = None

    @property
    def is_beyond_this_host(self) -> bool:
        """Say whether the refusal is no failure: another host can make that bundle."""
        return isinstance(self.refusal, CompilerUnavailableError)

    def summary(self) -> str:
        """Say in words what became of the bundle."""
        if self.refusal is not None:
            return REFUSED
        counts: dict[str, int] = {}
        for engine in self.engines:
            counts[engine.outcome] = counts.get(engine.outcome, 0) + 1
        return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())

    def to_dict(self) -> dict[str, Any]:
        """Give all of it for JSON."""
        refusal = None
        if self.refusal is not None:
            refusal = {"exit_code": self.refusal.exit_code, "message": str(self.refusal)}
        return {
            "arch": self.arch.value,
            "platform": self.platform,
            "bundle": str(self.folder),
            "engines": [asdict(engine) for engine in self.engines],
            "refusal": refusal,
        }


def table(results: Iterable[BundleResult]) -> list[str]:
    """Draw a line an architecture: what was built, taken over or refused, and why."""
    rows = [("arch", "platform", "engines", "why not")]
    rows += [
        (each.arch.value, each.platform, each.summary(), str(each.refusal) if each.refusal else "") for each in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join((*map(str.ljust, row[:3], widths), row[3])).rstrip() for row in rows]


def to_json(results: Iterable[BundleResult]) -> Mapping[str, Any]:
    """Give all results as one JSON value."""
    return {"bundles": [each.to_dict() for each in results]}
