"""The graphs that export leaves, opened in this process with ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from build.compilers.onnxruntime import run_session, session
from contract import digest, graph
from contract.catalogue import OPERATING_POINTS, PRECISIONS, catalogue, model_name
from contract.errors import GraphError
from contract.graph import RECORD_FILE, GraphRecord

Arrays: TypeAlias = dict[str, NDArray[Any]]
LANGUAGE = "en"
HEAD = f"am_{LANGUAGE}"
# What a transcript cannot do without, and what makes it better.
_NEEDED = ("body", HEAD)
_FAMILIES = (*_NEEDED, "decoder", "lm", "diar")


class Network(Protocol):
    """A graph that can be run."""

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis; inputs and outputs by their names in the catalogue."""
        ...


class OpenGraph:
    """A graph as ONNX Runtime runs it on this CPU, optimised."""

    def __init__(self, path: Path) -> None:
        self._session = session(path)

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis."""
        return run_session(self._session, inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was exported for an operating point."""

    operating_point: str
    folder: Path
    records: Mapping[str, GraphRecord]
    """By family, of the models that have a graph of every precision."""
    lacking: tuple[str, ...]
    """The models of the point that have not."""

    @property
    def is_whole(self) -> bool:
        """Say whether it is enough for a transcript."""
        return all(family in self.records for family in _NEEDED)

    def path(self, family: str, precision: str) -> Path:
        """Give the graph of a family; raise GraphError unless it is what its record says."""
        record = self.records[family]
        file = record.graphs[precision]
        path = self.folder / record.model / file.file
        remedy = f"Run `python -m export --model {record.model} --force`"
        if not path.is_file():
            raise GraphError(path, "the file is missing", remedy)
        if digest.of_file(path) != file.sha256:
            raise GraphError(path, "it is damaged: its content is not what the export record says", remedy)
        return path


def exported(folder: Path) -> list[Exported]:
    """Say what was exported for each operating point; raise GraphError when none is enough for a transcript."""
    points = [_exported(folder, point) for point in OPERATING_POINTS]
    if not any(point.is_whole for point in points):
        cause = f"no operating point has a body and a head in {' and '.join(PRECISIONS)} there"
        raise GraphError(folder, cause, "Run `python -m export` first, or name its folder with --onnx")
    return points


def _exported(folder: Path, point: str) -> Exported:
    models = {name: model_name(name, point) for name in _FAMILIES if point in catalogue()[name].operating_points}
    present = {
        family: graph.load(folder / model)
        for family, model in models.items()
        if (folder / model / RECORD_FILE).is_file()
    }
    records = {family: record for family, record in present.items() if set(PRECISIONS) <= record.graphs.keys()}
    lacking = tuple(model for family, model in models.items() if family not in records)
    return Exported(operating_point=point, folder=folder, records=records, lacking=lacking)
