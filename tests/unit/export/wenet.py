"""Folders of wenet, written from the fixtures that its own code made."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from contract.catalogue import CATALOGUE_FOLDER, Catalogue, read_catalogue
from contract.client import ClientSpec
from export.checkpoints.checkpoint import Checkpoint
from export.job import Job
from export.tracing import trace

DATA = Path(__file__).parent / "data" / "wenet"
U2PP, SYMMETRIC, STATIC, TRANSFORMER = VARIANTS = ("u2pp_causal", "symmetric", "static_chunks", "transformer")
UNITS = ("<blank>", "<unk>", *"abcdefghijklmnopq", "<sos/eos>")
BANDS = 20
_COUNT = 1_000


def fixture(variant: str) -> dict[str, Tensor]:
    """Return the tensors of a variant: inputs, outputs, and weights below `weights.`."""
    return load_file(DATA / f"{variant}.safetensors")


def weights(variant: str) -> dict[str, Tensor]:
    """Return the state dict of a variant by wenet's names."""
    prefix = "weights."
    return {name.removeprefix(prefix): value for name, value in fixture(variant).items() if name.startswith(prefix)}


def settings(variant: str) -> dict[str, Any]:
    """Return the train.yaml of a variant."""
    found: dict[str, Any] = yaml.safe_load((DATA / f"{variant}.yaml").read_text())
    return found


def write(
    folder: Path,
    variant: str,
    *,
    changed: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    units: tuple[str, ...] = UNITS,
    file: str = "final.pt",
) -> Path:
    """Write a folder as wenet does; `changed` holds values of train.yaml by their paths, as `encoder_conf.causal`."""
    table = settings(variant)
    for path, value in (changed or {}).items():
        *above, key = path.split(".")
        place = table
        for name in above:
            place = place.setdefault(name, {})
        place[key] = value
    folder.mkdir(exist_ok=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(table))
    (folder / "units.txt").write_text("".join(f"{unit} {place}\n" for place, unit in enumerate(units)))
    torch.save(weights(variant) if state is None else state, folder / file)
    return folder


def write_statistics(folder: Path, variant: str) -> None:
    """Write global_cmvn with the statistics that the weights of a variant hold."""
    held = weights(variant)
    mean, scale = (held[f"encoder.global_cmvn.{part}"].double() for part in ("mean", "istd"))
    sums = {"mean_stat": mean * _COUNT, "var_stat": (scale**-2 + mean**2) * _COUNT}
    table = {key: value.tolist() for key, value in sums.items()}
    (folder / "global_cmvn").write_text(json.dumps({**table, "frame_num": _COUNT}))


def catalogue(folder: Path) -> Catalogue:
    """Return the catalogue with steps of 16 encoder frames, which it writes into a folder."""
    place = folder / "catalogue"
    if not place.is_dir():
        for name in ("body", "decoder"):
            shutil.copytree(CATALOGUE_FOLDER / name, place / name)
        shutil.copy(CATALOGUE_FOLDER / "catalogue.toml", place)
        path = place / "body" / "model.toml"
        ours, theirs = (f"axes.samples = {{ min = {size}, opt = {size}, max = {size} }}" for size in (5_840, 10_960))
        text = path.read_text()
        assert ours in text
        path.write_text(text.replace(ours, theirs))
    return read_catalogue(place)


def job(folder: Path, network: Any, family: str, precision: str, variant: str = "") -> Job:
    """Return the export job of a network of a family."""
    model = next(each for each in catalogue(folder).models().values() if each.family.name == family)
    checkpoint = Checkpoint(network=network, dims=network.dims, client=ClientSpec(), origin="a test", digest="1")
    return Job(model=model, checkpoint=checkpoint, precision=precision, variant=variant)


def traced(folder: Path, network: Any, family: str, precision: str, variant: str = "") -> Path:
    """Return the graph of a network as the export writes it."""
    path = folder / f"{family}-{variant}-{precision}.onnx"
    trace(job(folder, network, family, precision, variant), path)
    return path
