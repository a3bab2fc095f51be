"""Exports the models of a plan: weights to graphs, checked, with a record, each model's folder in one step."""

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
from export.job import Job
from export.plan import Plan
from export.samples import SPEECH_FILE, Sample, samples, words
from export.tracing import OPSET, trace

_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")
_MEBIBYTE = 1 << 20


class Exporter:
    """One run over a plan; keeps opened checkpoints, because the networks before a model make its real inputs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._opened: dict[str, Checkpoint] = {}

    def checkpoint(self, model: Model) -> Checkpoint:
        """Open a model's weights once."""
        if model.name not in self._opened:
            self._opened[model.name] = SOURCES[self.plan.weights](model)
        return self._opened[model.name]

    def export(self, model: Model, progress: "Steps") -> None:
        """Export one model unless its record says that nothing has changed."""
        checkpoint = self.checkpoint(model)
        key = self._key(model, checkpoint)
        folder = self.plan.out / model.name
        if not self.plan.force and unchanged(folder, key, model.family.modes):
            progress.say(model.name, "unchanged")
            progress.advance(self.plan.graphs(model))
            return
        with files.replacing(folder) as staging:
            real = self._samples(model, staging)
            known = list(words(model.family.modes["batch"].axes["frames"])) if self._begins_words(model) else []
            if known:
                _save_samples(staging / WORDS_FILE, known)
            jobs = [
                Job(model=model, checkpoint=checkpoint, precision=precision, variant=variant)
                for variant in model.family.variants()
                for precision in self.plan.precisions
            ]
            graphs = {job.name: _graph(job, real[job.variant], staging, progress) for job in jobs}
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

    def _samples(self, model: Model, folder: Path) -> dict[str, list[Sample]]:
        """Save real inputs in every mode; give those of each of the family's graphs, by variant."""
        chain = [*self._before(model), model]
        before = {str(each.family.network): self.checkpoint(each).network for each in chain}
        found: dict[str, list[Sample]] = {}
        for variant, family in model.family.variants().items():
            for mode in family.modes.values():
                made = list(samples(model.family, mode, self.plan.families.values(), before))
                _save_samples(folder / samples_file(mode.name), made)
                found.setdefault(variant, []).extend(made)
        return found

    def _begins_words(self, model: Model) -> bool:
        """Say whether words are heard by what begins with this model."""
        heard = [family for family in self.plan.families.values() if family.max_wer_increase]
        return any(family.steps[0] == model.family.name for family in heard)

    def _before(self, model: Model) -> list[Model]:
        """List the models that make this one's real inputs: none for one that hears features itself."""
        if {tensor.name for tensor in model.family.inputs} == {"features", "feature_lengths"}:
            return []
        same_point = models(self.plan.families, model.operating_point).values()
        return [each for each in same_point if each.family.network in ("body", "acoustic")]

    def _key(self, model: Model, checkpoint: Checkpoint) -> str:
        return digest.of_value(
            {
                "weights": checkpoint.digest,
                "before": [self.checkpoint(each).digest for each in self._before(model)],
                "speech": digest.of_file(SPEECH_FILE),
                "catalogue": digest.of_file(CATALOGUE_FOLDER / model.family.name / "model.toml"),
                "code": _code_digest(),
                "precisions": self.plan.precisions,
                "libraries": _libraries(),
            }
        )


class Steps:
    """Progress on stderr: a bar where there is a terminal, and a line for everything that is finished."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.progress.add_task("", total=total)

    def show(self, text: str) -> None:
        """Name what is being done."""
        self.progress.update(self.task, description=text)

    def say(self, what: str, outcome: str) -> None:
        """Print a line about something finished."""
        print(f"export {what:<22} {outcome}", file=sys.stderr, flush=True)

    def advance(self, steps: int) -> None:
        """Move the bar."""
        self.progress.advance(self.task, steps)


def export_all(plan: Plan) -> None:
    """Export every model of a plan; one without weights is an error only when it was asked for."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exporter, steps = Exporter(plan), Steps(sum(map(plan.graphs, plan.models)))
    with steps.progress:
        for model in plan.models:
            try:
                exporter.export(model, steps)
            except CheckpointError as error:
                if plan.named or not error.cause.startswith("there are no"):
                    raise
                steps.say(model.name, f"left out: {error.cause}")
                steps.advance(plan.graphs(model))


def unchanged(folder: Path, key: str, modes: Iterable[str]) -> bool:
    """Say whether a model's folder holds what the key stands for, whole and undamaged, with real inputs in `modes`."""
    try:
        record = load(folder)
    except (GraphError, ManifestError):
        return False
    graphs = record.graphs.values()
    needed = [*(graph.file for graph in graphs), *map(samples_file, modes)]
    present = all((folder / file).is_file() for file in needed)
    return record.key == key and present and all(digest.of_file(folder / each.file) == each.sha256 for each in graphs)


def _graph(job: Job, real: list[Sample], folder: Path, progress: Steps) -> GraphFile:
    started = time.monotonic()
    path = folder / f"{job.name}.onnx"
    progress.show(f"{job.model.name} {job.name}")
    trace(job, path)
    found = parity.check(job, path, real)
    size = path.stat().st_size
    progress.say(
        f"{job.model.name} {job.name}",
        f"{size / _MEBIBYTE:.1f} MiB in {time.monotonic() - started:.1f} s; {closest(found)}",
    )
    progress.advance(1)
    return GraphFile(file=path.name, sha256=digest.of_file(path), size_bytes=size, parity=found)


def _save_samples(path: Path, real: list[Sample]) -> None:
    arrays: dict[str, Any] = {
        f"{name}.{number}": array for number, sample in enumerate(real) for name, array in sample.items()
    }
    np.savez_compressed(path, **arrays)


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


@cache
def _code_digest() -> str:
    room = Path(__file__).parent
    sources = [*sorted((room / "networks").glob("*.py")), room / "tracing.py", room / "samples.py"]
    return digest.of_value({str(path.relative_to(room)): digest.of_file(path) for path in sources})
