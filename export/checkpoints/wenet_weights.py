"""Rename the weights of wenet's networks, and build ours of them."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from export.checkpoints.weights import check_floats, place
from export.networks.ctc_head import CtcHead, CtcHeadConfig
from export.networks.wenet_decoder import WenetDecoder, WenetDecoderConfig
from export.networks.wenet_encoder import WenetEncoder, WenetEncoderConfig

TOP = 16
CMVN = "encoder.global_cmvn."
_LEFT, _RIGHT, _ONLY = "decoder.left_decoder.", "decoder.right_decoder.", "decoder."
# Tables of positions, and layers that old versions of wenet hold but do not use.
_UNUSED = re.compile(r".*\.(pe|num_batches_tracked)|.*\.concat_linear\d?\.(weight|bias)")
_ATTENTION = {"linear_q": "query", "linear_k": "key", "linear_v": "value", "linear_out": "out"}
_RELATIVE = {"linear_pos": "position", "pos_bias_u": "content_bias", "pos_bias_v": "position_bias"}
_FEED = {"w_1": "first", "w_2": "second"}


def _layers(theirs: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}.{name}": f"{ours}.{renamed}" for name, renamed in names.items()}


_SUBSAMPLING = {
    "embed.conv.0": "subsampling.first",
    "embed.conv.2": "subsampling.second",
    "embed.out.0": "subsampling.out",
    "after_norm": "norm",
}
_TRANSFORMER = {
    **_layers("self_attn", "attention", _ATTENTION | _RELATIVE),
    **_layers("feed_forward", "after", _FEED),
    "norm1": "attention_norm",
    "norm2": "after_norm",
}
_CONFORMER = {
    **_layers("self_attn", "attention", _ATTENTION | _RELATIVE),
    **_layers("feed_forward_macaron", "before", _FEED),
    **_layers("feed_forward", "after", _FEED),
    "conv_module.pointwise_conv1": "convolution.gate",
    "conv_module.depthwise_conv": "convolution.depthwise",
    "conv_module.norm": "convolution.norm",
    "conv_module.pointwise_conv2": "convolution.out",
    "norm_ff_macaron": "before_norm",
    "norm_mha": "attention_norm",
    "norm_conv": "convolution_norm",
    "norm_ff": "after_norm",
    "norm_final": "norm",
}
_DECODER = {"embed.0": "embedding", "after_norm": "norm", "output_layer": "out"}
_DECODER_BLOCK = {
    **_layers("self_attn", "self_attention", _ATTENTION),
    **_layers("src_attn", "cross_attention", _ATTENTION),
    **_layers("feed_forward", "feed", _FEED),
    "norm1": "self_norm",
    "norm2": "cross_norm",
    "norm3": "feed_norm",
}
_BLOCK = re.compile(r"(?:encoders|decoders)\.(\d+)\.(.+)")
_PARAMETER = re.compile(r"(.+?)(\.weight|\.bias|\.running_mean|\.running_var|)")


def build_encoder(
    config: WenetEncoderConfig, kind: type[WenetEncoder], tensors: Mapping[str, Tensor], source: object
) -> WenetEncoder:
    """Return the encoder; raise CheckpointError for missing, unknown or wrongly shaped weights."""
    blocks = _CONFORMER if any(name.startswith("encoder.encoders.0.norm_mha.") for name in tensors) else _TRANSFORMER
    theirs = {name: value for name, value in tensors.items() if not name.startswith(CMVN)}
    found, unknown = _renamed(theirs, "encoder.", _SUBSAMPLING, blocks)
    for name, value in found.items():
        if name.endswith(("convolution.gate.weight", "convolution.out.weight")):
            found[name] = value.squeeze(-1)
    if not config.convolution_norm:
        check_floats(found, source)
        for layer in range(config.layers):
            _fold(found, f"blocks.{layer}.convolution.", config)
    return place(lambda: kind(config), found, source, unknown)


def build_head(tensors: Mapping[str, Tensor], size: int, vocabulary: int, blank: int, source: object) -> CtcHead:
    """Return the CTC head."""
    config = CtcHeadConfig(size=size, vocabulary=vocabulary, top=min(TOP, vocabulary), blank=blank)
    found, unknown = _renamed(tensors, "ctc.", {"ctc_lo": "out"}, {})
    return place(lambda: CtcHead(config), found, source, unknown)


def build_decoder(
    config: WenetDecoderConfig, tensors: Mapping[str, Tensor], source: object, *, both: bool
) -> WenetDecoder:
    """Return the decoder; `both`: the weights hold one for each direction.

    The direction from right to left is left out if it does not count.
    """
    ways = {"left.": _LEFT if both else _ONLY}
    if config.reverse_weight > 0:
        ways["right."] = _RIGHT
    found: dict[str, Tensor] = {}
    known = (_LEFT, _RIGHT) if both else (_ONLY,)
    unknown = [name for name in tensors if name.startswith(_ONLY) and not name.startswith(known)]
    for ours, prefix in ways.items():
        renamed, unexplained = _renamed(tensors, prefix, _DECODER, _DECODER_BLOCK)
        found |= {ours + name: value for name, value in renamed.items()}
        unknown += unexplained
    return place(lambda: WenetDecoder(config), found, source, unknown)


def _renamed(
    tensors: Mapping[str, Tensor], prefix: str, layers: Mapping[str, str], blocks: Mapping[str, str]
) -> tuple[dict[str, Tensor], Iterable[str]]:
    """Return the weights below a prefix by our names, and the names that have none."""
    found, unknown = {}, []
    for name, value in tensors.items():
        if not name.startswith(prefix) or _UNUSED.fullmatch(name):
            continue
        ours = _ours(name.removeprefix(prefix), layers, blocks)
        if ours is None:
            unknown.append(name)
        else:
            found[ours] = value
    return found, unknown


def _ours(name: str, layers: Mapping[str, str], blocks: Mapping[str, str]) -> str | None:
    block = _BLOCK.fullmatch(name)
    parts = _PARAMETER.fullmatch(block[2] if block else name)
    ours = (blocks if block else layers).get(parts[1]) if parts else None
    if ours is None or parts is None:
        return None
    # int() and back: blocks.01 is not a name of ours.
    return (f"blocks.{int(block[1])}." if block else "") + ours + parts[2]


def _fold(found: dict[str, Tensor], prefix: str, config: WenetEncoderConfig) -> None:
    """Replace a depthwise convolution and its batch norm by one convolution, if both are complete.

    Otherwise the weights stay as they are, for `place` to refuse.
    """
    size = config.size
    norm = {f"norm.{part}": [size] for part in ("weight", "bias", "running_mean", "running_var")}
    shapes = {"depthwise.weight": [size, 1, config.kernel], "depthwise.bias": [size], **norm}
    wanted = {prefix + name: shape for name, shape in shapes.items()}
    if any(name not in found or list(found[name].shape) != shape for name, shape in wanted.items()):
        return
    kernel, own, weight, bias, mean, variance = (found[name].double() for name in wanted)
    scale = weight / torch.sqrt(variance + config.convolution_epsilon)
    found[f"{prefix}depthwise.weight"] = kernel * scale[:, None, None]
    found[f"{prefix}depthwise.bias"] = bias + (own - mean) * scale
    for name in norm:
        del found[prefix + name]
