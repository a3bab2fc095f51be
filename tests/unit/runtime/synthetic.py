"""Build synthetic bundles: records that fit the catalogue, with engine files of any content."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.arch import Arch
from contract.catalogue import Catalogue, Family, Model, Tensor, read_catalogue
from contract.client import AudioSpec, ClientSpec, SearchSpec, SpeakerSpec, TokenSpec
from contract.manifest import BoundTensor, BundleManifest, EngineRecord, Gate
from contract.platform import platform

DIMS = {
    "encoder_size": 8,
    "top": 4,
    "embedding_size": 6,
    "vocabulary": 32,
    "layers": 1,
    "convolution_past": 2,
}
TOOLCHAIN = {"onnxruntime": "1.32.0", "tensorrt": "11.2.1.2"}
FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "tensorrt_rtx": "model.rtx"}
CATALOGUE = read_catalogue()
FAMILIES = CATALOGUE.families
SECOND_LANGUAGE = "tlh"
# Pieces with characters that need escapes in text formats.
PIECES = ("▁the", '"', "\n", "\\", "ß\n")
CLIENTS: dict[str, ClientSpec] = {
    "encoder": ClientSpec(
        audio=AudioSpec(sample_rate_hz=16_000, shortest_samples=1360, hop_s=0.04, first_centre_s=0.0425)
    ),
    "ctc": ClientSpec(tokens=TokenSpec(pieces=PIECES, blank=4), search=SearchSpec(token_bonus=0.5)),
    "speaker": ClientSpec(
        speaker=SpeakerSpec(
            sample_rate_hz=16_000, same_speaker_similarity=0.5, window_s=2.0, hop_s=0.75, takes="segments"
        )
    ),
}


# Another blank, another style, no separator between words, no search weights.
SECOND_CLIENT = ClientSpec(
    tokens=TokenSpec(pieces=("a", "b", "ß", "<blank>"), blank=3, style="characters", word_separator="")
)


def catalogue_of(*families: Family) -> Catalogue:
    """Return a catalogue of these families, with the operating points of the reference networks."""
    return dataclasses.replace(CATALOGUE, families={family.name: family for family in families})


def body_and_head() -> Catalogue:
    """Return the smallest catalogue: an encoder, a CTC head and their ensemble."""
    return catalogue_of(*(FAMILIES[name] for name in ("body", "am_en", "ensemble_en")))


def head_alone() -> Catalogue:
    """Return a catalogue of one CTC network that takes audio by itself, without encoder output."""
    outputs = tuple(tensor for tensor in FAMILIES["ensemble_en"].outputs if tensor.name != "encoder_out")
    modes = {"batch": FAMILIES["body"].modes["batch"]}
    return catalogue_of(
        dataclasses.replace(FAMILIES["body"], name="ctc", role="ctc", language="en", outputs=outputs, modes=modes)
    )


def two_languages() -> Catalogue:
    """Return the reference catalogue with a made-up language, which has a head, a rescorer and an ensemble."""
    second = [
        dataclasses.replace(
            FAMILIES[source],
            name=name,
            language=SECOND_LANGUAGE,
            steps=("body", "am_tlh") if FAMILIES[source].steps else (),
        )
        for source, name in (("am_en", "am_tlh"), ("decoder", "decoder_tlh"), ("ensemble_en", "ensemble_tlh"))
    ]
    return catalogue_of(*FAMILIES.values(), *second)


def write_catalogue(folder: Path, *points: str) -> Path:
    """Write a catalogue of body and head alone, with operating points of other names; return its folder."""
    named = ", ".join(f'"{point}"' for point in points)
    for path in (CATALOGUE.folder / "catalogue.toml", *(CATALOGUE.folder / name for name in body_and_head().families)):
        source = path if path.is_file() else path / "model.toml"
        written = folder / source.relative_to(CATALOGUE.folder)
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(
            source.read_text(encoding="utf-8").replace('"standard", "enhanced"', named), encoding="utf-8"
        )
    return folder


def client(family: Family) -> ClientSpec:
    """Return what clients must know about a synthetic model."""
    if family.role == "ctc" and family.language == SECOND_LANGUAGE:
        return SECOND_CLIENT
    return CLIENTS.get(family.role, ClientSpec())


def engine_models(catalogue: Catalogue = CATALOGUE) -> dict[str, Model]:
    """Return a catalogue's models that have an engine."""
    return {name: model for name, model in catalogue.models().items() if not model.family.is_ensemble}


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
        client=client(model.family),
        build_seconds=0.5,
        gate=Gate(outcome="passed", reason="", parity=()),
        languages=() if family.language is None else (family.language,),
    )
    return dataclasses.replace(made, **changes)


def manifest(*records: EngineRecord, arch: Arch = Arch.CPU, platform_name: str = "embedded") -> BundleManifest:
    """Return a manifest with these records."""
    toolchain = {**TOOLCHAIN, "tensorrt": platform(platform_name).tensorrt or TOOLCHAIN["tensorrt"]}
    return BundleManifest(platform=platform_name, arch=arch, toolchain=toolchain, engines=records)


def full_manifest(
    arch: Arch = Arch.CPU, platform_name: str = "embedded", *points: str, catalogue: Catalogue = CATALOGUE
) -> BundleManifest:
    """Return a manifest with every model, or with those of some operating points."""
    compiler = platform(platform_name).backend or "tensorrt_rtx"
    wanted = [model for model in engine_models(catalogue).values() if not points or model.operating_point in points]
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
