"""Build a FastConformer from weights with the keys of NeMo or of transformers' Parakeet."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from contract.client import SAMPLE_RATES_HZ
from contract.errors import CheckpointError
from contract.fields import Fields
from export.checkpoints.weights import DAMAGED, check_floats, place
from export.networks.ctc_head import CtcHead, CtcHeadConfig
from export.networks.fast_conformer import FastConformer, FastConformerConfig
from export.networks.nemo_front_end import mel_filters

TOP = 16
LARGEST_TRANSFORM = 4_096
# What batch normalisation adds to a variance.
_EPSILON = 1.0e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """How a library names the weights: patterns of its keys with our keys, and its names of some parts."""

    patterns: Mapping[str, str]
    depthwise: str
    norm: str
    ignored: str
    """A pattern of keys that no network of ours needs."""
    head: str


_SHARED = {
    r"layers\.(\d+)\.norm_feed_forward1": r"blocks.\1.before_norm",
    r"layers\.(\d+)\.feed_forward1\.linear1": r"blocks.\1.before.first",
    r"layers\.(\d+)\.feed_forward1\.linear2": r"blocks.\1.before.second",
    r"layers\.(\d+)\.norm_self_att": r"blocks.\1.attention_norm",
    r"layers\.(\d+)\.norm_conv": r"blocks.\1.convolution_norm",
    r"layers\.(\d+)\.conv\.pointwise_conv1": r"blocks.\1.convolution.gate",
    r"layers\.(\d+)\.conv\.pointwise_conv2": r"blocks.\1.convolution.out",
    r"layers\.(\d+)\.norm_feed_forward2": r"blocks.\1.after_norm",
    r"layers\.(\d+)\.feed_forward2\.linear1": r"blocks.\1.after.first",
    r"layers\.(\d+)\.feed_forward2\.linear2": r"blocks.\1.after.second",
    r"layers\.(\d+)\.norm_out": r"blocks.\1.norm",
}


def _subsampling(convolutions: str, out: str) -> dict[str, str]:
    places = {0: "first", 2: "depthwise.0", 3: "pointwise.0", 5: "depthwise.1", 6: "pointwise.1"}
    layers = {rf"{convolutions}\.{place}": f"subsampling.{ours}" for place, ours in places.items()}
    return {**layers, out: "subsampling.out"}


def _attention(query: str, key: str, value: str, out: str, position: str, biases: str) -> dict[str, str]:
    names = {query: "query", key: "key", value: "value", out: "out", position: "position"}
    layers = {rf"layers\.(\d+)\.self_attn\.{theirs}": rf"blocks.\1.attention.{ours}" for theirs, ours in names.items()}
    return {
        **layers,
        rf"layers\.(\d+)\.self_attn\.{biases}_u": r"blocks.\1.attention.content_bias",
        rf"layers\.(\d+)\.self_attn\.{biases}_v": r"blocks.\1.attention.position_bias",
    }


NEMO = Keys(
    patterns={
        **_SHARED,
        **_subsampling(r"pre_encode\.conv", r"pre_encode\.out"),
        **_attention("linear_q", "linear_k", "linear_v", "linear_out", "linear_pos", "pos_bias"),
    },
    depthwise="encoder.layers.{}.conv.depthwise_conv.",
    norm="encoder.layers.{}.conv.batch_norm.",
    ignored=r"encoder\.(layers\.\d+\.conv\.(depthwise_conv|batch_norm)\..*|pos_enc\..*)",
    head="decoder.decoder_layers.0.",
)
TRANSFORMERS = Keys(
    patterns={
        **_SHARED,
        **_subsampling(r"subsampling\.layers", r"subsampling\.linear"),
        **_attention("q_proj", "k_proj", "v_proj", "o_proj", "relative_k_proj", "bias"),
    },
    depthwise="encoder.layers.{}.conv.depthwise_conv.",
    norm="encoder.layers.{}.conv.norm.",
    ignored=r"encoder\.(layers\.\d+\.conv\.(depthwise_conv|norm)\..*|encode_positions\..*)",
    head="ctc_head.",
)


def build_encoder(
    config: FastConformerConfig, tensors: Mapping[str, Tensor], keys: Keys, source: object
) -> FastConformer:
    """Return the encoder; raise CheckpointError for missing, unknown or wrongly shaped weights."""
    renamed = {name: _ours(name.removeprefix("encoder."), keys) for name in tensors if name.startswith("encoder.")}
    found = {ours: tensors[name] for name, ours in renamed.items() if ours is not None}
    for name, value in found.items():
        if name.endswith(("convolution.gate.weight", "convolution.out.weight")):
            found[name] = value.squeeze(-1)
    for layer in range(config.layers):
        found |= _folded(config, tensors, keys, layer, source)
    unknown = [name for name, ours in renamed.items() if ours is None and not re.fullmatch(keys.ignored, name)]
    return place(lambda: FastConformer(config), found, source, unknown)


def build_head(tensors: Mapping[str, Tensor], prefix: str, size: int, vocabulary: int, source: object) -> CtcHead:
    """Return the CTC head, whose blank is the last token, from a convolution of width 1."""
    config = CtcHeadConfig(size=size, vocabulary=vocabulary, top=min(TOP, vocabulary), blank=vocabulary - 1)
    found = {f"out.{name.removeprefix(prefix)}": value for name, value in tensors.items() if name.startswith(prefix)}
    if "out.weight" in found:
        found["out.weight"] = found["out.weight"].squeeze(-1)
    return place(lambda: CtcHead(config), found, source)


def _ours(name: str, keys: Keys) -> str | None:
    """Return our key of a weight of the encoder; None for one that is folded into another or unknown."""
    for pattern, ours in keys.patterns.items():
        found = re.fullmatch(rf"{pattern}(\.weight|\.bias|)", name)
        if found:
            return found.expand(ours) + found.groups()[-1]
    return None


def _folded(
    config: FastConformerConfig, tensors: Mapping[str, Tensor], keys: Keys, layer: int, source: object
) -> dict[str, Tensor]:
    """Return the depthwise convolution of a block with its batch normalisation; nothing where weights are missing."""
    norm, depthwise = keys.norm.format(layer), keys.depthwise.format(layer)
    names = [f"{norm}{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    if not tensors.keys() >= {*names, f"{depthwise}weight"}:
        return {}
    own_bias = {f"{depthwise}bias"} & tensors.keys()
    check_floats({name: tensors[name] for name in (*names, f"{depthwise}weight", *own_bias)}, source)
    for name in names:
        if tensors[name].shape != (config.size,):
            cause = f"its weight {name} is {list(tensors[name].shape)}, and its configuration requires [{config.size}]"
            raise CheckpointError(source, cause, DAMAGED)
    weight, bias, mean, variance = (tensors[name].double() for name in names)
    scale = weight / (variance + _EPSILON).sqrt()
    kernel, own = tensors[f"{depthwise}weight"], tensors.get(f"{depthwise}bias")
    if kernel.shape == (config.size, 1, config.kernel):
        # Another shape is left as it is, for `place` to refuse.
        kernel = kernel.double() * scale[:, None, None]
    if own is not None and own.shape == mean.shape:
        mean = mean - own.double()
    ours = f"blocks.{layer}.convolution.depthwise."
    return {f"{ours}weight": kernel, f"{ours}bias": bias - mean * scale}


def checked(config: FastConformerConfig, table: Fields) -> FastConformerConfig:
    """Return a configuration unchanged; raise the table's error for sizes that make no network."""
    front_end = config.front_end
    if config.size % config.heads or config.size % 2:
        raise table.error("", f"{config.heads} heads do not divide the size {config.size}, or the size is odd")
    if config.kernel % 2 == 0:
        raise table.error("", f"a convolution of width {config.kernel} has no middle")
    if front_end.window_samples % 2 or front_end.transform_size % 2:
        raise table.error("", "the window and the transform of the front end must have even sizes")
    if not front_end.hop_samples <= front_end.window_samples <= front_end.transform_size <= LARGEST_TRANSFORM:
        raise table.error("", "the front end's hop, window and transform do not fit in each other")
    if front_end.sample_rate_hz not in SAMPLE_RATES_HZ:
        raise table.error("", f"the sampling rate {front_end.sample_rate_hz} Hz is not one that clients can send")
    if not mel_filters(front_end).any(axis=1).all():
        raise table.error("", f"{front_end.bands} bands are too many for a transform of {front_end.transform_size}")
    return config
