"""Import the CTC head of a FastConformer from an archive of NVIDIA's NeMo, `.nemo`.

The archive is a tar: model_config.yaml, model_weights.ckpt and the files of the tokenizer, whose names the
configuration states as `nemo:<name>`. A hybrid archive holds a transducer and a CTC head; the transducer is left out.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from contract import digest
from contract.client import DELIMITER, SENTENCEPIECE, TokenSpec
from contract.errors import CheckpointError
from contract.fields import Fields
from contract.tokens import WORD_START
from export.checkpoints import fast_conformer_weights, plain_yaml, settings
from export.checkpoints.checkpoint import audio_spec
from export.checkpoints.imported import Imported
from export.checkpoints.parakeet import WHOLE_RECORDINGS
from export.checkpoints.sentence_pieces import read_pieces
from export.checkpoints.settings import MOST_BANDS, MOST_LAYERS, MOST_TOKENS, flag, integer, number, require, size, word
from export.checkpoints.tar_archive import Archive, first_names, open_archive
from export.checkpoints.weights import DAMAGED, read_pickle
from export.networks.fast_conformer import FastConformerConfig
from export.networks.nemo_front_end import SMALLEST_ENERGY, NemoFrontEndConfig, hann_window, mel_filters

CONFIG_FILE, WEIGHTS_FILE = "model_config.yaml", "model_weights.ckpt"
_FEW_MEMBERS = 32
_FEWER = "Train the network with a smaller vocabulary"
_REFERENCE = "nemo:"
_FILTER_TOLERANCE = 1.0e-4
_CACHE_AWARE = "it is a cache-aware streaming network, and those for whole recordings are supported"
_CONVOLUTIONAL = "it is a convolutional network, such as Citrinet or QuartzNet, and the encoder must be a FastConformer"
_OTHER_SUBSAMPLING = "it is a Conformer, and a FastConformer has a subsampling by 8 with dw_striding"
# What the names of NeMo's other classes contain, and what these networks are.
_OTHER_KINDS = {
    "RNNT": "it is a transducer without a CTC head; hybrid networks have one",
    "Speaker": "it is a speaker network; export it to ONNX, and name it as `speaker`",
    "MultiTask": "it is an encoder with an attention decoder, such as Canary, and a CTC head is needed",
}
_TDT = "it is a token-and-duration transducer (TDT) without a CTC head; hybrid networks have one"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """Where a NeMo class keeps its CTC head: the prefix of its weights, and the table of its settings."""

    head: str
    settings: tuple[str, ...]


_CTC = _Kind(head="decoder.decoder_layers.0.", settings=("decoder",))
_HYBRID = _Kind(head="ctc_decoder.decoder_layers.0.", settings=("aux_ctc", "decoder"))
_KINDS = {
    "EncDecCTCModel": _CTC,
    "EncDecCTCModelBPE": _CTC,
    "EncDecHybridRNNTCTCModel": _HYBRID,
    "EncDecHybridRNNTCTCBPEModel": _HYBRID,
}


def recognises(path: Path) -> bool:
    """Return whether a file has NeMo's suffix, or is a tar with its configuration and weights."""
    # By its suffix a damaged one is known too, so that the error names the damage.
    named = path.suffix == ".nemo" or {CONFIG_FILE, WEIGHTS_FILE} <= set(first_names(path, _FEW_MEMBERS))
    return path.is_file() and named


def read(path: Path) -> Imported:
    """Return the network of an archive; raise CheckpointError for a damaged, hostile or unsupported one."""
    with open_archive(path) as archive:
        table = plain_yaml.read(archive.read(CONFIG_FILE), f"{path}: {CONFIG_FILE}")
        kind = _kind(table)
        config = _config(table.table("encoder"), _front_end(table.table("preprocessor"), table))
        tokens = _tokens(archive, table, kind)
        if len(tokens.pieces) > MOST_TOKENS:
            raise CheckpointError(path, f"it has {len(tokens.pieces)} tokens, and {MOST_TOKENS} are possible", _FEWER)
        tensors = _weights(archive)
    _check_window(tensors, config.front_end, path)
    _check_filters(tensors, config.front_end, path)
    encoder = fast_conformer_weights.build_encoder(config, tensors, fast_conformer_weights.NEMO, path)
    head = fast_conformer_weights.build_head(tensors, kind.head, config.size, len(tokens.pieces), path)
    return Imported(
        encoder=encoder,
        head=head,
        # A frame is centred on its first sample, which the rule of lengths does not express.
        audio=replace(audio_spec(config.front_end.sample_rate_hz, config.frames), first_centre_s=0.0),
        frames=config.frames,
        tokens=tokens,
        origin=f"{'CTC head of a hybrid' if kind is _HYBRID else 'CTC'} FastConformer of NeMo, {path.name}",
        digest=digest.of_file(path),
        remarks=(WHOLE_RECORDINGS,),
    )


def _kind(table: Fields) -> _Kind:
    name = table.text("target").rpartition(".")[2]
    if name not in _KINDS:
        raise table.error("target", f"{name} is not supported: {_other_kind(table, name)}")
    return _KINDS[name]


def _other_kind(table: Fields, name: str) -> str:
    """Return what a network of an unsupported class is."""
    loss = table.table("loss") if table.has("loss") else None
    if loss is not None and loss.has("loss_name") and loss.raw("loss_name") == "tdt":
        return _TDT
    known = (sentence for part, sentence in _OTHER_KINDS.items() if part in name)
    return next(known, f"the supported ones are {', '.join(_KINDS)}")


def _front_end(table: Fields, root: Fields) -> NemoFrontEndConfig:
    _require_class(table, "AudioToMelSpectrogramPreprocessor", "the front end makes mel features")
    require(table, "normalize", ("per_feature",), _normalisation(table))
    require(table, "window", ("hann",), "the window is a Hann window")
    require(table, "frame_splicing", (1,), "frames are not joined")
    require(table, "log", (True,), "the features are logarithms")
    require(table, "log_zero_guard_type", ("add",), "the guard of the logarithm is added")
    require(table, "mag_power", (2, 2.0), "the features are powers")
    require(table, "mel_norm", ("slaney",), "the filters have Slaney's norm")
    require(table, "exact_pad", (False, None), "frames are centred")
    rate = size(table, "sample_rate", size(root, "sample_rate", 16_000))
    guard = number(table, "log_zero_guard_value", SMALLEST_ENERGY)
    if abs(guard / SMALLEST_ENERGY - 1.0) > _FILTER_TOLERANCE:
        raise table.error("log_zero_guard_value", f"{guard} is not supported: the guard is 2**-24")
    samples, hop = _samples(table, "window_size", 0.02, rate), _samples(table, "window_stride", 0.01, rate)
    return NemoFrontEndConfig(
        sample_rate_hz=rate,
        bands=size(table, "features", 64, MOST_BANDS),
        window_samples=samples,
        hop_samples=hop,
        # NeMo's default, also for null, is the next power of two.
        transform_size=size(table, "n_fft") if table.has("n_fft") else 1 << (samples - 1).bit_length(),
        preemphasis=number(table, "preemph", 0.97, off=0.0),
        low_hz=number(table, "lowfreq", 0.0),
        high_hz=number(table, "highfreq", 0.0, off=0.0) or rate / 2,
    )


def _samples(table: Fields, key: str, default_s: float, rate: int) -> int:
    """Return a number of samples. NeMo states it in seconds or, with the prefix `n_`, in samples, but not in both."""
    seconds, other = number(table, key, default_s, off=0.0), f"n_{key}"
    if seconds and table.has(other) and table.raw(other) != 0:
        raise table.error(
            other, f"{key} is stated too, or is {default_s} by default: NeMo refuses both; set it to null"
        )
    if not seconds:
        return size(table, other)
    # NeMo's int() rounds down: 0.0201 s at 16 kHz are 321 samples.
    if not 1 <= seconds * rate <= settings.MOST:
        raise table.error(key, f"{seconds} s are shorter than a sample or longer than a minute")
    return int(seconds * rate)


def _normalisation(table: Fields) -> str:
    is_none = table.has("normalize") and table.raw("normalize") == "NA"
    return _CACHE_AWARE if is_none else "the features are normalised per band, over the recording"


def _config(table: Fields, front_end: NemoFrontEndConfig) -> FastConformerConfig:
    _require_class(table, "ConformerEncoder", _encoder_kind(table))
    require(table, "att_context_style", ("regular",), _CACHE_AWARE)
    require(table, "causal_downsampling", (False, None), _CACHE_AWARE)
    require(table, "conv_norm_type", ("batch_norm",), _CACHE_AWARE)
    require(table, "att_context_size", ([-1, -1], [[-1, -1]], None), "every frame attends to all others")
    require(table, "self_attention_model", ("rel_pos",), "positions are relative, without a window")
    require(table, "untie_biases", (True,), "every block has its own biases of positions")
    require(table, "subsampling", ("dw_striding",), _OTHER_SUBSAMPLING)
    require(table, "subsampling_factor", (8,), _OTHER_SUBSAMPLING)
    require(table, "subsampling_conv_chunking_factor", (1, -1), "the subsampling is computed as a whole")
    require(table, "reduction", (None,), "the encoder has no further reduction")
    require(table, "global_tokens", (0,), "there are no global tokens")
    require(table, "feat_in", (front_end.bands,), f"the front end makes {front_end.bands} bands")
    for key in ("subsampling", "subsampling_factor"):
        if not table.has(key):
            raise table.error(key, "this field is missing, and NeMo's default is a Conformer of stride 4")
    width, kernel = size(table, "d_model"), size(table, "conv_kernel_size", 31)
    middle = (kernel - 1) // 2
    require(table, "conv_context_size", ([middle, middle], None), _CACHE_AWARE)
    require(table, "feat_out", (-1, width), "the encoder has no further projection")
    channels = integer(table, "subsampling_conv_channels", -1)
    bias = flag(table, "use_bias", default=True)
    config = FastConformerConfig(
        front_end=front_end,
        channels=width if channels == -1 else size(table, "subsampling_conv_channels"),
        size=width,
        layers=size(table, "n_layers", most=MOST_LAYERS),
        heads=size(table, "n_heads", 4),
        hidden=width * size(table, "ff_expansion_factor", 4, most=64),
        kernel=kernel,
        bias=bias,
        convolution_bias=bias,
        scaled=flag(table, "xscaling", default=True),
    )
    return fast_conformer_weights.checked(config, table)


def _encoder_kind(table: Fields) -> str:
    is_convolutional = word(table, "_target_", "").endswith("ConvASREncoder")
    return _CONVOLUTIONAL if is_convolutional else "the encoder must be a FastConformer"


def _require_class(table: Fields, name: str, why: str) -> None:
    found = word(table, "_target_", name).rpartition(".")[2]
    if found != name:
        raise table.error("_target_", f"{found} is not supported: {why}")


def _tokens(archive: Archive, root: Fields, kind: _Kind) -> TokenSpec:
    if root.has("tokenizer"):
        return _piece_tokens(archive, root.table("tokenizer"))
    # A network of characters: its list is in the configuration, a blank between words.
    table = root
    for key in kind.settings:
        table = table.table(key)
    pieces = table.items("vocabulary", str)
    return TokenSpec(pieces=(*pieces, "<blank>"), blank=len(pieces), style=DELIMITER, delimiter=" ")


def _piece_tokens(archive: Archive, table: Fields) -> TokenSpec:
    require(table, "type", ("bpe",), "the tokens must be those of one SentencePiece model")
    name = table.text("model_path").removeprefix(_REFERENCE)
    pieces = read_pieces(archive.read(name), f"{archive.path}: {name}")
    # A piece of the mark alone, as in models of characters, neither begins nor ends a word.
    texts = [piece.text for piece in pieces if len(piece.text) > 1]
    if any(text.endswith(WORD_START) for text in texts) and not any(text.startswith(WORD_START) for text in texts):
        cause = (
            f"its pieces end words with {WORD_START!r} (treat_whitespace_as_suffix), and they must begin words with it"
        )
        raise CheckpointError(f"{archive.path}: {name}", cause, settings.UNSUPPORTED)
    return TokenSpec(
        pieces=(*(piece.text for piece in pieces), "<blank>"),
        blank=len(pieces),
        unspoken=tuple(place for place, piece in enumerate(pieces) if not piece.is_text),
        style=SENTENCEPIECE,
    )


def _weights(archive: Archive) -> dict[str, Tensor]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS_FILE
        archive.extract(WEIGHTS_FILE, path)
        # The file stays mapped after its folder is gone.
        return read_pickle(path, f"{archive.path}: {WEIGHTS_FILE}")


def _check_window(tensors: dict[str, Tensor], config: NemoFrontEndConfig, source: object) -> None:
    """Compare the window with the one that the archive stores, if it does."""
    stored = tensors.get("preprocessor.featurizer.window")
    if stored is None:
        return
    ours = torch.from_numpy(hann_window(config.window_samples)).float()
    if stored.shape != ours.shape or not torch.allclose(stored.float(), ours, atol=_FILTER_TOLERANCE):
        raise CheckpointError(source, "its window is not the one that its configuration states", DAMAGED)


def _check_filters(tensors: dict[str, Tensor], config: NemoFrontEndConfig, source: object) -> None:
    """Compare the mel filters with those that the archive stores, if it does."""
    stored = tensors.get("preprocessor.featurizer.fb")
    if stored is None:
        return
    ours = torch.from_numpy(mel_filters(config)).float()
    if stored.numel() != ours.numel() or not torch.allclose(
        stored.reshape(ours.shape).float(), ours, atol=_FILTER_TOLERANCE * float(ours.max())
    ):
        raise CheckpointError(source, "its mel filters are not those that its configuration states", DAMAGED)
