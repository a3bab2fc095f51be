"""Folders of transformers: parity, vocabularies, weights in every form, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from transformers import (
    ParakeetFeatureExtractor,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2PhonemeCTCTokenizer,
)

from contract.client import TokenSpec
from contract.errors import CheckpointError
from contract.tokens import collapse, spell
from export.checkpoints import transformers
from tests.unit.export import foreign
from tests.unit.export.test_nemo_import import _Code

LOGIT_DIFFERENCE = 1e-4
# transformers computes the features of w2v-BERT in FP64: they differ by up to 2e-5.
W2V_BERT_DIFFERENCE = 4e-4
CONFIG, VOCABULARY, WEIGHTS, PICKLE = "config.json", "vocab.json", "model.safetensors", "pytorch_model.bin"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
POSITION = "wav2vec2.encoder.pos_conv_embed.conv."


def _assert_equals_reference(folder: Path, model: Any, extractor: Any, largest: float = LOGIT_DIFFERENCE) -> None:
    """Compare with the unpadded results of transformers: recordings alone, and padded in one batch."""
    imported = transformers.read(folder)
    out = imported.head.get_submodule("out")
    audio = foreign.recordings()
    expected = foreign.reference_logits(model, extractor, audio)
    encoded, lengths = imported.encoder(*foreign.padded(audio, 60_000))
    assert lengths.dtype == torch.int32
    for row, length, values, theirs in zip(encoded, lengths.tolist(), audio, expected, strict=True):
        alone, (own,) = imported.encoder(*foreign.padded([values], len(values)))
        assert own == length == imported.frames.count(len(values)) == imported.audio.frames(len(values))
        assert torch.allclose(out(row[:length]), theirs[:length], atol=largest)
        assert torch.allclose(out(alone[0, :length]), theirs[:length], atol=largest)
        assert not row[length:].any()


@pytest.mark.parametrize("kind", foreign.KINDS)
@pytest.mark.parametrize(("norm", "stable"), [("group", False), ("layer", True), ("layer", False)])
def test_waveform_network_equals_transformers(kind: str, norm: str, stable: bool, tmp_path: Path) -> None:
    model, extractor = foreign.wave(tmp_path, kind, norm, do_stable_layer_norm=stable)
    _assert_equals_reference(tmp_path, model, extractor)


@pytest.mark.parametrize("settings", [{"conv_bias": True}, {"hidden_act": "gelu_new", "num_conv_pos_embeddings": 15}])
def test_settings_of_wav2vec2_equal_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    _assert_equals_reference(tmp_path, *foreign.wave(tmp_path, norm="layer", **settings))


def test_hubert_without_projection_norm_equals_transformers(tmp_path: Path) -> None:
    _assert_equals_reference(tmp_path, *foreign.wave(tmp_path, "hubert", feat_proj_layer_norm=False))


def test_wavlm_with_few_buckets_equals_transformers(tmp_path: Path) -> None:
    """Recordings of more frames than max_bucket_distance have distances in the last bucket."""
    _assert_equals_reference(tmp_path, *foreign.wave(tmp_path, "wavlm", num_buckets=16, max_bucket_distance=20))


def test_samples_that_are_not_normalised_equal_transformers(tmp_path: Path) -> None:
    model, extractor = foreign.wave(tmp_path)
    extractor.do_normalize = False
    extractor.save_pretrained(tmp_path)
    _assert_equals_reference(tmp_path, model, extractor)


def _with_extractor(folder: Path, kind: type[Any], **changes: Any) -> Any:
    """Change the settings of a folder's feature extractor, and return it as transformers reads it."""
    foreign.change_json(folder / PREPROCESSOR, **changes)
    return kind.from_pretrained(folder)


def test_null_turns_normalisation_off_as_in_transformers(tmp_path: Path) -> None:
    model, _ = foreign.wave(tmp_path)
    extractor = _with_extractor(tmp_path, Wav2Vec2FeatureExtractor, do_normalize=None)
    _assert_equals_reference(tmp_path, model, extractor)


def test_null_turns_preemphasis_off_as_in_transformers(tmp_path: Path) -> None:
    model, _ = foreign.parakeet(tmp_path)
    extractor = _with_extractor(tmp_path, ParakeetFeatureExtractor, preemphasis=None)
    _assert_equals_reference(tmp_path, model, extractor)


def test_null_turns_biases_off(tmp_path: Path) -> None:
    model, extractor = foreign.wave(tmp_path, conv_bias=False)
    foreign.change_json(tmp_path / CONFIG, conv_bias=None, add_adapter=None, adapter_attn_dim=None)
    _assert_equals_reference(tmp_path, model, extractor)


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        ("layer_norm_eps", "expected a number, found null"),
        ("hidden_act", "null is not supported: this activation is not known"),
        ("feat_extract_norm", "null is not supported: the convolutions have one of these normalisations"),
        ("num_attention_heads", "expected an integer, found null"),
        ("conv_stride", "expected a list, found null"),
        ("pad_token_id", "expected an integer, found null"),
        ("vocab_size", "expected an integer, found null"),
    ],
)
def test_rejects_null_that_turns_nothing_off(key: str, cause: str, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    foreign.change_json(tmp_path / CONFIG, **{key: None})
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert (error.value.subject, error.value.cause) == (str(tmp_path / CONFIG), f"{key}: {cause}")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden_act": "gelu", "left_max_position_embeddings": 3},
        {"add_adapter": True},
        {
            "add_adapter": True,
            "num_adapter_layers": 2,
            "output_hidden_size": 48,
            "use_intermediate_ffn_before_adapter": True,
        },
    ],
)
def test_w2v_bert_equals_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    _assert_equals_reference(tmp_path, *foreign.w2v_bert(tmp_path, **settings), W2V_BERT_DIFFERENCE)


def test_describes_w2v_bert_to_clients(tmp_path: Path) -> None:
    folder = tmp_path / "swedish"
    foreign.w2v_bert(folder)
    imported = transformers.read(folder)
    assert (imported.audio.sample_rate_hz, imported.audio.hop_s, imported.audio.shortest_samples) == (16_000, 0.02, 560)
    # The middle of the two windows of 25 ms, whose second begins 10 ms later.
    assert imported.audio.first_centre_s == pytest.approx(0.0175)
    assert (imported.tokens.style, imported.tokens.delimiter, imported.tokens.blank) == ("delimiter", "|", 0)
    assert imported.origin == "w2v-BERT CTC in transformers' format, swedish"


def test_adapters_of_w2v_bert_halve_the_frames(tmp_path: Path) -> None:
    foreign.w2v_bert(tmp_path, add_adapter=True)
    assert transformers.read(tmp_path).audio.hop_s == 0.04


@pytest.mark.parametrize(
    ("file", "change", "cause"),
    [
        (
            CONFIG,
            {"position_embeddings_type": "rotary"},
            "position_embeddings_type: positions other than relative_key, as in w2v-BERT 2.0, are not supported",
        ),
        (
            CONFIG,
            {"position_embeddings_type": None},
            "position_embeddings_type: positions other than relative_key, as in w2v-BERT 2.0, are not supported",
        ),
        (
            CONFIG,
            {"feature_projection_input_dim": 80},
            "feature_projection_input_dim: 80 is not supported: the feature extractor makes 160 features",
        ),
        (CONFIG, {"num_attention_heads": 5}, "hidden_size: 32 is not divided by 5 heads"),
        (
            CONFIG,
            {"adapter_kernel_size": 7},
            "adapter_kernel_size: 7 does not fit to the stride of the adapter",
        ),
        (
            "preprocessor_config.json",
            {"feature_extractor_type": "Wav2Vec2FeatureExtractor"},
            "feature_extractor_type: Wav2Vec2FeatureExtractor is not supported: the network takes Kaldi's features",
        ),
        ("preprocessor_config.json", {"stride": 4}, "stride: 4 is not supported: 2 feature frames make one frame"),
        ("preprocessor_config.json", {"sampling_rate": 22_050},
         "sampling_rate: 22050 Hz is not a rate that clients can send"),
    ],
)  # fmt: skip
def test_rejects_settings_of_w2v_bert(file: str, change: dict[str, Any], cause: str, tmp_path: Path) -> None:
    foreign.w2v_bert(tmp_path)
    foreign.change_json(tmp_path / file, **change)
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert (error.value.subject, error.value.cause) == (str(tmp_path / file), cause)


def test_rejects_w2v_bert_without_its_adapter(tmp_path: Path) -> None:
    """The weights of an adapter that the configuration does not mention."""
    foreign.w2v_bert(tmp_path, add_adapter=True)
    foreign.change_json(tmp_path / CONFIG, add_adapter=False)
    with pytest.raises(CheckpointError, match=r"it holds weights that its configuration does not explain: adapters\.0"):
        transformers.read(tmp_path)


@pytest.mark.parametrize("adapted", [False, True])
def test_w2v_bert_of_few_samples_is_finite(adapted: bool, tmp_path: Path) -> None:
    foreign.w2v_bert(tmp_path, add_adapter=adapted)
    encoder = transformers.read(tmp_path).encoder
    for length in (0, 399, 400, 560, 16_000):
        encoded, lengths = encoder(torch.zeros(1, 16_000), torch.tensor([length]))
        frames = max(1, (length - 240) // 320)
        assert lengths.tolist() == [(frames + 1) // 2 if adapted else frames]
        assert bool(encoded.isfinite().all())


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize("plain", [False, True])
def test_parakeet_equals_transformers(bands: int, plain: bool, tmp_path: Path) -> None:
    settings = {"scale_input": False, "attention_bias": False, "convolution_bias": False} if plain else {}
    _assert_equals_reference(tmp_path, *foreign.parakeet(tmp_path, bands, **settings))


@pytest.mark.parametrize("frames", [0, 1])
def test_parakeet_of_a_frame_is_finite(frames: int, tmp_path: Path) -> None:
    """The deviation of a single frame is not defined."""
    foreign.parakeet(tmp_path)
    encoded, lengths = transformers.read(tmp_path).encoder(torch.zeros(1, 320), torch.tensor([160 * frames]))
    assert lengths.tolist() == [1]
    assert bool(encoded.isfinite().all())


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_silence_is_finite(norm: str, tmp_path: Path) -> None:
    foreign.wave(tmp_path, norm=norm)
    encoder = transformers.read(tmp_path).encoder
    for length in (0, 399, 400, 16_000):
        encoded, lengths = encoder(torch.zeros(1, 16_000), torch.tensor([length]))
        assert lengths.tolist() == [max(1, (length - 400) // 320 + 1)]
        assert bool(encoded.isfinite().all())


def test_describes_wav2vec2_to_clients(tmp_path: Path) -> None:
    folder = tmp_path / "dutch"
    foreign.wave(folder)
    imported = transformers.read(folder)
    assert transformers.recognises(folder)
    assert (imported.audio.sample_rate_hz, imported.audio.hop_s, imported.audio.shortest_samples) == (16_000, 0.02, 400)
    assert imported.audio.first_centre_s == pytest.approx(0.0125)
    assert imported.tokens.pieces == tuple(foreign.LETTERS)
    assert (imported.tokens.style, imported.tokens.delimiter, imported.tokens.word_separator) == ("delimiter", "|", " ")
    assert (imported.tokens.blank, imported.tokens.unspoken) == (0, (1, 2, 3))
    assert imported.origin == "wav2vec2 CTC in transformers' format, dutch"
    assert imported.remarks == ("It takes whole recordings only, not streams: every frame attends to all others",)


def test_describes_parakeet_to_clients(tmp_path: Path) -> None:
    foreign.parakeet(tmp_path)
    imported = transformers.read(tmp_path)
    assert (imported.audio.hop_s, imported.audio.first_centre_s, imported.audio.shortest_samples) == (0.08, 0.0, 160)
    assert imported.tokens.pieces[:2] == ("<unk>", "▁w1")
    assert (imported.tokens.style, imported.tokens.blank, imported.tokens.unspoken) == ("sentencepiece", 40, (0,))


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _with_old_keys(tensors: dict[str, torch.Tensor]) -> None:
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        tensors[POSITION + old] = tensors.pop(f"{POSITION}parametrizations.weight.{new}")


def test_reads_old_keys_of_weight_normalisation(tmp_path: Path) -> None:
    model, extractor = foreign.wave(tmp_path)
    _change_weights(tmp_path, _with_old_keys)
    _assert_equals_reference(tmp_path, model, extractor)


def test_reads_a_pickle_of_tensors(tmp_path: Path) -> None:
    model, extractor = foreign.wave(tmp_path)
    torch.save(model.state_dict(), tmp_path / PICKLE)
    (tmp_path / WEIGHTS).unlink()
    _assert_equals_reference(tmp_path, model, extractor)


def test_prefers_safetensors_to_a_pickle(tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    (tmp_path / PICKLE).write_text("text")
    transformers.read(tmp_path)


def test_reads_weights_in_parts(tmp_path: Path) -> None:
    model, extractor = foreign.parakeet(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 1
    _assert_equals_reference(tmp_path, model, extractor)
    parts[1].unlink()
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert (error.value.subject, error.value.cause) == (str(parts[1]), "the file is missing")


def test_reads_half_precision_as_fp32(tmp_path: Path) -> None:
    model, _ = foreign.wave(tmp_path)
    model.half().save_pretrained(tmp_path)
    assert {value.dtype for value in transformers.read(tmp_path).encoder.state_dict().values()} == {torch.float32}


def test_processor_wins_over_its_feature_extractor_as_in_transformers(tmp_path: Path) -> None:
    """The file of the extractor leaves out what differs; an old one would be another network."""
    model, _ = foreign.parakeet(tmp_path)
    settings = json.loads((tmp_path / PREPROCESSOR).read_text())
    foreign.write_json(tmp_path / PROCESSOR, {"feature_extractor": {**settings, "preemphasis": 0.5}})
    del settings["preemphasis"]
    foreign.write_json(tmp_path / PREPROCESSOR, settings)
    extractor = ParakeetFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.preemphasis == 0.5
    _assert_equals_reference(tmp_path, model, extractor)


@pytest.mark.parametrize("key", ["feature_extractor", "audio_processor"])
def test_rejects_feature_extractors_that_differ(key: str, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    settings = json.loads((tmp_path / PREPROCESSOR).read_text())
    foreign.write_json(tmp_path / PROCESSOR, {key: {**settings, "padding_value": 3.0}})
    transformers.read(tmp_path)
    foreign.write_json(tmp_path / PROCESSOR, {key: {**settings, "do_normalize": False}})
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert error.value.subject == str(tmp_path / PROCESSOR)
    assert error.value.cause == "its do_normalize is False, and that of preprocessor_config.json is True"


def test_null_of_a_processor_is_no_feature_extractor(tmp_path: Path) -> None:
    model, extractor = foreign.wave(tmp_path)
    foreign.write_json(tmp_path / PROCESSOR, {"feature_extractor": None, "processor_class": "Wav2Vec2Processor"})
    _assert_equals_reference(tmp_path, model, extractor)


def test_reads_the_feature_extractor_of_a_processor(tmp_path: Path) -> None:
    model, extractor = foreign.wave(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    foreign.write_json(tmp_path / "processor_config.json", {"feature_extractor": {**settings, "do_normalize": True}})
    _assert_equals_reference(tmp_path, model, extractor)


def test_digest_changes_with_the_files_that_were_read(tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    digests = [transformers.read(tmp_path).digest]
    (tmp_path / "README.md").write_text("text")
    digests.append(transformers.read(tmp_path).digest)
    _change_weights(tmp_path, lambda tensors: tensors["lm_head.bias"].add_(1.0))
    digests.append(transformers.read(tmp_path).digest)
    foreign.write_json(tmp_path / VOCABULARY, {**foreign.LETTERS, "Z": 4, "|": 30})
    digests.append(transformers.read(tmp_path).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_head_may_be_wider_than_the_vocabulary(tmp_path: Path) -> None:
    foreign.wave(tmp_path, vocab_size=34)
    foreign.write_json(tmp_path / "added_tokens.json", {"<extra>": 31})
    tokens = transformers.read(tmp_path).tokens
    assert tokens.pieces[30:] == ("Z", "<extra>", "<32>", "<33>")
    assert tokens.unspoken == (1, 2, 3, 32, 33)


def test_reads_names_of_tokens_from_the_tokenizer(tmp_path: Path) -> None:
    """Names of other recipes: tokens in brackets, words parted by a blank, special tokens behind the vocabulary."""
    vocabulary = {" ": 0, "a": 1, "b": 2, "[UNK]": 3, "[PAD]": 4}
    foreign.wave(tmp_path, vocab_size=7, pad_token_id=4)
    foreign.write_json(tmp_path / VOCABULARY, vocabulary)
    added = {"5": {"content": "<s>", "special": True}, "6": {"content": "</s>", "special": True}}
    names = {"pad_token": "[PAD]", "unk_token": {"content": "[UNK]"}, "word_delimiter_token": " "}
    foreign.write_json(tmp_path / "tokenizer_config.json", {**names, "added_tokens_decoder": added})
    tokens = transformers.read(tmp_path).tokens
    assert tokens.pieces == (" ", "a", "b", "[UNK]", "[PAD]", "<s>", "</s>")
    assert (tokens.blank, tokens.unspoken, tokens.style, tokens.delimiter) == (4, (3, 5, 6), "delimiter", " ")


def test_reads_a_language_without_spaces(tmp_path: Path) -> None:
    foreign.wave(tmp_path, vocab_size=3)
    foreign.write_json(tmp_path / VOCABULARY, {"<pad>": 0, "今": 1, "天": 2})
    tokens = transformers.read(tmp_path).tokens
    assert (tokens.style, tokens.word_separator, tokens.unspoken) == ("characters", "", ())


def test_lower_cases_where_the_tokenizer_does(tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    foreign.write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": True})
    assert transformers.read(tmp_path).tokens.pieces[4:7] == ("|", "a", "b")


@pytest.mark.parametrize(
    ("change", "subject", "cause"),
    [
        (
            {"model_type": "whisper"},
            CONFIG,
            "model_type: whisper is not supported: the supported ones are parakeet_ctc, wav2vec2, hubert, wavlm, "
            "wav2vec2-bert",
        ),
        ({"architectures": ["Wav2Vec2Model"]}, CONFIG, "architectures: Wav2Vec2Model has no CTC head"),
        (
            {"adapter_attn_dim": 16},
            CONFIG,
            "adapter_attn_dim: 16 is not supported: language adapters, as those of MMS, are not supported",
        ),
        (
            {"add_adapter": True},
            CONFIG,
            "add_adapter: True is not supported: no adapter of further convolutions follows the encoder",
        ),
        ({"hidden_act": "tanh"}, CONFIG, "hidden_act: tanh is not supported: this activation is not known"),
        ({"num_hidden_layers": 10**12}, CONFIG, "num_hidden_layers: 1000000000000 is not a size from 1 to 256"),
        (
            {"num_attention_heads": 5},
            CONFIG,
            "hidden_size: 32 is not divided by the heads and by the groups of positions",
        ),
        ({"conv_dim": [16] * 6}, CONFIG, "conv_dim: it must be as long as conv_kernel and conv_stride"),
        ({"conv_stride": [0] * 7}, CONFIG, "conv_dim: a size of a convolution is not from 1 to 4096"),
        ({"hidden_size": "32"}, CONFIG, "hidden_size: expected an integer, found a string"),
        ({"pad_token_id": 31}, CONFIG, "pad_token_id: the blank 31 is not one of 31 tokens"),
        (
            {"pad_token_id": 4},
            VOCABULARY,
            "its token '<pad>' is 0, and pad_token_id in config.json is 4: which is blank?",
        ),
        (
            {"intermediate_size": 63},
            "",
            "its weight blocks.0.first.weight is [64, 32], and its configuration requires [63, 32]",
        ),
    ],
)
def test_rejects_settings(change: dict[str, Any], subject: str, cause: str, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    foreign.change_json(tmp_path / CONFIG, **change)
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert (error.value.subject, error.value.cause) == (str(tmp_path / subject), cause)


@pytest.mark.parametrize(
    ("vocabulary", "cause"),
    [
        ({**foreign.LETTERS, "É": 31}, "its token 'É' is 31, and the head has 31 tokens"),
        ({**foreign.LETTERS, "É": 30}, "its tokens 'Z' and 'É' have the same number 30"),
        ({"A": 1.5}, "A: expected an integer, found a number"),
        (
            {"eng": foreign.LETTERS},
            "its tokens are listed by language, as for the adapters of MMS, which are not supported",
        ),
        (["A"], "expected a table, found a list"),
    ],
)
def test_rejects_vocabulary(vocabulary: Any, cause: str, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    foreign.write_json(tmp_path / VOCABULARY, vocabulary)
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert (error.value.subject, error.value.cause) == (str(tmp_path / VOCABULARY), cause)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            lambda tensors: tensors.pop(f"{POSITION}parametrizations.weight.original0"),
            "it lacks weights that its configuration requires: position.convolution.bias, position.convolution.weight",
        ),
        (
            lambda tensors: tensors.update({"wav2vec2.adapter.layers.0.conv.weight": torch.ones(1)}),
            "it holds weights that its configuration does not explain: adapter.layers.0.conv.weight",
        ),
        (
            lambda tensors: tensors.update({"lm_head.bias": torch.ones(31, dtype=torch.int32)}),
            "its weight out.bias is torch.int32, and 16, 32 or 64 bits of a floating point are needed",
        ),
        (lambda tensors: tensors.pop("lm_head.weight"), "it has no CTC head (lm_head)"),
    ],
)
def test_rejects_weights(change: Callable[[dict[str, torch.Tensor]], object], cause: str, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    _change_weights(tmp_path, change)
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert (error.value.subject, error.value.cause) == (str(tmp_path), cause)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, VOCABULARY, "preprocessor_config.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_rejects_truncated_file(name: str, share: float, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / name))):
        transformers.read(tmp_path)


def test_rejects_parts_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    foreign.wave(folder)
    (folder / WEIGHTS).rename(tmp_path / "outside.safetensors")
    foreign.write_json(folder / f"{WEIGHTS}.index.json", {"weight_map": {"lm_head.bias": "../outside.safetensors"}})
    with pytest.raises(CheckpointError) as error:
        transformers.read(folder)
    assert error.value.cause == "weight_map: '../outside.safetensors' leads out of the folder"


def test_does_not_run_code_of_a_pickle(tmp_path: Path) -> None:
    folder, created = tmp_path / "a", tmp_path / "created"
    foreign.wave(folder)
    (folder / WEIGHTS).unlink()
    torch.save({"lm_head.weight": _Code(created)}, folder / PICKLE)
    with pytest.raises(CheckpointError) as error:
        transformers.read(folder)
    assert str(error.value) == (
        f"{folder / PICKLE}: it holds objects other than tensors, and none of a checkpoint's code is run."
        " Save the state dict alone, or convert it to safetensors."
    )
    assert not created.exists()


def test_rejects_a_pickle_of_old_torch(tmp_path: Path) -> None:
    model, _ = foreign.wave(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    torch.save(model.state_dict(), tmp_path / PICKLE, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"it is damaged, or torch before 1\.6 saved it"):
        transformers.read(tmp_path)


def test_rejects_a_folder_without_weights(tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert error.value.cause == f"it holds neither {WEIGHTS} nor {PICKLE}, nor an index of one"


def test_rejects_parakeet_whose_blank_is_not_last(tmp_path: Path) -> None:
    foreign.parakeet(tmp_path)
    foreign.change_json(tmp_path / CONFIG, pad_token_id=0)
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert error.value.cause == "pad_token_id: it is 0, and the blank of Parakeet is the last token"


def test_recognises_no_other_folder(tmp_path: Path) -> None:
    assert not transformers.recognises(tmp_path)
    foreign.write_json(tmp_path / CONFIG, {"features_size": 80})
    assert not transformers.recognises(tmp_path)


SPECIAL_LETTERS = {"A": 0, "B": 1, "C": 2, "|": 3, "[UNK]": 4, "[PAD]": 5, "[X]": 6}


def _tokenized(folder: Path, vocabulary: dict[str, int], **files: Any) -> TokenSpec:
    """Write a network with a vocabulary and files of its tokenizer; return the tokens as they are imported."""
    foreign.wave(folder, vocab_size=len(vocabulary), pad_token_id=vocabulary.get("[PAD]", 0))
    foreign.write_json(folder / VOCABULARY, vocabulary)
    for name, content in files.items():
        foreign.write_json(folder / f"{name}.json", content)
    return transformers.read(folder).tokens


def _spelled(tokens: TokenSpec, path: list[int]) -> str:
    return spell(collapse(path, tokens.dropped), tokens)


@pytest.mark.parametrize(
    "config", [{}, {"unk_token": "A", "pad_token": "A"}, {"unk_token": {"content": "[UNK]"}, "pad_token": "[PAD]"}]
)
@pytest.mark.parametrize("as_table", [False, True])
def test_special_tokens_map_names_tokens_that_are_no_text(
    config: dict[str, Any], as_table: bool, tmp_path: Path
) -> None:
    names: dict[str, Any] = {"unk_token": "[UNK]", "pad_token": "[PAD]", "additional_special_tokens": ["[X]"]}
    if as_table:
        names = {**names, "unk_token": {"content": "[UNK]", "lstrip": False}}
    tokens = _tokenized(tmp_path, SPECIAL_LETTERS, tokenizer_config=config, special_tokens_map=names)
    library = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    path = [0, 4, 5, 1, 1, 3, 6, 5, 2]
    assert (library.unk_token, library.pad_token) == ("[UNK]", "[PAD]")
    assert _spelled(tokens, path) == library.decode(path, skip_special_tokens=True) == "AB C"


PHONEMES = {"[PAD]": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "n": 5, "\u0259": 6, "t\u0283": 7, "a\u026a": 8}
PHONEME_PATH = [0, 7, 7, 0, 8, 5, 4, 0, 3, 6, 1, 0, 5]


@pytest.mark.parametrize("delimiter", [None, "|"])
@pytest.mark.parametrize("place", ["tokenizer_config", "config"])
def test_phonemes_are_separated_as_in_transformers(delimiter: str | None, place: str, tmp_path: Path) -> None:
    kind = {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}
    config = {"pad_token": "[PAD]", "word_delimiter_token": delimiter, "do_phonemize": False}
    _tokenized(tmp_path, PHONEMES)
    foreign.write_json(tmp_path / "tokenizer_config.json", config)
    foreign.change_json(tmp_path / f"{place}.json", **kind)
    library = Wav2Vec2PhonemeCTCTokenizer.from_pretrained(tmp_path)
    expected = library.decode(PHONEME_PATH, skip_special_tokens=True)
    assert _spelled(transformers.read(tmp_path).tokens, PHONEME_PATH) == expected


@pytest.mark.parametrize("between", ["", " ", "_"])
def test_words_are_separated_as_in_transformers(between: str, tmp_path: Path) -> None:
    tokens = _tokenized(
        tmp_path, SPECIAL_LETTERS, tokenizer_config={"replace_word_delimiter_char": between, "pad_token": "[PAD]"}
    )
    library = Wav2Vec2CTCTokenizer.from_pretrained(tmp_path)
    assert _spelled(tokens, [0, 3, 1, 5, 1]) == library.decode([0, 3, 1, 5, 1]) == f"A{between}BB"


@pytest.mark.parametrize("file", ["tokenizer_config.json", CONFIG])
def test_rejects_tokenizer_of_another_class(file: str, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    foreign.write_json(tmp_path / "tokenizer_config.json", {})
    foreign.change_json(tmp_path / file, tokenizer_class="RobertaTokenizer")
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert (error.value.subject, error.value.cause) == (
        str(tmp_path / file),
        "tokenizer_class: RobertaTokenizer is not supported: the tokens must be those of a Wav2Vec2CTCTokenizer or a"
        " Wav2Vec2PhonemeCTCTokenizer",
    )


def _save_tokenizer(folder: Path, model: Any, decoder: Any) -> Tokenizer:
    """Write a tokenizer with the blank behind its pieces, and return it."""
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def _pieces(*first: str) -> dict[str, int]:
    names = ["<unk>", *first]
    return {name: number for number, name in enumerate([*names, *map(str, range(len(names), foreign.PIECES))])}


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.Metaspace(),
        decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    ],
)
def test_pieces_are_spelled_as_by_the_library(decoder: Any, tmp_path: Path) -> None:
    foreign.parakeet(tmp_path)
    model = models.BPE(vocab=_pieces("\u2581he", "llo", "\u2581you"), merges=[])
    library = _save_tokenizer(tmp_path, model, decoder)
    assert _spelled(transformers.read(tmp_path).tokens, [1, 2, 3]) == library.decode([1, 2, 3]) == "hello you"


@pytest.mark.parametrize(
    ("model", "decoder", "field"),
    [
        (models.BPE(vocab=_pieces("\u0120hello", "w"), merges=[]), decoders.ByteLevel(), "decoder.type: ByteLevel is"),
        (
            models.BPE(vocab=_pieces("\u2581hello"), merges=[]),
            decoders.Sequence([decoders.Fuse(), decoders.ByteLevel()]),
            "decoder.decoders[1].type: ByteLevel is",
        ),
        (models.WordPiece(vocab=_pieces("wor", "##ld")), decoders.WordPiece(), "model.type: WordPiece is"),
        (models.BPE(vocab=_pieces("h", "i", " "), merges=[]), decoders.Fuse(), "model.vocab: no piece has '\u2581'"),
    ],
)
def test_rejects_pieces_of_other_tokenizers(model: Any, decoder: Any, field: str, tmp_path: Path) -> None:
    foreign.parakeet(tmp_path)
    _save_tokenizer(tmp_path, model, decoder)
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert error.value.subject == str(tmp_path / "tokenizer.json")
    assert error.value.cause.startswith(field)
    assert error.value.cause.endswith("must be pieces of SentencePiece, not those of WordPiece or of byte-level BPE")


@pytest.mark.parametrize("value", [["gelu"], {"gelu": 1}])
def test_rejects_activation_that_is_no_text(value: Any, tmp_path: Path) -> None:
    foreign.wave(tmp_path)
    foreign.change_json(tmp_path / CONFIG, hidden_act=value)
    with pytest.raises(CheckpointError) as error:
        transformers.read(tmp_path)
    assert error.value.cause == f"hidden_act: {value} is not supported: this activation is not known"
