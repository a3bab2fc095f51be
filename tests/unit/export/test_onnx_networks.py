"""CTC networks that come as ONNX: every layout against the bare network, what an import measures, what it refuses."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kaldi_native_fbank as knf
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from contract import graph
from contract.client import EXACT, MASKED
from contract.errors import CheckpointError
from contract.frames import FrameRule
from export.checkpoints import graph_network, measuring, onnx_description, token_files
from export.checkpoints import onnx as importer
from export.checkpoints.imported import ImportedGraph
from tests.unit.export import onnx_networks
from tests.unit.export.onnx_networks import (
    NEMO,
    PIECES,
    SHERPA_NEMO,
    SHERPA_WENET,
    SHERPA_ZIPFORMER,
    TOML,
    WAV2VEC2,
    Network,
    write_described,
    write_onnx_asr,
    write_sherpa,
)

Array = NDArray[np.float32]
RATE_HZ = 16_000
NEMO_CONFIG = {"model_type": "nemo-conformer-ctc", "features_size": 80, "subsampling_factor": 8}
SECONDS = (measuring.LEAST_S, 5.37, measuring.OPTIMUM_S, measuring.BEYOND_S)


def kaldi_features(audio: Array, scale: float, high_hz: float, *, snip_edges: bool, window: str = "povey") -> Array:
    """Return features of kaldi-native-fbank."""
    options = knf.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0.0, snip_edges
    options.frame_opts.window_type = window
    options.mel_opts.num_bins, options.mel_opts.high_freq = 80, high_hz
    options.energy_floor = 0.0
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(RATE_HZ, (audio * scale).tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(frame) for frame in range(bank.num_frames_ready)])


def nemo_features(audio: Array) -> Array:
    """Return NeMo's features from their definition, with NumPy's FFT: [bands, frames]."""
    emphasised = np.concatenate((audio[:1], audio[1:] - 0.97 * audio[:-1])).astype(np.float64)
    padded = np.pad(emphasised, 256)
    window = np.pad(np.hanning(400), 56)
    count = len(audio) // 160
    frames = np.stack([padded[160 * frame : 160 * frame + 512] * window for frame in range(count)])
    power = np.abs(np.fft.rfft(frames, axis=-1)) ** 2
    mels = np.linspace(0.0, 15.0 + 27.0 * np.log(8.0) / np.log(6.4), 82)
    edges = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * np.exp((mels - 15.0) * np.log(6.4) / 27.0))
    hertz = np.arange(257) * RATE_HZ / 512
    filters = [
        np.interp(hertz, edges[band : band + 3], (0.0, 2.0 / (edges[band + 2] - edges[band]), 0.0))
        for band in range(80)
    ]
    features = np.log(power @ np.stack(filters, axis=1) + 2.0**-24).T
    centred = features - features.mean(axis=1, keepdims=True)
    return np.asarray(centred / (features.std(axis=1, ddof=1, keepdims=True) + 1e-5), dtype=np.float32)


def run_bare(path: Path, values: Array, length: int) -> Array:
    """Return the values of a network alone, [frames, tokens]."""
    session = onnxruntime.InferenceSession(path)
    inputs = [each.name for each in session.get_inputs()]
    kind = np.int32 if session.get_inputs()[1].type == "tensor(int32)" else np.int64
    feeds = dict(zip(inputs, (values[None], np.array([length], dtype=kind)), strict=True))
    return np.asarray(session.run(None, feeds)[0][0])


def run(imported: ImportedGraph, audio: Array, lengths: list[int]) -> tuple[Array, NDArray[np.int32], list[int]]:
    session = graph_network.session(imported.graph, imported.folder, onnxruntime.SessionOptions())
    feeds = {"audio": audio, "audio_lengths": np.array(lengths, dtype=np.int32)}
    log_probs, tokens, frames = session.run(["top_log_probs", "top_tokens", "encoder_lengths"], feeds)
    return log_probs, tokens, frames.tolist()


def write_wenet(folder: Path) -> Path:
    return write_sherpa(folder, SHERPA_WENET, ["<blank>", *PIECES[1:]])


def write_nemo(folder: Path) -> Path:
    return write_sherpa(folder, SHERPA_NEMO, [*PIECES[1:], "<blk>"])


def write_zipformer(folder: Path) -> Path:
    return write_sherpa(folder, SHERPA_ZIPFORMER, [*PIECES, "#0", "#1"])


def write_asr_nemo(folder: Path) -> Path:
    return write_onnx_asr(folder, NEMO, NEMO_CONFIG)


def write_asr_wav2vec2(folder: Path) -> Path:
    return write_onnx_asr(folder, WAV2VEC2, {"model_type": "wav2vec2-ctc"})


def write_audio(folder: Path) -> Path:
    return write_described(folder, replace(Network(), length_type=TensorProto.INT32)).parent


def as_audio(audio: Array) -> Array:
    return audio


Writer = Callable[[Path], Path]
Front = Callable[[Array], Array]
LAYOUTS: dict[str, tuple[Writer, Front, int, str]] = {
    "sherpa-onnx wenet": (
        write_wenet,
        lambda audio: kaldi_features(audio, 32_768.0, 0.0, snip_edges=True),
        0,
        "model.onnx (sherpa-onnx, wenet_ctc)",
    ),
    "sherpa-onnx nemo": (write_nemo, nemo_features, 10, "model.onnx (sherpa-onnx, EncDecCTCModelBPE)"),
    "sherpa-onnx zipformer": (
        write_zipformer,
        lambda audio: kaldi_features(audio, 1.0, -400.0, snip_edges=False),
        0,
        "model.onnx (sherpa-onnx, zipformer2_ctc)",
    ),
    "onnx-asr nemo": (write_asr_nemo, nemo_features, 10, "model.onnx (onnx-asr, nemo-conformer-ctc)"),
    "onnx-asr wav2vec2": (write_asr_wav2vec2, as_audio, 10, "model.onnx (onnx-asr, wav2vec2-ctc)"),
    "described": (write_audio, as_audio, 0, "network.onnx (described by network.toml)"),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, ImportedGraph]:
    folder = LAYOUTS[request.param][0](tmp_path_factory.mktemp("layout") / "network")
    assert importer.recognises(folder)
    return request.param, folder, importer.read(folder)


def test_graph_has_the_catalogue_s_ends(layout: tuple[str, Path, ImportedGraph]) -> None:
    graph = layout[2].graph.graph
    ends = {
        each.name: (
            each.type.tensor_type.elem_type,
            [axis.dim_param or axis.dim_value for axis in each.type.tensor_type.shape.dim],
        )
        for each in (*graph.input, *graph.output)
    }
    assert ends == {
        "audio": (TensorProto.FLOAT, ["batch", "samples"]),
        "audio_lengths": (TensorProto.INT32, ["batch"]),
        "top_log_probs": (TensorProto.FLOAT, ["batch", "encoder_frames", 11]),
        "top_tokens": (TensorProto.INT32, ["batch", "encoder_frames", 11]),
        "encoder_lengths": (TensorProto.INT32, ["batch"]),
    }
    assert layout[2].dims == {"vocabulary": 11, "top": 11}
    assert layout[2].precisions == ("fp32",)


def test_states_its_origin_and_tokens(layout: tuple[str, Path, ImportedGraph]) -> None:
    name, _, imported = layout
    _, _, blank, origin = LAYOUTS[name]
    assert imported.origin == origin
    assert imported.tokens.blank == blank
    assert len(imported.tokens.pieces) == 11
    assert imported.tokens.unspoken == (imported.tokens.pieces.index("<unk>"),)
    assert imported.tokens.style == "sentencepiece"


@pytest.mark.parametrize("seconds", SECONDS)
def test_matches_the_bare_network(layout: tuple[str, Path, ImportedGraph], seconds: float) -> None:
    """At the least, the optimum and beyond the sample length: the features are computed by other code."""
    name, folder, imported = layout
    front = LAYOUTS[name][1]
    audio = measuring.speech(RATE_HZ)[: round(seconds * RATE_HZ)]
    values = front(audio)
    frames = values.shape[-1] if values.ndim == 2 and values.shape[0] == 80 else len(values)
    expected = run_bare(next(folder.glob("*.onnx")), values, frames)
    log_probs, tokens, lengths = run(imported, audio[None], [len(audio)])
    assert lengths == [len(expected)] == [imported.frames.count(len(audio))]
    found = np.take_along_axis(expected, tokens[0].astype(np.int64), axis=-1)
    assert np.abs(found - log_probs[0]).max() < 2e-3
    # Sorted, and each token once.
    assert (np.diff(log_probs[0], axis=-1) <= 0).all()
    assert (np.sort(tokens[0], axis=-1) == np.arange(11)).all()


def test_padding_changes_nothing(layout: tuple[str, Path, ImportedGraph]) -> None:
    _, _, imported = layout
    audio = measuring.speech(RATE_HZ)
    short, shortest = 50_001, imported.audio.shortest_samples
    batch = np.zeros((3, len(audio)), dtype=np.float32)
    batch[0], batch[1, :short], batch[2, :shortest] = audio, audio[:short], audio[:shortest]
    log_probs, tokens, lengths = run(imported, batch, [len(audio), short, shortest])
    alone, alone_tokens, (frames,) = run(imported, audio[None, :short], [short])
    assert imported.audio.padding == MASKED
    assert lengths == [imported.frames.count(size) for size in (len(audio), short, shortest)]
    assert np.abs(log_probs[1, :frames] - alone[0]).max() < 1e-4
    assert (tokens[1, :frames, 0] == alone_tokens[0, :, 0]).all()
    assert np.isfinite(log_probs).all()
    assert (log_probs[1, frames:, 0] == 0.0).all()
    assert (log_probs[1, frames:, 1:] == -1e4).all()
    assert (tokens[1, frames:] == imported.tokens.blank).all()


def test_lengths_are_at_least_one(layout: tuple[str, Path, ImportedGraph]) -> None:
    """Also where less than one frame is valid; a single frame has no deviation, and must not become NaN."""
    _, _, imported = layout
    audio = measuring.speech(RATE_HZ)[None, :32_000]
    log_probs, _, lengths = run(imported, audio, [1])
    assert lengths == [1]
    assert np.isfinite(log_probs).all()


def test_graph_contains_no_path_of_the_machine(layout: tuple[str, Path, ImportedGraph]) -> None:
    assert str(Path.cwd()).encode() not in layout[2].graph.SerializeToString()


def test_times_of_frames(layout: tuple[str, Path, ImportedGraph]) -> None:
    expected = {
        "sherpa-onnx wenet": (0.04, 0.0425),
        "sherpa-onnx nemo": (0.08, 0.0),
        "sherpa-onnx zipformer": (0.04, 0.045),
        "onnx-asr nemo": (0.08, 0.0),
        "onnx-asr wav2vec2": (0.02, 200.0 / RATE_HZ),
        "described": (0.02, 0.0225),
    }
    audio = layout[2].audio
    assert (audio.hop_s, audio.first_centre_s) == pytest.approx(expected[layout[0]], abs=1e-4)
    assert audio.sample_rate_hz == RATE_HZ


def test_measures_that_padding_changes_results(tmp_path: Path) -> None:
    imported = importer.read(write_described(tmp_path, replace(Network(), pooled=True, gain=3.0)))
    assert imported.audio.padding == EXACT
    (remark,) = (each for each in imported.remarks if "Padding" in each)
    assert remark.startswith("Padding changes the results of this network: with 16 s of padding, ")
    assert remark.endswith("So a request holds one item, or items of equal lengths.")


@pytest.mark.parametrize("tail", [None, "Softmax"], ids=["logits", "probabilities"])
def test_appends_what_the_output_lacks(tmp_path: Path, tail: str | None) -> None:
    reference = importer.read(write_described(tmp_path / "reference", Network()))
    imported = importer.read(write_described(tmp_path / "other", replace(Network(), tail=tail)))
    audio = measuring.speech(RATE_HZ)[None, :64_000]
    ours, theirs = run(imported, audio, [64_000]), run(reference, audio, [64_000])
    assert np.abs(ours[0] - theirs[0]).max() < 1e-4
    assert (ours[1][..., 0] == theirs[1][..., 0]).all()


@pytest.mark.parametrize(("layout", "order"), [("batch_tokens_time", (0, 2, 1)), ("time_batch_tokens", (1, 0, 2))])
def test_reads_other_orders_of_axes(tmp_path: Path, layout: str, order: tuple[int, int, int]) -> None:
    reference = importer.read(write_described(tmp_path / "reference", Network()))
    text = TOML.replace("[output]", f'[output]\nlayout = "{layout}"')
    imported = importer.read(write_described(tmp_path / "other", replace(Network(), order=order), text))
    batch = measuring.speech(RATE_HZ)[:128_000].reshape(2, 64_000)
    ours, theirs = (run(each, batch, [64_000, 50_000]) for each in (imported, reference))
    assert np.array_equal(ours[0], theirs[0])
    assert np.array_equal(ours[1], theirs[1])
    assert ours[2] == theirs[2]


def test_network_without_lengths(tmp_path: Path) -> None:
    """The lengths of its frames then follow from the rule, and padding is measured as for any other network."""
    network = replace(Network(), lengths=None, score_lengths=None)
    imported = importer.read(write_described(tmp_path, network))
    _, _, lengths = run(imported, measuring.speech(RATE_HZ)[None, :64_000].repeat(2, axis=0), [64_000, 20_000])
    assert lengths == [imported.frames.count(64_000), imported.frames.count(20_000)]


def test_rejects_a_rule_that_leaves_frames_out(tmp_path: Path) -> None:
    """A network without lengths would otherwise lose half of its frames in silence."""
    network = replace(Network(), lengths=None, score_lengths=None)
    path = write_described(tmp_path, network, TOML.replace("[3, 2]", "[3, 4]"))
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == "it makes 98 frames of 32000 samples, and the rule of its description 49"


def test_network_with_a_channel_axis(tmp_path: Path) -> None:
    imported = importer.read(write_described(tmp_path, replace(Network(), axes=("N", 1, "T"))))
    assert run(imported, measuring.speech(RATE_HZ)[None, :32_000], [32_000])[2] == [imported.frames.count(32_000)]


def test_does_not_convert_the_graph_to_fp16_and_states_what_turing_cannot_compile(tmp_path: Path) -> None:
    imported = importer.read(write_described(tmp_path, Network()))
    assert (
        "This graph does not compile for Turing (sm75), because it multiplies matrices in FP32 (MatMul or Gemm nodes: "
        "1) and is not converted to FP16."
    ) in imported.remarks


def test_states_operators_that_no_gpu_runs(tmp_path: Path) -> None:
    unsupported = helper.make_node("NonZero", ["logits"], ["nowhere"])
    imported = importer.read(write_described(tmp_path, replace(Network(), extra_nodes=(unsupported,))))
    assert ("No NVIDIA GPU runs this graph, because TensorRT does not know its operators NonZero.") in imported.remarks


def test_reads_dynamically_quantised_graphs_and_states_that_no_gpu_runs_them(tmp_path: Path) -> None:
    """As sherpa-onnx ships its model.int8.onnx."""
    path = write_described(tmp_path, Network())
    plain = importer.read(path)
    quantize_dynamic(path, path, op_types_to_quantize=["MatMul"])
    imported = importer.read(path)
    audio = measuring.speech(RATE_HZ)[None, :64_000]
    ours, theirs = run(imported, audio, [64_000]), run(plain, audio, [64_000])
    assert (ours[1][..., 0] == theirs[1][..., 0]).mean() > 0.9
    assert imported.remarks[0] == (
        "No NVIDIA GPU runs this graph, because TensorRT does not know its operators DynamicQuantizeLinear, "
        "MatMulInteger."
    )


def test_states_custom_operators(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network())
    model = onnx.load(path)
    (product,) = (node for node in model.graph.node if node.op_type == "MatMul")
    product.op_type, product.domain = "FusedMatMul", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    first, figures = importer.read(path).remarks
    assert first == "This graph may run on no GPU, because TensorRT knows only some of the operators of com.microsoft."
    assert figures.startswith("Measured on speech: padding changes a log-probability by at most ")
    assert figures.endswith(" the shortest input is 720 samples.")


def test_rejects_operators_that_onnx_runtime_lacks(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network())
    model = onnx.load(path)
    (product,) = (node for node in model.graph.node if node.op_type == "MatMul")
    product.op_type, product.domain = "Product", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, path)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause.startswith("ONNX Runtime does not load it (")


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_brings_other_opsets_to_that_of_this_project(tmp_path: Path, opset: int) -> None:
    imported = importer.read(write_described(tmp_path, replace(Network(), opset=opset)))
    assert [(each.domain, each.version) for each in imported.graph.opset_import] == [("", 18)]


def test_names_unnamed_outputs(tmp_path: Path) -> None:
    imported = importer.read(write_described(tmp_path, Network(), pieces=PIECES[:9]))
    assert imported.tokens.pieces[9:] == ("<unused 9>", "<unused 10>")
    assert imported.tokens.unspoken == (1, 9, 10)
    assert ("The token list does not name 2 of the network's outputs; they are never text.") in imported.remarks


def test_states_that_the_blank_is_not_the_most_frequent_token(tmp_path: Path) -> None:
    imported = importer.read(write_described(tmp_path, Network(), TOML + 'blank = "▁c"\n'))
    assert (
        "The blank '▁c' is the best token of 2% of the frames of speech, and '<blk>' of more. Networks with CTC return "
        "the blank most often: check which token it is."
    ) in imported.remarks


def test_reads_external_data(tmp_path: Path) -> None:
    plain = importer.read(write_described(tmp_path / "plain", Network()))
    path = write_described(tmp_path / "external", Network())
    onnx.save(
        onnx_networks.build(Network()), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    imported = importer.read(path)
    audio = measuring.speech(RATE_HZ)[None, :32_000]
    assert np.array_equal(run(imported, audio, [32_000])[0], run(plain, audio, [32_000])[0])
    changed = bytearray((path.parent / "weights.bin").read_bytes())
    changed[100] ^= 1
    (path.parent / "weights.bin").write_bytes(changed)
    assert importer.read(path).digest != imported.digest


def test_digest_covers_graph_description_and_tokens(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network())
    digests = [importer.read(path).digest, importer.read(path).digest]
    onnx_networks.write_tokens(tmp_path / "tokens.txt", [*PIECES[:-1], "z"])
    digests.append(importer.read(path).digest)
    path.with_suffix(".toml").write_text(f"{TOML}\n# another", encoding="utf-8")
    digests.append(importer.read(path).digest)
    onnx.save(onnx_networks.build(replace(Network(), gain=0.5)), path)
    digests.append(importer.read(path).digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


REFUSED_NETWORKS = {
    "batch of one": (
        replace(Network(), axes=(1, "T")),
        "its input 'waveform' is fixed to a batch of 1, so a server cannot form batches of its requests. "
        "Export it again with dynamic axes.",
    ),
    "one length": (
        replace(Network(), axes=("N", 16_000)),
        "its input 'waveform' is fixed to 16000, so it takes only one length of audio. "
        "Export it again with dynamic axes.",
    ),
    "a step of a stream": (
        replace(Network(), extra_input="cached_states"),
        "which input holds the values and which the lengths is not evident from waveform, waveform_lengths, "
        "cached_states. Name the tensors in the TOML file beside the graph, or export a graph without the others.",
    ),
    "features": (
        replace(Network(), axes=("N", "T", 80), steps=((3, 2),)),
        "its input 'waveform' has an axis of 80, where 1 is needed. "
        "Correct input.kind or input.bands in the TOML file beside the graph.",
    ),
    "other frames": (
        replace(Network(), steps=((400, 160), (3, 3))),
        "it makes 66 frames of 32000 samples, and the rule of its description 98. "
        "Correct output.frames in the TOML file beside the graph.",
    ),
    "frames at other lengths": (
        replace(Network(), steps=((401, 160), (3, 2))),
        "it makes 48 frames of 16080 samples, and the rule of its description 49. "
        "Correct output.frames in the TOML file beside the graph.",
    ),
    "not a number": (
        replace(Network(), gain=float("nan")),
        "its outputs for 32000 samples are not finite. Check the network and the kind and the scale of its input.",
    ),
}


@pytest.mark.parametrize("case", REFUSED_NETWORKS)
def test_rejects_networks_that_cannot_be_served(tmp_path: Path, case: str) -> None:
    network, message = REFUSED_NETWORKS[case]
    path = write_described(tmp_path, network)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert str(error.value) == f"{path}: {message}"


def test_rejects_results_that_depend_on_the_batch(tmp_path: Path) -> None:
    path = write_described(tmp_path, replace(Network(), averaged=True))
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause.startswith(
        "its results depend on the other items of a batch: a log-probability differs by "
    )
    assert error.value.remedy == "Export the network again in evaluation mode"


def test_rejects_extra_inputs_of_a_named_network(tmp_path: Path) -> None:
    text = TOML.replace('kind = "audio"', 'kind = "audio"\nname = "waveform"')
    path = write_described(tmp_path, replace(Network(), extra_input="cached_states"), text)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == (
        "it has inputs besides audio and lengths: cached_states. A step of a stream is not supported"
    )


def test_rejects_a_network_whose_positions_end(tmp_path: Path) -> None:
    """Its table is long enough for 8 seconds, and not for 24."""
    path = write_described(tmp_path, replace(Network(), positions=1_000))
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause.startswith("it fails on 1 x 384000 samples ([ONNXRuntimeError] : ")
    assert error.value.remedy == "Export the network again with dynamic axes for the batch and the time"


TOML_ERRORS = {
    "unknown field": ('role = "ctc"', 'role = "ctc"\nbands = 80', "bands: this field is unknown"),
    "other version": ("schema_version = 1", "schema_version = 2", "schema_version: this release reads version 1"),
    "other role": ('role = "ctc"', 'role = "lm"', "role: 'lm' is not one of ctc, speaker"),
    "rate": ("= 16000", "= 22050", "sample_rate_hz: 22050 is not one of 8000, 16000, 32000, 48000"),
    "input kind": ('kind = "audio"', 'kind = "mfcc"', "input.kind: 'mfcc' is not one of audio, kaldi, nemo"),
    "no frames": ("frames = [[400, 160], [3, 2]]", "", "output.frames: this field is missing"),
    "stride zero": ("[3, 2]]", "[3, 0]]", "output.frames[1]: it is not [kernel, stride] or [kernel, stride, padding]"),
    "step of text": ("[3, 2]]", '["3"]]', "output.frames[1]: it is not [kernel, stride] or [kernel, stride, padding]"),
    "tokens elsewhere": (
        '"tokens.txt"',
        '"../tokens.txt"',
        "tokens.file: '../tokens.txt' is not the name of a file in the same folder",
    ),
    "speaker table": (
        "[tokens]",
        "[speaker]\nsame_speaker_similarity = 0.5\n[tokens]",
        "speaker: a network of the role ctc has no such table",
    ),
    "bands": ('kind = "audio"', 'kind = "kaldi"\nbands = 0', "input.bands: 0 is not between 1 and 256"),
    "range of bands": (
        'kind = "audio"',
        'kind = "kaldi"\nbands = 80\nlow_hz = 9000',
        "input.high_hz: the bands lie between 9000 and 8000 Hz, which is not within 0 and 8000",
    ),
    "kind of output": ("[output]", '[output]\nkind = "loss"', "output.kind: 'loss' is not one of log_probs, logits, "),
}


@pytest.mark.parametrize("case", TOML_ERRORS)
def test_rejects_wrong_descriptions(tmp_path: Path, case: str) -> None:
    old, new, cause = TOML_ERRORS[case]
    assert old in TOML
    path = write_described(tmp_path, Network(), TOML.replace(old, new))
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.subject == str(path.with_suffix(".toml"))
    assert error.value.cause.startswith(cause)
    assert error.value.remedy == "Correct the file; docs/architecture/12-onnx-networks.md describes every field"


def test_rejects_description_that_is_not_toml(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network(), "role = ")
    with pytest.raises(CheckpointError, match=r"network\.toml: it is not TOML \("):
        importer.read(path)


def test_rejects_stated_kind_that_the_output_has_not(tmp_path: Path) -> None:
    path = write_described(
        tmp_path, replace(Network(), tail=None), TOML.replace("[output]", '[output]\nkind = "log_probs"')
    )
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == "its output 'log_probs' holds logits, and its description states log_probs"


def test_rejects_unknown_tensor_names(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network(), TOML.replace("[output]", '[output]\nname = "probs"'))
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == "it has no output 'probs', but log_probs, log_probs_lengths"


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "it is not an ONNX graph"),
        (b"<html>not a graph</html>", "it is not an ONNX graph"),
        (onnx_networks.build(Network()).SerializeToString()[:-200], "it is not an ONNX graph"),
    ],
    ids=["empty", "text", "cut"],
)
def test_rejects_damaged_graphs(tmp_path: Path, data: bytes, cause: str) -> None:
    path = write_described(tmp_path, Network())
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert str(error.value) == f"{path}: {cause}. Copy the file again, or export it again."


def test_rejects_graph_with_unknown_inner_tensor(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network())
    model = onnx.load(path)
    model.graph.node[1].input[0] = "absent"
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"its graph is damaged \("):
        importer.read(path)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "link.bin"])
def test_rejects_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    path = write_described(tmp_path / "network", Network())
    (tmp_path / "weights.bin").write_bytes(bytes(1 << 20))
    (path.parent / "link.bin").symlink_to(tmp_path / "weights.bin")
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert str(error.value) == (
        f"{path}: its external data {location!r} is not a plain file in its folder. "
        "Put the data beside the graph, as it was exported."
    )


def test_rejects_external_data_of_a_local_function_outside_the_folder(tmp_path: Path) -> None:
    path = write_described(tmp_path / "network", Network())
    model = onnx.load(path)
    tensor = onnx.numpy_helper.from_array(np.zeros(4, dtype=np.float32))
    onnx.external_data_helper.set_external_data(tensor, "../weights.bin")
    tensor.ClearField("raw_data")
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    opset = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("local", "constant", [], ["y"], [constant], opset))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == "its external data '../weights.bin' is not a plain file in its folder"


def test_rejects_tensor_beyond_the_end_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the weights stay in their file."""
    path = write_described(tmp_path, Network())
    onnx.save(onnx_networks.build(Network()), path, save_as_external_data=True, location="weights.bin")
    model = onnx.load(path, load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.data_location == TensorProto.EXTERNAL)
    next(each for each in tensor.external_data if each.key == "offset").value = str(1 << 40)
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr(graph, "LARGEST_FILE_BYTES", path.stat().st_size + 1)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == f"its graph is damaged (tensor {tensor.name!r} does not lie within 'weights.bin')"


def test_rejects_missing_and_short_external_data(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network())
    onnx.save(
        onnx_networks.build(Network()), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="its graph is damaged"):
        importer.read(path)
    data.unlink()
    with pytest.raises(CheckpointError, match=r"its external data 'weights\.bin' is missing"):
        importer.read(path)


@pytest.mark.parametrize("opset", [13, 18])
def test_reads_graph_that_is_too_large_for_one_file(
    opset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights stay in their file. It returns what the same graph in one file returns, to the last bit."""
    network = Network(opset=opset)
    plain = importer.read(write_described(tmp_path / "plain", network))
    path = write_described(tmp_path / "external", network)
    onnx.save(onnx_networks.build(network), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    small = importer.read(path)
    monkeypatch.setattr(graph, "LARGEST_FILE_BYTES", (path.parent / "weights.bin").stat().st_size)
    large = importer.read(path)
    assert (plain.folder, small.folder, large.folder) == (None, None, path.parent)
    located = [each for each in large.graph.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    assert located
    assert large.graph.ByteSize() < small.graph.ByteSize()
    assert [each.name for each in large.graph.graph.input] == ["audio", "audio_lengths"]
    assert large.remarks == small.remarks == plain.remarks
    audio = np.stack([measuring.speech(RATE_HZ)[:32_000]] * 2)
    ours, theirs = (run(each, audio, [32_000, 20_000]) for each in (large, plain))
    assert np.array_equal(ours[0], theirs[0])
    assert np.array_equal(ours[1], theirs[1])
    assert ours[2] == theirs[2]


def test_rejects_file_that_is_too_large_for_its_format(tmp_path: Path) -> None:
    """The file is sparse."""
    path = write_described(tmp_path, Network())
    with path.open("r+b") as file:
        file.truncate(2_500_000_000)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == "it has 2384 MiB, and an ONNX file holds 1984"
    assert error.value.remedy == "Export it with its weights as external data, in a file beside it"


def test_rejects_graph_without_description(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network())
    path.with_suffix(".toml").unlink()
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == (
        "nothing describes it: neither network.toml, nor sherpa-onnx's metadata with tokens.txt, nor onnx-asr's "
        "config.json with vocab.txt"
    )


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        (
            {"model_type": "telespeech_ctc"},
            "model_type: 'telespeech_ctc' of sherpa-onnx is not supported without a description",
        ),
        ({"model_type": "wenet_ctc"}, "subsampling_factor: this field is missing"),
        (
            {"model_type": "wenet_ctc", "subsampling_factor": "8"},
            "subsampling_factor: it is 8, and only 4 is supported without a description",
        ),
        (
            {"model_type": "EncDecCTCModel", "subsampling_factor": "3"},
            "subsampling_factor: 3 is not one of 2, 4, 8, 16",
        ),
        (
            {"model_type": "EncDecCTCModel", "subsampling_factor": "4", "is_giga_am": "1"},
            "model_type: 'EncDecCTCModel' of sherpa-onnx is not supported without a description",
        ),
    ],
)
def test_rejects_unsupported_metadata_of_sherpa(tmp_path: Path, metadata: dict[str, str], cause: str) -> None:
    folder = write_sherpa(tmp_path / "network", replace(SHERPA_WENET, metadata=tuple(metadata.items())))
    with pytest.raises(CheckpointError) as error:
        importer.read(folder)
    assert error.value.cause == cause
    assert error.value.remedy == (
        "Describe the network in a TOML file beside it: docs/architecture/12-onnx-networks.md"
    )


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (
            {"model_type": "gigaam-v2-ctc"},
            "model_type: 'gigaam-v2-ctc' of onnx-asr is not supported without a description",
        ),
        ({**NEMO_CONFIG, "features_size": 64}, "features_size: 64 is not one of 80, 128, the sizes of NeMo's features"),
        ({}, "model_type: this field is missing"),
    ],
)
def test_rejects_unsupported_configurations_of_onnx_asr(tmp_path: Path, config: dict[str, object], cause: str) -> None:
    folder = write_onnx_asr(tmp_path / "network", NEMO, config)
    with pytest.raises(CheckpointError) as error:
        importer.read(folder)
    assert error.value.subject == str(folder / "config.json")
    assert error.value.cause == cause


def test_recognises_graphs_by_content(tmp_path: Path) -> None:
    described = write_described(tmp_path / "described", Network())
    assert importer.recognises(described)
    assert importer.recognises(described.parent)
    assert not importer.recognises(tmp_path)
    assert not importer.recognises(tmp_path / "absent.onnx")
    text = tmp_path / "text.onnx"
    text.write_text("no graph")
    assert not importer.recognises(text)


def test_prefers_the_described_graph_of_a_folder(tmp_path: Path) -> None:
    path = write_described(tmp_path, Network())
    shutil.copy(path, tmp_path / "network.int8.onnx")
    assert importer.find_graph(tmp_path) == path
    path.with_suffix(".toml").unlink()
    assert importer.find_graph(tmp_path) is None
    with pytest.raises(CheckpointError) as error:
        importer.read(tmp_path)
    assert error.value.remedy == "Name the .onnx file itself"


def test_refuses_transducers_with_a_sentence(tmp_path: Path) -> None:
    for name in ("encoder-epoch-99.onnx", "decoder-epoch-99.onnx", "joiner-epoch-99.onnx"):
        (tmp_path / name).write_bytes(b"")
    assert importer.recognises(tmp_path)
    with pytest.raises(CheckpointError) as error:
        importer.read(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: it holds encoder and decoder as separate graphs, as transducers and Whisper have, and no CTC "
        "network. Use a network with CTC, such as the CTC head of a hybrid network of NeMo."
    )


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a 0\nb 1\n", ("a", "b")),
        ("a\t0\r\nb\t1\r\n", ("a", "b")),
        ("b 1\na 0\n", ("a", "b")),
        ("\ufeffa 0\nb 1", ("a", "b")),
        ("  0\n▁b 1\n", (" ", "▁b")),
        ("<0x0A> 0\n1 1\n", ("<0x0A>", "1")),
        ("##\n▁hello\n", ("##", "▁hello")),
    ],
    ids=["plain", "tabs", "unsorted", "mark", "space", "bytes", "without numbers"],
)
def test_reads_token_lists(tmp_path: Path, text: str, pieces: tuple[str, ...]) -> None:
    path = tmp_path / "tokens.txt"
    path.write_bytes(text.encode())
    assert token_files.read(path) == pieces


def test_reads_token_lists_in_json(tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_text('{"b": 1, "a": 0}')
    assert token_files.read(path) == ("a", "b")
    path.write_text('["a", "b", "c"]')
    assert token_files.read(path) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("name", "data", "cause"),
    [
        ("tokens.txt", b"a 0\nb 0\n", "line 2: the number 0 is there twice"),
        ("tokens.txt", b"a 0\nb 2\n", "line 2: the number 2 is above 1, the number of the last token"),
        ("tokens.txt", b"\xff\xfe", "it is not text in UTF-8"),
        ("tokens.txt", b"", "it has 0 tokens, and 2 to 65536 are possible"),
        (
            "vocab.json",
            b"[1, 2]",
            "it is neither a list of symbols nor a table from symbols to the numbers 0, 1, 2 and so on",
        ),
        (
            "vocab.json",
            b"{",
            "it is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        ),
    ],
)
def test_rejects_damaged_token_lists(tmp_path: Path, name: str, data: bytes, cause: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        token_files.read(path)
    assert str(error.value) == f"{path}: {cause}. Use the token list that belongs to the network."


def test_rejects_huge_token_list(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    with path.open("wb") as file:
        file.truncate(token_files.LARGEST_BYTES + 1)
    with pytest.raises(CheckpointError, match="it has more than 8388608 bytes"):
        token_files.read(path)


@pytest.mark.parametrize(
    ("pieces", "cause"),
    [
        ([*PIECES, "j"], "it has 12 tokens, and the network has 11 outputs"),
        (
            [f"x{number}" for number in range(11)],
            "it names no blank: none of <blk>, <blank>, <eps>, <pad>, [PAD], <ctc_blank>",
        ),
    ],
)
def test_rejects_token_list_of_another_network(tmp_path: Path, pieces: list[str], cause: str) -> None:
    path = write_described(tmp_path, Network(), pieces=pieces)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert (error.value.subject, error.value.cause) == (str(tmp_path / "tokens.txt"), cause)


@pytest.mark.parametrize(
    ("pieces", "style", "delimiter", "separator", "unspoken"),
    [
        (("<blk>", "<unk>", "▁a", "<0x41>", "b"), "sentencepiece", "|", " ", (1,)),
        (("<pad>", "<s>", "</s>", "|", "a"), "delimiter", "|", " ", (1, 2)),
        (("<blk>", " ", "a", "[UNK]"), "delimiter", " ", " ", (3,)),
        (("<blk>", "<space>", "a", "b"), "delimiter", "<space>", " ", ()),
        (("<blank>", "你", "好", "<sos/eos>"), "characters", "|", "", (3,)),
    ],
    ids=["SentencePiece", "letters", "spaces", "named space", "Chinese"],
)
def test_finds_how_tokens_spell_words(
    pieces: tuple[str, ...], style: str, delimiter: str, separator: str, unspoken: tuple[int, ...]
) -> None:
    spec = token_files.describe(pieces, 0)
    assert (spec.style, spec.delimiter, spec.word_separator, spec.unspoken) == (style, delimiter, separator, unspoken)


def test_description_states_tokens(tmp_path: Path) -> None:
    stated = {"blank": "i", "style": "delimiter", "delimiter": "f", "word_separator": "-", "boundary": "<unk>"}
    text = TOML + 'unspoken = ["h"]\n' + "".join(f'{field} = "{value}"\n' for field, value in stated.items())
    tokens = importer.read(write_described(tmp_path, Network(), text)).tokens
    assert (tokens.blank, tokens.unspoken, tokens.style) == (10, (0, 1, 9), "delimiter")
    assert (tokens.delimiter, tokens.word_separator, tokens.boundary) == ("f", "-", 1)


def test_smallest_number_of_samples_is_measured() -> None:
    """A network that reflects its first 200 samples at the edge fails on less, though its rule allows one."""
    rule = FrameRule.of((400, 160, 400))

    def network(audio: Array, lengths: NDArray[np.int32]) -> tuple[Array, NDArray[np.int64]]:
        if audio.shape[1] <= 200:
            raise ValueError("pad should be smaller than the input")
        frames = np.array([rule.count(int(length)) for length in lengths])
        return np.zeros((len(audio), rule.count(audio.shape[1]), 4), dtype=np.float32), frames

    found = measuring.measure(network, Path("network.onnx"), rule, 0, RATE_HZ)
    assert found.shortest_samples == 201
    assert (found.padding, found.blank_share) == (MASKED, 1.0)
    assert found.remarks(0, ("<blk>", "a", "b", "c")) == (
        "The network recognised nothing in the speech of the demonstration, which is English.",
    )


def test_examples_of_the_page_are_valid(tmp_path: Path) -> None:
    """Every TOML block is a description by itself."""
    page = (Path(__file__).parents[3] / onnx_description.DESCRIPTION).read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in page.split("```toml\n")[1:]]
    assert len(blocks) == 3
    for block in blocks:
        path = tmp_path / "network.toml"
        path.write_text(block, encoding="utf-8")
        assert onnx_description.read_toml(path).sample_rate_hz == RATE_HZ


def test_rejects_unknown_normalisation_of_features(tmp_path: Path) -> None:
    metadata = (*SHERPA_NEMO.metadata[:-1], ("normalize_type", "all_features"))
    folder = write_sherpa(tmp_path / "nemo", replace(SHERPA_NEMO, metadata=metadata), [*PIECES[1:], "<blk>"])
    with pytest.raises(CheckpointError) as error:
        importer.read(folder)
    assert error.value.cause == "normalize_type: 'all_features' is not one of per_feature, '', NA"


@pytest.mark.parametrize("line", ["c", "", "c 2.5", "c 99999999999"])
def test_rejects_a_line_without_its_number(line: str, tmp_path: Path) -> None:
    """Otherwise the numbers of all lines would be a part of their symbols."""
    path = tmp_path / "tokens.txt"
    path.write_text(f"<blk> 0\na 1\n{line}\nd 3\n")
    with pytest.raises(CheckpointError) as error:
        token_files.read(path)
    assert error.value.cause == "line 3: it is not `symbol number`, as most lines are"


def test_symbols_may_end_with_numbers(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("<blk>\nroute 66\na\nb\n")
    assert token_files.read(path) == ("<blk>", "route 66", "a", "b")


def _with_shared_data(path: Path, tensors: int) -> None:
    """Add weights to a network that are all the same MiB of a file."""
    (path.parent / "shared.bin").write_bytes(bytes(1 << 20))
    model = onnx.load(path)
    for number in range(tensors):
        tensor = model.graph.initializer.add(name=f"shared{number}", data_type=TensorProto.FLOAT, dims=[1 << 18])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "shared.bin"), ("offset", "0"), ("length", str(1 << 20))):
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_rejects_external_data_that_many_tensors_share(tmp_path: Path) -> None:
    path = write_described(tmp_path / "network", Network())
    _with_shared_data(path, 5)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == "its tensors are more than 4 times as large as its external data"


def test_reads_external_data_that_two_tensors_share(tmp_path: Path) -> None:
    path = write_described(tmp_path / "network", Network())
    _with_shared_data(path, 2)
    assert importer.read(path)


def _with_functions(path: Path, depth: int, calls: int) -> None:
    """Add local functions to a network, each of which calls the one before several times."""
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("local", 1))
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    for level in range(depth):
        kind = (f"f{level - 1}", "local") if level else ("Identity", "")
        places = ["a", *(f"c{number}" for number in range(calls - 1)), "b"]
        nodes = [
            helper.make_node(kind[0], [before], [after], domain=kind[1]) for before, after in itertools.pairwise(places)
        ]
        model.functions.append(helper.make_function("local", f"f{level}", ["a"], ["b"], nodes, imports))
    output = model.graph.output[0].name
    model.graph.node.append(helper.make_node(f"f{depth - 1}", [output], ["further"], domain="local"))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("depth", "calls", "cause"),
    [
        (40, 2, "its local functions make more than 1000000 nodes"),
        (102, 1, "its local functions call each other more than 100 deep"),
    ],
)
def test_rejects_local_functions_that_grow(depth: int, calls: int, cause: str, tmp_path: Path) -> None:
    path = write_described(tmp_path / "network", Network())
    _with_functions(path, depth, calls)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert error.value.cause == cause


def test_reads_nested_local_functions(tmp_path: Path) -> None:
    path = write_described(tmp_path / "network", Network())
    _with_functions(path, 3, 2)
    assert importer.read(path)


def test_rejects_scores_of_another_layout(tmp_path: Path) -> None:
    text = TOML.replace("[output]\n", '[output]\nlayout = "time_batch_tokens"\n')
    path = write_described(tmp_path / "network", Network(), text)
    with pytest.raises(CheckpointError) as error:
        importer.read(path)
    assert str(error.value) == (
        f"{path}: its scores of 1 items are [98, 1, 11], in place of [1, frames, tokens]."
        " Correct output.layout or output.name."
    )


@pytest.mark.parametrize(("shape", "shown"), [((1, 1), "[1, 1]"), ((), "[]"), ((98,), "[98]")])
def test_rejects_lengths_of_another_shape(shape: tuple[int, ...], shown: str, tmp_path: Path) -> None:
    def network(
        audio: NDArray[np.float32], lengths: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return np.zeros((len(audio), 98, 11), dtype=np.float32), np.full(shape, lengths[0])

    with pytest.raises(CheckpointError) as error:
        measuring.measure(network, tmp_path, FrameRule.of((400, 320)), 0, 16_000)
    assert error.value.cause == f"its lengths of 1 items are {shown}, in place of [1]"
    assert error.value.remedy == "Correct output.lengths"
