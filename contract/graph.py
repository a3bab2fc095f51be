"""The export record: what export says of one model's graphs, and build and runtime rely on.

dist/onnx/<model>/record.json   this record
                  fp32.onnx fp16.onnx
                  realtime-fp32.onnx realtime-fp16.onnx     where a mode is one of streams
                  batch-samples.npz realtime-samples.npz    real inputs in a mode, `<input>.<number>`, for the gate
                  words.npz     real inputs of one item and what is said in them, `texts.<number>`, for the word error
                                rate: beside models that hear, and only where it is known what is said
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contract.differences import Difference
from contract.errors import GraphError, ManifestError
from contract.fields import Fields

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"
WORDS_FILE = "words.npz"
TEXTS = "texts"
_REMEDY = "Run `python -m export` again"


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFile:
    """One ONNX file of a model."""

    file: str
    sha256: str
    size_bytes: int
    parity: tuple[Difference, ...]
    """The worst difference of every output with the torch network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphRecord:
    """What an export made of one model."""

    model: str
    family: str
    operating_point: str
    key: str
    """Digest of all that decided the graphs: weights, networks, catalogue, libraries."""
    opset: int
    weights: str
    """Where the weights came from, in words."""
    libraries: dict[str, str]
    dims: dict[str, int]
    """Sizes that depend on the weights, by the catalogue's axis names."""
    parameters: dict[str, str]
    """What clients must know of these weights, such as the token list."""
    graphs: dict[str, GraphFile]
    """By precision, and for a mode of streams by mode and precision: fp32, fp16, realtime-fp32, realtime-fp16."""

    def graph(self, variant: str, precision: str) -> GraphFile | None:
        """Find the graph of a variant of the family (see contract.catalogue.Family.variants) at a precision."""
        return self.graphs.get(graph_name(variant, precision))

    def to_json(self) -> str:
        """Write the record as text; from_json reads it back equal."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: object) -> "GraphRecord":
        """Read a record; raise ManifestError with the file and the field that is wrong."""
        fields = open_json(text, source, SCHEMA_VERSION, _REMEDY)
        graphs = fields.table("graphs")
        return cls(
            model=fields.text("model"),
            family=fields.text("family"),
            operating_point=fields.text("operating_point"),
            key=fields.text("key"),
            opset=fields.integer("opset"),
            weights=fields.text("weights"),
            libraries=texts(fields.table("libraries")),
            dims=integers(fields.table("dims")),
            parameters=texts(fields.table("parameters")),
            graphs={precision: _graph(graphs.table(precision)) for precision in graphs.names()},
        )


def graph_name(variant: str, precision: str) -> str:
    """Name a graph in its record: `fp16`, or `realtime-fp16` for that of streams."""
    return f"{variant}-{precision}" if variant else precision


def samples_file(mode: str) -> str:
    """Name the file of real inputs in a mode."""
    return f"{mode}-samples.npz"


def load(folder: Path) -> GraphRecord:
    """Read the record of a model's folder; raise GraphError when there is none."""
    path = folder / RECORD_FILE
    if not path.is_file():
        raise GraphError(folder, "no graph was exported there", f"Run `python -m export --model {folder.name}` first")
    return GraphRecord.from_json(read_text(path, _REMEDY), path)


def read_text(path: Path, remedy: str) -> str:
    """Read a file of JSON as text; raise ManifestError for what is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(path, "it is not text", remedy) from error


def open_json(text: str, source: object, schema_version: int, remedy: str) -> Fields:
    """Parse a versioned JSON file; raise ManifestError for damaged JSON and for a schema this release does not read."""
    try:
        value: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ManifestError(source, f"it is not JSON ({error})", remedy) from error
    fields = Fields(value, source=source, error=ManifestError, remedy=remedy)
    found = fields.integer("schema_version")
    if found != schema_version:
        cause = f"schema_version: it is {found}, and this release reads {schema_version}"
        raise ManifestError(source, cause, f"{remedy}, or use the release that wrote it")
    return fields


def texts(fields: Fields) -> dict[str, str]:
    """Read a table of strings."""
    return {key: fields.text(key) for key in fields.names()}


def integers(fields: Fields) -> dict[str, int]:
    """Read a table of integers."""
    return {key: fields.integer(key) for key in fields.names()}


def parity(fields: Fields) -> tuple[Difference, ...]:
    """Read the differences that a record keeps."""
    return tuple(
        Difference(
            output=table.text("output"),
            measure=table.text("measure"),
            value=table.number("value"),
            limit=table.number("limit"),
        )
        for table in fields.tables("parity")
    )


def _graph(fields: Fields) -> GraphFile:
    return GraphFile(
        file=fields.text("file"),
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        parity=parity(fields),
    )
