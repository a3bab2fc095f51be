"""Precision: the largest activations of a graph, the recogniser without a server, the tables, the errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx.parser
import pytest
import soundfile
from click.testing import CliRunner

from benchmarks import precision
from benchmarks.graphs import Arrays, ExportedPoint, Network, OpenGraph, exported_points
from benchmarks.precision import ActivationRange, WordComparison
from benchmarks.recogniser import GraphRecogniser
from benchmarks.recordings import LabelledRecording, RecordingSet
from build.activations import FP16, FP32, ObservedGraph
from contract.errors import AudioError, GraphError
from contract.manifest import Activation
from tests.integration.networks import network
from tests.unit.engines.exported import TOKENS, export
from tests.unit.transcriber.fakes import FakeRecogniser
from tests.unit.transcriber.sounds import RATE_HZ, burst, silence

# An FP16 square and an FP32 island, with a weight and a mask that are larger than any activation.
_SOURCE = """
<ir_version: 8, opset_import: ["" : 18]>
g (float16[n] x) => (float16[n] square, float[n] y) <float[1] weight = {50000.0}, float[1] mask = {-1.0e9}>
{
    [squaring] square = Mul (x, x)
    [widening] wide = Cast <to = 1> (square)
    [halving] narrow = Cast <to = 10> (weight)
    wide_again = Cast <to = 1> (narrow)
    share = Div (wide, wide_again)
    positive = Greater (wide, share)
    [masking] y = Where (positive, share, mask)
}"""
_ROW = """
<ir_version: 8, opset_import: ["" : 18]>
g (float16[n] x) => (float16[n] y) <float[1] thousand = {1000.0}>
{
    divisor = Cast <to = 10> (thousand)
    square = Mul (x, x)
    y = Div (square, divisor)
}"""


def _graph(path: Path, source: str = _SOURCE) -> Path:
    model = onnx.parser.parse_model(source)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def _halves(*values: float) -> Arrays:
    return {"x": np.array(values, dtype=np.float16)}


def test_finds_the_largest_activation_of_all_runs(tmp_path: Path) -> None:
    graph = ObservedGraph(_graph(tmp_path / "g.onnx"))
    assert graph.largest(FP16) is None
    outputs = [graph.run(_halves(1.0, -200.0)), graph.run(_halves(3.0))]
    assert [output.keys() for output in outputs] == [{"square", "y"}] * 2
    half, single = graph.largest(FP16), graph.largest(FP32)
    assert half == Activation(value=40_000.0, tensor="square", node="squaring", operator="Mul")
    assert half.headroom == pytest.approx(1.6376)
    assert single == Activation(value=40_000.0, tensor="wide", node="widening", operator="Cast")


def test_finds_an_overflow_within_the_graph(tmp_path: Path) -> None:
    """300 * 300 exceeds FP16, even though the next operation would bring it back into range."""
    graph = ObservedGraph(_graph(tmp_path / "g.onnx", _ROW))
    assert graph.run(_halves(300.0))["y"].tolist() == [np.inf]
    found = graph.largest(FP16)
    assert found is not None
    assert (found.tensor, found.value, found.headroom) == ("square", np.inf, 0.0)
    assert ActivationRange(model="g", fp16=found, islands=None).to_dict()["fp16"]["value"] is None


def test_nan_counts_as_an_overflow(tmp_path: Path) -> None:
    graph = ObservedGraph(_graph(tmp_path / "g.onnx"))
    graph.run(_halves(np.nan, 1.0))
    assert graph.largest(FP16) == Activation(value=np.inf, tensor="square", node="squaring", operator="Mul")


@pytest.mark.parametrize("family", ["body", "am_en", "decoder", "lm", "diar"])
def test_observed_graph_has_the_same_outputs(family: str, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(network(f"{family}_enhanced"))
    observed, usual = ObservedGraph(path), OpenGraph(path)
    generator = np.random.default_rng(4)
    arrays: Arrays = {
        "audio": generator.normal(size=(1, 32_000)).astype(np.float32),
        "audio_lengths": np.array([32_000], dtype=np.int32),
        "encoder_out": generator.normal(size=(1, 10, 8)).astype(np.float16),
        "encoder_lengths": np.array([10], dtype=np.int32),
        "hypotheses": np.array([[[3, 4], [5, 0]]], dtype=np.int32),
        "hypothesis_lengths": np.array([[2, 1]], dtype=np.int32),
    }
    inputs = {value.name: arrays[value.name] for value in onnx.load(path).graph.input}
    found, expected = observed.run(inputs), usual.run(inputs)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.array_equal(found[name], array)


@pytest.fixture
def point(tmp_path: Path) -> ExportedPoint:
    """Return graphs of the enhanced point: a few nodes each, with the parameters that clients need."""
    for family in ("body", "am_en", "decoder", "lm", "diar"):
        export(tmp_path, f"{family}_enhanced")
    return next(point for point in exported_points(tmp_path) if point.operating_point == "enhanced")


def test_graph_recogniser_implements_every_method(point: ExportedPoint) -> None:
    networks: dict[str, Network] = {role: OpenGraph(point.path(role, "fp16")) for role in point.records}
    recogniser = GraphRecogniser(point, networks)
    assert recogniser.tokens == TOKENS
    assert recogniser.rescorers == ("rescorer", "lm")
    assert recogniser.speaker is not None
    samples = np.random.default_rng(1).normal(size=1_360 + 9 * 640).astype(np.float32)
    encoded = recogniser.recognise(samples)
    # The vectors of these networks are the first eight samples of each frame.
    assert encoded.encoder_out is not None
    assert np.array_equal(encoded.encoder_out[3], samples[3 * 640 : 3 * 640 + 8].astype(np.float16))
    assert encoded.encoder_length == 10
    assert encoded.emissions.log_probs.shape == encoded.emissions.tokens.shape == (10, 4)
    hypotheses, lengths = np.array([[3, 4], [5, 0]], dtype=np.int32), np.array([2, 1], dtype=np.int32)
    assert recogniser.score("rescorer", encoded, hypotheses, lengths).tolist() == [-17.0, -15.0]
    assert recogniser.score("lm", encoded, hypotheses, lengths).tolist() == [-7.0, -5.0]
    assert recogniser.embed(np.tile(samples, 5), [(0, 32_000), (12_000, 35_600)]).shape == (2, 6)


def test_measures_a_point_without_rescorers_and_speakers(tmp_path: Path) -> None:
    for family in ("body", "am_en"):
        export(tmp_path, f"{family}_standard")
    points = exported_points(tmp_path)
    recogniser = GraphRecogniser(points[0], {})
    assert (recogniser.rescorers, recogniser.speaker) == ((), None)
    assert list(precision.missing_graphs(points)) == [
        "standard is measured without graphs in fp32 and fp16 of decoder_standard, diar_standard",
        "enhanced is not measured without graphs in fp32 and fp16 of body_enhanced, am_en_enhanced, "
        "decoder_enhanced, lm_enhanced, diar_enhanced",
    ]


def test_compares_transcripts(tmp_path: Path) -> None:
    loud, soft = tmp_path / "loud.wav", tmp_path / "soft.wav"
    for path, level in ((loud, 0.5), (soft, 0.02)):
        soundfile.write(path, np.concatenate((silence(0.5), burst(1.0, level=level), silence(0.5))), RATE_HZ)
    labelled = tuple(
        LabelledRecording(path=path, text=text, speaker="a", seconds=2.0)
        for path, text in ((loud, "loud"), (soft, "soft"))
    )
    chosen = RecordingSet(name="bursts", description="two bursts", recordings=labelled)
    usual, wrong = FakeRecogniser(), FakeRecogniser()
    pieces = tuple(piece.replace("loud", "aloud") for piece in wrong.tokens.pieces)
    wrong.tokens = replace(wrong.tokens, pieces=pieces)
    words = precision.compare(usual, wrong, chosen)
    assert (words.count, words.search, words.fp32, words.fp16, words.differing) == (2, "beam", 0.0, 0.5, 1)
    assert words.points == 50.0


def test_tables_are_aligned() -> None:
    words = WordComparison(
        operating_point="standard",
        recordings="prose",
        what="prose",
        count=200,
        search="rescore",
        fp32=0.125,
        fp16=0.13,
        differing=3,
    )
    activation = Activation(value=33.75, tensor="sum", node="node_add", operator="Add")
    ranges = [
        ActivationRange(model="body_standard", fp16=activation, islands=replace(activation, value=146.0)),
        ActivationRange(model="lm_enhanced", fp16=None, islands=None),
    ]
    assert list(precision.words_table([words]))[1:] == [
        "  point      recordings   count search       FP32     FP16  points  differ",
        "  standard   prose          200 rescore    12.50%   13.00%   +0.50  3",
    ]
    assert list(precision.range_table(ranges))[1:] == [
        "  model              in               largest  headroom  made by",
        "  body_standard      FP16               33.75    1941 x  node_add (Add)",
        "                     FP32 islands      146.00            node_add (Add)",
        "  lm_enhanced        FP16                   -         -  (it did not run for any recording)",
        "                     FP32 islands           -         -  (it did not run for any recording)",
    ]


def test_missing_recordings_have_a_remedy(tmp_path: Path) -> None:
    for family in ("body", "am_en"):
        export(tmp_path, f"{family}_standard")
    folder = tmp_path / "recordings"
    result = CliRunner().invoke(precision.command, ["--onnx", str(tmp_path), "--recordings", str(folder)])
    assert isinstance(result.exception, AudioError)
    assert str(result.exception) == (
        f"{folder / 'grammar' / 'truth.json'}: there are no recordings with transcripts. "
        "Write the recordings with `python -m training evaluation`."
    )


def test_missing_graphs_have_a_remedy(tmp_path: Path) -> None:
    export(tmp_path, "body_standard")
    with pytest.raises(GraphError) as refusal:
        exported_points(tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path}: no operating point has a body and a head in fp32 and fp16 there. "
        "Run `python -m export` first, or name its folder with --onnx."
    )


def test_rejects_damaged_graph(point: ExportedPoint) -> None:
    path = point.folder / "lm_enhanced" / "fp16.onnx"
    path.write_bytes(b"damaged")
    with pytest.raises(GraphError) as refusal:
        point.path("lm", "fp16")
    assert str(refusal.value) == (
        f"{path}: it is damaged: its digest differs from the export record. "
        "Run `python -m export --model lm_enhanced --force`."
    )
