"""Folders of wenet: both layouts of train.yaml, tokens, statistics, remarks, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from contract.client import CHARACTERS, SENTENCEPIECE
from contract.errors import CheckpointError
from contract.tokens import spell
from export.checkpoints import wenet
from tests.unit.export.wenet import STATIC, SYMMETRIC, TRANSFORMER, U2PP, UNITS, VARIANTS, weights, write
from tests.unit.export.wenet import write_statistics as write_cmvn

WHOLE = "It takes whole recordings only, not streams: "
STATISTICS = ("encoder.global_cmvn.mean", "encoder.global_cmvn.istd")


def without_statistics(variant: str) -> dict[str, Any]:
    return {name: value for name, value in weights(variant).items() if name not in STATISTICS}


def refused(folder: Path, *causes: str) -> None:
    with pytest.raises(CheckpointError) as error:
        wenet.read(folder)
    for cause in causes:
        assert cause in str(error.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_recognises_folders_of_wenet(tmp_path: Path, variant: str) -> None:
    assert wenet.recognises(write(tmp_path, variant))


def test_does_not_recognise_other_paths(tmp_path: Path) -> None:
    assert not wenet.recognises(tmp_path)
    (tmp_path / "train.yaml").write_text("encoder: conformer\n")
    assert not wenet.recognises(tmp_path)
    (tmp_path / "average.pt").write_bytes(b"")
    assert not wenet.recognises(tmp_path)
    (tmp_path / "avg_30.pt").write_bytes(b"")
    assert wenet.recognises(tmp_path)
    assert not wenet.recognises(tmp_path / "train.yaml")


def test_reads_the_new_layout(tmp_path: Path) -> None:
    found = wenet.read(write(tmp_path / "asr", U2PP))
    encoder: Any = found.encoder
    rescorer: Any = found.rescorer
    assert (encoder.config.kernel, encoder.config.causal, encoder.config.convolution_norm) == (4, True, True)
    assert (rescorer.config.start, rescorer.config.end, rescorer.config.reverse_weight) == (2, 2, 0.3)
    assert found.origin == "wenet conformer, asr/final.pt"
    assert found.rescorer_weight == 2.0
    assert found.remarks == ()
    assert hasattr(encoder, "streaming")
    assert encoder.dims == {"encoder_size": 16, "layers": 2, "convolution_past": 3}


def test_reads_the_old_layout(tmp_path: Path) -> None:
    found = wenet.read(write(tmp_path, SYMMETRIC))
    rescorer: Any = found.rescorer
    assert (rescorer.config.start, rescorer.config.end, rescorer.config.reverse_weight) == (19, 19, 0.0)
    assert not hasattr(rescorer, "right")


def test_reads_the_oldest_layout_of_features(tmp_path: Path) -> None:
    features = {"feature_type": "fbank", "mel_bins": 20, "frame_shift": 8, "frame_length": 32, "using_pitch": False}
    changed = {"dataset_conf": {}, "collate_conf": {"feature_extraction_conf": features}}
    found = wenet.read(write(tmp_path, SYMMETRIC, changed=changed))
    assert (found.audio.hop_s, found.audio.shortest_samples) == (0.032, 512 + 6 * 128)


@pytest.mark.parametrize(
    ("variant", "changed", "obstacle"),
    [
        (SYMMETRIC, {}, "it was trained on whole recordings, where every frame attends to all others"),
        (TRANSFORMER, {}, "only a Conformer with rel_pos has the states of a stream"),
        (STATIC, {"encoder_conf.static_chunk_size": 8}, "it was trained on chunks of 8 frames, and a step has 16"),
        (SYMMETRIC, {"encoder_conf.use_dynamic_chunk": True}, "its convolutions read later frames"),
    ],
)
def test_remark_explains_why_there_are_no_streams(
    tmp_path: Path, variant: str, changed: dict[str, Any], obstacle: str
) -> None:
    found = wenet.read(write(tmp_path, variant, changed=changed))
    assert found.remarks == (WHOLE + obstacle,)
    assert not hasattr(found.encoder, "streaming")


@pytest.mark.parametrize(
    ("changed", "obstacle"),
    [
        ({"model_conf.apply_non_blank_embedding": True}, "its decoder reads encoder frames that CTC selects"),
        ({"model_conf.ctc_weight": 1.0}, "its decoder was not trained, because ctc_weight is 1"),
        ({"decoder": None}, "it has no decoder"),
    ],
)
def test_remark_explains_why_there_is_no_rescorer(tmp_path: Path, changed: dict[str, Any], obstacle: str) -> None:
    found = wenet.read(write(tmp_path, U2PP, changed=changed))
    assert (found.rescorer, found.rescorer_weight) == (None, None)
    assert found.remarks == (f"It has no rescorer: {obstacle}",)


def test_decoder_from_right_to_left_is_left_out_where_it_does_not_count(tmp_path: Path) -> None:
    found: Any = wenet.read(write(tmp_path, U2PP, changed={"model_conf.reverse_weight": 0})).rescorer
    assert found.config.reverse_weight == 0.0
    assert not hasattr(found, "right")
    assert hasattr(wenet.read(write(tmp_path, U2PP)).rescorer, "right")


def test_average_is_preferred_to_the_last_epoch(tmp_path: Path) -> None:
    write(tmp_path, U2PP, state={})
    found = wenet.read(write(tmp_path, U2PP, file="avg_30.pt"))
    assert found.origin.endswith("/avg_30.pt")
    write(tmp_path, U2PP, file="avg_5.pt")
    refused(tmp_path, "it holds avg_30.pt, avg_5.pt, and one file of weights is read", "Leave the one to import")


def test_digest_follows_every_file(tmp_path: Path) -> None:
    digests = {wenet.read(write(tmp_path / variant, variant)).digest for variant in VARIANTS}
    other = dict(weights(U2PP))
    other["ctc.ctc_lo.bias"] = other["ctc.ctc_lo.bias"] + 1
    digests.add(wenet.read(write(tmp_path / "weights", U2PP, state=other)).digest)
    digests.add(wenet.read(write(tmp_path / "units", U2PP, units=(*UNITS[:-1], "z"))).digest)
    digests.add(wenet.read(write(tmp_path / "yaml", U2PP, changed={"model_conf.reverse_weight": 0.4})).digest)
    assert len(digests) == len(VARIANTS) + 3
    assert wenet.read(write(tmp_path / "again", U2PP)).digest in digests


@pytest.mark.parametrize("variant", [U2PP, SYMMETRIC])
def test_statistics_of_a_file_equal_those_of_the_weights(tmp_path: Path, variant: str) -> None:
    held: Any = wenet.read(write(tmp_path / "held", variant)).encoder
    write(tmp_path / "file", variant, state=without_statistics(variant))
    refused(tmp_path / "file", "global_cmvn", "the file is missing")
    write_cmvn(tmp_path / "file", variant)
    read: Any = wenet.read(tmp_path / "file").encoder
    assert read.config.mean == pytest.approx(held.config.mean, rel=1e-5)
    assert read.config.scale == pytest.approx(held.config.scale, rel=1e-4)


def test_constant_band_is_scaled_as_wenet_does(tmp_path: Path) -> None:
    """A variance of 0 becomes 1e-20: the scale of 1e10 is no FP16 number, and features stay finite."""
    write(tmp_path, U2PP, state=without_statistics(U2PP))
    (tmp_path / "global_cmvn").write_text(
        json.dumps({"mean_stat": [10.0] * 20, "var_stat": [50.0] * 20, "frame_num": 2})
    )
    encoder: Any = wenet.read(tmp_path).encoder
    assert encoder.config.mean == (5.0,) * 20
    assert encoder.config.scale == pytest.approx((1e10,) * 20)
    assert encoder.half()._normalisation[1].dtype == torch.float32


def test_network_without_statistics_takes_features_as_they_are(tmp_path: Path) -> None:
    changed = {"cmvn": None, "cmvn_conf": None}
    found: Any = wenet.read(write(tmp_path, U2PP, changed=changed, state=without_statistics(U2PP))).encoder
    assert found.config.mean == ()


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[ 1 2 3 ]", "it is not JSON with numbers"),
        ('{"mean_stat": [1], "var_stat": [1]}', "frame_num: this field is missing"),
        ('{"mean_stat": [1], "var_stat": [1, 2], "frame_num": 3}', "does not hold as many sums as squares"),
        ('{"mean_stat": [1], "var_stat": [2], "frame_num": 0}', "of at least one frame"),
        ('{"mean_stat": [1], "var_stat": [2], "frame_num": 1}', "are not 20 finite numbers, one for each band"),
        (
            '{"mean_stat": [1' + "0" * 400 + '], "var_stat": [2], "frame_num": 1}',
            "mean_stat[0]: a number of 1329 bits is too large",
        ),
        ('{"mean_stat": [NaN], "var_stat": [2], "frame_num": 1}', "mean_stat[0]: nan is not a finite number"),
    ],
)
def test_rejects_damaged_statistics(tmp_path: Path, text: str, cause: str) -> None:
    write(tmp_path, U2PP, state=without_statistics(U2PP))
    (tmp_path / "global_cmvn").write_text(text)
    refused(tmp_path, "global_cmvn", cause)


def test_characters_have_no_separator(tmp_path: Path) -> None:
    tokens = wenet.read(write(tmp_path, U2PP)).tokens
    assert (tokens.style, tokens.word_separator, tokens.blank) == (CHARACTERS, "", 0)
    assert (tokens.pieces, tokens.unspoken, tokens.boundary) == (UNITS, (1, 19), None)


@pytest.mark.parametrize(
    ("tokenizer", "connection", "text"), [("char", " ", "a b c"), ("char", "", "abc"), ("bpe", " ", "abc")]
)
def test_connect_symbol_stands_between_characters(tmp_path: Path, tokenizer: str, connection: str, text: str) -> None:
    """As in wenet's CharTokenizer.tokens2text, `connect_symbol.join(tokens)`; its other tokenizers ignore the field."""
    changed = {"tokenizer": tokenizer, "tokenizer_conf.connect_symbol": connection}
    tokens = wenet.read(write(tmp_path, U2PP, changed=changed)).tokens
    assert spell([UNITS.index(letter) for letter in "abc"], tokens) == text


def test_pieces_of_words_are_sentencepiece(tmp_path: Path) -> None:
    units = ("<blank>", "<unk>", "<sos/eos>", "\u2581the", "\u3000", "<", *(f"p{place}" for place in range(14)))
    tokens = wenet.read(write(tmp_path, U2PP, units=units)).tokens
    assert (tokens.style, tokens.word_separator) == (SENTENCEPIECE, " ")
    assert (tokens.pieces, tokens.unspoken) == (units, (1, 2))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("<blank> 0\na\n", "line 2 is not `symbol id` with an id of its own"),
        ("<blank> 0\na 0\n", "line 2 is not `symbol id` with an id of its own"),
        ("<blank> 0\na " + "9" * 5_000 + "\n", "line 2 is not `symbol id` with an id of its own"),
        ("<blank> 0\na 2\n", "its 2 ids do not count from 0 without a gap"),
        ("", "its 0 ids do not count from 0 without a gap"),
        ("<blank> 0\na 1\n", "it has 2 tokens, and output_dim of train.yaml is 20"),
    ],
)
def test_rejects_damaged_units(tmp_path: Path, text: str, cause: str) -> None:
    write(tmp_path, U2PP)
    (tmp_path / "units.txt").write_text(text)
    refused(tmp_path, "units.txt", cause)


def test_rejects_units_that_are_not_text(tmp_path: Path) -> None:
    write(tmp_path, U2PP)
    (tmp_path / "units.txt").write_bytes(b"\xff\xfe 0\n")
    refused(tmp_path, "units.txt", "it cannot be read")
    (tmp_path / "units.txt").unlink()
    refused(tmp_path, "units.txt", "the file is missing")


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"model": "transducer"}, "model: transducer is not supported"),
        ({"encoder": "squeezeformer"}, "encoder: squeezeformer is not supported"),
        ({"encoder": ["conformer"]}, "encoder: ['conformer'] is not supported"),
        ({"decoder": "sanm_decoder"}, "decoder: sanm_decoder is not supported"),
        ({"encoder_conf": None}, "encoder_conf: expected a table, found null"),
        ({"encoder_conf.input_layer": "conv2d8"}, "encoder_conf.input_layer: conv2d8 is not supported"),
        ({"encoder_conf.normalize_before": False}, "encoder_conf.normalize_before: False is not supported"),
        ({"encoder_conf.pos_enc_layer_type": "rope_pos"}, "pos_enc_layer_type: rope_pos is not supported"),
        ({"encoder_conf.selfattention_layer_type": "selfattn"}, "rel_pos requires rel_selfattn"),
        ({"encoder_conf.pos_enc_layer_type": "abs_pos"}, "abs_pos requires selfattn"),
        ({"encoder_conf.activation_type": {}}, "encoder_conf.activation_type: {} is not supported"),
        ({"encoder_conf.query_bias": None}, "encoder_conf.query_bias: null is not supported"),
        ({"encoder_conf.activation_type": None}, "encoder_conf.activation_type: null is not supported"),
        ({"encoder_conf.attention_heads": None}, "encoder_conf.attention_heads: expected an integer, found null"),
        ({"ctc_conf.ctc_blank_id": None}, "ctc_conf.ctc_blank_id: expected an integer, found null"),
        ({"encoder_conf.attention_heads": 3}, "3 heads do not divide the size 16"),
        ({"encoder_conf.causal": False}, "a convolution of width 4 has no middle"),
        ({"encoder_conf.num_blocks": 100_000}, "100000 is not a size from 1 to 256"),
        ({"encoder_conf.norm_eps": 0.0}, "norm_eps: 0.0 is not between 0 and 1"),
        ({"decoder_conf.attention_heads": 5}, "5 heads do not divide the size 16"),
        ({"decoder_conf.src_attention": False}, "decoder_conf.src_attention: False is not supported"),
        ({"decoder_conf.r_num_blocks": -1}, "-1 is not a number of layers"),
        ({"model_conf.ctc_weight": 0.0}, "ctc_weight: it is 0.0, and the CTC head of a network is trained above 0"),
        ({"model_conf.reverse_weight": 1.5}, "reverse_weight: 1.5 is not from 0 to 1"),
        ({"model_conf.reverse_weight": float("nan")}, "model_conf.reverse_weight: nan is not a finite number"),
        ({"tokenizer_conf.special_tokens": {"<sos>": 20}}, "20 is not a token: there are 20"),
        ({"tokenizer_conf.special_tokens": {"transcribe": 3}}, "the tokens are those of Whisper"),
        ({"ctc_conf.ctc_blank_id": 20}, "ctc_blank_id: 20 is not a token: there are 20"),
        ({"dataset_conf.feats_type": "mfcc"}, "dataset_conf.feats_type: mfcc is not supported"),
        ({"dataset_conf.fbank_conf.num_mel_bins": 40}, "num_mel_bins: 40 is not supported: input_dim is 20"),
        ({"dataset_conf.fbank_conf.frame_length": 1e9}, "do not fit in each other"),
        ({"dataset_conf.resample_conf.resample_rate": 22_050}, "22050 Hz is not a rate that clients can send"),
        ({"input_dim": 1 << 30}, "input_dim: 1073741824 is not a size from 1 to 512"),
    ],
)
def test_rejects_settings_that_are_not_computed(tmp_path: Path, changed: dict[str, Any], cause: str) -> None:
    refused(write(tmp_path, U2PP, changed=changed), "train.yaml", cause)


def test_null_turns_parts_off(tmp_path: Path) -> None:
    found: Any = wenet.read(write(tmp_path, SYMMETRIC, changed={"encoder_conf.causal": None})).encoder
    assert not found.config.causal


def test_rejects_statistics_of_kaldi(tmp_path: Path) -> None:
    changed = {"cmvn_conf.is_json_cmvn": False}
    write(tmp_path, U2PP, changed=changed, state=without_statistics(U2PP))
    refused(tmp_path, "cmvn_conf.is_json_cmvn: False is not supported: Kaldi's format of statistics is not read")


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system ['true']", "a: [", "x: &x [*x", "\x00", "[" * 100_000]
)
def test_rejects_yaml_with_code_or_damage(tmp_path: Path, text: str) -> None:
    write(tmp_path, U2PP)
    (tmp_path / "train.yaml").write_text(text)
    refused(tmp_path, "train.yaml", "it is not plain YAML")


def test_rejects_yaml_that_is_no_table(tmp_path: Path) -> None:
    write(tmp_path, U2PP)
    (tmp_path / "train.yaml").write_text("- encoder\n")
    refused(tmp_path, "train.yaml", "expected a table, found a list")


class Code:
    """An object that a pickle would build by running code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_rejects_weights_with_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, U2PP, state={**weights(U2PP), "code": Code()})
    refused(tmp_path, "final.pt", "it holds objects other than tensors, and none of a checkpoint's code is run")
    assert capsys.readouterr().out == ""


def test_rejects_damaged_weights(tmp_path: Path) -> None:
    write(tmp_path, U2PP)
    path = tmp_path / "final.pt"
    whole = path.read_bytes()
    for data in (b"", whole[: len(whole) // 2], b"PK" + whole[2:100]):
        path.write_bytes(data)
        refused(tmp_path, "final.pt")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "pattern",
    [
        r"encoder\.embed\.conv\.2\.bias",
        r"encoder\.encoders\.1\.self_attn\.linear_q\.weight",
        r"encoder\.after_norm\.weight",
        r"ctc\.ctc_lo\.bias",
        r"decoder\.(left_decoder\.)?decoders\.0\.src_attn\.linear_k\.weight",
    ],
)
def test_rejects_missing_weights(tmp_path: Path, variant: str, pattern: str) -> None:
    state = {name: value for name, value in weights(variant).items() if not re.fullmatch(pattern, name)}
    assert len(state) == len(weights(variant)) - 1
    refused(write(tmp_path, variant, state=state), "it lacks weights that its configuration requires")


def test_rejects_batch_norm_that_is_not_complete(tmp_path: Path) -> None:
    state = dict(weights(SYMMETRIC))
    del state["encoder.encoders.0.conv_module.norm.running_var"]
    refused(write(tmp_path, SYMMETRIC, state=state), "it holds weights that its configuration does not explain")


def test_rejects_statistics_of_half(tmp_path: Path) -> None:
    state = dict(weights(U2PP))
    del state[STATISTICS[1]]
    refused(write(tmp_path, U2PP, state=state), "it lacks a mean or a deviation of the features")
    state = {**weights(U2PP), STATISTICS[1]: torch.full((20,), float("inf"))}
    refused(write(tmp_path, U2PP, state=state), "are not 20 finite numbers, one for each band")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("encoder.encoders.0.self_attn.linear_q.lora_A", "it holds weights that its configuration does not explain"),
        ("encoder.encoders.2.norm_ff.bias", "it holds weights that its configuration does not explain"),
        ("decoder.embed.0.weight", "it holds weights that its configuration does not explain"),
        ("joint.ffn_out.weight", "it holds weights of another kind of network: joint.ffn_out.weight"),
    ],
)
def test_rejects_unknown_weights(tmp_path: Path, name: str, cause: str) -> None:
    refused(write(tmp_path, U2PP, state={**weights(U2PP), name: torch.zeros(16)}), cause)


def test_rejects_weights_of_another_shape(tmp_path: Path) -> None:
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    state = {**weights(U2PP), name: torch.zeros(18, 15)}
    refused(write(tmp_path, U2PP, state=state), "is [18, 15], and its configuration requires [18, 16]")


def test_ignores_layers_that_old_versions_hold_without_use(tmp_path: Path) -> None:
    unused = {
        "encoder.embed.pos_enc.pe": torch.zeros(1, 5_000, 16),
        "decoder.left_decoder.embed.1.pe": torch.zeros(1, 5_000, 16),
        "encoder.encoders.0.concat_linear.weight": torch.zeros(16, 32),
        "decoder.left_decoder.decoders.0.concat_linear2.bias": torch.zeros(16),
    }
    plain: Any = wenet.read(write(tmp_path / "plain", U2PP))
    found: Any = wenet.read(write(tmp_path / "old", U2PP, state={**weights(U2PP), **unused}))
    for part in ("encoder", "head", "rescorer"):
        left, right = (getattr(each, part).state_dict() for each in (plain, found))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
