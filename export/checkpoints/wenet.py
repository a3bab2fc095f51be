"""Import a U2 or U2++ network from a folder of wenet: train.yaml, units.txt, global_cmvn and the weights.

The weights are final.pt or avg_N.pt. Old and new layouts of train.yaml are read.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contract import digest
from contract.client import CHARACTERS, SAMPLE_RATES_HZ, SENTENCEPIECE, TokenSpec
from contract.errors import CheckpointError
from contract.fields import Fields
from export.checkpoints import plain_files, plain_yaml, settings, wenet_weights
from export.checkpoints.checkpoint import audio_spec
from export.checkpoints.imported import Imported
from export.checkpoints.settings import MOST_BANDS, MOST_LAYERS, MOST_TOKENS, flag, integer, number, require, size, word
from export.checkpoints.weights import DAMAGED, read_pickle
from export.networks.front_end import FilterBankConfig
from export.networks.wenet_decoder import WenetDecoder, WenetDecoderConfig
from export.networks.wenet_encoder import (
    ABSOLUTE,
    ACTIVATIONS,
    NONE,
    POSITIONS,
    RELATIVE,
    STEP_FRAMES,
    WenetEncoder,
    WenetEncoderConfig,
    WenetStreamEncoder,
)

CONFIG_FILE, UNITS_FILE, CMVN_FILE, FINAL_FILE = "train.yaml", "units.txt", "global_cmvn", "final.pt"
# wenet adds 0.5 of the CTC score to that of the decoder; ours adds this much of the decoder's score to CTC's.
RESCORER_WEIGHT = 2.0
_AVERAGE = re.compile(r"avg_?\d+\.pt")
_ID = re.compile(r"[0-9]{1,9}")
_LARGEST_TEXT_BYTES = 16 << 20
_SMALLEST_VARIANCE = 1.0e-20
_LONGEST_WINDOW_MS = 100
_WORD_BEGIN = "\u2581"
_CONFORMER, _TRANSFORMER, _BOTH_WAYS = "conformer", "transformer", "bitransformer"
_OTHER_LAYERS = "the layers here are those of U2 and U2++"
# Settings of an encoder and a decoder with the only value that is computed here.
_FIXED: dict[str, Any] = {
    "normalize_before": True,
    "concat_after": False,
    "query_bias": True,
    "key_bias": True,
    "value_bias": True,
    "mlp_bias": True,
    "layer_norm_type": "layer_norm",
    "mlp_type": "position_wise_feed_forward",
    "n_kv_head": None,
    "head_dim": None,
}
_FIXED_ENCODER = _FIXED | {
    "input_layer": "conv2d",
    "conv_bias": True,
    "conv_inner_factor": 2,
    "final_norm": True,
    "positionwise_conv_kernel_size": 1,
}
_FIXED_DECODER = _FIXED | {
    "input_layer": "embed",
    "use_output_layer": True,
    "src_attention": True,
    "src_query_bias": True,
    "src_key_bias": True,
    "src_value_bias": True,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weights:
    """The tensors of a folder, and the statistics of its features, which the weights or a file of their own hold."""

    path: Path
    tensors: dict[str, Tensor]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    files: tuple[Path, ...]
    """Every file that determines these."""


def recognises(path: Path) -> bool:
    """Return whether a folder holds train.yaml and weights by wenet's names."""
    return path.is_dir() and (path / CONFIG_FILE).is_file() and bool(_candidates(path))


def read(path: Path) -> Imported:
    """Return the networks of a folder; raise CheckpointError for a damaged, hostile or unsupported one."""
    root = plain_yaml.read(_text(path / CONFIG_FILE), path / CONFIG_FILE)
    tokens = _tokens(path / UNITS_FILE, root)
    front_end = _front_end(root)
    weights = _weights(path, root, front_end.bands)
    config = _encoder_config(root, front_end, weights)
    obstacle = _obstacle(root.table("encoder_conf"), config)
    kind = WenetEncoder if obstacle else WenetStreamEncoder
    encoder = wenet_weights.build_encoder(config, kind, weights.tensors, weights.path)
    vocabulary = len(tokens.pieces)
    head = wenet_weights.build_head(weights.tensors, config.size, vocabulary, tokens.blank, weights.path)
    _reject_others(weights)
    lack = _rescorer_obstacle(root)
    rescorer = None if lack else _rescorer(root, config.size, vocabulary, weights)
    remarks = {"It takes whole recordings only, not streams": obstacle, "It has no rescorer": lack}
    return Imported(
        encoder=encoder,
        head=head,
        rescorer=rescorer,
        audio=audio_spec(front_end.sample_rate_hz, config.frames),
        frames=config.frames,
        tokens=tokens,
        rescorer_weight=None if lack else RESCORER_WEIGHT,
        origin=f"wenet {word(root, 'encoder', _CONFORMER)}, {path.name}/{weights.path.name}",
        digest=digest.of_value({file.name: digest.of_file(file) for file in weights.files}),
        remarks=tuple(f"{remark}: {why}" for remark, why in remarks.items() if why),
    )


def _candidates(path: Path) -> list[Path]:
    """Return the averaged weights of a folder, or its final ones if there are none."""
    averages = sorted(each for each in path.glob("avg*.pt") if _AVERAGE.fullmatch(each.name) and each.is_file())
    final = path / FINAL_FILE
    # wenet's recipes decode with the average. final.pt beside it is the last epoch, or a copy.
    return averages or ([final] if final.is_file() else [])


def _weights(path: Path, root: Fields, bands: int) -> _Weights:
    candidates = _candidates(path)
    if len(candidates) != 1:
        names = ", ".join(each.name for each in candidates) or f"neither {FINAL_FILE} nor avg_N.pt"
        raise CheckpointError(path, f"it holds {names}, and one file of weights is read", "Leave the one to import")
    (chosen,) = candidates
    tensors = read_pickle(chosen)
    files, holder = [chosen, path / CONFIG_FILE, path / UNITS_FILE], chosen
    mean, scale = (tensors.get(f"{wenet_weights.CMVN}{part}") for part in ("mean", "istd"))
    if mean is None and scale is None and _normalises(root):
        holder = _statistics_file(path, root)
        files.append(holder)
        mean, scale = _statistics(holder)
    if (mean is None) != (scale is None):
        raise CheckpointError(holder, "it lacks a mean or a deviation of the features", DAMAGED)
    for each in (mean, scale):
        if each is not None and (each.shape != (bands,) or not each.isfinite().all()):
            cause = f"the statistics of the features are not {bands} finite numbers, one for each band"
            raise CheckpointError(holder, cause, DAMAGED)
    return _Weights(path=chosen, tensors=tensors, mean=_numbers(mean), scale=_numbers(scale), files=tuple(files))


def _numbers(values: Tensor | None) -> tuple[float, ...]:
    return () if values is None else tuple(values.double().tolist())


def _reject_others(weights: _Weights) -> None:
    for name in weights.tensors:
        if not name.startswith(("encoder.", "decoder.", "ctc.")):
            cause = f"it holds weights of another kind of network: {name}"
            raise CheckpointError(weights.path, cause, "Use a checkpoint of wenet's asr_model")


def _text(path: Path) -> str:
    try:
        return plain_files.read(path, _LARGEST_TEXT_BYTES).decode().replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise CheckpointError(path, "the file is missing", f"Copy it from the folder of the {FINAL_FILE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"it cannot be read ({error})", DAMAGED) from error


def _normalises(root: Fields) -> bool:
    """Return whether features are normalised: `cmvn` in the new layout, `cmvn_file` in the old one."""
    require(root, "cmvn", ("global_cmvn", None), "features are normalised by statistics of all recordings")
    return root.has("cmvn") or root.has("cmvn_file")


def _statistics_file(path: Path, root: Fields) -> Path:
    """Return the file in this folder: train.yaml states a path of the machine that trained."""
    table = root.table("cmvn_conf") if root.has("cmvn_conf") else root
    require(table, "is_json_cmvn", (True,), "Kaldi's format of statistics is not read")
    named = path / Path(word(table, "cmvn_file", CMVN_FILE)).name
    return named if named.is_file() else path / CMVN_FILE


def _statistics(path: Path) -> tuple[Tensor, Tensor]:
    """Return the mean of each band and the inverse of its deviation, from sums of the values and of their squares."""
    try:
        table = settings.fields(json.loads(_text(path)), path)
        count = table.number("frame_num")
        sums, squares = (tuple(map(float, table.items(key, (int, float)))) for key in ("mean_stat", "var_stat"))
    except (ValueError, RecursionError, OverflowError) as error:
        raise CheckpointError(path, f"it is not JSON with numbers ({error})", DAMAGED) from error
    if not (count > 0 and math.isfinite(count)) or len(sums) != len(squares):
        raise CheckpointError(path, "it does not hold as many sums as squares, of at least one frame", DAMAGED)
    means = [each / count for each in sums]
    variances = [each / count - mean * mean for each, mean in zip(squares, means, strict=True)]
    scales = [1.0 / math.sqrt(max(each, _SMALLEST_VARIANCE)) for each in variances]
    return torch.tensor(means), torch.tensor(scales)


def _front_end(root: Fields) -> FilterBankConfig:
    table = root.optional_table("dataset_conf")
    require(table, "feats_type", ("fbank",), "the front end is Kaldi's filter bank")
    oldest = root.optional_table("collate_conf").optional_table("feature_extraction_conf")
    require(oldest, "feature_type", ("fbank",), "the front end is Kaldi's filter bank")
    require(oldest, "using_pitch", (False, None), "the front end computes no pitch")
    bank = table.optional_table("fbank_conf") if table.has("fbank_conf") else oldest
    bands = size(root, "input_dim", most=MOST_BANDS)
    for key in ("num_mel_bins", "mel_bins"):
        require(bank, key, (bands,), f"input_dim is {bands}")
    rate = size(table.optional_table("resample_conf"), "resample_rate", 16_000)
    if rate not in SAMPLE_RATES_HZ:
        raise table.error("resample_conf.resample_rate", f"{rate} Hz is not a rate that clients can send")
    window = word(bank, "window_type", "povey")
    require(bank, "window_type", ("povey", "hamming"), "the window is povey or hamming")
    length, shift = number(bank, "frame_length", 25.0), number(bank, "frame_shift", 10.0)
    if not 1 <= shift <= length <= _LONGEST_WINDOW_MS:
        raise bank.error("frame_length", f"frames of {length} ms every {shift} ms do not fit in each other")
    return FilterBankConfig(
        sample_rate_hz=rate, bands=bands, window_s=length / 1_000, hop_s=shift / 1_000, window=window
    )


def _require_fixed(table: Fields, fixed: dict[str, Any]) -> None:
    for key, value in fixed.items():
        require(table, key, (value,), _OTHER_LAYERS)


def _encoder_config(root: Fields, front_end: FilterBankConfig, weights: _Weights) -> WenetEncoderConfig:
    require(root, "model", ("asr_model",), "a network of CTC and attention is read")
    require(root, "encoder", (_CONFORMER, _TRANSFORMER), "the encoder is a Conformer or a Transformer")
    conformer = word(root, "encoder", _CONFORMER) == _CONFORMER
    table = root.table("encoder_conf")
    _require_fixed(table, _FIXED_ENCODER)
    require(table, "cnn_module_norm", ("batch_norm", "layer_norm"), _OTHER_LAYERS)
    positions = word(table, "pos_enc_layer_type", RELATIVE if conformer else ABSOLUTE)
    require(table, "pos_enc_layer_type", POSITIONS, "other encodings of positions are not computed")
    _require_attention(table, positions, conformer=conformer)
    convolves = conformer and flag(table, "use_cnn_module", default=True)
    config = WenetEncoderConfig(
        front_end=front_end,
        mean=weights.mean,
        scale=weights.scale,
        size=size(table, "output_size", 256, most=1 << 14),
        layers=size(table, "num_blocks", 6, MOST_LAYERS),
        heads=size(table, "attention_heads", 4),
        hidden=size(table, "linear_units", 2_048),
        macaron=conformer and flag(table, "macaron_style", default=True),
        kernel=size(table, "cnn_module_kernel", 15, most=1_024) if convolves else 0,
        causal=flag(table, "causal", default=False),
        convolution_norm=word(table, "cnn_module_norm", "batch_norm") == "layer_norm",
        activation=_activation(table, "swish" if conformer else "relu"),
        positions=positions,
        epsilon=_epsilon(table, "norm_eps"),
        convolution_epsilon=_epsilon(table, "conv_norm_eps"),
        chunk=0 if flag(table, "use_dynamic_chunk", default=False) else _static_chunk(table),
    )
    _check_sizes(table, config)
    return config


def _require_attention(table: Fields, positions: str, *, conformer: bool) -> None:
    """Check that the kind of attention goes with the kind of positions."""
    wanted = "rel_selfattn" if positions == RELATIVE else "selfattn"
    if not conformer and positions == RELATIVE:
        raise table.error("pos_enc_layer_type", f"{RELATIVE} is not supported in a Transformer")
    if conformer and positions in (ABSOLUTE, NONE) and not table.has("selfattention_layer_type"):
        raise table.error("selfattention_layer_type", f"this field is missing, and {positions} requires {wanted}")
    require(table, "selfattention_layer_type", (wanted,), f"{positions} requires {wanted}")


def _check_sizes(table: Fields, config: WenetEncoderConfig) -> None:
    if config.size % config.heads or config.size % 2:
        raise table.error("", f"{config.heads} heads do not divide the size {config.size}, or the size is odd")
    if config.kernel and not config.causal and config.kernel % 2 == 0:
        raise table.error("cnn_module_kernel", f"a convolution of width {config.kernel} has no middle")
    if config.front_end.bands < 7:  # noqa: PLR2004 - two convolutions of width 3 and stride 2
        raise table.error("", f"{config.front_end.bands} bands are too few for the subsampling")


def _activation(table: Fields, default: str) -> str:
    require(table, "activation_type", tuple(ACTIVATIONS), f"the activations are {', '.join(ACTIVATIONS)}")
    return word(table, "activation_type", default)


def _epsilon(table: Fields, key: str) -> float:
    found = number(table, key, 1.0e-5)
    if not 0 < found < 1:
        raise table.error(key, f"{found} is not between 0 and 1")
    return found


def _static_chunk(table: Fields) -> int:
    found = integer(table, "static_chunk_size", 0)
    if found < 0:
        raise table.error("static_chunk_size", f"{found} is less than 0")
    return found


def _obstacle(table: Fields, config: WenetEncoderConfig) -> str | None:
    """Return why an encoder cannot be a step of a stream; None if it can."""
    dynamic = flag(table, "use_dynamic_chunk", default=False)
    if not dynamic and not config.chunk:
        return "it was trained on whole recordings, where every frame attends to all others"
    if not dynamic and config.chunk != STEP_FRAMES:
        return f"it was trained on chunks of {config.chunk} frames, and a step has {STEP_FRAMES}"
    if not config.kernel or config.positions != RELATIVE:
        return "only a Conformer with rel_pos has the states of a stream"
    if not config.causal:
        return "its convolutions read later frames"
    return None


def _rescorer_obstacle(root: Fields) -> str | None:
    """Return why the decoder of a network cannot be a rescorer; None if it can."""
    model = root.optional_table("model_conf")
    weight = number(model, "ctc_weight", 0.5)
    if not 0 < weight <= 1:
        raise model.error("ctc_weight", f"it is {weight}, and the CTC head of a network is trained above 0 and up to 1")
    if "decoder" in root.names() and not root.has("decoder"):
        return "it has no decoder"
    if weight == 1:
        return "its decoder was not trained, because ctc_weight is 1"
    if flag(model, "apply_non_blank_embedding", default=False):
        return "its decoder reads encoder frames that CTC selects"
    return None


def _rescorer(root: Fields, width: int, vocabulary: int, weights: _Weights) -> WenetDecoder:
    both = word(root, "decoder", _BOTH_WAYS) == _BOTH_WAYS
    config = _decoder_config(root, width, vocabulary, both=both)
    return wenet_weights.build_decoder(config, weights.tensors, weights.path, both=both)


def _decoder_config(root: Fields, width: int, vocabulary: int, *, both: bool) -> WenetDecoderConfig:
    require(root, "decoder", (_BOTH_WAYS, _TRANSFORMER), "the decoder is a Transformer in one or both directions")
    model, table = root.optional_table("model_conf"), root.optional_table("decoder_conf")
    _require_fixed(table, _FIXED_DECODER)
    start, end = _boundaries(root, vocabulary)
    weight = number(model, "reverse_weight", 0.0)
    if not 0 <= weight <= 1:
        raise model.error("reverse_weight", f"{weight} is not from 0 to 1")
    heads = size(table, "attention_heads", 4)
    if width % heads:
        raise table.error("attention_heads", f"{heads} heads do not divide the size {width}")
    reverse = integer(table, "r_num_blocks", 0)
    if both and not 0 <= reverse <= MOST_LAYERS:
        raise table.error("r_num_blocks", f"{reverse} is not a number of layers")
    return WenetDecoderConfig(
        size=width,
        layers=size(table, "num_blocks", 6, MOST_LAYERS),
        reverse_layers=reverse,
        heads=heads,
        hidden=size(table, "linear_units", 2_048),
        vocabulary=vocabulary,
        activation=_activation(table, "relu"),
        epsilon=_epsilon(table, "norm_eps"),
        start=start,
        end=end,
        # wenet has no scores from right to left without the second decoder, whatever the weight.
        reverse_weight=weight if both else 0.0,
    )


def _boundaries(root: Fields, vocabulary: int) -> tuple[int, int]:
    """Return the tokens before and after a hypothesis: the last token, or special tokens of the new layout."""
    table = root.optional_table("tokenizer_conf").optional_table("special_tokens")
    if table.has("transcribe"):
        raise table.error("transcribe", "the tokens are those of Whisper, which needs its own decoding")
    found = [integer(table, key, vocabulary - 1) for key in ("<sos>", "<eos>")]
    for token in found:
        if not 0 <= token < vocabulary:
            raise table.error("", f"{token} is not a token: there are {vocabulary}")
    return found[0], found[1]


def _tokens(path: Path, root: Fields) -> TokenSpec:
    pieces = _pieces(path)
    expected = size(root, "output_dim", most=MOST_TOKENS)
    if len(pieces) != expected:
        cause = f"it has {len(pieces)} tokens, and output_dim of {CONFIG_FILE} is {expected}"
        raise CheckpointError(path, cause, "Copy the file that the network was trained with")
    table = root.optional_table("ctc_conf")
    blank = integer(table, "ctc_blank_id", 0)
    if not 0 <= blank < expected:
        raise table.error("ctc_blank_id", f"{blank} is not a token: there are {expected}")
    connection = _connection(root)
    parts_of_words = not connection and any(_WORD_BEGIN in piece for piece in pieces)
    return TokenSpec(
        pieces=pieces,
        blank=blank,
        unspoken=tuple(place for place, piece in enumerate(pieces) if _is_unspoken(piece) and place != blank),
        style=SENTENCEPIECE if parts_of_words else CHARACTERS,
        word_separator=" " if parts_of_words else connection,
    )


def _connection(root: Fields) -> str:
    """Return what wenet's CharTokenizer writes between two tokens: usually nothing, a space for phonemes."""
    is_of_characters = root.has("tokenizer") and root.raw("tokenizer") == "char"
    return word(root.optional_table("tokenizer_conf"), "connect_symbol", "") if is_of_characters else ""


def _is_unspoken(piece: str) -> bool:
    return len(piece) > 2 and piece.startswith("<") and piece.endswith(">")  # noqa: PLR2004 - the brackets


def _pieces(path: Path) -> tuple[str, ...]:
    """Return the tokens of lines `symbol id`, by their ids."""
    found: dict[int, str] = {}
    for line_number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        piece, _, place = line.rstrip("\r").replace("\t", " ").rpartition(" ")
        if not piece or not _ID.fullmatch(place) or int(place) in found:
            cause = f"line {line_number} is not `symbol id` with an id of its own"
            raise CheckpointError(path, cause, DAMAGED)
        found[int(place)] = piece
    if not found or sorted(found) != list(range(len(found))):
        raise CheckpointError(path, f"its {len(found)} ids do not count from 0 without a gap", DAMAGED)
    return tuple(found[place] for place in range(len(found)))
