#!/usr/bin/env python3
"""Make the fixtures of this folder with wenet's own code: random weights, inputs and outputs.

    make_fixtures.py FOLDER_WITH_WENET    a checkout of github.com/wenet-e2e/wenet

Needs torch, safetensors and PyYAML. Libraries of wenet that its networks do not use are replaced by empty ones.
"""

import importlib
import importlib.abc
import sys
import typing
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import yaml
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules import conv

UNUSED = ("librosa", "torchaudio", "whisper", "tqdm", "langid", "sentencepiece", "tensorboardX", "deepspeed")
LENGTHS = (7, 203, 680)
# Three hypotheses of an item, with their lengths; the last one is empty.
HYPOTHESES, HYPOTHESIS_LENGTHS = [[5, 9, 9, 17, 3], [4, 8, 0, 0, 0], [0, 0, 0, 0, 0]], [5, 2, 0]


class Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the libraries that the networks do not use."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a module for every name of such a library."""
        return ModuleSpec(name, self, is_package=True) if name.split(".", maxsplit=1)[0] in UNUSED else None

    def create_module(self, spec: ModuleSpec) -> Any:
        """Return an object that has every attribute."""
        return MagicMock(__spec__=spec, __path__=[], __name__=spec.name)

    def exec_module(self, module: object) -> None:
        """Do nothing."""


def randomise(model: nn.Module) -> None:
    """Change all weights, also those that begin as zero or one."""
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif value.is_floating_point() and not key.endswith(".pe"):
            value.add_(0.15 * torch.randn(value.shape))
    model.eval()


def encodings(encoder: Any, features: Tensor, *, chunks: bool) -> dict[str, Tensor]:
    """Return the encoder's outputs of normalised features for each length and, with chunks, under their mask."""

    def encoded(length: int, chunk: int, left: int) -> Tensor:
        found: Tensor = encoder(features[:, :length], torch.tensor([length]), chunk, left)[0][0]
        return found

    outputs = {f"encoded.{length}": encoded(length, -1, -1) for length in LENGTHS}
    if chunks:
        outputs["chunked"] = encoded(max(LENGTHS), 16, 8)
        stepped = encoder.forward_chunk_by_chunk(features, 16, 8)[0][0]
        assert (stepped - outputs["chunked"]).abs().max() < 1e-5
    return outputs


def scores(model: Any, encoded: Tensor, rescore: Callable[..., Any]) -> Tensor:
    """Return the score of each hypothesis; a result of wenet holds that of the best one, so each one is alone."""
    found = []
    for row, size in zip(HYPOTHESES, HYPOTHESIS_LENGTHS, strict=True):
        one = MagicMock(nbest=[row[:size]], nbest_scores=[0.0])
        (result,) = rescore(model, [one], encoded[None], torch.tensor([len(encoded)]), 0.0, model.reverse_weight)
        found.append(result.score)
    return torch.tensor(found)


def make(path: Path, build: Callable[..., Any], rescore: Callable[..., Any]) -> None:
    """Write the tensors of one variant beside its train.yaml."""
    torch.manual_seed(7)
    configs = yaml.safe_load(path.read_text())
    # The statistics are random too, not those of a file.
    configs.pop("cmvn", None)
    model, _ = build(None, configs)
    randomise(model)
    bands = configs["input_dim"]
    mean, scale = 3.0 + torch.randn(bands), 0.3 + 0.2 * torch.rand(bands)
    features = (3.0 + 3.0 * torch.randn(max(LENGTHS), bands)).half()
    chunks = configs["encoder_conf"].get("use_dynamic_chunk", False)
    outputs = encodings(model.encoder, ((features.float() - mean) * scale)[None], chunks=chunks)
    middle = outputs[f"encoded.{LENGTHS[1]}"]
    outputs |= {"log_probs": model.ctc.log_softmax(middle[None])[0], "scores": scores(model, middle, rescore)}
    outputs |= {"hypotheses": torch.tensor(HYPOTHESES), "hypothesis_lengths": torch.tensor(HYPOTHESIS_LENGTHS)}
    weights = {key: value for key, value in model.state_dict().items() if not key.endswith(".pe")}
    weights |= {"encoder.global_cmvn.mean": mean, "encoder.global_cmvn.istd": scale}
    tensors = {f"weights.{key}": value for key, value in weights.items()} | outputs | {"features": features}
    target = path.with_suffix(".safetensors")
    target.write_bytes(save({key: value.detach().contiguous() for key, value in tensors.items()}))


def main() -> None:
    """Make the fixture of every train.yaml in this folder."""
    sys.path.insert(0, sys.argv[1])
    sys.meta_path.append(Unused())
    # One module of wenet imports these names from a module of torch that no longer has them.
    vars(conv).update(Union=typing.Union, Optional=typing.Optional)
    build = importlib.import_module("wenet.utils.init_model").init_speech_model
    rescore = importlib.import_module("wenet.models.transformer.search").attention_rescoring
    with torch.no_grad():
        for path in sorted(Path(__file__).parent.glob("*.yaml")):
            make(path, build, rescore)


if __name__ == "__main__":
    main()
