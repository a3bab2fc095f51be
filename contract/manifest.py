"""Define the bundle manifest, which build writes next to its engines and runtime reads.

dist/engines/<platform>/<arch>/manifest.json     names every other file of the bundle, with its SHA-256
                               <model>/<mode>/model.onnx|model.plan|model.rtx
                               <model>/<mode>/model.onnx.data    the weights of a graph that is too large for one file
                               report.html, timing.cache and the other entries of `files`
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from contract.arch import Arch
from contract.catalogue import TYPES
from contract.client import ClientSpec
from contract.differences import Difference
from contract.errors import BundleError
from contract.fields import Fields
from contract.graph import integer_table, parse_json, read_differences, read_text, string_table

SCHEMA_VERSION = 4
MANIFEST_FILE = "manifest.json"
PASSED, NOT_RUN = "passed", "not run"
FP16_MAX = 65_504.0
_REMEDY = "Build the bundle again with `python -m build.engines`"


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundTensor:
    """A tensor as read back from an engine; -1 stands for an axis of variable size, the batch included."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeRange:
    """The minimum, optimum and maximum shape of one input in an optimisation profile, the batch included."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


Profile: TypeAlias = dict[str, ShapeRange]
"""An optimisation profile: shapes by the name of the input."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A value measured on an output that has no limit, by a measure of contract.differences."""

    output: str
    measure: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GateCase:
    """One input of the gate, such as a corner of the profile or a real recording, and the values measured on it."""

    name: str
    parity: tuple[Difference, ...]
    figures: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """The tensor inside a graph with the largest value, and the node that computes it."""

    value: float
    """The largest absolute value: infinite for an overflow and for NaN."""
    tensor: str
    node: str
    operator: str

    @property
    def headroom(self) -> float:
        """Return the largest finite number of FP16 divided by the value; infinite for a value of 0."""
        return FP16_MAX / self.value if self.value else math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """The result of the accuracy gate: `passed` with its largest differences, or `not run` with the reason."""

    outcome: str
    reason: str
    parity: tuple[Difference, ...]
    cases: tuple[GateCase, ...] = ()
    activation: Activation | None = None
    """The largest value inside the model's FP16 graph; None where it was not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleFile:
    """A file of a bundle: its path below the bundle, with forward slashes, its SHA-256 and its size."""

    file: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A part of a key that changed, such as `toolchain.onnxruntime`, and its values as JSON; "" for no value."""

    part: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """One engine of a bundle."""

    model: str
    family: str
    operating_point: str
    mode: str
    file: str
    """Path below the bundle, with forward slashes."""
    sha256: str
    size_bytes: int
    key: str
    """Digest over `key_parts`: engines of the same key are interchangeable."""
    key_parts: dict[str, Any]
    compiler: str
    precision: str
    max_batch: int
    inputs: tuple[BoundTensor, ...]
    outputs: tuple[BoundTensor, ...]
    dims: dict[str, int]
    client: ClientSpec
    """What clients must know about the weights."""
    build_seconds: float
    gate: Gate
    profile: Profile | None = None
    """The optimisation profile of the engine; None where it accepts any shape."""
    device_memory_bytes: int | None = None
    """What an execution context of the engine takes on the device in addition to its weights; None where unknown."""
    built_on: dict[str, str] = field(default_factory=dict)
    """The machine that built the engine: `gpu` and `driver`, or `processor`."""
    data: tuple[BundleFile, ...] = ()
    """The files with the weights of a large ONNX graph, which a server needs beside the engine's file."""
    files: tuple[BundleFile, ...] = ()
    """Further files of the build, such as the output of the engine inspector."""
    languages: tuple[str, ...] | None = None
    """The language that it serves, none for a network of every language; None where an older release built it."""
    changes: tuple[Change, ...] = ()
    """How `key_parts` differ from those of the engine that this one replaced; empty for a first engine."""

    @property
    def total_bytes(self) -> int:
        """Return the size of the engine with its weights, without the further files."""
        return sum(each.size_bytes for each in self.served_files())

    def served_files(self) -> Iterator[BundleFile]:
        """Yield the files that a server loads: the engine's, then those with its weights."""
        yield BundleFile(file=self.file, sha256=self.sha256, size_bytes=self.size_bytes)
        yield from self.data

    def every_file(self) -> Iterator[BundleFile]:
        """Yield the files that a server loads, then the further files of the build."""
        yield from self.served_files()
        yield from self.files


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Word errors of the engines of an operating point, and of their graphs in FP32, on the same recordings."""

    operating_point: str
    mode: str
    words: int
    wrong: int
    wrong_in_fp32: int
    allowed_points: float
    """By how many percentage points the word error rate of the engines may exceed that of the graphs."""
    model: str = ""
    """The ensemble that recognised the words, such as ensemble_en_standard."""
    reason: str = ""
    """The recordings that were used; where `words` is zero, why nothing was measured."""
    recordings: str = ""
    """SHA-256 of the file of these recordings; empty where there was none."""

    @property
    def wer_increase(self) -> float:
        """Return the word error rate of the engines minus that of the graphs in FP32, in percentage points."""
        return 100.0 * (self.wrong - self.wrong_in_fp32) / self.words if self.words else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """An Ed25519 signature over `BundleManifest.signed_bytes`, in base64, and the fingerprint of its public key."""

    key: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleManifest:
    """The engines for one architecture on one platform."""

    platform: str
    arch: Arch
    toolchain: dict[str, str]
    """Name and exact version of every library that made the engines."""
    engines: tuple[EngineRecord, ...]
    files: tuple[BundleFile, ...] = ()
    """The files of the bundle as a whole: the report, the timing cache."""
    accuracy: tuple[Accuracy, ...] = ()
    """Word error rates of the bundle's engines together."""
    signature: Signature | None = None

    def to_json(self) -> str:
        """Return the manifest as JSON text; from_json reads it back equal."""
        return json.dumps(self._table(), indent=2) + "\n"

    def signed_bytes(self) -> bytes:
        """Return the bytes that are signed: the manifest without its signature, as JSON in a canonical form."""
        table = self._table()
        del table["signature"]
        return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()

    def every_file(self) -> Iterator[BundleFile]:
        """Yield every file of the bundle except the manifest."""
        for engine in self.engines:
            yield from engine.every_file()
        yield from self.files

    def _table(self) -> dict[str, Any]:
        engines = [{**asdict(engine), "client": engine.client.to_table()} for engine in self.engines]
        own = {"schema_version": SCHEMA_VERSION, "arch": self.arch.value, "engines": engines}
        table: dict[str, Any] = _finite({**asdict(self), **own})
        return table

    @classmethod
    def from_json(cls, text: str, source: object) -> "BundleManifest":
        """Return the manifest of a JSON text; raise ManifestError with the file and the field that is wrong."""
        fields = parse_json(text, source, SCHEMA_VERSION, _REMEDY)
        arch = fields.text("arch")
        if arch not in {known.value for known in Arch}:
            raise fields.error("arch", f"this release has no architecture {arch!r}")
        return cls(
            platform=fields.text("platform"),
            arch=Arch(arch),
            toolchain=string_table(fields.table("toolchain")),
            engines=tuple(_engine(table) for table in fields.tables("engines")),
            files=_files(fields),
            accuracy=tuple(_accuracy(table) for table in fields.tables("accuracy")),
            signature=_signature(fields.table("signature")) if fields.has("signature") else None,
        )


def load(bundle: Path) -> BundleManifest:
    """Return a bundle's manifest; raise BundleError when there is none."""
    path = bundle / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(bundle, f"it holds no {MANIFEST_FILE}, so it is not a bundle", _REMEDY)
    return BundleManifest.from_json(read_text(path, _REMEDY), path)


def _engine(fields: Fields) -> EngineRecord:
    return EngineRecord(
        model=fields.text("model"),
        family=fields.text("family"),
        operating_point=fields.text("operating_point"),
        mode=fields.text("mode"),
        file=_inner_path(fields),
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        key=fields.text("key"),
        key_parts=_plain(fields, "key_parts"),
        compiler=fields.text("compiler"),
        precision=fields.text("precision"),
        max_batch=fields.integer("max_batch"),
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        dims=integer_table(fields.table("dims")),
        client=ClientSpec.from_fields(fields.table("client")),
        build_seconds=fields.number("build_seconds"),
        gate=_gate(fields.table("gate")),
        profile=_profile(fields.table("profile")) if fields.has("profile") else None,
        device_memory_bytes=fields.integer("device_memory_bytes") if fields.has("device_memory_bytes") else None,
        built_on=string_table(fields.table("built_on")),
        data=_files(fields, "data") if fields.has("data") else (),
        files=_files(fields),
        languages=fields.items("languages", str) if fields.has("languages") else None,
        changes=tuple(_change(table) for table in fields.tables("changes")),
    )


def _change(fields: Fields) -> Change:
    return Change(part=fields.text("part"), before=fields.text("before"), after=fields.text("after"))


def _gate(fields: Fields) -> Gate:
    return Gate(
        outcome=_outcome(fields),
        reason=fields.text("reason"),
        parity=read_differences(fields),
        cases=tuple(_case(table) for table in fields.tables("cases")),
        activation=_activation(fields.table("activation")) if fields.has("activation") else None,
    )


def _case(fields: Fields) -> GateCase:
    figures = tuple(
        Measurement(output=table.text("output"), measure=table.text("measure"), value=_value(table))
        for table in fields.tables("figures")
    )
    return GateCase(name=fields.text("name"), parity=read_differences(fields), figures=figures)


def _activation(fields: Fields) -> Activation:
    return Activation(
        value=_value(fields),
        tensor=fields.text("tensor"),
        node=fields.text("node"),
        operator=fields.text("operator"),
    )


def _profile(fields: Fields) -> Profile:
    return {name: _shapes(fields.table(name)) for name in fields.names()}


def _shapes(fields: Fields) -> ShapeRange:
    return ShapeRange(min=fields.items("min", int), opt=fields.items("opt", int), max=fields.items("max", int))


def _files(fields: Fields, key: str = "files") -> tuple[BundleFile, ...]:
    return tuple(
        BundleFile(file=_inner_path(table), sha256=table.text("sha256"), size_bytes=table.integer("size_bytes"))
        for table in fields.tables(key)
    )


def _accuracy(fields: Fields) -> Accuracy:
    return Accuracy(
        operating_point=fields.text("operating_point"),
        mode=fields.text("mode"),
        words=fields.integer("words"),
        wrong=fields.integer("wrong"),
        wrong_in_fp32=fields.integer("wrong_in_fp32"),
        allowed_points=fields.number("allowed_points"),
        model=fields.text("model"),
        reason=fields.text("reason"),
        recordings=fields.text("recordings") if fields.has("recordings") else "",
    )


def _signature(fields: Fields) -> Signature:
    return Signature(key=fields.text("key"), value=fields.text("value"))


def _finite(value: Any) -> Any:
    # JSON has no infinity: null stands for it.
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _value(fields: Fields) -> float:
    return fields.number("value") if fields.has("value") else math.inf


def _outcome(gate: Fields) -> str:
    outcome = gate.text("outcome")
    if outcome not in (PASSED, NOT_RUN):
        raise gate.error("outcome", f"{outcome!r} is neither {PASSED!r} nor {NOT_RUN!r}")
    return outcome


def _tensors(fields: Fields, key: str) -> tuple[BoundTensor, ...]:
    return tuple(
        BoundTensor(name=table.text("name"), type=_type(table), dims=table.items("dims", int))
        for table in fields.tables(key)
    )


def _type(fields: Fields) -> str:
    found = fields.text("type")
    if found not in TYPES:
        raise fields.error("type", f"{found!r} is not one of {', '.join(TYPES)}")
    return found


def _plain(fields: Fields, key: str) -> dict[str, Any]:
    """Return the table below a key with whatever values it has."""
    fields.table(key)
    return dict(fields.raw(key))


def _inner_path(fields: Fields) -> str:
    # A manifest may come from anywhere: its paths must not lead out of the bundle.
    path = PurePosixPath(fields.text("file"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise fields.error("file", f"{str(path)!r} leads out of the bundle")
    return str(path)
