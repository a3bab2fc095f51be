"""Import a CTC network of wav2vec2, HuBERT, WavLM or XLS-R from a folder of transformers."""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from contract.client import SAMPLE_RATES_HZ
from contract.errors import CheckpointError
from contract.fields import Fields
from export.checkpoints.checkpoint import audio_spec
from export.checkpoints.imported import Imported
from export.checkpoints.settings import MOST_LAYERS, MOST_TOKENS, flag, integer, number, require, size, word
from export.checkpoints.transformers_folder import CONFIG_FILE, Folder
from export.checkpoints.transformers_tokens import character_tokens
from export.checkpoints.weights import DAMAGED, check_floats, place
from export.networks.ctc_head import CtcHead, CtcHeadConfig
from export.networks.wav2vec2 import ACTIVATIONS, FEATURE_NORMS, Wav2Vec2, Wav2Vec2Config

WAV2VEC2, HUBERT, WAVLM = MODEL_TYPES = ("wav2vec2", "hubert", "wavlm")
WHOLE_RECORDINGS = "It takes whole recordings only, not streams: every frame attends to all others"
TOP = 16
_MOST_CONVOLUTIONS, _LARGEST_KERNEL, _LONGEST_WINDOW = 16, 4_096, 16_000
_FARTHEST = 8_192
_PATTERNS = {
    r"feature_extractor\.conv_layers\.(\d+)\.conv": r"convolutions.\1.convolution",
    r"feature_extractor\.conv_layers\.(\d+)\.layer_norm": r"convolutions.\1.norm",
    r"feature_projection\.layer_norm": "projection_norm",
    r"feature_projection\.projection": "projection",
    r"encoder\.layer_norm": "norm",
    r"encoder\.layers\.(\d+)\.attention\.q_proj": r"blocks.\1.attention.query",
    r"encoder\.layers\.(\d+)\.attention\.k_proj": r"blocks.\1.attention.key",
    r"encoder\.layers\.(\d+)\.attention\.v_proj": r"blocks.\1.attention.value",
    r"encoder\.layers\.(\d+)\.attention\.out_proj": r"blocks.\1.attention.out",
    r"encoder\.layers\.(\d+)\.layer_norm": r"blocks.\1.attention_norm",
    r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense": r"blocks.\1.first",
    r"encoder\.layers\.(\d+)\.feed_forward\.output_dense": r"blocks.\1.second",
    r"encoder\.layers\.(\d+)\.final_layer_norm": r"blocks.\1.feed_norm",
}
_POSITION = "encoder.pos_conv_embed.conv."
# The magnitude and the direction of a normalised weight, as current and as older files name them.
_WEIGHT_NORMS = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)
_GATE = r"encoder\.layers\.(\d+)\.attention\.(gru_rel_pos_linear\.weight|gru_rel_pos_linear\.bias|gru_rel_pos_const)"
_BUCKETS = "encoder.layers.0.attention.rel_attn_embed.weight"
# Used in training only.
_IGNORED = "masked_spec_embed"


def read(folder: Folder) -> Imported:
    """Return the network of a folder whose model_type is one of MODEL_TYPES."""
    settings = folder.fields(CONFIG_FILE)
    kind = settings.text("model_type")
    extractor = folder.feature_extractor()
    config = _config(settings, kind, extractor)
    rate = sample_rate(extractor)
    tensors = folder.tensors()
    encoder = _encoder(config, settings, kind, tensors, folder)
    head, tokens = ctc_head(folder, tensors, settings, config.size)
    return Imported(
        encoder=encoder,
        head=head,
        audio=audio_spec(rate, config.frames),
        frames=config.frames,
        tokens=character_tokens(folder, *tokens),
        origin=f"{kind} CTC in transformers' format, {folder.path.name}",
        digest=folder.digest,
        remarks=(WHOLE_RECORDINGS,),
    )


def sample_rate(extractor: Fields) -> int:
    """Return the sampling rate of a feature extractor; raise its error for one that clients cannot send."""
    rate = size(extractor, "sampling_rate", 16_000)
    if rate not in SAMPLE_RATES_HZ:
        raise extractor.error("sampling_rate", f"{rate} Hz is not a rate that clients can send")
    return rate


def _config(table: Fields, kind: str, extractor: Fields) -> Wav2Vec2Config:
    require(extractor, "feature_extractor_type", ("Wav2Vec2FeatureExtractor", None), "the network takes a waveform")
    require(table, "feat_extract_norm", FEATURE_NORMS, "the convolutions have one of these normalisations")
    require(table, "hidden_act", ACTIVATIONS, "this activation is not known")
    require(table, "feat_extract_activation", ACTIVATIONS, "this activation is not known")
    require(table, "add_adapter", (False, None), "no adapter of further convolutions follows the encoder")
    require(table, "adapter_attn_dim", (None,), "language adapters, as those of MMS, are not supported")
    require(table, "conv_pos_batch_norm", (False, None), "the positions have weight normalisation")
    shape = Wav2Vec2Config()
    channels, kernels, strides = (
        tuple(table.items(key, int)) if table.holds(key) else default
        for key, default in (
            ("conv_dim", shape.channels),
            ("conv_kernel", shape.kernels),
            ("conv_stride", shape.strides),
        )
    )
    if not len(channels) == len(kernels) == len(strides) or not 0 < len(channels) <= _MOST_CONVOLUTIONS:
        raise table.error("conv_dim", "it must be as long as conv_kernel and conv_stride")
    if not all(0 < value <= _LARGEST_KERNEL for value in (*channels, *kernels, *strides)):
        raise table.error("conv_dim", f"a size of a convolution is not from 1 to {_LARGEST_KERNEL}")
    config = Wav2Vec2Config(
        channels=channels,
        kernels=kernels,
        strides=strides,
        convolution_bias=flag(table, "conv_bias", default=False),
        feature_norm=word(table, "feat_extract_norm", shape.feature_norm),
        feature_activation=word(table, "feat_extract_activation", shape.feature_activation),
        projection_norm=flag(table, "feat_proj_layer_norm", default=True) if kind == HUBERT else True,
        size=size(table, "hidden_size", shape.size),
        layers=size(table, "num_hidden_layers", shape.layers, MOST_LAYERS),
        heads=size(table, "num_attention_heads", shape.heads),
        hidden=size(table, "intermediate_size", shape.hidden),
        activation=word(table, "hidden_act", shape.activation),
        position_kernel=size(table, "num_conv_pos_embeddings", shape.position_kernel, _LARGEST_KERNEL),
        position_groups=size(table, "num_conv_pos_embedding_groups", shape.position_groups),
        norm_first=flag(table, "do_stable_layer_norm", default=False),
        epsilon=number(table, "layer_norm_eps", shape.epsilon),
        normalised=flag(extractor, "do_normalize", default=True),
        farthest=size(table, "max_bucket_distance", 800, _FARTHEST) if kind == WAVLM else None,
    )
    if config.size % config.heads or config.size % config.position_groups:
        raise table.error("hidden_size", f"{config.size} is not divided by the heads and by the groups of positions")
    if config.frames.shortest > _LONGEST_WINDOW:
        raise table.error("conv_kernel", f"a frame of {config.frames.shortest} samples is too long")
    return config


def _encoder(
    config: Wav2Vec2Config, settings: Fields, kind: str, tensors: Mapping[str, Tensor], folder: Folder
) -> Wav2Vec2:
    own = {name.removeprefix(f"{kind}."): value for name, value in tensors.items() if name.startswith(f"{kind}.")}
    if not own:
        cause = f"it holds no weights whose names begin with `{kind}.`, so it is not a {kind} network with a CTC head"
        raise CheckpointError(folder.path, cause, "Fine-tune the network for CTC first")
    renamed = {name: _ours(name) for name in own}
    found = {ours: own[name] for name, ours in renamed.items() if ours is not None}
    check_floats({name: value for name, value in own.items() if re.fullmatch(_GATE, name)}, folder.path)
    found |= _position(own, config, folder)
    known = {_IGNORED, *(f"{_POSITION}{part}" for pair in _WEIGHT_NORMS for part in (*pair, "bias"))}
    if config.farthest is not None:
        found |= _gates(own, config) | _distances(own, config, settings)
        known |= {_BUCKETS, *(name for name in own if re.fullmatch(_GATE, name))}
    unknown = [name for name, ours in renamed.items() if ours is None and name not in known]
    return place(lambda: Wav2Vec2(config), found, folder.path, unknown)


def _ours(name: str) -> str | None:
    for pattern, ours in _PATTERNS.items():
        found = re.fullmatch(rf"{pattern}(\.weight|\.bias)", name)
        if found:
            return found.expand(ours) + found.groups()[-1]
    return None


def _position(own: Mapping[str, Tensor], config: Wav2Vec2Config, folder: Folder) -> dict[str, Tensor]:
    """Return the convolution of the positions without its weight normalisation; nothing where weights are missing."""
    wanted = (config.size, config.size // config.position_groups, config.position_kernel)
    for magnitude, direction in _WEIGHT_NORMS:
        if {f"{_POSITION}{magnitude}", f"{_POSITION}{direction}", f"{_POSITION}bias"} <= own.keys():
            length, weight = own[f"{_POSITION}{magnitude}"], own[f"{_POSITION}{direction}"]
            if tuple(weight.shape) != wanted or tuple(length.shape) != (1, 1, wanted[2]):
                cause = f"its convolution of positions is {list(weight.shape)}, and its configuration requires {wanted}"
                raise CheckpointError(folder.path, cause, DAMAGED)
            check_floats({magnitude: length, direction: weight}, folder.path)
            # Definition: torch.nn.utils.weight_norm with dim=2.
            norm = weight.double().norm(dim=(0, 1), keepdim=True)
            folded = weight.double() * (length.double() / norm)
            return {"position.convolution.weight": folded, "position.convolution.bias": own[f"{_POSITION}bias"]}
    return {}


def _gates(own: Mapping[str, Tensor], config: Wav2Vec2Config) -> dict[str, Tensor]:
    """Return the gates of WavLM, whose eight outputs are summed in two groups of four."""
    found: dict[str, Tensor] = {}
    parts = {"gru_rel_pos_linear.weight": (8, config.size // config.heads), "gru_rel_pos_linear.bias": (8,)}
    for name, value in own.items():
        match = re.fullmatch(_GATE, name)
        if match is None:
            continue
        layer, part = match.groups()
        if part == "gru_rel_pos_const" and tuple(value.shape) == (1, config.heads, 1, 1):
            found[f"blocks.{layer}.attention.gate.scale"] = value[0]
        elif part in parts and tuple(value.shape) == parts[part]:
            leaf = part.rpartition(".")[2]
            found[f"blocks.{layer}.attention.gate.gates.{leaf}"] = (
                value.double().reshape(2, 4, *value.shape[1:]).sum(dim=1)
            )
    return found


def _distances(own: Mapping[str, Tensor], config: Wav2Vec2Config, settings: Fields) -> dict[str, Tensor]:
    """Return WavLM's bias by distance, from its bias by bucket of distances."""
    buckets, farthest = size(settings, "num_buckets", 320, _FARTHEST), config.farthest
    table = own.get(_BUCKETS)
    if buckets % 4 or farthest is None or farthest <= buckets // 4:
        raise settings.error("num_buckets", f"{buckets} buckets do not fit to the distance {farthest}")
    if table is None or tuple(table.shape) != (buckets, config.heads):
        return {}
    return {"distance_bias.weight": table[_bucket(torch.arange(-farthest, farthest + 1), buckets, farthest)]}


def _bucket(distances: Tensor, buckets: int, farthest: int) -> Tensor:
    """Return the bucket of a distance: half of them for each sign, exact ones first, then logarithmic ones.

    Source: T5 (arXiv:1910.10683), as WavLM uses it.
    """
    half, exact = buckets // 2, buckets // 4
    size_of = distances.abs()
    wide = torch.log(size_of.clamp(min=1).float() / exact) / math.log(farthest / exact) * (half - exact)
    far = (exact + wide).long().clamp(max=half - 1)
    return (distances > 0).long() * half + torch.where(size_of < exact, size_of, far)


def ctc_head(
    folder: Folder, tensors: Mapping[str, Tensor], settings: Fields, width: int
) -> tuple[CtcHead, tuple[int, int]]:
    """Return the head for encoder frames of a width, and its numbers of tokens and of the blank."""
    if "lm_head.weight" not in tensors:
        cause = "it has no CTC head (lm_head)"
        raise CheckpointError(folder.path, cause, "Fine-tune the network for CTC first")
    vocabulary = size(settings, "vocab_size", 32, MOST_TOKENS)
    blank = integer(settings, "pad_token_id", 0)
    if not 0 <= blank < vocabulary:
        raise settings.error("pad_token_id", f"the blank {blank} is not one of {vocabulary} tokens")
    config = CtcHeadConfig(size=width, vocabulary=vocabulary, top=min(TOP, vocabulary), blank=blank)
    found = {f"out.{part}": tensors[f"lm_head.{part}"] for part in ("weight", "bias") if f"lm_head.{part}" in tensors}
    return place(lambda: CtcHead(config), found, folder.path), (vocabulary, blank)
