"""Build synthetic bundles: records that fit the catalogue, with engine files of any content."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.arch import Arch
from contract.catalogue import Model, Tensor, catalogue, models
from contract.manifest import BoundTensor, BundleManifest, EngineRecord, Gate
from contract.platform import platform

DIMS = {
    "bands": 80,
    "encoder_size": 8,
    "top": 4,
    "embedding_size": 6,
    "vocabulary": 32,
    "layers": 1,
    "convolution_past": 2,
}
TOOLCHAIN = {"onnxruntime": "1.32.0", "tensorrt": "11.2.1.2"}
FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "tensorrt_rtx": "model.rtx"}
# A word list with characters that need escapes in text formats.
PARAMETERS = {"tokens": '["▁the", "\\"",\n "\\\\", "ß\\n"]'}


def engine_models() -> dict[str, Model]:
    """Return the catalogue's models that have an engine."""
    return {name: model for name, model in models(catalogue()).items() if not model.family.is_ensemble}


def bound(tensor: Tensor) -> BoundTensor:
    """Return a tensor as an engine with the sizes of DIMS would report it."""
    dims = (axis if isinstance(axis, int) else DIMS.get(axis, -1) for axis in tensor.shape)
    return BoundTensor(name=tensor.name, type=tensor.type, dims=(-1, *dims))


def record(
    model: Model, content: bytes = b"engine", compiler: str = "onnxruntime", mode: str = "batch", **changes: Any
) -> EngineRecord:
    """Return a synthetic record of a model's engine."""
    family = model.family.in_mode(mode)
    made = EngineRecord(
        model=model.name,
        family=model.family.name,
        operating_point=model.operating_point,
        mode=mode,
        file=f"{model.name}/{mode}/{FILES[compiler]}",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        key="0" * 64,
        key_parts={"compiler": compiler},
        compiler=compiler,
        precision="fp32",
        max_batch=family.modes[mode].batch.max,
        inputs=tuple(bound(tensor) for tensor in family.inputs),
        outputs=tuple(bound(tensor) for tensor in family.outputs),
        dims=DIMS,
        parameters=PARAMETERS if model.family.name == "am_en" else {},
        build_seconds=0.5,
        gate=Gate(outcome="passed", reason="", parity=()),
    )
    return dataclasses.replace(made, **changes)


def manifest(*records: EngineRecord, arch: Arch = Arch.CPU, platform_name: str = "embedded") -> BundleManifest:
    """Return a manifest with these records."""
    toolchain = {**TOOLCHAIN, "tensorrt": platform(platform_name).tensorrt or TOOLCHAIN["tensorrt"]}
    return BundleManifest(platform=platform_name, arch=arch, toolchain=toolchain, engines=records)


def full_manifest(arch: Arch = Arch.CPU, platform_name: str = "embedded", *points: str) -> BundleManifest:
    """Return a manifest with every model, or with those of some operating points."""
    compiler = platform(platform_name).backend or "tensorrt_rtx"
    wanted = [model for model in engine_models().values() if not points or model.operating_point in points]
    return manifest(*(record(model, compiler=compiler) for model in wanted), arch=arch, platform_name=platform_name)


def write(folder: Path, made: BundleManifest, content: Callable[[str], bytes] = lambda _: b"engine") -> Path:
    """Write a bundle, each engine file with `content(model name)`; return its folder."""
    for engine in made.engines:
        path = folder / engine.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(engine.model))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(made.to_json(), encoding="utf-8")
    return folder
