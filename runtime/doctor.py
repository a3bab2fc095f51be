"""`python -m runtime.doctor`: what a start would decide here, and whether it would succeed; it starts nothing."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import click

from contract.errors import VoxwrightError, guard
from contract.manifest import EngineRecord
from contract.platform import dotted, requirements
from contract.signature import Verdict
from runtime import checks, options
from runtime.bundles import Bundle
from runtime.decision import Decision, observe
from runtime.selection import Selection
from runtime.settings import Settings

_STEP = 1024
_UNDECIDED = "not judged: it is not settled for which GPU"
Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of a check."""

    name: str
    refusal: VoxwrightError | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An engine of any bundle, and why it is not served; no reason where it is."""

    record: EngineRecord
    bundle: Bundle
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Everything the doctor says."""

    chosen: Settings
    decision: Decision
    outcomes: tuple[Outcome, ...]

    @property
    def refusals(self) -> tuple[VoxwrightError, ...]:
        """Give all that stops a start, in the order in which a start meets it."""
        return (*self.decision.refusals, *(each.refusal for each in self.outcomes if each.refusal is not None))

    @property
    def candidates(self) -> list[Candidate]:
        """List every engine there is."""
        selection = self.decision.selection
        reasons = {id(it.record): it.reason for it in selection.rejected} if selection else {}
        reasons |= {id(it.record): "" for it in selection.chosen} if selection else {}
        return [
            Candidate(record=record, bundle=bundle, reason=reasons.get(id(record), _UNDECIDED))
            for bundle in self.decision.bundles
            for record in bundle.manifest.engines
        ]


def examine(chosen: Settings, environment: Mapping[str, str]) -> Diagnosis:
    """Decide as a start does, and try all that it tries; raise GpuError for a driver that does not start."""
    decision = observe(chosen, environment)
    selection = decision.selection
    tried: list[checks.Check] = []
    if selection is not None:
        tried = checks.every(chosen, selection) if selection.chosen else checks.before_assembly(chosen, selection)
    return Diagnosis(chosen=chosen, decision=decision, outcomes=tuple(_outcome(check) for check in tried))


def exit_code(refusals: Sequence[VoxwrightError]) -> int:
    """Give the code that a start would end with; 0 where it would become the server."""
    return refusals[0].exit_code if refusals else 0


def as_table(diagnosis: Diagnosis) -> dict[str, Any]:
    """Give a diagnosis as a JSON value."""
    chosen, decision = diagnosis.chosen, diagnosis.decision
    return {
        **conclusion(diagnosis.refusals),
        "gpus": [asdict(gpu) for gpu in decision.sighting.gpus],
        "no_gpu": decision.sighting.absence,
        "driver": asdict(decision.sighting.driver) if decision.sighting.driver else None,
        "host": asdict(decision.host),
        "wanted": {
            "platform": decision.platform.name,
            "arch": decision.target.arch.value if decision.target else None,
            "mode": chosen.mode,
            "operating_point": chosen.operating_point,
            "trusted_keys": [str(key) for key in chosen.trusted_keys],
        },
        "bundles": [_bundle_table(bundle) for bundle in decision.bundles],
        "candidates": [_candidate_table(candidate) for candidate in diagnosis.candidates],
        "served": _served_table(decision.selection),
        "memory": asdict(decision.budget) if decision.budget else None,
        "findings": [asdict(finding) for finding in decision.findings],
        "warnings": [asdict(finding) for finding in decision.warnings],
        "checks": {each.name: str(each.refusal) if each.refusal else None for each in diagnosis.outcomes},
    }


def conclusion(refusals: Sequence[VoxwrightError]) -> dict[str, Any]:
    """Say as a JSON value whether a start would succeed."""
    return {"starts": not refusals, "exit_code": exit_code(refusals), "refusals": [str(each) for each in refusals]}


def as_text(diagnosis: Diagnosis) -> str:
    """Give a diagnosis for people."""
    sections = {
        "": _machine(diagnosis),
        "bundles": _bundles(diagnosis.decision),
        "engines": [_candidate(candidate) for candidate in diagnosis.candidates],
        "would be served": _served(diagnosis.decision.selection),
        "memory of the device": _memory(diagnosis.decision),
        "checks": [(each.name, str(each.refusal or "ok")) for each in diagnosis.outcomes],
        "warnings": [(str(warning),) for warning in diagnosis.decision.warnings],
    }
    texts = [_section(title, list(rows)) for title, rows in sections.items()]
    return "\n\n".join([*filter(None, texts), verdict(diagnosis.refusals)])


def verdict(refusals: Sequence[VoxwrightError]) -> str:
    """Say for people whether a start would succeed, and all that stops it."""
    if not refusals:
        return "`python -m runtime` would start."
    lines = (f"  {refusal}" for refusal in refusals)
    return "\n".join([f"`python -m runtime` would not start: exit code {exit_code(refusals)}.", *lines])


def size(number: int) -> str:
    """Write an amount of memory for people."""
    amount = float(number)
    for unit in ("bytes", "KiB", "MiB"):
        if amount < _STEP:
            return f"{amount:.1f} {unit}" if unit != "bytes" else f"{number} bytes"
        amount /= _STEP
    return f"{amount:.1f} GiB"


def _outcome(check: checks.Check) -> Outcome:
    try:
        check.run()
    except VoxwrightError as error:
        return Outcome(name=check.name, refusal=error)
    return Outcome(name=check.name, refusal=None)


def _machine(diagnosis: Diagnosis) -> Iterator[Row]:
    chosen, decision = diagnosis.chosen, diagnosis.decision
    sighting, host, platform = decision.sighting, decision.host, decision.platform
    for gpu in sighting.gpus:
        mig = f"MIG {gpu.mig}"
        yield "GPU", f"{gpu.name}, compute capability {dotted(gpu.capability)}, {size(gpu.memory_bytes)}, {mig}"
    if not sighting.gpus:
        yield "GPU", f"none: {sighting.absence}"
    if sighting.driver is not None:
        version = sighting.driver.version or f"version unknown: {sighting.driver.reason}"
        yield "driver", f"{version}; CUDA up to {dotted(sighting.driver.cuda)}"
    memory = "memory unknown" if host.memory_bytes is None else f"{size(host.memory_bytes)} of memory"
    yield "host", f"{memory}, {host.cores} cores"
    parts = {"Triton": platform.triton, "CUDA": platform.cuda, "TensorRT": platform.tensorrt}
    yield "platform", f"{platform.name}: " + ", ".join(f"{name} {text}" for name, text in parts.items() if text)
    arch = f"arch {decision.target.arch.value}" if decision.target else "no architecture yet"
    point = chosen.operating_point or "every operating point that is complete"
    yield "wanted", f"{chosen.mode} engines for {arch}, {point}"
    keys = ", ".join(str(key) for key in chosen.trusted_keys)
    yield "keys", f"bundles are to be signed by one of {keys}" if keys else "no signature is asked for"


def _bundles(decision: Decision) -> Iterator[Row]:
    for bundle in decision.bundles:
        made = bundle.manifest
        yield (
            str(bundle.folder),
            f"{made.arch.value} on {made.platform}",
            f"{len(made.engines)} engines",
            _signed(bundle),
        )
    if not decision.bundles and decision.unreadable is None:
        yield ("none were found",)


def _signed(bundle: Bundle) -> str:
    if bundle.verdict is not Verdict.NOT_ASKED:
        return str(bundle.verdict.value)
    return "signed, by whom is not asked" if bundle.manifest.signature else "not signed"


def _candidate(candidate: Candidate) -> Row:
    record, reason = candidate.record, candidate.reason
    told = "served" if not reason else reason if reason == _UNDECIDED else f"no: {reason}"
    return record.model, record.mode, str(candidate.bundle.folder), size(record.size_bytes), told


def _served(selection: Selection | None) -> Iterator[Row]:
    if selection is None:
        return
    for point in selection.operating_points:
        names = [choice.model.name for choice in selection.chosen if choice.model.operating_point == point]
        ensembles = [model.name for model in selection.ensembles if model.operating_point == point]
        yield point, ", ".join(sorted([*names, *ensembles]))
    for point, missing in selection.left_out.items():
        yield point, f"left out, for want of {', '.join(missing)}"


def _memory(decision: Decision) -> Iterator[Row]:
    budget = decision.budget
    if budget is None or not decision.sighting.gpus:
        return
    reserve = requirements().gpu_reserve_bytes
    yield "engines", size(budget.engine_bytes)
    yield "contexts", size(budget.context_bytes)
    yield "states", size(budget.state_bytes)
    yield "reserve", size(reserve)
    together = size(budget.known_bytes + reserve)
    for gpu in decision.sighting.gpus:
        yield "together", f"{'at least ' if budget.unknown else ''}{together} of {size(gpu.memory_bytes)}"
    if budget.unknown:
        yield "not known", f"contexts or states of {', '.join(budget.unknown)}: they come on top"


def _section(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    count = max(len(row) for row in rows)
    # The last column is text of any length: it ends the line.
    widths = [max(len(row[index]) for row in rows if len(row) > index) for index in range(count - 1)]
    lines = (
        "  ".join([cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)] + [row[-1]])
        for row in rows
    )
    indent = "  " if title else ""
    return "\n".join([*([title] if title else []), *(f"{indent}{line}" for line in lines)])


def _bundle_table(bundle: Bundle) -> dict[str, str]:
    made, signature = bundle.manifest, bundle.verdict.value
    return {
        "folder": str(bundle.folder),
        "platform": made.platform,
        "arch": made.arch.value,
        "signature": signature,
    }


def _candidate_table(candidate: Candidate) -> dict[str, Any]:
    record = candidate.record
    return {
        "model": record.model,
        "operating_point": record.operating_point,
        "mode": record.mode,
        "bundle": str(candidate.bundle.folder),
        "served": not candidate.reason,
        "reason": candidate.reason,
    }


def _served_table(selection: Selection | None) -> dict[str, Any] | None:
    if selection is None:
        return None
    return {
        "operating_points": selection.operating_points,
        "models": selection.models(),
        "left_out": selection.left_out,
    }


def command() -> click.Command:
    """Describe the command line: that of a start, and --json."""
    about = "Say what `python -m runtime` would do with the same options here, and end with the exit code it would."
    return options.command("voxwright-doctor", about, click.Option(["--json"], is_flag=True, help="For programs."))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print a diagnosis; give the exit code."""
    values = options.parse(command(), arguments)
    for_programs = values.pop("json")
    try:
        diagnosis = examine(options.read(values), environment)
    except VoxwrightError as error:
        print(json.dumps(conclusion([error]), indent=2) if for_programs else verdict([error]))
        return error.exit_code
    print(json.dumps(as_table(diagnosis), indent=2) if for_programs else as_text(diagnosis))
    return exit_code(diagnosis.refusals)


def main() -> NoReturn:
    """Run the command line."""
    guard(lambda: sys.exit(run(sys.argv[1:], os.environ)))


if __name__ == "__main__":
    main()
