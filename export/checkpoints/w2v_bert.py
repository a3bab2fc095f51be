"""Import a CTC network of w2v-BERT 2.0 from a folder of transformers (model_type wav2vec2-bert)."""

import re
from collections.abc import Mapping

from torch import Tensor

from contract.errors import CheckpointError
from contract.fields import Fields
from export.checkpoints.checkpoint import audio_spec
from export.checkpoints.imported import Imported
from export.checkpoints.parakeet import WHOLE_RECORDINGS
from export.checkpoints.settings import MOST_BANDS, MOST_LAYERS, flag, number, require, size, word
from export.checkpoints.transformers_folder import CONFIG_FILE, Folder
from export.checkpoints.transformers_tokens import character_tokens
from export.checkpoints.wav2vec2 import ctc_head, sample_rate
from export.checkpoints.weights import place
from export.networks.front_end import FilterBankConfig
from export.networks.w2v_bert import STACKED, W2vBert, W2vBertConfig
from export.networks.wav2vec2 import ACTIVATIONS

MODEL_TYPE = "wav2vec2-bert"
_PREFIX = "wav2vec2_bert."
# transformers fixes the window and the hop in samples, whatever the sampling rate.
_WINDOW_SAMPLES, _HOP_SAMPLES = 400, 160
_LARGEST_KERNEL, _FARTHEST = 4_096, 8_192
_BLOCK = r"encoder\.layers\.(\d+)\."
_ADAPTER = r"adapter\.layers\.(\d+)\."
_PATTERNS = {
    r"feature_projection\.layer_norm": "projection_norm",
    r"feature_projection\.projection": "projection",
    rf"{_BLOCK}ffn1_layer_norm": r"blocks.\1.before_norm",
    rf"{_BLOCK}ffn1\.intermediate_dense": r"blocks.\1.before.first",
    rf"{_BLOCK}ffn1\.output_dense": r"blocks.\1.before.second",
    rf"{_BLOCK}self_attn_layer_norm": r"blocks.\1.attention_norm",
    rf"{_BLOCK}self_attn\.linear_q": r"blocks.\1.attention.query",
    rf"{_BLOCK}self_attn\.linear_k": r"blocks.\1.attention.key",
    rf"{_BLOCK}self_attn\.linear_v": r"blocks.\1.attention.value",
    rf"{_BLOCK}self_attn\.linear_out": r"blocks.\1.attention.out",
    rf"{_BLOCK}self_attn\.distance_embedding": r"blocks.\1.attention.distances",
    rf"{_BLOCK}conv_module\.layer_norm": r"blocks.\1.convolution_norm",
    rf"{_BLOCK}conv_module\.pointwise_conv1": r"blocks.\1.convolution.gate",
    rf"{_BLOCK}conv_module\.depthwise_conv": r"blocks.\1.convolution.depthwise",
    rf"{_BLOCK}conv_module\.depthwise_layer_norm": r"blocks.\1.convolution.norm",
    rf"{_BLOCK}conv_module\.pointwise_conv2": r"blocks.\1.convolution.out",
    rf"{_BLOCK}ffn2_layer_norm": r"blocks.\1.after_norm",
    rf"{_BLOCK}ffn2\.intermediate_dense": r"blocks.\1.after.first",
    rf"{_BLOCK}ffn2\.output_dense": r"blocks.\1.after.second",
    rf"{_BLOCK}final_layer_norm": r"blocks.\1.norm",
    r"intermediate_ffn\.intermediate_dense": "widening.first",
    r"intermediate_ffn\.output_dense": "widening.second",
    r"adapter\.proj": "adapter_projection",
    r"adapter\.proj_layer_norm": "adapter_norm",
    rf"{_ADAPTER}residual_layer_norm": r"adapters.\1.residual_norm",
    rf"{_ADAPTER}residual_conv": r"adapters.\1.residual",
    rf"{_ADAPTER}self_attn_layer_norm": r"adapters.\1.convolution_norm",
    rf"{_ADAPTER}self_attn_conv": r"adapters.\1.convolution",
    rf"{_ADAPTER}self_attn\.linear_q": r"adapters.\1.attention.query",
    rf"{_ADAPTER}self_attn\.linear_k": r"adapters.\1.attention.key",
    rf"{_ADAPTER}self_attn\.linear_v": r"adapters.\1.attention.value",
    rf"{_ADAPTER}self_attn\.linear_out": r"adapters.\1.attention.out",
    rf"{_ADAPTER}ffn_layer_norm": r"adapters.\1.feed_norm",
    rf"{_ADAPTER}ffn\.intermediate_dense": r"adapters.\1.feed.first",
    rf"{_ADAPTER}ffn\.output_dense": r"adapters.\1.feed.second",
}
# Used in training only.
_IGNORED = "masked_spec_embed"


def read(folder: Folder) -> Imported:
    """Return the network of a folder whose model_type is wav2vec2-bert."""
    settings, extractor = folder.fields(CONFIG_FILE), folder.feature_extractor()
    config = _config(settings, _front_end(extractor))
    tensors = folder.tensors()
    encoder = _encoder(config, tensors, folder)
    head, tokens = ctc_head(folder, tensors, settings, encoder.dims["encoder_size"])
    return Imported(
        encoder=encoder,
        head=head,
        audio=audio_spec(config.front_end.sample_rate_hz, config.frames),
        frames=config.frames,
        tokens=character_tokens(folder, *tokens),
        origin=f"w2v-BERT CTC in transformers' format, {folder.path.name}",
        digest=folder.digest,
        remarks=(WHOLE_RECORDINGS,),
    )


def _front_end(table: Fields) -> FilterBankConfig:
    kinds = ("SeamlessM4TFeatureExtractor", None)
    require(table, "feature_extractor_type", kinds, "the network takes Kaldi's features")
    require(table, "stride", (STACKED,), f"{STACKED} feature frames make one frame")
    bands = size(table, "num_mel_bins", 80, MOST_BANDS)
    require(table, "feature_size", (bands,), f"the feature extractor makes {bands} bands")
    rate = sample_rate(table)
    return FilterBankConfig(
        sample_rate_hz=rate, bands=bands, window_s=_WINDOW_SAMPLES / rate, hop_s=_HOP_SAMPLES / rate
    )


def _config(table: Fields, front_end: FilterBankConfig) -> W2vBertConfig:
    shape = W2vBertConfig()
    features = STACKED * front_end.bands
    require(table, "feature_projection_input_dim", (features,), f"the feature extractor makes {features} features")
    require(table, "hidden_act", ACTIVATIONS, "this activation is not known")
    require(table, "adapter_act", ACTIVATIONS, "this activation is not known")
    if not table.has("position_embeddings_type") or table.text("position_embeddings_type") != "relative_key":
        cause = "positions other than relative_key, as in w2v-BERT 2.0, are not supported"
        raise table.error("position_embeddings_type", cause)
    width = size(table, "hidden_size", shape.size)
    adapted = flag(table, "add_adapter", default=False)
    config = W2vBertConfig(
        front_end=front_end,
        size=width,
        layers=size(table, "num_hidden_layers", shape.layers, MOST_LAYERS),
        heads=size(table, "num_attention_heads", shape.heads),
        hidden=size(table, "intermediate_size", shape.hidden),
        activation=word(table, "hidden_act", shape.activation),
        kernel=size(table, "conv_depthwise_kernel_size", shape.kernel, _LARGEST_KERNEL),
        epsilon=number(table, "layer_norm_eps", shape.epsilon),
        left=size(table, "left_max_position_embeddings", shape.left, _FARTHEST),
        right=size(table, "right_max_position_embeddings", shape.right, _FARTHEST),
        widened=flag(table, "use_intermediate_ffn_before_adapter", default=False),
        adapters=size(table, "num_adapter_layers", 1, MOST_LAYERS) if adapted else 0,
        adapter_size=size(table, "output_hidden_size", width),
        adapter_kernel=size(table, "adapter_kernel_size", shape.adapter_kernel, _LARGEST_KERNEL),
        adapter_stride=size(table, "adapter_stride", shape.adapter_stride, _LARGEST_KERNEL),
        adapter_activation=word(table, "adapter_act", shape.adapter_activation),
    )
    if config.size % config.heads or config.adapter_size % config.heads:
        raise table.error("hidden_size", f"{config.size} is not divided by {config.heads} heads")
    if config.adapter_kernel // 2 != config.adapter_padding:
        # transformers' own rule of lengths assumes a padding of half the kernel.
        raise table.error("adapter_kernel_size", f"{config.adapter_kernel} does not fit to the stride of the adapter")
    return config


def _encoder(config: W2vBertConfig, tensors: Mapping[str, Tensor], folder: Folder) -> W2vBert:
    own = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    if not own:
        cause = (
            f"it holds no weights whose names begin with `{_PREFIX}`, so it is not a w2v-BERT network with a CTC head"
        )
        raise CheckpointError(folder.path, cause, "Fine-tune the network for CTC first")
    renamed = {name: _ours(name) for name in own}
    found = {ours: _shaped(ours, own[name]) for name, ours in renamed.items() if ours is not None}
    unknown = [name for name, ours in renamed.items() if ours is None and name != _IGNORED]
    return place(lambda: W2vBert(config), found, folder.path, unknown)


def _shaped(name: str, value: Tensor) -> Tensor:
    # Convolutions of width 1 are linear layers here.
    return value.squeeze(-1) if name.endswith(("convolution.gate.weight", "convolution.out.weight")) else value


def _ours(name: str) -> str | None:
    for pattern, ours in _PATTERNS.items():
        found = re.fullmatch(rf"{pattern}(\.weight|\.bias)", name)
        if found:
            return found.expand(ours) + found.groups()[-1]
    return None
