"""Exports the models of a plan: traces and checks each graph, writes a record, replaces each folder in one step."""

import logging
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contract import digest, files, graph
from contract.catalogue import BATCH_MODE, CTC, HYPOTHESIS_ROLES, SAMPLES, Model, model_name
from contract.differences import closest
from contract.errors import CatalogueError, CheckpointError, GraphError, ManifestError, ParityError
from contract.graph import RECORD_FILE, WORDS_FILE, DataFile, GraphFile, GraphRecord, load, samples_file, weights_beside
from export import parity, speech
from export.checkpoints import SOURCES
from export.checkpoints.checkpoint import Checkpoint
from export.checkpoints.reference import NO_WEIGHTS
from export.job import Job
from export.plan import Plan
from export.samples import Pipeline, Sample, Stage, transcribed_samples
from export.tracing import OPSET, trace

_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")
_MEBIBYTE = 1 << 20
FP16 = "fp16"


class Exporter:
    """One run over a plan; keeps opened checkpoints, because a model's real inputs come from the networks before it."""

    def __init__(self, plan: Plan, open_checkpoint: Callable[[Model], Checkpoint]) -> None:
        self.plan, self._open_checkpoint = plan, open_checkpoint
        self._opened: dict[str, Checkpoint] = {}

    def checkpoint(self, model: Model) -> Checkpoint:
        """Return a model's weights; read them on the first call only."""
        if model.name not in self._opened:
            self._opened[model.name] = self._open_checkpoint(model)
        return self._opened[model.name]

    def export(self, model: Model, progress: "Steps") -> None:
        """Export one model unless its record shows that nothing has changed."""
        checkpoint = self.checkpoint(model)
        key = self._key(model, checkpoint)
        folder = self.plan.out / model.name
        if not self.plan.force and unchanged(folder, key, checkpoint.digest, model.family.modes):
            progress.report(model.name, "unchanged")
            progress.advance(self.plan.graphs(model))
            return
        with files.replacing(folder) as staging:
            graphs: dict[str, GraphFile] = {}
            for variant, inputs in self._write_samples(model, staging).items():
                jobs = [
                    Job(model=model, checkpoint=checkpoint, precision=precision, variant=variant)
                    for precision in self._precisions(checkpoint)
                ]
                # Computed once: torch in FP32 is the reference of every precision.
                expected = parity.references(jobs[0], inputs)
                for job in jobs:
                    graphs |= self._export_graph(job, expected, staging, progress)
            record = GraphRecord(
                model=model.name,
                family=model.family.name,
                operating_point=model.operating_point,
                key=key,
                opset=OPSET,
                weights=checkpoint.origin,
                libraries=_libraries(),
                dims=checkpoint.dims,
                client=checkpoint.client,
                checkpoint=checkpoint.digest,
                graphs=graphs,
            )
            files.write(staging / RECORD_FILE, record.to_json())

    def _export_graph(
        self, job: Job, expected: list[parity.Reference], folder: Path, progress: "Steps"
    ) -> dict[str, GraphFile]:
        """Export a graph and return it by its name; nothing for an optional one that is too different in FP16."""
        try:
            return {job.name: _export_graph(job, expected, folder, progress)}
        except ParityError as error:
            if job.precision != FP16 or not self.plan.fp16_is_optional:
                raise
            for written in _files_of(folder / f"{job.name}.onnx"):
                written.unlink(missing_ok=True)
            outcome = f"left out, so that GPUs compute it in FP32: {error.cause}"
            progress.report(f"{job.model.name} {job.name}", outcome)
            progress.advance(1)
            return {}

    def _precisions(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        return tuple(each for each in self.plan.precisions if each in checkpoint.precisions)

    def _write_samples(self, model: Model, folder: Path) -> dict[str, list[Sample]]:
        """Write the files of real inputs; return the inputs by the variant of the family's graphs."""
        upstream = self._upstream(model)
        first = (*upstream, model)[0]
        rate = self._sample_rate_hz(first)
        known = speech.of_language(model.family.language, self.plan.recordings)
        if model.family.role == CTC:
            audio = first.family.modes[BATCH_MODE].axes[SAMPLES]
            transcribed = list(transcribed_samples(known.transcribed, rate, audio))
            if transcribed:
                _save_samples(folder / WORDS_FILE, transcribed)
        pipeline = Pipeline(
            stages=tuple(map(self._stage, upstream)),
            model=self._stage(model),
            segments=tuple(each.at(rate) for each in known.segments),
        )
        found: dict[str, list[Sample]] = {}
        for variant, family in model.family.variants().items():
            for mode in family.modes.values():
                inputs = list(pipeline.samples(mode))
                _save_samples(folder / samples_file(mode.name), inputs)
                found.setdefault(variant, []).extend(inputs)
        return found

    def _upstream(self, model: Model) -> list[Model]:
        """Return the models that compute a model's inputs, in order: none if it takes audio.

        Hypotheses come from the CTC head of the same language and point.
        """
        catalogue, point = self.plan.catalogue, model.operating_point
        families = {each.name: each for each in catalogue.upstream(model.family, point)}
        if model.family.role in HYPOTHESIS_ROLES:
            head = catalogue.find(CTC, model.family.language, point)
            if head is None:
                cause = f"no CTC head of the catalogue makes hypotheses for it at {point}"
                remedy = f"Add a CTC head of language {model.family.language} to the catalogue"
                raise CatalogueError(catalogue.folder / model.family.name, cause, remedy)
            families |= {each.name: each for each in (*catalogue.upstream(head, point), head)}
        known = catalogue.models(point)
        return [known[model_name(name, point)] for name in families]

    def _stage(self, model: Model) -> Stage:
        checkpoint = self.checkpoint(model)
        tokens = checkpoint.client.tokens
        return Stage(family=model.family, network=checkpoint.network, blank=tokens.blank if tokens else 0)

    def _sample_rate_hz(self, first: Model) -> int:
        """Return the sampling rate of the network that takes the audio."""
        client = self.checkpoint(first).client
        section = client.audio or client.speaker
        if section is None:
            raise CheckpointError(
                first.name,
                "its weights do not state the sampling rate that it takes",
                "Use weights of a network for audio",
            )
        return section.sample_rate_hz

    def _key(self, model: Model, checkpoint: Checkpoint) -> str:
        upstream = self._upstream(model)
        return digest.of_value(
            {
                "weights": checkpoint.digest,
                "upstream": [self.checkpoint(each).digest for each in upstream],
                "speech": speech.of_language(model.family.language, self.plan.recordings).digest,
                "catalogue": [repr(each.family) for each in (*upstream, model)],
                "code": _code_digest(),
                "precisions": self.plan.precisions,
                "largest_file_bytes": graph.LARGEST_FILE_BYTES,
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


def export_all(plan: Plan, open_checkpoint: Callable[[Model], Checkpoint] | None = None) -> None:
    """Export every model of a plan; its weights come from `open_checkpoint`, or else from the plan's source.

    A model without weights raises CheckpointError if the plan names models or a point; otherwise it is skipped.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exporter = Exporter(plan, open_checkpoint or SOURCES[plan.weights])
    steps = Steps(sum(map(plan.graphs, plan.models)))
    with steps.progress:
        for model in plan.models:
            try:
                exporter.export(model, steps)
            except CheckpointError as error:
                if plan.named or error.cause != NO_WEIGHTS:
                    raise
                steps.report(model.name, f"skipped: {error.cause}")
                steps.advance(plan.graphs(model))


def unchanged(folder: Path, key: str, checkpoint: str, modes: Iterable[str]) -> bool:
    """Return whether a folder holds undamaged graphs of a key and a checkpoint, and the real inputs of all `modes`."""
    try:
        record = load(folder)
    except (GraphError, ManifestError):
        return False
    present = all((folder / samples_file(mode)).is_file() for mode in modes)
    is_current = (record.key, record.checkpoint) == (key, checkpoint)
    return is_current and present and not any(each.defect(folder) for each in record.graphs.values())


def _export_graph(job: Job, expected: list[parity.Reference], folder: Path, progress: Steps) -> GraphFile:
    started = time.monotonic()
    path = folder / f"{job.name}.onnx"
    progress.show(f"{job.model.name} {job.name}")
    trace(job, path)
    found = parity.check(job, path, expected)
    first, *others = [
        DataFile(file=each.name, sha256=digest.of_file(each), size_bytes=each.stat().st_size)
        for each in _files_of(path)
    ]
    written = GraphFile(
        file=first.file, sha256=first.sha256, size_bytes=first.size_bytes, parity=found, data=tuple(others)
    )
    parts = " in 2 files" if others else ""
    progress.report(
        f"{job.model.name} {job.name}",
        f"{written.total_bytes / _MEBIBYTE:.1f} MiB{parts} in {time.monotonic() - started:.1f} s; {closest(found)}",
    )
    progress.advance(1)
    return written


def _files_of(path: Path) -> list[Path]:
    """Return the ONNX file of a graph, and the file with the weights of a large one."""
    return [path, *filter(None, [weights_beside(path)])]


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
    sources = [
        *sorted((package / "networks").glob("*.py")),
        package / "tracing.py",
        package / "graph_files.py",
        package / "samples.py",
        package / "speech.py",
    ]
    return digest.of_value({str(path.relative_to(package)): digest.of_file(path) for path in sources})
