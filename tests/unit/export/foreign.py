"""Checkpoints in the formats of transformers and NeMo, with random weights of small networks of transformers."""

import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import (
    HubertConfig,
    HubertForCTC,
    ParakeetCTCConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertForCTC,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMForCTC,
)

RATE_HZ = 16_000
# Shorter and longer than a second, one that ends within a frame, and one of the smallest number of frames.
LENGTHS = (16_000, 31_234, 5_000, 48_159, 1_500)
LETTERS = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, **{chr(65 + index): 5 + index for index in range(26)}}
KINDS = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForCTC),
    "hubert": (HubertConfig, HubertForCTC),
    "wavlm": (WavLMConfig, WavLMForCTC),
}
_WAVE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": len(LETTERS),
}
_PARAKEET = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "subsampling_conv_channels": 8,
}
PIECES = 40
_TEXT = ("the quick brown fox jumps over the lazy dog", "a journey of a thousand miles begins with one step") * 20
# Keys of NeMo by those of transformers, in the order in which they are replaced.
_NEMO_KEYS = (
    (r"^ctc_head\.", "decoder.decoder_layers.0."),
    (r"^encoder\.subsampling\.layers\.", "encoder.pre_encode.conv."),
    (r"^encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
    (r"\.self_attn\.q_proj\.", ".self_attn.linear_q."),
    (r"\.self_attn\.k_proj\.", ".self_attn.linear_k."),
    (r"\.self_attn\.v_proj\.", ".self_attn.linear_v."),
    (r"\.self_attn\.o_proj\.", ".self_attn.linear_out."),
    (r"\.self_attn\.relative_k_proj\.", ".self_attn.linear_pos."),
    (r"\.self_attn\.bias_(u|v)$", r".self_attn.pos_bias_\1"),
    (r"\.conv\.norm\.", ".conv.batch_norm."),
)


def randomise(model: nn.Module) -> Any:
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
    return model.eval()


def recordings(lengths: tuple[int, ...] = LENGTHS) -> list[NDArray[np.float32]]:
    """Return noise as loud as speech, with a constant part, of these numbers of samples."""
    generator = np.random.default_rng(0)
    return [(generator.normal(0.0, 0.1, length) + 0.02).astype(np.float32) for length in lengths]


def padded(audio: list[NDArray[np.float32]], size: int) -> tuple[Tensor, Tensor]:
    """Return recordings as one batch of this many samples, with their lengths."""
    batch = torch.zeros(len(audio), size)
    for row, values in zip(batch, audio, strict=True):
        row[: len(values)] = torch.from_numpy(values)
    return batch, torch.tensor([len(values) for values in audio], dtype=torch.int32)


def reference_logits(model: Any, extractor: Any, audio: list[NDArray[np.float32]]) -> list[Tensor]:
    """Return the logits of transformers for each recording alone: [frames, vocabulary]."""
    found = []
    for values in audio:
        inputs = extractor(values, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        if isinstance(extractor, SeamlessM4TFeatureExtractor):
            # Of an odd number of features, transformers makes one frame more, whose mask is 0; adapters read it.
            valid = int(inputs["attention_mask"].sum())
            inputs = {name: value[:, :valid] for name, value in inputs.items()}
        with torch.no_grad():
            found.append(model(**inputs).logits[0])
    return found


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def change_json(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def wave(folder: Path, kind: str = "wav2vec2", norm: str = "group", **settings: Any) -> tuple[Any, Any]:
    """Write a folder of a network that takes a waveform; return the network and its feature extractor."""
    config, network = KINDS[kind]
    settings = {"do_stable_layer_norm": norm == "layer", **settings}
    model: Any = randomise(network(config(**{**_WAVE, "feat_extract_norm": norm, **settings})))
    extractor: Any = Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer")
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    write_json(folder / "vocab.json", LETTERS)
    return model, extractor


def w2v_bert(folder: Path, **settings: Any) -> tuple[Any, Any]:
    """Write a folder of a w2v-BERT; return the network and its feature extractor."""
    small = {name: value for name, value in _WAVE.items() if "conv" not in name}
    distances = {"left_max_position_embeddings": 20, "right_max_position_embeddings": 4}
    config: Any = Wav2Vec2BertConfig(**{**small, **distances, "conv_depthwise_kernel_size": 7, **settings})
    model: Any = randomise(Wav2Vec2BertForCTC(config))
    # The padding value of w2v-BERT 2.0.
    extractor: Any = SeamlessM4TFeatureExtractor(padding_value=1.0)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    write_json(folder / "vocab.json", LETTERS)
    return model, extractor


def parakeet_model(bands: int = 80, **settings: Any) -> tuple[Any, Any]:
    """Return a Parakeet with PIECES tokens and the blank, and its feature extractor."""
    encoder = {**_PARAKEET, "num_mel_bins": bands, **settings}
    config: Any = ParakeetCTCConfig(vocab_size=PIECES + 1, pad_token_id=PIECES, encoder_config=encoder)
    return randomise(ParakeetForCTC(config)), ParakeetFeatureExtractor(feature_size=bands)


def parakeet(folder: Path, bands: int = 80, **settings: Any) -> tuple[Any, Any]:
    """Write a folder of a Parakeet; return the network and its feature extractor."""
    model, extractor = parakeet_model(bands, **settings)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    pieces = {"<unk>": 0, **{f"▁w{number}": number for number in range(1, PIECES)}}
    added = [{"id": PIECES, "content": "<pad>", "special": True}]
    write_json(folder / "tokenizer.json", {"model": {"type": "BPE", "vocab": pieces}, "added_tokens": added})
    return model, extractor


def nemo_config(bands: int = 80, **encoder: Any) -> dict[str, Any]:
    """Return the configuration that NeMo writes for the network of parakeet_model."""
    return {
        "target": "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE",
        "nemo_version": "3.0.0",
        "sample_rate": RATE_HZ,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": RATE_HZ,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": bands,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 1.0e-5,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": bands,
            "feat_out": -1,
            "n_layers": _PARAKEET["num_hidden_layers"],
            "d_model": _PARAKEET["hidden_size"],
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": _PARAKEET["subsampling_conv_channels"],
            "causal_downsampling": False,
            "ff_expansion_factor": 2,
            "self_attention_model": "rel_pos",
            "n_heads": _PARAKEET["num_attention_heads"],
            "att_context_size": [-1, -1],
            "att_context_style": "regular",
            "xscaling": True,
            "untie_biases": True,
            "conv_kernel_size": 9,
            "conv_norm_type": "batch_norm",
            "conv_context_size": None,
            **encoder,
        },
        "decoder": {"feat_in": None, "num_classes": -1, "vocabulary": []},
        "tokenizer": {"type": "bpe", "model_path": "nemo:0a1b_tokenizer.model"},
    }


def nemo_weights(model: Any) -> dict[str, Tensor]:
    """Return the weights of a Parakeet by the keys of NeMo, with the buffers that NeMo also stores."""
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        ours = name
        for pattern, replacement in _NEMO_KEYS:
            ours = re.sub(pattern, replacement, ours)
        found[ours] = value
    return {**found, "preprocessor.featurizer.window": torch.hann_window(400, periodic=False)}


def sentence_piece_model(folder: Path, **options: Any) -> bytes:
    """Return a SentencePiece model of PIECES pieces, trained with further options."""
    prefix = folder / "pieces"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT),
        model_prefix=str(prefix),
        minloglevel=2,
        **{"vocab_size": PIECES, "model_type": "bpe", **options},
    )
    return prefix.with_suffix(".model").read_bytes()


def saved(value: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> None:
    """Write a tar with these files, named as NeMo names them."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def nemo_files(
    folder: Path, model: Any, config: dict[str, Any], weights: Mapping[str, Tensor] | None = None
) -> dict[str, bytes]:
    """Return the files of an archive in NeMo's layout."""
    return {
        "./model_config.yaml": yaml.safe_dump(config).encode(),
        "./model_weights.ckpt": saved(dict(weights or nemo_weights(model))),
        "./0a1b_tokenizer.model": sentence_piece_model(folder),
    }
