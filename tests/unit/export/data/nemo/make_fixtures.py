"""Make the fixtures of this folder with NeMo itself: archives with random weights, and what NeMo computes with them.

    make_fixtures.py FOLDER

Needs nemo_toolkit[asr] 3.0.0; `ci/nemo` runs it in an environment that has it.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sentencepiece
import soundfile
import torch
from nemo.collections.asr import models
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[5]
DIALOGUE = ROOT / "demo" / "dialogue.flac"
RATE_HZ = 16_000
# Excerpts of the demonstration's dialogue in samples: begin and length. One ends within a frame, one has few frames.
EXCERPTS = ((16_000, 16_000), (80_000, 31_234), (160_000, 5_000), (240_000, 48_159), (320_000, 1_700))
PIECES = 40
CHARACTERS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]
_TEXT = ("the quick brown fox jumps over the lazy dog", "a journey of a thousand miles begins with one step") * 20
_ASR = "nemo.collections.asr.modules"
# The optimiser and the loss of training are no part of what is tested.
_COMMON = {"sample_rate": RATE_HZ, "log_prediction": False, "validation_ds": None, "train_ds": None, "optim": None}
_CONVOLUTION = {"filters": 16, "kernel": [11], "stride": [1], "dilation": [1], "dropout": 0.0, "residual": False}


def preprocessor(bands: int, **settings: Any) -> dict[str, Any]:
    """Return the settings of the front end as NeMo's recipes have them."""
    return {
        "_target_": f"{_ASR}.AudioToMelSpectrogramPreprocessor",
        "sample_rate": RATE_HZ,
        "normalize": "per_feature",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": bands,
        "n_fft": 512,
        "log": True,
        "frame_splicing": 1,
        "dither": 0.00001,
        "pad_to": 0,
        "pad_value": 0.0,
        **settings,
    }


def encoder(bands: int, layers: int = 2, **settings: Any) -> dict[str, Any]:
    """Return the settings of a small FastConformer."""
    return {
        "_target_": f"{_ASR}.ConformerEncoder",
        "feat_in": bands,
        "feat_out": -1,
        "n_layers": layers,
        "d_model": 16,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 8,
        "causal_downsampling": False,
        "ff_expansion_factor": 2,
        "self_attention_model": "rel_pos",
        "n_heads": 4,
        "att_context_size": [-1, -1],
        "att_context_style": "regular",
        "xscaling": True,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 9,
        "conv_norm_type": "batch_norm",
        "conv_context_size": None,
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
        "stochastic_depth_drop_prob": 0.0,
        **settings,
    }


def decoder(size: int, vocabulary: list[str] | None = None) -> dict[str, Any]:
    """Return the settings of a CTC head; a network of pieces fills in its own vocabulary."""
    count = len(vocabulary) if vocabulary else -1
    return {
        "_target_": f"{_ASR}.ConvASRDecoder",
        "feat_in": size,
        "num_classes": count,
        "vocabulary": vocabulary or [],
    }


def transducer(**loss: Any) -> dict[str, Any]:
    """Return the settings of a transducer's prediction network and joiner."""
    return {
        "model_defaults": {"enc_hidden": 16, "pred_hidden": 8, "joint_hidden": 8, **loss},
        "decoder": {
            "_target_": f"{_ASR}.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {"pred_hidden": 8, "pred_rnn_layers": 1, "t_max": None, "dropout": 0.0},
        },
        "joint": {
            "_target_": f"{_ASR}.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "jointnet": {
                "joint_hidden": 8,
                "activation": "relu",
                "dropout": 0.0,
                "encoder_hidden": 16,
                "pred_hidden": 8,
            },
            **({"num_extra_outputs": len(loss["tdt_durations"])} if loss else {}),
        },
        "decoding": {
            "strategy": "greedy_batch",
            **({"durations": loss["tdt_durations"]} if loss else {}),
            "model_type": "tdt" if loss else "rnnt",
            "greedy": {"max_symbols": 10},
        },
        "loss": {"loss_name": "tdt", "tdt_kwargs": {"durations": loss["tdt_durations"]}}
        if loss
        else {"loss_name": "default"},
    }


def cache_aware(bands: int) -> dict[str, Any]:
    """Return the settings of NeMo's recipe for streams."""
    return encoder(
        bands,
        1,
        causal_downsampling=True,
        att_context_size=[[70, 13], [70, 1]],
        att_context_style="chunked_limited",
        conv_norm_type="layer_norm",
        conv_context_size="causal",
    )


def tokenizer(folder: Path) -> dict[str, Any]:
    """Train a SentencePiece model in a folder and return the settings of a tokenizer."""
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=PIECES,
        model_type="bpe",
        # Its table of characters would be 240 KB.
        normalization_rule_name="identity",
        minloglevel=2,
    )
    pieces = (folder / "tokenizer.vocab").read_text().splitlines()
    (folder / "vocab.txt").write_text("".join(f"{line.split()[0]}\n" for line in pieces))
    return {"tokenizer": {"dir": str(folder), "type": "bpe"}}


def configurations(pieces: Mapping[str, Any]) -> Iterator[tuple[str, type[Any], dict[str, Any]]]:
    """Yield the name, NeMo's class and the settings of every archive."""
    few = 16
    yield (
        "ctc-pieces",
        models.EncDecCTCModelBPE,
        {
            "preprocessor": preprocessor(80),
            "encoder": encoder(80),
            "decoder": decoder(16),
            **pieces,
        },
    )
    yield (
        "ctc-characters",
        models.EncDecCTCModel,
        {
            "preprocessor": preprocessor(80, pad_to=16),
            "encoder": encoder(80, use_bias=False, xscaling=False),
            "decoder": decoder(16, CHARACTERS),
            "labels": CHARACTERS,
        },
    )
    yield (
        "hybrid",
        models.EncDecHybridRNNTCTCBPEModel,
        {
            "preprocessor": preprocessor(80),
            "encoder": encoder(80),
            **pieces,
            **transducer(),
            "aux_ctc": {"ctc_loss_weight": 0.3, "decoder": decoder(16), "decoding": {"strategy": "greedy"}},
        },
    )
    yield (
        "refused-conformer",
        models.EncDecCTCModelBPE,
        {
            "preprocessor": preprocessor(few),
            "encoder": encoder(few, 1, subsampling="striding", subsampling_factor=4, subsampling_conv_channels=-1),
            "decoder": decoder(16),
            **pieces,
        },
    )
    yield (
        "refused-citrinet",
        models.EncDecCTCModelBPE,
        {
            "preprocessor": preprocessor(few, pad_to=16),
            "encoder": {
                "_target_": f"{_ASR}.ConvASREncoder",
                "feat_in": few,
                "activation": "relu",
                "conv_mask": True,
                "jasper": [
                    {**_CONVOLUTION, "repeat": 1, "separable": True, "se": True, "se_context_size": -1, "stride": [8]},
                ],
            },
            "decoder": decoder(16),
            **pieces,
        },
    )
    yield (
        "refused-streaming",
        models.EncDecCTCModelBPE,
        {
            "preprocessor": preprocessor(few, normalize="NA"),
            "encoder": cache_aware(few),
            "decoder": decoder(16),
            **pieces,
        },
    )
    yield (
        "refused-transducer",
        models.EncDecRNNTBPEModel,
        {
            "preprocessor": preprocessor(few),
            "encoder": encoder(few, 1),
            **pieces,
            **transducer(),
        },
    )
    yield (
        "refused-tdt",
        models.EncDecRNNTBPEModel,
        {
            "preprocessor": preprocessor(few),
            "encoder": encoder(few, 1),
            **pieces,
            **transducer(tdt_durations=[0, 1, 2, 3, 4], num_tdt_durations=5),
        },
    )
    yield (
        "refused-speakers",
        models.EncDecSpeakerLabelModel,
        {
            "preprocessor": preprocessor(few),
            "encoder": {
                "_target_": f"{_ASR}.ConvASREncoder",
                "feat_in": few,
                "activation": "relu",
                "conv_mask": True,
                "jasper": [{**_CONVOLUTION, "repeat": 1}],
            },
            "decoder": {
                "_target_": f"{_ASR}.SpeakerDecoder",
                "feat_in": 16,
                "num_classes": 2,
                "pool_mode": "xvector",
                "emb_sizes": 8,
                "angular": True,
            },
            "loss": {
                "_target_": "nemo.collections.asr.losses.angularloss.AngularSoftmaxLoss",
                "scale": 30,
                "margin": 0.2,
            },
        },
    )


def randomise(model: torch.nn.Module) -> None:
    """Replace all weights and statistics by values that make every part of a network count."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                weight.copy_(1.5 * noise / weight[0].numel() ** 0.5)
            else:
                weight.copy_((1.0 if name.endswith("weight") else 0.0) + 0.2 * noise)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))


def outputs(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the features and the log-probabilities that NeMo computes for each excerpt alone."""
    samples, _ = soundfile.read(DIALOGUE, dtype="float32")
    model.preprocessor.featurizer.dither = 0.0
    found = {"excerpts": np.array(EXCERPTS)}
    for number, (begin, length) in enumerate(EXCERPTS):
        audio, size = torch.from_numpy(samples[begin : begin + length])[None], torch.tensor([length])
        with torch.no_grad():
            features, frames = model.preprocessor(input_signal=audio, length=size)
            encoded, lengths = model.encoder(audio_signal=features, length=frames)
            head = model.ctc_decoder if hasattr(model, "ctc_decoder") else model.decoder
            log_probs = head(encoder_output=encoded)
        found[f"log_probs_{number}"] = log_probs[0, : int(lengths[0])].numpy()
        if number == len(EXCERPTS) - 1:
            found["features"] = features[0, :, : int(frames[0])].numpy()
    return found


def main(folder: Path) -> None:
    """Write every archive, and beside those that are imported what NeMo computes."""
    folder.mkdir(parents=True, exist_ok=True)
    # The archives hold the path of the tokenizer as it is given: here one without the name of a folder of this machine.
    with TemporaryDirectory() as place, contextlib.chdir(place):
        for name, kind, settings in configurations(tokenizer(Path("tokenizer"))):
            torch.manual_seed(0)
            model = kind(cfg=OmegaConf.create({**_COMMON, **settings})).eval()
            randomise(model)
            model.save_to(str(folder / f"{name}.nemo"))
            if not name.startswith("refused-"):
                np.savez_compressed(folder / f"{name}.npz", **outputs(model))
            print(f"{name}: {(folder / f'{name}.nemo').stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
