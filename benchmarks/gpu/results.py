"""Results of steps as JSON files: one a step, written whole; a failure is a result too."""

import json
import math
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract import files
from contract.errors import VoxwrightError

PASSED, FAILED, BLOCKED = "passed", "failed", "blocked"
_TRACEBACK_LINES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a step, or one item of it, failed."""

    kind: str
    """The name of the exception, or how the process ended."""
    sentence: str
    traceback: str = ""
    """The last lines of the traceback, or of the process's standard error."""
    exit_code: int = 1

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Return the failure that an exception is."""
        lines = "".join(traceback.format_exception(error)).splitlines()
        return cls(
            kind=type(error).__name__,
            sentence=" ".join(str(error).split()) or "the exception has no message",
            traceback="\n".join(lines[-_TRACEBACK_LINES:]),
            exit_code=error.exit_code if isinstance(error, VoxwrightError) else 1,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What became of a step; `values` are its measurements, as far as it came."""

    step: str
    status: str
    elapsed_s: float
    values: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None

    def save(self, out: Path) -> None:
        """Write the result into the results folder."""
        files.write(path_of(out, self.step), to_json(asdict(self)))


def to_json(value: Any) -> str:
    """Write a value as JSON; infinity and NaN, which JSON lacks, become text."""
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def path_of(out: Path, step: str) -> Path:
    """Return the file of a step's result."""
    return out / f"{step}.json"


def load(out: Path, step: str) -> StepResult | None:
    """Read a step's result; None where there is none, or only a damaged one."""
    try:
        table: dict[str, Any] = json.loads(path_of(out, step).read_text(encoding="utf-8"))
        failure = Failure(**table["failure"]) if table["failure"] else None
        return StepResult(**{**table, "failure": failure})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def values(out: Path, step: str) -> dict[str, Any]:
    """Return the measurements of a step; empty where it has no result."""
    found = load(out, step)
    return found.values if found else {}


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON of a file, made and written first where the file is absent: what a killed step resumes with."""
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    made = make()
    files.write(path, to_json(made))
    return made


def attempt(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a function makes, or {"failure": ...} for one that raises: the other items of a step go on."""
    try:
        return make()
    except Exception as error:
        return {"failure": asdict(Failure.of(error))}


def failures(items: dict[str, Any]) -> list[str]:
    """List the items of a step that failed, each with its sentence."""
    return [f"{name}: {item['failure']['sentence']}" for name, item in items.items() if "failure" in item]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
