"""Write exported models: the networks of a few nodes of the integration tests, with export records."""

from pathlib import Path
from typing import Any

import numpy as np

from build.bundle import Target
from build.compilers import Compiler, compiler
from build.job import Job
from build.planning import plan
from contract import digest, files, synthetic_inputs
from contract.arch import Arch
from contract.catalogue import CTC, ENCODER, SPEAKER, Family, read_catalogue
from contract.client import AudioSpec, ClientSpec, SearchSpec, SpeakerSpec, TokenSpec
from contract.graph import RECORD_FILE, WORDS_FILE, GraphFile, GraphRecord, samples_file
from contract.platform import platform
from tests.integration.networks import network

DIMS = {
    "encoder_size": 8,
    "vocabulary": 32,
    "top": 4,
    "embedding_size": 6,
    "layers": 1,
    "convolution_past": 2,
}
# The acoustic head of the integration tests takes the largest of its eight inputs for the token.
PIECES = ("<blank>", "<unk>", "</s>", "▁one", "▁two", "▁three", "s", "▁four")
TOKENS = TokenSpec(pieces=PIECES, blank=0, unspoken=(1, 2), boundary=2)
RESCORERS = {"rescorer": 1.0, "lm": 1.0}
SEARCH = SearchSpec(ngram_weight=1.0, rescorers=RESCORERS, rescorers_with_ngram=RESCORERS)
# The smallest sizes of every profile of the catalogue.
SMALL = {"batch": 2, "samples": 32000, "encoder_frames": 48, "hypothesis_count": 3, "hypothesis_tokens": 16}
# The samples before the first frame of the body is complete, less those from one frame to the next.
_BEFORE, _HOP = 720, 640


def client(family: Family) -> ClientSpec:
    """Return what export would record for clients of a family's networks."""
    sections = {
        ENCODER: ClientSpec(
            audio=AudioSpec(sample_rate_hz=16_000, shortest_samples=1_360, hop_s=0.04, first_centre_s=0.0425)
        ),
        CTC: ClientSpec(tokens=TOKENS, search=SEARCH),
        SPEAKER: ClientSpec(
            speaker=SpeakerSpec(
                sample_rate_hz=16_000, same_speaker_similarity=0.5, window_s=2.0, hop_s=0.75, takes="segments"
            )
        ),
    }
    return sections.get(family.role, ClientSpec())


def export(folder: Path, model: str, content: bytes | None = None, half: bytes | None = None) -> None:
    """Write what export would write for a model; `content` replaces its network, `half` the one in FP16."""
    family, point = model.rsplit("_", 1)
    graph = content or network(model)
    folder.joinpath(model).mkdir(parents=True, exist_ok=True)
    graphs = {"fp32": graph, "fp16": half or graph}
    described = read_catalogue().families[family]
    for variant, known in described.variants().items():
        if variant:
            graphs |= {f"{variant}-{precision}": network(model, variant) for precision in ("fp32", "fp16")}
        for mode in known.modes.values():
            sizes = {**DIMS, **SMALL, **mode.fixed_axes()}
            sample = synthetic_inputs.make_inputs(known, sizes, np.random.default_rng(2))
            arrays: dict[str, Any] = {f"{name}.0": array for name, array in sample.items()}
            np.savez(folder / model / samples_file(mode.name), **arrays)
    for name, written in graphs.items():
        folder.joinpath(model, f"{name}.onnx").write_bytes(written)
    record = GraphRecord(
        model=model,
        family=family,
        operating_point=point,
        key="k",
        opset=17,
        weights="a test",
        libraries={},
        dims=DIMS,
        client=client(described),
        graphs={name: _file(folder / model / f"{name}.onnx") for name in graphs},
    )
    files.write(folder / model / RECORD_FILE, record.to_json())


def speak(folder: Path, head: str, *texts: str, spoken: tuple[str, ...] | None = None) -> None:
    """Write what export would write for recordings: audio that these networks recognise as the texts.

    `spoken` is the correct transcript, where it differs from the texts.
    """
    arrays: dict[str, Any] = {}
    for number, (text, truth) in enumerate(zip(texts, spoken or texts, strict=True)):
        tokens = [each for word in text.split() for each in (PIECES.index(f"▁{word}"), 0)]
        audio = np.zeros((1, SMALL["samples"]), dtype=np.float32)
        audio[0, _HOP * np.arange(len(tokens)) + tokens] = 0.5
        arrays |= {
            f"audio.{number}": audio,
            f"audio_lengths.{number}": np.array([_BEFORE + _HOP * len(tokens)], dtype=np.int32),
            f"texts.{number}": np.array([truth]),
        }
    np.savez(folder / head / WORDS_FILE, **arrays)


def jobs(folder: Path, *names: str) -> list[Job]:
    """Plan the CPU engines of exported models in batch mode."""
    return plan(read_catalogue(), folder, Arch.CPU, cpu(), names, mode="batch")


def cpu() -> Compiler:
    """Return the compiler of the CPU."""
    return compiler(None, Arch.CPU)


def cpu_target(folder: Path, *, force: bool = False) -> Target:
    """Return a target for the CPU whose bundle and store are in a folder."""
    return Target(
        folder=folder / "cpu",
        catalogue=read_catalogue(),
        platform=platform("embedded"),
        arch=Arch.CPU,
        compiler=cpu(),
        store=folder / "store",
        force=force,
    )


def _file(path: Path) -> GraphFile:
    return GraphFile(file=path.name, sha256=digest.of_file(path), size_bytes=path.stat().st_size, parity=())
