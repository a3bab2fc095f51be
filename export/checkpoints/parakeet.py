"""Import a Parakeet CTC network from a folder of transformers (model_type parakeet_ctc)."""

from dataclasses import replace

from contract.errors import CheckpointError
from contract.fields import Fields
from export.checkpoints import fast_conformer_weights
from export.checkpoints.checkpoint import audio_spec
from export.checkpoints.imported import Imported
from export.checkpoints.settings import MOST_BANDS, MOST_LAYERS, MOST_TOKENS, flag, number, require, size
from export.checkpoints.transformers_folder import CONFIG_FILE, Folder
from export.checkpoints.transformers_tokens import piece_tokens
from export.networks.fast_conformer import FastConformerConfig
from export.networks.nemo_front_end import NemoFrontEndConfig

MODEL_TYPE = "parakeet_ctc"
WHOLE_RECORDINGS = (
    "It takes whole recordings only, not streams: its features are normalised over the recording, and every frame"
    " attends to all others"
)


def read(folder: Folder) -> Imported:
    """Return the network of a folder whose model_type is parakeet_ctc."""
    settings = folder.fields(CONFIG_FILE)
    config = _config(settings.table("encoder_config"), _front_end(folder.feature_extractor()))
    vocabulary = size(settings, "vocab_size", most=MOST_TOKENS)
    blank = settings.integer("pad_token_id")
    if blank != vocabulary - 1:
        raise settings.error("pad_token_id", f"it is {blank}, and the blank of Parakeet is the last token")
    tensors, keys = folder.tensors(), fast_conformer_weights.TRANSFORMERS
    unknown = [name for name in tensors if not name.startswith(("encoder.", keys.head))]
    if unknown:
        cause = f"it holds weights of no CTC network: {unknown[0]}"
        raise CheckpointError(folder.path, cause, "Use a checkpoint of ParakeetForCTC")
    encoder = fast_conformer_weights.build_encoder(config, tensors, keys, folder.path)
    head = fast_conformer_weights.build_head(tensors, keys.head, config.size, vocabulary, folder.path)
    return Imported(
        encoder=encoder,
        head=head,
        # A frame is centred on its first sample, which the rule of lengths does not express.
        audio=replace(audio_spec(config.front_end.sample_rate_hz, config.frames), first_centre_s=0.0),
        frames=config.frames,
        tokens=piece_tokens(folder, vocabulary, blank),
        origin=f"Parakeet CTC in transformers' format, {folder.path.name}",
        digest=folder.digest,
        remarks=(WHOLE_RECORDINGS,),
    )


def _front_end(table: Fields) -> NemoFrontEndConfig:
    require(table, "feature_extractor_type", ("ParakeetFeatureExtractor", None), "the front end is Parakeet's")
    rate = size(table, "sampling_rate", 16_000)
    return NemoFrontEndConfig(
        sample_rate_hz=rate,
        bands=size(table, "feature_size", 80, MOST_BANDS),
        window_samples=size(table, "win_length", 400),
        hop_samples=size(table, "hop_length", 160),
        transform_size=size(table, "n_fft", 512),
        preemphasis=number(table, "preemphasis", 0.97, off=0.0),
        high_hz=rate / 2,
    )


def _config(table: Fields, front_end: NemoFrontEndConfig) -> FastConformerConfig:
    require(table, "model_type", ("parakeet_encoder",), "the encoder is Parakeet's")
    require(table, "hidden_act", ("silu", "swish"), "a FastConformer computes SiLU")
    require(table, "subsampling_factor", (8,), "the subsampling is by 8")
    require(table, "subsampling_conv_kernel_size", (3,), "the subsampling has kernels of 3")
    require(table, "subsampling_conv_stride", (2,), "the subsampling has strides of 2")
    require(table, "num_mel_bins", (front_end.bands,), f"the feature extractor makes {front_end.bands} bands")
    config = FastConformerConfig(
        front_end=front_end,
        channels=size(table, "subsampling_conv_channels", 256),
        size=size(table, "hidden_size", 1_024),
        layers=size(table, "num_hidden_layers", 24, MOST_LAYERS),
        heads=size(table, "num_attention_heads", 8),
        hidden=size(table, "intermediate_size", 4_096),
        kernel=size(table, "conv_kernel_size", 9),
        bias=flag(table, "attention_bias", default=True),
        convolution_bias=flag(table, "convolution_bias", default=True),
        scaled=flag(table, "scale_input", default=True),
    )
    return fast_conformer_weights.checked(config, table)
