"""Import the speaker network of Resemblyzer: `pretrained.pt`, or one that was trained with the same code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contract import digest
from contract.client import EXACT, SpeakerSpec
from contract.errors import CheckpointError
from export.checkpoints.imported import ImportedSpeaker
from export.checkpoints.weights import check_finite, check_zip, is_zip, plain_tensors, unpickled
from export.networks.ge2e_encoder import Ge2eEncoder, Ge2eEncoderConfig, reordered_gates

WINDOW_S, HOP_S = 1.6, 0.8
SAME_SPEAKER_SIMILARITY = 0.63
"""Where pretrained.pt takes as many windows of one speaker for two as the reverse, 8 % each: four real voices in
English, French, Italian and Russian, 150 windows each, of the packages asterisk-core-sounds of Debian."""
_STATE = "model_state"
_LARGEST_BYTES = 1 << 30
_LSTM_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
# torch has the gates in the order input, forget, cell, output, and ONNX input, output, forget, cell.
_ONNX_ORDER = (0, 3, 1, 2)
_REMEDY = "Use the file pretrained.pt of Resemblyzer, or one that its code trained"
_REMARKS = (
    "The network has no mask, so windows of exactly 1.6 s are embedded.",
    f"Two embeddings count as one speaker's above a cosine of {SAME_SPEAKER_SIMILARITY:g}, which was measured with "
    "pretrained.pt on prompts of four voices, not on your recordings.",
)


def recognises(path: Path) -> bool:
    """Return whether a file is a checkpoint of this network, by the names of its weights."""
    if not path.is_file() or path.stat().st_size > _LARGEST_BYTES:
        return False
    if not is_zip(path) and not _is_old_format(path):
        return False
    try:
        # A file with a wrong checksum is one of this kind, and its reader states what is wrong.
        return "lstm.weight_ih_l0" in _weights(path, checksums=False)
    except CheckpointError:
        return False


def read(path: Path) -> ImportedSpeaker:
    """Return the network of a checkpoint; raise CheckpointError for another or a damaged one."""
    weights = _weights(path)
    try:
        config = _config(weights)
        network = Ge2eEncoder(config).eval()
        ours = _in_our_layout(weights, config.layers)
        network.load_state_dict(ours)
    except (LookupError, ValueError, RuntimeError, AttributeError) as error:
        cause = f"it does not hold the weights of Resemblyzer's network ({str(error).splitlines()[0]})"
        raise CheckpointError(path, cause, _REMEDY) from error
    check_finite(ours, path)
    return ImportedSpeaker(
        network=network,
        speaker=SpeakerSpec(
            sample_rate_hz=config.sample_rate_hz,
            same_speaker_similarity=SAME_SPEAKER_SIMILARITY,
            window_s=WINDOW_S,
            hop_s=HOP_S,
            padding=EXACT,
        ),
        origin=f"{path.name} (Resemblyzer)",
        digest=digest.of_file(path),
        remarks=_REMARKS,
    )


def _weights(path: Path, *, checksums: bool = True) -> dict[str, Tensor]:
    if is_zip(path):
        check_zip(path, path, checksums=checksums)
    found: Any = unpickled(path, path)
    state = found.get(_STATE) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise CheckpointError(path, f"it has no table of weights {_STATE!r}", _REMEDY)
    return plain_tensors(state, path, path)


def _in_our_layout(weights: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return the weights of the network; the file also holds the scale and the offset of similarities in training."""
    found = {name: weights[name].float() for name in ("linear.weight", "linear.bias")}
    for layer in range(layers):
        named = {name: weights[f"lstm.{name}_l{layer}"].float() for name in _LSTM_WEIGHTS}
        of_input, of_state, *biases = (reordered_gates(each, _ONNX_ORDER) for each in named.values())
        found[f"layers.{layer}.input_weight"] = of_input[None]
        found[f"layers.{layer}.state_weight"] = of_state[None]
        found[f"layers.{layer}.bias"] = torch.cat(biases)[None]
    return found


def _config(weights: dict[str, Any]) -> Ge2eEncoderConfig:
    layers = sum(name.startswith("lstm.weight_ih_l") for name in weights)
    return Ge2eEncoderConfig(
        bands=int(weights["lstm.weight_ih_l0"].shape[1]),
        size=int(weights["lstm.weight_hh_l0"].shape[1]),
        layers=layers,
        embedding=int(weights["linear.weight"].shape[0]),
    )


def _is_old_format(path: Path) -> bool:
    # Files before torch 1.6 are pickles, which begin so.
    with path.open("rb") as file:
        return file.read(1) == b"\x80"
