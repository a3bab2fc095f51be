"""Speaker networks from elsewhere: features and unit length of ONNX graphs, and Resemblyzer's LSTM layers."""

import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from contract.catalogue import read_catalogue
from contract.client import EXACT, ClientSpec
from contract.errors import CheckpointError
from export import tracing
from export.checkpoints import measuring, resemblyzer, speaker_onnx
from export.checkpoints import onnx as ctc_onnx
from export.checkpoints.checkpoint import Checkpoint
from export.job import Job
from tests.unit.export.onnx_networks import Network, write_described
from tests.unit.export.test_onnx_networks import kaldi_features

Array = NDArray[np.float32]
RATE_HZ, WINDOW = 16_000, 32_000
WESPEAKER = {"framework": "wespeaker", "output_dim": "8", "sample_rate": "16000", "normalize_samples": "0"}
CAMPLUS = {
    "framework": "3d-speaker",
    "output_dim": "8",
    "sample_rate": "16000",
    "normalize_samples": "1",
    "feature_normalize_type": "global-mean",
}
TITANET = {
    "framework": "nemo",
    "sample_rate": "16000",
    "feature_normalize_type": "per_feature",
    "window_size_ms": "25",
    "window_stride_ms": "10",
    "feat_dim": "80",
}
TOML = """
schema_version = 1
role = "speaker"
sample_rate_hz = 16000

[input]
kind = "nemo"
bands = 80
name = "audio_signal"
lengths = "length"

[output]
name = "embs"

[speaker]
same_speaker_similarity = 0.7
window_s = 1.5
hop_s = 0.5
"""


def write_network(folder: Path, metadata: dict[str, str], *, constant: bool = False) -> Path:
    """Write a network without a mask: the maxima of a linear layer over all frames."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(5)
    weights = (random.normal(size=(80, 8)) * 0.1).astype(np.float32) * (0.0 if constant else 1.0)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["feats", "linear"], ["frames"]),
            helper.make_node("ReduceMax", ["frames"], ["pooled"], axes=[1], keepdims=0),
            helper.make_node("Add", ["pooled", "offset"], ["embs"]),
        ],
        "speaker",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["B", "T", 80])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", 8])],
        [
            numpy_helper.from_array(weights, "linear"),
            numpy_helper.from_array(np.full(8, 0.01, dtype=np.float32), "offset"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)
    helper.set_model_props(model, metadata)
    onnx.save(model, folder / "speaker.onnx")
    return folder / "speaker.onnx"


def run(model: onnx.ModelProto, audio: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    lengths = np.full(len(audio), audio.shape[1], dtype=np.int32)
    return np.asarray(session.run(["embedding"], {"audio": audio, "audio_lengths": lengths})[0])


@pytest.mark.parametrize(
    ("metadata", "scale", "window"),
    [(WESPEAKER, 32_768.0, "hamming"), (CAMPLUS, 1.0, "povey")],
    ids=["WeSpeaker", "3D-Speaker"],
)
def test_matches_the_bare_network(tmp_path: Path, metadata: dict[str, str], scale: float, window: str) -> None:
    """Features are those of kaldi-native-fbank, with the mean of each band over the window subtracted."""
    path = write_network(tmp_path, metadata)
    imported = speaker_onnx.read(path)
    audio = measuring.speech(RATE_HZ)[50_000 : 50_000 + WINDOW]
    features = kaldi_features(audio, scale, 0.0, snip_edges=True, window=window)
    expected = onnxruntime.InferenceSession(path).run(None, {"feats": (features - features.mean(axis=0))[None]})[0][0]
    found = run(imported.graph, audio[None])
    assert np.abs(found[0] - expected / np.linalg.norm(expected)).max() < 1e-4
    assert np.linalg.norm(found[0]) == pytest.approx(1.0)
    assert imported.dims == {"embedding_size": 8}
    assert imported.origin == f"speaker.onnx (sherpa-onnx, {metadata['framework']})"


@pytest.mark.parametrize(("normalisation", "cosine"), [("global-mean", 0.99), ("", 0.99)])
def test_normalises_features_as_sherpa_onnx(normalisation: str, cosine: float, tmp_path: Path) -> None:
    """With the other normalisation the cosine is below 0.9. sherpa-onnx computes features in another precision."""
    path = write_network(tmp_path, {**CAMPLUS, "feature_normalize_type": normalisation, "language": "English"})
    audio = measuring.speech(RATE_HZ)[:WINDOW]
    library: Any = pytest.importorskip("sherpa_onnx")
    extractor = library.SpeakerEmbeddingExtractor(library.SpeakerEmbeddingExtractorConfig(model=str(path)))
    stream = extractor.create_stream()
    stream.accept_waveform(RATE_HZ, audio)
    stream.input_finished()
    expected = np.array(extractor.compute(stream))
    (found,) = run(speaker_onnx.read(path).graph, audio[None])
    assert found @ expected / np.linalg.norm(expected) > cosine


@pytest.mark.parametrize(
    ("metadata", "cause"),
    [
        ({**CAMPLUS, "feature_normalize_type": "global-variance"}, "'global-variance' is not one of global-mean, ''"),
        ({**WESPEAKER, "feature_normalize_type": "per_feature"}, "'per_feature' is not one of global-mean, ''"),
        ({**TITANET, "feature_normalize_type": "all_features"}, "'all_features' is not one of per_feature, ''"),
    ],
)
def test_rejects_unknown_normalisation(metadata: dict[str, str], cause: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        speaker_onnx.read(write_network(tmp_path, metadata))
    assert error.value.cause == f"feature_normalize_type: {cause}"


def test_windows_of_a_network_without_lengths_have_one_length(tmp_path: Path) -> None:
    imported = speaker_onnx.read(write_network(tmp_path, WESPEAKER))
    speaker = imported.speaker
    assert (speaker.padding, speaker.window_s, speaker.hop_s, speaker.same_speaker_similarity) == (
        EXACT,
        2.0,
        0.75,
        0.5,
    )
    assert imported.remarks[0] == (
        "This network takes no lengths and would embed padding as speech, so windows of exactly 2 s are embedded."
    )
    assert imported.remarks[1] == (
        "Two embeddings count as one speaker's above a cosine of 0.5, which was not measured for this network. "
        "Describe it in a TOML file with speaker.same_speaker_similarity."
    )


def test_reads_a_described_network_with_two_outputs(tmp_path: Path) -> None:
    """As NeMo exports TitaNet: features with their length, logits and embedding."""
    path = write_titanet(tmp_path)
    imported = speaker_onnx.read(tmp_path)
    assert imported.origin == "titanet.onnx (described by titanet.toml)"
    speaker = imported.speaker
    assert (speaker.window_s, speaker.hop_s, speaker.same_speaker_similarity) == (1.5, 0.5, 0.7)
    # It takes a length and does not use it.
    assert speaker.padding == EXACT
    assert imported.remarks[0].startswith(
        "Padding changes the embeddings of this network (half a window, and the same "
    )
    assert imported.remarks[0].endswith("), so windows of exactly 1.5 s are embedded.")
    assert not any("was not measured" in remark for remark in imported.remarks)
    assert [each.name for each in imported.graph.graph.output] == ["embedding"]
    assert run(imported.graph, measuring.speech(RATE_HZ)[None, :24_000]).shape == (1, 8)
    assert speaker_onnx.recognises(path)
    assert not ctc_onnx.recognises(path)


def test_reads_nemo_s_network_by_metadata_of_sherpa(tmp_path: Path) -> None:
    described = speaker_onnx.read(write_titanet(tmp_path))
    path = write_titanet(tmp_path, TITANET)
    path.with_suffix(".toml").unlink()
    imported = speaker_onnx.read(path)
    audio = measuring.speech(RATE_HZ)[None, :WINDOW]
    assert np.array_equal(run(imported.graph, audio), run(described.graph, audio))
    assert imported.origin == "titanet.onnx (sherpa-onnx, nemo)"


def test_rejects_other_windows_of_nemo(tmp_path: Path) -> None:
    path = write_titanet(tmp_path, {**TITANET, "window_stride_ms": "20"})
    path.with_suffix(".toml").unlink()
    with pytest.raises(CheckpointError) as error:
        speaker_onnx.read(path)
    assert error.value.cause == "window_stride_ms: it is 20, and only 10 is supported without a description"


def write_titanet(folder: Path, metadata: dict[str, str] | None = None) -> Path:
    random = np.random.default_rng(6)
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["audio_signal"], ["sizes"]),
            helper.make_node("ReduceMean", ["sizes", "time"], ["pooled"], keepdims=0),
            helper.make_node("ReduceMax", ["audio_signal", "time"], ["largest"], keepdims=0),
            helper.make_node("Add", ["pooled", "largest"], ["statistics"]),
            helper.make_node("MatMul", ["statistics", "linear"], ["embs"]),
            helper.make_node("Mul", ["embs", "embs"], ["logits"]),
            helper.make_node("Identity", ["length"], ["unused"]),
        ],
        "titanet",
        [
            helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, ["B", 80, "T"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["B"]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 8]),
            helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", 8]),
        ],
        [
            numpy_helper.from_array(random.normal(size=(80, 8)).astype(np.float32), "linear"),
            numpy_helper.from_array(np.array([2]), "time"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, folder / "titanet.onnx")
    (folder / "titanet.toml").write_text(TOML, encoding="utf-8")
    return folder / "titanet.onnx"


def test_rejects_network_that_does_not_distinguish_windows(tmp_path: Path) -> None:
    path = write_network(tmp_path, WESPEAKER, constant=True)
    with pytest.raises(CheckpointError) as error:
        speaker_onnx.read(path)
    assert str(error.value) == (
        f"{path}: it has the same embedding for two windows of different speech. "
        "Check the kind and the scale of its input."
    )


def test_rejects_speaker_network_as_recogniser_and_the_reverse(tmp_path: Path) -> None:
    speaker = write_network(tmp_path / "speaker", WESPEAKER)
    with pytest.raises(CheckpointError, match=r"it is a speaker network\. Name it as `speaker`, not as `recogniser`\."):
        ctc_onnx.read(speaker)
    recogniser = write_described(tmp_path / "recogniser", Network())
    with pytest.raises(
        CheckpointError, match=r"it is no speaker network\. Name it as `recogniser`, not as `speaker`\."
    ):
        speaker_onnx.read(recogniser)


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("= 0.7", "= 1.0", "speaker.same_speaker_similarity: 1.0 is not between -1 and 1"),
        ("hop_s = 0.5", "hop_s = 2.0", "speaker.window_s: a window of 1.5 s every 2 s is not possible"),
        ("[speaker]", "[tokens]\n[speaker]", "tokens: a network of the role speaker has no such table"),
    ],
)
def test_rejects_wrong_descriptions(tmp_path: Path, old: str, new: str, cause: str) -> None:
    path = write_titanet(tmp_path)
    path.with_suffix(".toml").write_text(TOML.replace(old, new), encoding="utf-8")
    with pytest.raises(CheckpointError) as error:
        speaker_onnx.read(path)
    assert error.value.cause == cause


class Reference(nn.Module):
    """Resemblyzer's network as its description states it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 32, 3, batch_first=True)
        self.linear = nn.Linear(32, 24)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(features)
        embedding: torch.Tensor = torch.relu(self.linear(hidden[-1]))
        return embedding / embedding.square().sum(dim=1, keepdim=True).sqrt()


def mel_energies(audio: Array) -> Array:
    """Return mel energies from their definition, with NumPy's FFT; the window of librosa is periodic."""
    padded = np.pad(audio.astype(np.float64), 200)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[first : first + 400] * window for first in range(0, len(audio), 160)])
    power = np.abs(np.fft.rfft(frames, axis=-1)) ** 2
    mels = np.linspace(0.0, 15.0 + 27.0 * np.log(8.0) / np.log(6.4), 42)
    edges = np.where(mels < 15.0, mels * 200.0 / 3.0, 1000.0 * np.exp((mels - 15.0) * np.log(6.4) / 27.0))
    hertz = np.arange(201) * 40.0
    filters = [
        np.interp(hertz, edges[band : band + 3], (0.0, 2.0 / (edges[band + 2] - edges[band]), 0.0))
        for band in range(40)
    ]
    return np.asarray(power @ np.stack(filters, axis=1), dtype=np.float32)


def write_resemblyzer(path: Path, **extra: Any) -> Reference:
    torch.manual_seed(11)
    network = Reference().eval()
    with torch.no_grad():
        network.linear.bias.add_(0.1)
    scales = {"similarity_weight": torch.ones(1), "similarity_bias": torch.zeros(1)}
    torch.save({"step": 1, "model_state": {**network.state_dict(), **scales}, **extra}, path)
    return network


@pytest.mark.parametrize("loudness", [1.0, 0.01], ids=["loud", "quiet"])
def test_resemblyzer_matches_torch_s_lstm(tmp_path: Path, loudness: float) -> None:
    """A quiet window is raised to -30 dB of full scale, a loud one is left as it is."""
    path = tmp_path / "pretrained.pt"
    reference = write_resemblyzer(path)
    imported = resemblyzer.read(path)
    speech = measuring.speech(RATE_HZ)
    windows = np.stack([speech[first : first + 25_600] for first in (20_000, 90_000, 200_000)]) * np.float32(loudness)
    levels = np.sqrt((windows**2).mean(axis=1, keepdims=True))
    raised = windows * np.maximum(1.0, 10.0**-1.5 / levels)
    with torch.no_grad():
        expected = reference(torch.from_numpy(np.stack([mel_energies(one) for one in raised]))).numpy()
        found = imported.network(torch.from_numpy(windows), torch.full((3,), 25_600, dtype=torch.int32)).numpy()
    assert (loudness == 1.0) == bool((levels > 10.0**-1.5).any())
    assert np.abs(found - expected).max() < 1e-5
    assert imported.origin == "pretrained.pt (Resemblyzer)"
    assert (imported.speaker.window_s, imported.speaker.padding) == (1.6, EXACT)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resemblyzer_is_traced_with_one_operator_per_layer(tmp_path: Path, precision: str) -> None:
    path = tmp_path / "pretrained.pt"
    write_resemblyzer(path)
    imported = resemblyzer.read(path)
    network: Any = imported.network
    client = ClientSpec(speaker=imported.speaker)
    checkpoint = Checkpoint(network=network, dims=network.dims, client=client, origin="a test", digest="1")
    graph = tmp_path / "graph.onnx"
    model = read_catalogue().models()["diar_standard"]
    (output,) = model.family.outputs
    windows = replace(model.family, outputs=(replace(output, shape=("embedding_size",)),))
    tracing.trace(Job(model=replace(model, family=windows), checkpoint=checkpoint, precision=precision), graph)
    assert [node.op_type for node in onnx.load(graph).graph.node].count("LSTM") == 3
    speech = measuring.speech(RATE_HZ)
    # At the length that it was traced with, none of them, and twice that of its windows.
    for size in (25_600, 51_200):
        audio = np.stack([speech[first : first + size] for first in (20_000, 90_000, 200_000)])
        lengths = np.full(3, size, dtype=np.int32)
        (found,) = onnxruntime.InferenceSession(graph).run(None, {"audio": audio, "audio_lengths": lengths})
        with torch.no_grad():
            expected = network(torch.from_numpy(audio), torch.from_numpy(lengths)).numpy()
        assert (found * expected).sum(axis=-1).min() > (1.0 - 1e-5 if precision == "fp32" else 1.0 - 2e-3)


class Hostile:
    """A pickle of this object runs a function."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


def test_resemblyzer_runs_no_code_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pretrained.pt"
    write_resemblyzer(path, optimiser=Hostile())
    with pytest.raises(CheckpointError) as error:
        resemblyzer.read(path)
    assert error.value.cause == "it holds objects other than tensors, and none of a checkpoint's code is run"
    assert not resemblyzer.recognises(path)
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(CheckpointError):
        resemblyzer.read(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ({"model": {}}, "it has no table of weights 'model_state'"),
        ({"model_state": {"lstm.weight_ih_l0": "text"}}, "it has no table of weights 'model_state'"),
        (
            {"model_state": {"lstm.weight_ih_l0": torch.zeros(4, 4)}},
            "it does not hold the weights of Resemblyzer's network ('lstm.weight_hh_l0')",
        ),
    ],
)
def test_resemblyzer_rejects_other_checkpoints(tmp_path: Path, content: dict[str, Any], cause: str) -> None:
    path = tmp_path / "pretrained.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        resemblyzer.read(path)
    assert str(error.value) == (
        f"{path}: {cause}. Use the file pretrained.pt of Resemblyzer, or one that its code trained."
    )


def test_resemblyzer_is_recognised_by_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write_resemblyzer(path)
    assert resemblyzer.recognises(path)
    path.write_bytes(path.read_bytes()[:1_000])
    assert not resemblyzer.recognises(path)
    assert not resemblyzer.recognises(tmp_path)
    assert not resemblyzer.recognises(tmp_path / "absent.pt")


def test_resemblyzer_states_its_limits(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.pt"
    write_resemblyzer(path)
    imported = resemblyzer.read(path)
    assert imported.speaker.same_speaker_similarity == 0.63
    assert imported.remarks == (
        "The network has no mask, so windows of exactly 1.6 s are embedded.",
        "Two embeddings count as one speaker's above a cosine of 0.63, which was measured with pretrained.pt on "
        "prompts of four voices, not on your recordings.",
    )


def test_resemblyzer_rejects_a_changed_byte(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.pt"
    write_resemblyzer(path)
    data = bytearray(path.read_bytes())
    weight = resemblyzer._weights(path)["linear.weight"].contiguous().numpy().tobytes()
    data[data.index(weight) + 5] ^= 1
    path.write_bytes(data)
    assert resemblyzer.recognises(path)
    with pytest.raises(CheckpointError, match=r"the checksum of its part .* is wrong"):
        resemblyzer.read(path)


def test_resemblyzer_expands_no_compressed_pickle(tmp_path: Path) -> None:
    """A small file would fill the memory."""
    plain, path = tmp_path / "plain.pt", tmp_path / "pretrained.pt"
    write_resemblyzer(plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) + bytes(10_000_000 * name.endswith("data.pkl")))
    assert not resemblyzer.recognises(path)
    with pytest.raises(CheckpointError, match=r"it holds compressed data, which torch\.save does not write"):
        resemblyzer.read(path)
