"""Archives of NeMo: parity with transformers' Parakeet, what is refused, and what a hostile archive cannot do."""

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from transformers import ParakeetFeatureExtractor

from contract.errors import CheckpointError
from export.checkpoints import nemo
from export.checkpoints.sentence_pieces import read_pieces
from export.checkpoints.tar_archive import first_names
from tests.unit.export import foreign

LOGIT_DIFFERENCE = 1e-4


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """Return the files of a sound archive."""
    model, _ = foreign.parakeet_model()
    return foreign.nemo_files(tmp_path, model, foreign.nemo_config())


def _write(path: Path, model: Any, config: dict[str, Any], weights: dict[str, torch.Tensor] | None = None) -> Path:
    foreign.write_tar(path, foreign.nemo_files(path.parent, model, config, weights))
    return path


def _assert_equals_reference(path: Path, model: Any, extractor: Any) -> None:
    imported = nemo.read(path)
    audio = foreign.recordings()
    expected = foreign.reference_logits(model, extractor, audio)
    encoded, lengths = imported.encoder(*foreign.padded(audio, 60_000))
    logits = imported.head.get_submodule("out")(encoded)
    for row, length, theirs in zip(logits, lengths, expected, strict=True):
        assert torch.allclose(row[:length], theirs[:length], atol=LOGIT_DIFFERENCE)


@pytest.mark.parametrize("bands", [80, 128])
@pytest.mark.parametrize(("scaled", "bias"), [(True, True), (False, False)])
def test_equals_transformers(bands: int, scaled: bool, bias: bool, tmp_path: Path) -> None:
    model, extractor = foreign.parakeet_model(bands, scale_input=scaled, attention_bias=bias, convolution_bias=bias)
    config = foreign.nemo_config(bands, xscaling=scaled, use_bias=bias)
    _assert_equals_reference(_write(tmp_path / "a.nemo", model, config), model, extractor)


def test_describes_the_network_to_clients(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "english.nemo"
    foreign.write_tar(path, files)
    imported = nemo.read(path)
    assert imported.audio.sample_rate_hz == 16_000
    assert (imported.audio.hop_s, imported.audio.first_centre_s, imported.audio.shortest_samples) == (0.08, 0.0, 160)
    assert imported.tokens.blank == foreign.PIECES == len(imported.tokens.pieces) - 1
    assert imported.origin == "CTC FastConformer of NeMo, english.nemo"
    assert imported.remarks == (
        "It takes whole recordings only, not streams: its features are normalised over the recording, and every frame"
        " attends to all others",
    )
    assert imported.rescorer is None
    assert nemo.recognises(path)


def test_reads_the_pieces_that_sentencepiece_reads(files: dict[str, bytes], tmp_path: Path) -> None:
    data = files["./0a1b_tokenizer.model"]
    library: Any = sentencepiece.SentencePieceProcessor(model_proto=data)
    found = read_pieces(data, "a test")
    assert [piece.text for piece in found] == [library.id_to_piece(number) for number in range(foreign.PIECES)]
    assert [number for number, piece in enumerate(found) if not piece.is_text] == [0, 1, 2]


@pytest.mark.parametrize("length", [1, 29, 199])
def test_rejects_truncated_pieces(length: int, files: dict[str, bytes]) -> None:
    with pytest.raises(CheckpointError, match="a test: it is not a SentencePiece model"):
        read_pieces(files["./0a1b_tokenizer.model"][:length], "a test")


def test_takes_the_ctc_head_of_a_hybrid_archive(tmp_path: Path) -> None:
    model, extractor = foreign.parakeet_model()
    weights = {
        name.replace("decoder.decoder_layers", "ctc_decoder.decoder_layers"): value
        for name, value in foreign.nemo_weights(model).items()
    }
    weights |= {"decoder.prediction.embed.weight": torch.ones(3, 3), "joint.enc.weight": torch.ones(3, 3)}
    config = foreign.nemo_config()
    config["target"] = "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel"
    path = _write(tmp_path / "a.nemo", model, config, weights)
    _assert_equals_reference(path, model, extractor)
    assert nemo.read(path).origin == "CTC head of a hybrid FastConformer of NeMo, a.nemo"


def test_reads_characters(tmp_path: Path) -> None:
    model, _ = foreign.parakeet_model()
    config = foreign.nemo_config()
    del config["tokenizer"]
    config["target"] = "nemo.collections.asr.models.ctc_models.EncDecCTCModel"
    config["decoder"]["vocabulary"] = [" ", *map(chr, range(97, 97 + foreign.PIECES - 1))]
    tokens = nemo.read(_write(tmp_path / "a.nemo", model, config)).tokens
    assert (tokens.style, tokens.delimiter, tokens.blank) == ("delimiter", " ", foreign.PIECES)
    assert tokens.pieces[:3] == (" ", "a", "b")


def test_reads_a_compressed_archive(files: dict[str, bytes], tmp_path: Path) -> None:
    plain, compressed = tmp_path / "a.nemo", tmp_path / "b.nemo"
    foreign.write_tar(plain, files)
    foreign.write_tar(compressed, files, "w:gz")
    ours, theirs = nemo.read(plain), nemo.read(compressed)
    assert nemo.recognises(compressed)
    assert ours.digest != theirs.digest
    for name, value in ours.encoder.state_dict().items():
        assert torch.equal(value, theirs.encoder.state_dict()[name])


def _refused(field: str, cause: str) -> str:
    return (
        f"a.nemo: model_config.yaml: {field}: {cause}. "
        "Use a checkpoint of a supported kind; docs/architecture lists them."
    )


CACHE_AWARE = "is not supported: it is a cache-aware streaming network, and those for whole recordings are supported"
PER_BAND = "is not supported: the features are normalised per band, over the recording"
STATED_TWICE = "is stated too, or is 0.02 by default: NeMo refuses both; set it to null"
CONFORMER = "is not supported: it is a Conformer, and a FastConformer has a subsampling by 8 with dw_striding"


@pytest.mark.parametrize(
    ("section", "key", "value", "cause"),
    [
        ("encoder", "att_context_style", "chunked_limited", f"chunked_limited {CACHE_AWARE}"),
        ("encoder", "causal_downsampling", True, f"True {CACHE_AWARE}"),
        ("encoder", "conv_norm_type", "layer_norm", f"layer_norm {CACHE_AWARE}"),
        ("encoder", "conv_context_size", "causal", f"causal {CACHE_AWARE}"),
        ("preprocessor", "normalize", "NA", f"NA {CACHE_AWARE}"),
        (
            "preprocessor",
            "normalize",
            "all_features",
            f"all_features {PER_BAND}",
        ),
        ("encoder", "att_context_size", [128, 128], "[128, 128] is not supported: every frame attends to all others"),
        ("encoder", "subsampling", "striding", f"striding {CONFORMER}"),
        ("encoder", "subsampling_factor", 4, f"4 {CONFORMER}"),
        (
            "encoder",
            "self_attention_model",
            "abs_pos",
            "abs_pos is not supported: positions are relative, without a window",
        ),
        ("encoder", "untie_biases", False, "False is not supported: every block has its own biases of positions"),
        ("encoder", "n_layers", 10**9, "1000000000 is not a size from 1 to 256"),
        ("encoder", "d_model", -1, "-1 is not a size from 1 to 1048576"),
        ("encoder", "feat_in", 64, "64 is not supported: the front end makes 80 bands"),
        ("preprocessor", "normalize", None, f"null {PER_BAND}"),
        ("preprocessor", "window", None, "null is not supported: the window is a Hann window"),
        ("preprocessor", "mel_norm", None, "null is not supported: the filters have Slaney's norm"),
        ("preprocessor", "mag_power", None, "null is not supported: the features are powers"),
        ("preprocessor", "log", None, "null is not supported: the features are logarithms"),
        ("preprocessor", "features", None, "expected an integer, found null"),
        ("preprocessor", "n_window_size", 512, f"window_size {STATED_TWICE}"),
        ("preprocessor", "n_window_stride", 80, f"window_stride {STATED_TWICE.replace('0.02', '0.01')}"),
        ("preprocessor", "window_size", 1e-5, "1e-05 s are shorter than a sample or longer than a minute"),
        ("preprocessor", "lowfreq", None, "expected a number, found null"),
        ("encoder", "untie_biases", None, "null is not supported: every block has its own biases of positions"),
        ("encoder", "n_heads", None, "expected an integer, found null"),
        ("encoder", "subsampling_conv_channels", None, "expected an integer, found null"),
        ("preprocessor", "log_zero_guard_value", "1e-5", "1e-05 is not supported: the guard is 2**-24"),
        ("tokenizer", "type", "agg", "agg is not supported: the tokens must be those of one SentencePiece model"),
        (
            "encoder",
            "_target_",
            "nemo.collections.asr.modules.ConvASREncoder",
            "ConvASREncoder is not supported: it is a convolutional network, such as Citrinet or QuartzNet, and the"
            " encoder must be a FastConformer",
        ),
    ],
)
def test_rejects_unsupported_settings(
    section: str, key: str, value: Any, cause: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    config = foreign.nemo_config()
    config[section][key] = value
    foreign.write_tar(tmp_path / "a.nemo", {**files, "./model_config.yaml": yaml.safe_dump(config).encode()})
    with pytest.raises(CheckpointError) as error:
        nemo.read(tmp_path / "a.nemo")
    assert str(error.value) == f"{tmp_path}/{_refused(f'{section}.{key}', cause)}"


def test_null_turns_parts_off(tmp_path: Path) -> None:
    """As in NeMo, whose code tests them for truth or for None."""
    model, extractor = foreign.parakeet_model(scale_input=False, attention_bias=False, convolution_bias=False)
    extractor.preemphasis = None
    config = foreign.nemo_config(xscaling=None, use_bias=None, causal_downsampling=None, att_context_size=None)
    config["preprocessor"] |= {"preemph": None, "exact_pad": None}
    _assert_equals_reference(_write(tmp_path / "a.nemo", model, config), model, extractor)


def test_null_is_the_default_where_that_of_nemo_is_null(tmp_path: Path) -> None:
    model, extractor = foreign.parakeet_model()
    config = foreign.nemo_config(reduction=None, conv_context_size=None, att_context_size=None)
    config["preprocessor"] |= {"n_fft": None, "highfreq": None}
    _assert_equals_reference(_write(tmp_path / "a.nemo", model, config), model, extractor)


@pytest.mark.parametrize("pair", [{"window_size": None, "n_window_size": 320}, {"window_size": 0.02}])
def test_window_in_samples_equals_transformers(pair: dict[str, Any], tmp_path: Path) -> None:
    model, _ = foreign.parakeet_model()
    config = foreign.nemo_config()
    config["preprocessor"] |= pair
    weights = foreign.nemo_weights(model) | {"preprocessor.featurizer.window": torch.hann_window(320, periodic=False)}
    path = _write(tmp_path / "a.nemo", model, config, weights)
    _assert_equals_reference(path, model, ParakeetFeatureExtractor(win_length=320))


@pytest.mark.parametrize("pair", [{"window_stride": None, "n_window_stride": 128}, {"window_stride": 0.00805}])
def test_stride_in_samples_equals_transformers(pair: dict[str, Any], tmp_path: Path) -> None:
    """0.00805 s are 128.8 samples, which NeMo rounds down."""
    model, _ = foreign.parakeet_model()
    config = foreign.nemo_config()
    config["preprocessor"] |= pair
    _assert_equals_reference(
        _write(tmp_path / "a.nemo", model, config), model, ParakeetFeatureExtractor(hop_length=128)
    )


def test_rejects_window_without_any_length(tmp_path: Path) -> None:
    model, _ = foreign.parakeet_model()
    config = foreign.nemo_config()
    config["preprocessor"]["window_size"] = None
    with pytest.raises(CheckpointError, match=r"preprocessor\.n_window_size: this field is missing"):
        nemo.read(_write(tmp_path / "a.nemo", model, config))


def test_rejects_a_transducer(files: dict[str, bytes], tmp_path: Path) -> None:
    config = foreign.nemo_config()
    config["target"] = "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel"
    foreign.write_tar(tmp_path / "a.nemo", {**files, "./model_config.yaml": yaml.safe_dump(config).encode()})
    with pytest.raises(CheckpointError) as error:
        nemo.read(tmp_path / "a.nemo")
    cause = "EncDecRNNTBPEModel is not supported: it is a transducer without a CTC head; hybrid networks have one"
    assert str(error.value) == f"{tmp_path}/{_refused('target', cause)}"


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    model, _ = foreign.parakeet_model()
    weights = foreign.nemo_weights(model)
    change(weights)
    return foreign.saved(weights)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            lambda weights: weights.pop("encoder.layers.1.conv.batch_norm.running_var"),
            "it lacks weights that its configuration requires: blocks.1.convolution.depthwise.bias,"
            " blocks.1.convolution.depthwise.weight",
        ),
        (
            lambda weights: weights.update({"encoder.layers.2.norm_out.weight": torch.ones(32)}),
            "it holds weights that its configuration does not explain: blocks.2.norm.weight",
        ),
        (
            lambda weights: weights.update({"encoder.adapter.weight": torch.ones(32)}),
            "it holds weights that its configuration does not explain: encoder.adapter.weight",
        ),
        (
            lambda weights: weights.update({"encoder.pre_encode.out.bias": torch.ones(31)}),
            "its weight subsampling.out.bias is [31], and its configuration requires [32]",
        ),
        (
            lambda weights: weights.update({"preprocessor.featurizer.fb": torch.ones(1, 80, 257)}),
            "its mel filters are not those that its configuration states",
        ),
        (
            lambda weights: weights.update({"preprocessor.featurizer.window": torch.hann_window(400)}),
            "its window is not the one that its configuration states",
        ),
        (
            lambda weights: weights.update({"preprocessor.featurizer.window": torch.hann_window(320, periodic=False)}),
            "its window is not the one that its configuration states",
        ),
    ],
)
def test_rejects_other_weights(
    change: Callable[[dict[str, torch.Tensor]], object], cause: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    foreign.write_tar(tmp_path / "a.nemo", {**files, "./model_weights.ckpt": _weights(change)})
    with pytest.raises(CheckpointError) as error:
        nemo.read(tmp_path / "a.nemo")
    assert error.value.cause == cause


class _Code:
    """An object whose unpickling creates a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._folder),)


def test_does_not_run_code_of_the_weights(files: dict[str, bytes], tmp_path: Path) -> None:
    created = tmp_path / "created"
    foreign.write_tar(tmp_path / "a.nemo", {**files, "./model_weights.ckpt": foreign.saved({"a": _Code(created)})})
    with pytest.raises(CheckpointError) as error:
        nemo.read(tmp_path / "a.nemo")
    assert str(error.value) == (
        f"{tmp_path}/a.nemo: model_weights.ckpt: it holds objects other than tensors, and none of a checkpoint's code"
        " is run. Save the state dict alone, or convert it to safetensors."
    )
    assert not created.exists()
    # The pickle is one that creates the folder where it is trusted.
    pickle.loads(pickle.dumps(_Code(created)))  # noqa: S301 - our own pickle
    assert created.is_dir()


def test_does_not_run_code_of_the_configuration(files: dict[str, bytes], tmp_path: Path) -> None:
    created = tmp_path / "created"
    text = f"target: !!python/object/apply:os.mkdir ['{created}']\n"
    foreign.write_tar(tmp_path / "a.nemo", {**files, "./model_config.yaml": text.encode()})
    with pytest.raises(CheckpointError) as error:
        nemo.read(tmp_path / "a.nemo")
    assert str(error.value) == (
        f"{tmp_path}/a.nemo: model_config.yaml: it is not plain YAML (could not determine a constructor for the tag"
        " 'tag:yaml.org,2002:python/object/apply:os.mkdir'). Copy or download the checkpoint again."
    )
    assert not created.exists()


def test_rejects_compressed_weights(files: dict[str, bytes], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    foreign.write_tar(tmp_path / "a.nemo", {**files, "./model_weights.ckpt": buffer.getvalue()})
    with pytest.raises(CheckpointError) as error:
        nemo.read(tmp_path / "a.nemo")
    assert error.value.cause == "it holds compressed data, which torch.save does not write"


@pytest.mark.parametrize(
    ("name", "kind", "cause"),
    [
        ("../escaped", tarfile.REGTYPE, "its member '../escaped' leads out of the archive"),
        ("/escaped", tarfile.REGTYPE, "its member '/escaped' leads out of the archive"),
        ("a/../../escaped", tarfile.REGTYPE, "its member 'a/../../escaped' leads out of the archive"),
        ("link", tarfile.SYMTYPE, "its member 'link' is not a plain file"),
        ("link", tarfile.LNKTYPE, "its member 'link' is not a plain file"),
        ("device", tarfile.CHRTYPE, "its member 'device' is not a plain file"),
        ("pipe", tarfile.FIFOTYPE, "its member 'pipe' is not a plain file"),
        ("./model_weights.ckpt", tarfile.REGTYPE, "it has two members 'model_weights.ckpt'"),
    ],
)
def test_rejects_hostile_members(name: str, kind: bytes, cause: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    foreign.write_tar(path, files)
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(CheckpointError) as error:
        nemo.read(path)
    assert str(error.value) == f"{path}: {cause}. Use an archive that NeMo's save_to wrote."


def test_rejects_an_archive_that_expands_without_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    foreign.write_tar(path, {"model_weights.ckpt": bytes(50_000_000)}, "w:gz")
    with pytest.raises(CheckpointError) as error:
        nemo.read(path)
    assert error.value.cause == "it expands to more than 100 times its size"


def test_rejects_too_many_members(tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    foreign.write_tar(path, {str(number): b"" for number in range(1_001)})
    with pytest.raises(CheckpointError) as error:
        nemo.read(path)
    assert error.value.cause == "it has more than 1000 members"


@pytest.mark.parametrize("left_out", ["model_config.yaml", "model_weights.ckpt", "0a1b_tokenizer.model"])
def test_rejects_an_archive_without_a_file(left_out: str, files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    foreign.write_tar(path, {name: content for name, content in files.items() if name != f"./{left_out}"})
    with pytest.raises(CheckpointError) as error:
        nemo.read(path)
    assert error.value.cause == f"it holds no file {left_out}"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rejects_a_truncated_archive(mode: str, share: float, files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    foreign.write_tar(path, files, mode)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError):
        nemo.read(path)


@pytest.mark.parametrize("content", [b"", b"text", b"{" * 100_000], ids=["empty", "text", "nested"])
def test_rejects_a_damaged_configuration(content: bytes, files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.nemo"
    foreign.write_tar(path, {**files, "./model_config.yaml": content})
    with pytest.raises(CheckpointError, match=r"a\.nemo: model_config\.yaml"):
        nemo.read(path)


def test_recognises_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    foreign.write_tar(tmp_path / "other.tar", {"a": b"b"})
    assert [nemo.recognises(path) for path in (tmp_path, tmp_path / "text", tmp_path / "other.tar")] == [False] * 3


def test_names_of_an_archive_are_listed_up_to_the_limit_of_expansion(tmp_path: Path) -> None:
    """A member behind a compressed one of any size is found by unpacking it."""
    path = tmp_path / "a.nemo"
    foreign.write_tar(path, {"first": b"", "large": bytes(50_000_000), "behind": b""}, "w:gz")
    assert first_names(path, 3) == ["first", "large"]


def test_rejects_pieces_that_end_words(tmp_path: Path) -> None:
    """Their text would have its blanks in other places."""
    model, _ = foreign.parakeet_model()
    files = foreign.nemo_files(tmp_path, model, foreign.nemo_config())
    pieces = foreign.sentence_piece_model(tmp_path, treat_whitespace_as_suffix=True)
    foreign.write_tar(tmp_path / "a.nemo", {**files, "./0a1b_tokenizer.model": pieces})
    with pytest.raises(CheckpointError) as error:
        nemo.read(tmp_path / "a.nemo")
    assert error.value.cause == (
        "its pieces end words with '\u2581' (treat_whitespace_as_suffix), and they must begin words with it"
    )


def test_reads_pieces_of_characters(tmp_path: Path) -> None:
    """Their mark is a piece of its own."""
    model, _ = foreign.parakeet_model()
    files = foreign.nemo_files(tmp_path, model, foreign.nemo_config())
    options = {"model_type": "char", "hard_vocab_limit": False}
    pieces = foreign.sentence_piece_model(tmp_path, **options)
    size = len(read_pieces(pieces, "a test"))
    weights = foreign.nemo_weights(model)
    for name in ("decoder.decoder_layers.0.weight", "decoder.decoder_layers.0.bias"):
        weights[name] = weights[name][: size + 1]
    files |= {"./0a1b_tokenizer.model": pieces, "./model_weights.ckpt": foreign.saved(weights)}
    foreign.write_tar(tmp_path / "a.nemo", files)
    assert len(nemo.read(tmp_path / "a.nemo").tokens.pieces) == size + 1
