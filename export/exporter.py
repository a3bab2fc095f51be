"""Exports the models of a plan: traces and checks each graph, writes a record, replaces each folder in one step."""

import logging
import sys
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contract import digest, files
from contract.catalogue import CATALOGUE_FOLDER, Model, models
from contract.differences import closest
from contract.errors import CheckpointError, GraphError, ManifestError
from contract.graph import RECORD_FILE, WORDS_FILE, GraphFile, GraphRecord, load, samples_file
from export import parity
from export.checkpoints import SOURCES
from export.checkpoints.checkpoint import Checkpoint
from export.checkpoints.reference import NO_WEIGHTS
from export.job import Job
from export.plan import Plan
from export.samples import SPEECH_FILE, Sample, samples, transcribed_samples
from export.tracing import OPSET, trace

_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")
_MEBIBYTE = 1 << 20


class Exporter:
    """One run over a plan; keeps opened checkpoints, because a model's real inputs come from the networks before it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._opened: dict[str, Checkpoint] = {}

    def checkpoint(self, model: Model) -> Checkpoint:
        """Return a model's weights; read them on the first call only."""
        if model.name not in self._opened:
            self._opened[model.name] = SOURCES[self.plan.weights](model)
        return self._opened[model.name]

    def export(self, model: Model, progress: "Steps") -> None:
        """Export one model unless its record shows that nothing has changed."""
        checkpoint = self.checkpoint(model)
        key = self._key(model, checkpoint)
        folder = self.plan.out / model.name
        if not self.plan.force and unchanged(folder, key, model.family.modes):
            progress.report(model.name, "unchanged")
            progress.advance(self.plan.graphs(model))
            return
        with files.replacing(folder) as staging:
            graphs: dict[str, GraphFile] = {}
            for variant, inputs in self._write_samples(model, staging).items():
                jobs = [
                    Job(model=model, checkpoint=checkpoint, precision=precision, variant=variant)
                    for precision in self.plan.precisions
                ]
                # Computed once: torch in FP32 is the reference of every precision.
                expected = parity.references(jobs[0], inputs)
                graphs |= {job.name: _export_graph(job, expected, staging, progress) for job in jobs}
            record = GraphRecord(
                model=model.name,
                family=model.family.name,
                operating_point=model.operating_point,
                key=key,
                opset=OPSET,
                weights=checkpoint.origin,
                libraries=_libraries(),
                dims=checkpoint.dims,
                parameters=checkpoint.parameters,
                graphs=graphs,
            )
            files.write(staging / RECORD_FILE, record.to_json())

    def _write_samples(self, model: Model, folder: Path) -> dict[str, list[Sample]]:
        """Write the files of real inputs; return the inputs by the variant of the family's graphs."""
        if self._starts_gated_ensemble(model):
            transcribed = list(transcribed_samples(model.family.modes["batch"].axes["frames"]))
            if transcribed:
                _save_samples(folder / WORDS_FILE, transcribed)
        chain = [*self._upstream(model), model]
        networks = {str(each.family.network): self.checkpoint(each).network for each in chain}
        found: dict[str, list[Sample]] = {}
        for variant, family in model.family.variants().items():
            for mode in family.modes.values():
                inputs = list(samples(model.family, mode, self.plan.families.values(), networks))
                _save_samples(folder / samples_file(mode.name), inputs)
                found.setdefault(variant, []).extend(inputs)
        return found

    def _starts_gated_ensemble(self, model: Model) -> bool:
        """Return whether the model is the first step of an ensemble whose word error rate the gate limits."""
        gated = [family for family in self.plan.families.values() if family.max_wer_increase]
        return any(family.steps[0] == model.family.name for family in gated)

    def _upstream(self, model: Model) -> list[Model]:
        """Return the models whose outputs are this model's inputs: none if it takes features."""
        if {tensor.name for tensor in model.family.inputs} == {"features", "feature_lengths"}:
            return []
        same_point = models(self.plan.families, model.operating_point).values()
        return [each for each in same_point if each.family.network in ("body", "acoustic")]

    def _key(self, model: Model, checkpoint: Checkpoint) -> str:
        return digest.of_value(
            {
                "weights": checkpoint.digest,
                "upstream": [self.checkpoint(each).digest for each in self._upstream(model)],
                "speech": digest.of_file(SPEECH_FILE),
                "catalogue": digest.of_file(CATALOGUE_FOLDER / model.family.name / "model.toml"),
                "code": _code_digest(),
                "precisions": self.plan.precisions,
                "libraries": _libraries(),
            }
        )


class Steps:
    """Progress on stderr: a bar if it is a terminal, and a line for each finished graph or skipped model."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.progress.add_task("", total=total)

    def show(self, text: str) -> None:
        """Show the current work in the bar."""
        self.progress.update(self.task, description=text)

    def report(self, subject: str, outcome: str) -> None:
        """Print a line about finished work."""
        print(f"export {subject:<22} {outcome}", file=sys.stderr, flush=True)

    def advance(self, steps: int) -> None:
        """Advance the bar."""
        self.progress.advance(self.task, steps)


def export_all(plan: Plan) -> None:
    """Export every model of a plan.

    A model without weights raises CheckpointError if the plan names models or a point; otherwise it is skipped.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exporter, steps = Exporter(plan), Steps(sum(map(plan.graphs, plan.models)))
    with steps.progress:
        for model in plan.models:
            try:
                exporter.export(model, steps)
            except CheckpointError as error:
                if plan.named or error.cause != NO_WEIGHTS:
                    raise
                steps.report(model.name, f"skipped: {error.cause}")
                steps.advance(plan.graphs(model))


def unchanged(folder: Path, key: str, modes: Iterable[str]) -> bool:
    """Return whether a folder holds undamaged graphs with this key, and the real inputs of all `modes`."""
    try:
        record = load(folder)
    except (GraphError, ManifestError):
        return False
    graphs = record.graphs.values()
    needed = [*(graph.file for graph in graphs), *map(samples_file, modes)]
    present = all((folder / file).is_file() for file in needed)
    return record.key == key and present and all(digest.of_file(folder / each.file) == each.sha256 for each in graphs)


def _export_graph(job: Job, expected: list[parity.Reference], folder: Path, progress: Steps) -> GraphFile:
    started = time.monotonic()
    path = folder / f"{job.name}.onnx"
    progress.show(f"{job.model.name} {job.name}")
    trace(job, path)
    found = parity.check(job, path, expected)
    size = path.stat().st_size
    progress.report(
        f"{job.model.name} {job.name}",
        f"{size / _MEBIBYTE:.1f} MiB in {time.monotonic() - started:.1f} s; {closest(found)}",
    )
    progress.advance(1)
    return GraphFile(file=path.name, sha256=digest.of_file(path), size_bytes=size, parity=found)


def _save_samples(path: Path, inputs: list[Sample]) -> None:
    arrays: dict[str, Any] = {
        f"{name}.{number}": array for number, sample in enumerate(inputs) for name, array in sample.items()
    }
    np.savez_compressed(path, **arrays)


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


@cache
def _code_digest() -> str:
    package = Path(__file__).parent
    sources = [*sorted((package / "networks").glob("*.py")), package / "tracing.py", package / "samples.py"]
    return digest.of_value({str(path.relative_to(package)): digest.of_file(path) for path in sources})
