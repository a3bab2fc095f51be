"""The bundle manifest: what build puts beside its engines, and all that runtime knows of them.

dist/engines/<platform>/<arch>/manifest.json
                               <model>/<mode>/model.onnx|model.plan|model.rtx
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from contract.agreement import Agreement
from contract.arch import Arch
from contract.errors import BundleError
from contract.fields import Fields
from contract.graph import integers, open_json, parity, read_text, texts

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
PASSED, NOT_RUN = "passed", "not run"
_REMEDY = "Build the bundle again with `python -m build.engines`"


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundTensor:
    """A tensor as read back from an engine; -1 for an axis whose size changes, the batch included."""

    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What the accuracy gate saw: `passed` with its worst agreements, or `not run` with the reason."""

    outcome: str
    reason: str
    parity: tuple[Agreement, ...]


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
    """Digest over `key_parts`: the same key, the same engine."""
    key_parts: dict[str, Any]
    compiler: str
    precision: str
    max_batch: int
    inputs: tuple[BoundTensor, ...]
    outputs: tuple[BoundTensor, ...]
    dims: dict[str, int]
    parameters: dict[str, str]
    build_seconds: float
    gate: Gate


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleManifest:
    """The engines for one architecture on one platform."""

    platform: str
    arch: Arch
    toolchain: dict[str, str]
    """Name and exact version of every library that made the engines."""
    engines: tuple[EngineRecord, ...]
    signature: str | None = None

    def to_json(self) -> str:
        """Write the manifest as text; from_json reads it back equal."""
        table = asdict(self)
        table["arch"] = self.arch.value
        return json.dumps({"schema_version": SCHEMA_VERSION, **table}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: object) -> "BundleManifest":
        """Read a manifest; raise ManifestError with the file and the field that is wrong."""
        fields = open_json(text, source, SCHEMA_VERSION, _REMEDY)
        arch = fields.text("arch")
        if arch not in {known.value for known in Arch}:
            raise fields.wrong("arch", f"{arch!r} is no architecture this release knows")
        return cls(
            platform=fields.text("platform"),
            arch=Arch(arch),
            toolchain=texts(fields.table("toolchain")),
            engines=tuple(_engine(table) for table in fields.tables("engines")),
            signature=fields.text("signature") if fields.has("signature") else None,
        )


def load(bundle: Path) -> BundleManifest:
    """Read a bundle's manifest; raise BundleError when there is none."""
    path = bundle / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(bundle, f"it holds no {MANIFEST_FILE}, so it is no bundle", _REMEDY)
    return BundleManifest.from_json(read_text(path, _REMEDY), path)


def _engine(fields: Fields) -> EngineRecord:
    gate = fields.table("gate")
    return EngineRecord(
        model=fields.text("model"),
        family=fields.text("family"),
        operating_point=fields.text("operating_point"),
        mode=fields.text("mode"),
        file=_inner_path(fields),
        sha256=fields.text("sha256"),
        size_bytes=fields.integer("size_bytes"),
        key=fields.text("key"),
        key_parts=fields.raw("key_parts"),
        compiler=fields.text("compiler"),
        precision=fields.text("precision"),
        max_batch=fields.integer("max_batch"),
        inputs=_tensors(fields, "inputs"),
        outputs=_tensors(fields, "outputs"),
        dims=integers(fields.table("dims")),
        parameters=texts(fields.table("parameters")),
        build_seconds=fields.number("build_seconds"),
        gate=Gate(outcome=_outcome(gate), reason=gate.text("reason"), parity=parity(gate)),
    )


def _outcome(gate: Fields) -> str:
    outcome = gate.text("outcome")
    if outcome not in (PASSED, NOT_RUN):
        raise gate.wrong("outcome", f"{outcome!r} is neither {PASSED!r} nor {NOT_RUN!r}")
    return outcome


def _tensors(fields: Fields, key: str) -> tuple[BoundTensor, ...]:
    return tuple(
        BoundTensor(name=table.text("name"), type=table.text("type"), dims=table.items("dims", int))
        for table in fields.tables(key)
    )


def _inner_path(fields: Fields) -> str:
    # A manifest may come from anywhere: its paths must not lead out of the bundle.
    path = PurePosixPath(fields.text("file"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise fields.wrong("file", f"{str(path)!r} leads out of the bundle")
    return str(path)
