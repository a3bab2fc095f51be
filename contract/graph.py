"""Define the export record, which describes the graphs of one model for build and runtime.

dist/onnx/<model>/record.json   this record
                  fp32.onnx fp16.onnx
                  fp32.onnx.data              the weights of a graph that is too large for one file
                  realtime-fp32.onnx realtime-fp16.onnx     for a mode of streams
                  batch-samples.npz realtime-samples.npz    real inputs in a mode, `<input>.<number>`, for the gate
                  words.npz     recordings of one item with their transcripts, `texts.<number>`, for the word error
                                rate: only for a CTC head, and only where its language has transcripts
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from contract import digest
from contract.client import ClientSpec
from contract.differences import Difference
from contract.errors import GraphError, ManifestError
from contract.fields import Fields, json_value

SCHEMA_VERSION = 2
RECORD_FILE = "record.json"
WORDS_FILE = "words.npz"
# The name of the transcripts in WORDS_FILE.
TRANSCRIPTS = "texts"
# An ONNX file is a protobuf message, which has less than 2 GiB. The nodes of a large network have a few MiB. Export
# writes the weights of a larger graph into a second file; every other part follows what is there.
LARGEST_FILE_BYTES = (2 << 30) - (64 << 20)
# A tensor in a data file has more bytes than this: sizes and axes, which a reader of the nodes needs, are smaller.
SMALLEST_DATA_BYTES = 1_024
_REMEDY = "Run `python -m export` again"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """A file with weights, beside the ONNX file that names it."""

    file: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFile:
    """One graph of a model: its ONNX file and, where that would be too large, a file with its weights."""

    file: str
    sha256: str
    size_bytes: int
    parity: tuple[Difference, ...]
    """The largest difference of every output from that of the torch network."""
    data: tuple[DataFile, ...] = ()
    """The files with the weights of a large graph; empty for a graph of one file."""

    @property
    def digest(self) -> str:
        """Return the digest of the whole graph: that of its file where there is no other."""
        return digest.of_value([each.sha256 for each in self.every_file()]) if self.data else self.sha256

    @property
    def total_bytes(self) -> int:
        """Return the size of all its files."""
        return sum(each.size_bytes for each in self.every_file())

    def every_file(self) -> Iterator[DataFile]:
        """Yield the ONNX file, then the files with its weights."""
        yield DataFile(file=self.file, sha256=self.sha256, size_bytes=self.size_bytes)
        yield from self.data

    def defect(self, folder: Path) -> tuple[Path, str] | None:
        """Return the first missing, damaged or unlisted file of the graph in a folder, with the cause.

        Returns None for an intact graph.
        """
        for each in self.every_file():
            path = folder / each.file
            if not path.is_file():
                return path, "the file is missing"
            if digest.of_file(path) != each.sha256:
                return path, "it is damaged: its digest is not the one in the export record"
        beside = weights_beside(folder / self.file)
        if beside is not None and beside.name not in {each.file for each in self.data}:
            return beside, "the export record does not list it"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphRecord:
    """What an export produced for one model."""

    model: str
    family: str
    operating_point: str
    key: str
    """Digest of everything that decided the graphs: weights, networks, catalogue, libraries."""
    opset: int
    weights: str
    """The origin of the weights, as text for people."""
    libraries: dict[str, str]
    dims: dict[str, int]
    """Sizes that depend on the weights, by the catalogue's axis names."""
    client: ClientSpec
    """What clients must know about these weights."""
    checkpoint: str = ""
    """Digest of the checkpoint. Empty in the records of earlier releases."""
    graphs: dict[str, GraphFile]
    """By precision; for a mode of streams by mode and precision: fp32, fp16, realtime-fp32, realtime-fp16."""

    def graph(self, variant: str, precision: str) -> GraphFile | None:
        """Return the graph of a variant (catalogue.Family.variants) at a precision; None where there is none."""
        return self.graphs.get(graph_name(variant, precision))

    def to_json(self) -> str:
        """Return the record as JSON text; from_json reads it back equal."""
        table = {"schema_version": SCHEMA_VERSION, **asdict(self), "client": self.client.to_table()}
        return json.dumps(table, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: object) -> "GraphRecord":
        """Return the record of a JSON text; raise ManifestError with the file and the field that is wrong."""
        fields = parse_json(text, source, SCHEMA_VERSION, _REMEDY)
        graphs = fields.table("graphs")
        return cls(
            model=fields.text("model"),
            family=fields.text("family"),
            operating_point=fields.text("operating_point"),
            key=fields.text("key"),
            opset=fields.integer("opset"),
            weights=fields.text("weights"),
            libraries=string_table(fields.table("libraries")),
            dims=integer_table(fields.table("dims")),
            client=ClientSpec.from_fields(fields.table("client")),
            checkpoint=fields.text("checkpoint") if fields.has("checkpoint") else "",
            graphs={precision: _graph(graphs.table(precision)) for precision in graphs.names()},
        )


def graph_name(variant: str, precision: str) -> str:
    """Return the name of a graph in its record: `fp16`, or `realtime-fp16` for the variant of streams."""
    return f"{variant}-{precision}" if variant else precision


def data_file(graph: str) -> str:
    """Return the name of the file with the weights of a large graph: `fp32.onnx.data`."""
    return f"{graph}.data"


def weights_beside(graph: Path) -> Path | None:
    """Return the file with the weights of an ONNX file; None where that holds them itself."""
    path = graph.with_name(data_file(graph.name))
    return path if path.is_file() else None


def samples_file(mode: str) -> str:
    """Return the name of the file that holds the real inputs of a mode."""
    return f"{mode}-samples.npz"


def load(folder: Path) -> GraphRecord:
    """Return the record of a model's folder; raise GraphError when there is none."""
    path = folder / RECORD_FILE
    if not path.is_file():
        raise GraphError(folder, "no graph was exported there", f"Run `python -m export --model {folder.name}` first")
    return GraphRecord.from_json(read_text(path, _REMEDY), path)


def read_text(path: Path, remedy: str) -> str:
    """Return the text of a JSON file; raise ManifestError for a file that is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(path, "it is not text", remedy) from error


def parse_json(text: str, source: object, schema_version: int, remedy: str) -> Fields:
    """Return the fields of a versioned JSON text; raise ManifestError for damaged JSON and other schema versions."""
    try:
        value = json_value(text)
    except ValueError as error:
        raise ManifestError(source, f"it is not JSON ({error})", remedy) from error
    table = Fields(value, source=source, error=ManifestError, remedy=remedy)
    found = table.integer("schema_version")
    if found != schema_version:
        cause = f"schema_version: it is {found}, and this release reads {schema_version}"
        raise ManifestError(source, cause, f"{remedy}, or use the release that wrote it")
    return table


def string_table(fields: Fields) -> dict[str, str]:
    """Return the entries of a table of strings."""
    return {key: fields.text(key) for key in fields.names()}


def integer_table(fields: Fields) -> dict[str, int]:
    """Return the entries of a table of integers."""
    return {key: fields.integer(key) for key in fields.names()}


def read_differences(fields: Fields) -> tuple[Difference, ...]:
    """Return the differences that a record lists under `parity`."""
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
        file=_plain_name(fields),
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        parity=read_differences(fields),
        data=tuple(map(_data, fields.tables("data"))) if fields.has("data") else (),
    )


def _data(fields: Fields) -> DataFile:
    return DataFile(file=_plain_name(fields), sha256=fields.text("sha256"), size_bytes=fields.integer("size_bytes"))


def _plain_name(fields: Fields) -> str:
    # A record may come from anywhere: its names must not lead out of its folder.
    name = fields.text("file")
    if Path(name).name != name or name == "..":
        raise fields.error("file", f"{name!r} is not the name of a file in the folder of the record")
    return name
