"""Write synthetic bundles for the report and the release, with every field of a manifest."""

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

from build.compilers import COMPILERS
from contract.arch import Arch
from contract.catalogue import Model, Tensor, read_catalogue
from contract.client import ClientSpec, TokenSpec
from contract.differences import Difference, worst
from contract.manifest import (
    PASSED,
    Accuracy,
    Activation,
    BoundTensor,
    BundleFile,
    BundleManifest,
    EngineRecord,
    Gate,
    GateCase,
    Measurement,
    ShapeRange,
)
from contract.platform import platform

DIMS = {"encoder_size": 512, "top": 16, "embedding_size": 192, "vocabulary": 1024}
ENGINE_FILES = dict(zip(COMPILERS, ("model.plan", "model.rtx", "model.onnx"), strict=True))


def engine_models() -> dict[str, Model]:
    """Return the catalogue's models that have an engine."""
    return {name: model for name, model in read_catalogue().models().items() if not model.family.is_ensemble}


def manifest(arch: Arch = Arch.SM86, platform_name: str = "26.08", **changes: Any) -> BundleManifest:
    """Return a manifest with every model, as a GPU host would write it."""
    place = platform(platform_name)
    compiler = place.backend or "tensorrt_rtx"
    made = BundleManifest(
        platform=platform_name,
        arch=arch,
        toolchain={"tensorrt": place.tensorrt or "none", "polygraphy": "0.53.6", "cuda": place.cuda or "none"},
        engines=tuple(_engine(model, arch, compiler, index) for index, model in enumerate(engine_models().values())),
        files=(_file("timing.cache"),),
        accuracy=(
            Accuracy(
                operating_point="standard", mode="batch", words=5210, wrong=402, wrong_in_fp32=397, allowed_points=0.2
            ),
            Accuracy(
                operating_point="enhanced", mode="batch", words=5210, wrong=228, wrong_in_fp32=228, allowed_points=0.2
            ),
        ),
    )
    return dataclasses.replace(made, **changes)


def write(folder: Path, made: BundleManifest) -> Path:
    """Write a bundle with files that match its records; return its folder."""
    for each in made.every_file():
        path = folder / each.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(each.file))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(made.to_json(), encoding="utf-8")
    return folder


def _engine(model: Model, arch: Arch, compiler: str, index: int) -> EngineRecord:
    folder = f"{model.name}/batch"
    engine = _file(f"{folder}/{ENGINE_FILES[compiler]}")
    cases = tuple(
        _case(model, size, step) for step, size in enumerate(("batch 1 samples 32000", "batch 8 samples 128000"))
    )
    cases += (_case(model, "real sample 0", 2),)
    return EngineRecord(
        model=model.name,
        family=model.family.name,
        operating_point=model.operating_point,
        mode="batch",
        file=engine.file,
        sha256=engine.sha256,
        size_bytes=engine.size_bytes,
        key=hashlib.sha256(f"{model.name} {arch.value}".encode()).hexdigest(),
        key_parts=_key_parts(model, arch, compiler),
        compiler=compiler,
        precision="fp32" if arch is Arch.CPU else "fp16",
        max_batch=16,
        inputs=tuple(map(_bound, model.family.inputs)),
        outputs=tuple(map(_bound, model.family.outputs)),
        dims=DIMS,
        client=ClientSpec(tokens=TokenSpec(pieces=("▁the", "</script>"), blank=0)),
        build_seconds=41.25 + index,
        gate=Gate(
            outcome=PASSED,
            reason="3 inputs",
            parity=worst(each for case in cases for each in case.parity),
            cases=cases,
            activation=Activation(
                value=10.0 ** (1 + index % 4) * 3.21,
                tensor=f"/blocks.{index}/MatMul_output_0",
                node="m",
                operator="MatMul",
            ),
        ),
        profile={tensor.name: _shapes(tensor) for tensor in model.family.inputs},
        device_memory_bytes=(64 + 8 * index) << 20,
        built_on={"gpu": "NVIDIA A10", "driver": "580.65.06"} if arch is not Arch.CPU else {"processor": "x86-64"},
        files=(_file(f"{folder}/layers.json"),),
    )


def _key_parts(model: Model, arch: Arch, compiler: str) -> dict[str, Any]:
    precision = "fp32" if arch is Arch.CPU else "fp16"
    return {
        "graph": hashlib.sha256(f"{model.name} {precision}".encode()).hexdigest(),
        "reference": hashlib.sha256(f"{model.name} fp32".encode()).hexdigest(),
        "arch": arch.value,
        "compiler": compiler,
        "toolchain": {compiler: "1.2.3"},
        "options": {"tf32": False},
        "precision": precision,
        "profile": [[1, 32000], [8, 128000], [16, 320000]],
    }


def _case(model: Model, name: str, step: int) -> GateCase:
    parity = []
    for tensor in model.family.outputs:
        assert tensor.tolerance is not None
        limit = tensor.tolerance.fp16
        value = limit * math.exp(-1.3 * step - 0.7) if limit else 0.0
        parity.append(Difference(output=tensor.name, measure=tensor.tolerance.measure, value=value, limit=limit))
    figures = (Measurement(output=parity[0].output, measure="absolute", value=0.03125 * (step + 1)),)
    return GateCase(name=name, parity=tuple(parity), figures=figures)


def _bound(tensor: Tensor) -> BoundTensor:
    dims = (axis if isinstance(axis, int) else DIMS.get(axis, -1) for axis in tensor.shape)
    return BoundTensor(name=tensor.name, type=tensor.type, dims=(-1, *dims))


def _shapes(tensor: Tensor) -> ShapeRange:
    def at(batch: int, size: int) -> tuple[int, ...]:
        return (batch, *(axis if isinstance(axis, int) else DIMS.get(axis, size) for axis in tensor.shape))

    return ShapeRange(min=at(1, 32000), opt=at(8, 128000), max=at(16, 320000))


def _file(name: str) -> BundleFile:
    data = _content(name)
    return BundleFile(file=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def _content(name: str) -> bytes:
    return f"the content of {name}".encode()
