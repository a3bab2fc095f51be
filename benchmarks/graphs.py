"""The exported graphs, opened in this process with ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from benchmarks.server import engine
from build.reference import library, run_session, session
from contract import digest, graph
from contract.catalogue import CTC, ENCODER, HYPOTHESIS_ROLES, PRECISIONS, SPEAKER, model_name, read_catalogue
from contract.errors import GraphError
from contract.graph import RECORD_FILE, GraphRecord

Arrays: TypeAlias = dict[str, NDArray[Any]]
LANGUAGE = "en"
# The roles that a transcript needs, and those that improve it.
_REQUIRED = (ENCODER, CTC)
_ROLES = (*_REQUIRED, *HYPOTHESIS_ROLES, SPEAKER)


class Network(Protocol):
    """A graph that can be run."""

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis; inputs and outputs have their names in the catalogue."""
        ...


class OpenGraph:
    """A graph that ONNX Runtime optimises and runs on this CPU."""

    def __init__(self, path: Path) -> None:
        self._session = session(path)

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis."""
        return run_session(self._session, inputs)


class ServedGraph:
    """The engine of a model as it is served, on a number of threads of this process."""

    def __init__(self, model: str, threads: int) -> None:
        onnxruntime = library()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(engine(model), options, providers=["CPUExecutionProvider"])

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis."""
        return run_session(self._session, inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedPoint:
    """The exported graphs of an operating point."""

    operating_point: str
    folder: Path
    records: Mapping[str, GraphRecord]
    """The export records by role, of models that have a graph in every precision."""
    missing: tuple[str, ...]
    """The models of the point that have no graph in some precision."""

    @property
    def is_complete(self) -> bool:
        """Return whether the graphs are enough for a transcript."""
        return all(role in self.records for role in _REQUIRED)

    def path(self, role: str, precision: str) -> Path:
        """Return the path of a graph; raise GraphError when it is absent or differs from its export record."""
        record = self.records[role]
        file = record.graphs[precision]
        path = self.folder / record.model / file.file
        remedy = f"Run `python -m export --model {record.model} --force`"
        if not path.is_file():
            raise GraphError(path, "the file is missing", remedy)
        if digest.of_file(path) != file.sha256:
            raise GraphError(path, "it is damaged: its digest differs from the export record", remedy)
        return path


def exported_points(folder: Path) -> list[ExportedPoint]:
    """Return the exported graphs by operating point; raise GraphError when none is enough for a transcript."""
    points = [_exported(folder, point) for point in read_catalogue().operating_points]
    if not any(point.is_complete for point in points):
        cause = f"no operating point has a body and a head in {' and '.join(PRECISIONS)} there"
        raise GraphError(folder, cause, "Run `python -m export` first, or name its folder with --onnx")
    return points


def _exported(folder: Path, point: str) -> ExportedPoint:
    known = read_catalogue()
    models = {
        role: model_name(family.name, point)
        for role in _ROLES
        if (family := known.find(role, LANGUAGE, point)) is not None
    }
    present = {
        role: graph.load(folder / model) for role, model in models.items() if (folder / model / RECORD_FILE).is_file()
    }
    records = {role: record for role, record in present.items() if set(PRECISIONS) <= record.graphs.keys()}
    missing = tuple(model for role, model in models.items() if role not in records)
    return ExportedPoint(operating_point=point, folder=folder, records=records, missing=missing)
