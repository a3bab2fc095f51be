"""Command line `python -m runtime.doctor`: report what a start would decide and whether it would succeed."""

import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import click

from contract.errors import VoxwrightError, guard
from contract.manifest import EngineRecord
from contract.platform import format_version, requirements
from contract.signature import Verdict
from runtime import checks, options
from runtime.bundles import Bundle
from runtime.decision import Decision, observe
from runtime.selection import Selection
from runtime.settings import Settings

_STEP = 1024
_UNDECIDED = "not checked: the target architecture is unknown"
_NO_GPU_METRICS = (
    "MIG: Triton reports no GPU metrics (nv_gpu_...) for a MIG instance (triton-inference-server/server#5324). "
    "Measure the GPU with NVIDIA's dcgm-exporter on the host."
)
Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The result of a check."""

    name: str
    refusal: VoxwrightError | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An engine of any bundle, and why it is not served; the reason is empty where it is served."""

    record: EngineRecord
    bundle: Bundle
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Everything that the doctor reports."""

    chosen: Settings
    decision: Decision
    outcomes: tuple[Outcome, ...]

    @property
    def refusals(self) -> tuple[VoxwrightError, ...]:
        """Return all errors that stop a start, in the order in which a start checks them."""
        return (*self.decision.refusals, *(each.refusal for each in self.outcomes if each.refusal is not None))

    @property
    def candidates(self) -> list[Candidate]:
        """Return every engine of every bundle."""
        selection = self.decision.selection
        reasons = {id(it.record): it.reason for it in selection.rejected} if selection else {}
        reasons |= {id(it.record): "" for it in selection.chosen} if selection else {}
        return [
            Candidate(record=record, bundle=bundle, reason=reasons.get(id(record), _UNDECIDED))
            for bundle in self.decision.bundles
            for record in bundle.manifest.engines
        ]


def examine(chosen: Settings, environment: Mapping[str, str]) -> Diagnosis:
    """Decide as a start does, and run all of its checks; raise GpuError for a driver that does not start."""
    decision = observe(chosen, environment)
    selection = decision.selection
    to_run: list[checks.Check] = []
    if selection is not None:
        to_run = checks.every(chosen, selection) if selection.chosen else checks.before_assembly(chosen, selection)
    return Diagnosis(chosen=chosen, decision=decision, outcomes=tuple(_outcome(check) for check in to_run))


def exit_code(refusals: Sequence[VoxwrightError]) -> int:
    """Return the exit code with which a start would end; 0 where the server would start."""
    return refusals[0].exit_code if refusals else 0


def as_table(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as a JSON value."""
    chosen, decision = diagnosis.chosen, diagnosis.decision
    return {
        **conclusion(diagnosis.refusals),
        "licence": decision.licensing.describe(chosen.catalogue),
        "gpus": [asdict(gpu) for gpu in decision.detection.gpus],
        "no_gpu": decision.detection.reason,
        "driver": asdict(decision.detection.driver) if decision.detection.driver else None,
        "host": asdict(decision.host),
        "wanted": {
            "platform": decision.platform.name,
            "arch": decision.target.arch.value if decision.target else None,
            "mode": chosen.mode,
            "operating_point": chosen.operating_point,
            "catalogue": str(chosen.catalogue.folder),
            "addresses": asdict(chosen.addresses),
            "grpc_tls": chosen.grpc_tls is not None,
            "trusted_keys": [str(key) for key in chosen.trusted_keys],
        },
        "bundles": [_bundle_table(bundle) for bundle in decision.bundles],
        "candidates": [_candidate_table(candidate) for candidate in diagnosis.candidates],
        "served": _served_table(decision.selection),
        "memory": asdict(decision.budget) if decision.budget else None,
        "findings": [asdict(finding) for finding in decision.findings],
        "warnings": [asdict(finding) for finding in decision.warnings],
        "remarks": remarks(decision),
        "checks": {each.name: str(each.refusal) if each.refusal else None for each in diagnosis.outcomes},
    }


def remarks(decision: Decision) -> list[str]:
    """Return what an operator should know about this machine although it needs no change."""
    sliced = any(gpu.mig == "on" or " MIG " in gpu.name for gpu in decision.detection.gpus)
    return [_NO_GPU_METRICS] if sliced else []


def conclusion(refusals: Sequence[VoxwrightError]) -> dict[str, Any]:
    """Return as a JSON value whether a start would succeed."""
    return {"starts": not refusals, "exit_code": exit_code(refusals), "refusals": [str(each) for each in refusals]}


def as_text(diagnosis: Diagnosis) -> str:
    """Return a diagnosis as text."""
    sections = {
        "": _machine(diagnosis),
        "bundles": _bundles(diagnosis.decision),
        "engines": [_candidate(candidate) for candidate in diagnosis.candidates],
        "would be served": _served(diagnosis.decision.selection),
        "GPU memory": _memory(diagnosis.decision),
        "checks": [(each.name, str(each.refusal or "ok")) for each in diagnosis.outcomes],
        "warnings": [(str(warning),) for warning in diagnosis.decision.warnings],
        "remarks": [(remark,) for remark in remarks(diagnosis.decision)],
    }
    texts = [_section(title, list(rows)) for title, rows in sections.items()]
    return "\n\n".join([*filter(None, texts), verdict(diagnosis.refusals)])


def verdict(refusals: Sequence[VoxwrightError]) -> str:
    """Return as text whether a start would succeed, and every error that stops it."""
    if not refusals:
        return "`python -m runtime` would start."
    lines = (f"  {refusal}" for refusal in refusals)
    return "\n".join([f"`python -m runtime` would not start: exit code {exit_code(refusals)}.", *lines])


def size(number: int) -> str:
    """Return a number of bytes as text with a unit."""
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
    detection, host, platform = decision.detection, decision.host, decision.platform
    yield "licence", decision.licensing.describe(chosen.catalogue)
    for gpu in detection.gpus:
        mig = f"MIG {gpu.mig}"
        yield "GPU", f"{gpu.name}, compute capability {format_version(gpu.capability)}, {size(gpu.memory_bytes)}, {mig}"
    if not detection.gpus:
        yield "GPU", f"none: {detection.reason}"
    if detection.driver is not None:
        version = detection.driver.version or f"version unknown: {detection.driver.reason}"
        yield "driver", f"{version}; CUDA up to {format_version(detection.driver.cuda)}"
    memory = "memory unknown" if host.memory_bytes is None else f"{size(host.memory_bytes)} of memory"
    yield "host", f"{memory}, {host.cores} cores"
    parts = {"Triton": platform.triton, "CUDA": platform.cuda, "TensorRT": platform.tensorrt}
    yield "platform", f"{platform.name}: " + ", ".join(f"{name} {text}" for name, text in parts.items() if text)
    arch = f"arch {decision.target.arch.value}" if decision.target else "an unknown architecture"
    point = chosen.operating_point or "every complete operating point"
    yield "target", f"{chosen.mode} engines for {arch}, {point}"
    keys = ", ".join(str(key) for key in chosen.trusted_keys)
    yield "listens", _addresses(chosen)
    yield "keys", f"bundles must be signed by one of {keys}" if keys else "none: signatures are not checked"


def _addresses(chosen: Settings) -> str:
    where = chosen.addresses
    encryption = "without TLS" if chosen.grpc_tls is None else "with TLS"
    return f"HTTP at {where.http}, gRPC at {where.grpc} {encryption}, metrics at {where.metrics}"


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
        yield ("none found",)


def _signed(bundle: Bundle) -> str:
    if bundle.verdict is not Verdict.NOT_CHECKED:
        return str(bundle.verdict.value)
    return "signed, not checked" if bundle.manifest.signature else "not signed"


def _candidate(candidate: Candidate) -> Row:
    record, reason = candidate.record, candidate.reason
    state = "served" if not reason else reason if reason == _UNDECIDED else f"not served: {reason}"
    precision = record.precision.upper()
    return record.model, record.mode, precision, str(candidate.bundle.folder), size(record.total_bytes), state


def _served(selection: Selection | None) -> Iterator[Row]:
    if selection is None:
        return
    for point in selection.operating_points:
        names = [choice.model.name for choice in selection.chosen if choice.model.operating_point == point]
        ensembles = [model.name for model in selection.ensembles if model.operating_point == point]
        yield point, ", ".join(sorted([*names, *ensembles]))
    for precision, served in selection.precisions().items():
        yield f"in {precision.upper()}", ", ".join(served)
    for absence in selection.absent:
        yield absence.operating_point, f"without {', '.join(absence.models)}: {absence.consequence}"
    for point, missing in selection.left_out.items():
        yield point, f"not served, because these are missing: {', '.join(missing)}"


def _memory(decision: Decision) -> Iterator[Row]:
    budget = decision.budget
    if budget is None or not decision.detection.gpus:
        return
    reserve = requirements().gpu_reserve_bytes
    yield "engines", size(budget.engine_bytes)
    yield "contexts", size(budget.context_bytes)
    parts = f"states {size(budget.state_bytes)}, ensembles {size(budget.ensemble_bytes)}"
    yield "CUDA pool", f"{size(budget.cuda_pool_bytes)} ({parts})"
    yield "reserve", size(reserve)
    total = size(budget.known_bytes + reserve)
    for gpu in decision.detection.gpus:
        yield "total", f"{'at least ' if budget.unknown else ''}{total} of {size(gpu.memory_bytes)}"
    yield "pinned pool", f"{size(budget.pinned_pool_bytes)} of the host's memory: not in the total"
    if budget.unknown:
        yield "unknown", f"contexts, states or tensors of {', '.join(budget.unknown)}: not in the total"


def _section(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    count = max(len(row) for row in rows)
    # The last column is text of any length, so it has no width.
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
        "precision": record.precision,
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
        "precisions": selection.precisions(),
        "languages": selection.languages,
        "absent": [asdict(absence) for absence in selection.absent],
        "left_out": selection.left_out,
    }


def command() -> click.Command:
    """Return the click command: the options of a start, and --json."""
    about = "Report what `python -m runtime` would do with the same options, and end with the same exit code."
    return options.command("voxwright-doctor", about, click.Option(["--json"], is_flag=True, help="Print JSON."))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print a diagnosis; return the exit code."""
    # Known before the options are parsed, because the catalogue is already read then.
    as_json = "--json" in itertools.takewhile(lambda argument: argument != "--", arguments)
    try:
        values = options.parse(command(), arguments)
        del values["json"]
        diagnosis = examine(options.read(values), environment)
    except VoxwrightError as error:
        print(json.dumps(conclusion([error]), indent=2) if as_json else verdict([error]))
        return error.exit_code
    print(json.dumps(as_table(diagnosis), indent=2) if as_json else as_text(diagnosis))
    return exit_code(diagnosis.refusals)


def main() -> NoReturn:
    """Run the command line."""
    guard(lambda: sys.exit(run(sys.argv[1:], os.environ)))


if __name__ == "__main__":
    main()
