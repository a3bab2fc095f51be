"""The whole pipeline with the reference weights: export, compile, gate, serve, transcribe.

The outputs of the steps stay in dist/tests/, so that a second run rebuilds only what has changed.
"""

import io
import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from tritonclient import grpc as triton

from build import gate
from build.compilers import compiler, onnxruntime
from build.planning import plan
from contract import manifest
from contract.arch import Arch
from contract.catalogue import ENCODER_FRAMES, SAMPLES, read_catalogue
from contract.errors import GateError
from demo.scores import score
from export.checkpoints import reference as weights
from export.samples import bucket
from export.speech import read_demo
from runtime import probe
from tests.integration import serving
from tests.integration.reference import OUT, ROOT, lock, run
from tests.integration.requests import Arrays, infer, tensors
from tests.integration.serving import Running
from tests.unit.engines.test_gate import perturbed

pytestmark = pytest.mark.integration
CATALOGUE = read_catalogue()
MODELS = CATALOGUE.models()
SERVED = sorted(MODELS)
MODES = ("batch", "realtime")
NETWORKS = [name for name in SERVED if not name.startswith("ensemble")]
COMPILED = (
    Arch.SM75,
    Arch.SM86,
    *(pytest.param(arch, marks=pytest.mark.slow) for arch in (Arch.SM80, Arch.SM89)),
)
LARGEST_WORD_ERROR_RATES = {"standard": 0.10, "enhanced": 0.05}
LARGEST_STREAMED_WORD_ERROR_RATES = {"standard": 0.10, "enhanced": 0.06}
# Between an item alone and the same item padded inside a batch: sums run over more zeros, nothing else differs.
LARGEST_DIFFERENCE = 1e-4
# An ensemble passes the encoder output on in FP16, where such a sum may round either way.
LARGEST_DIFFERENCE_OF_ENSEMBLES = 1e-3


def test_second_run_rebuilds_nothing(reference_graphs: Path, reference_engines: Path) -> None:
    with lock():
        exported = run("export", "--out", reference_graphs).stderr
        built = run("build.engines", "--arch", "cpu", "--onnx", reference_graphs, "--out", reference_engines).stderr
    for text, count in ((exported, len(NETWORKS)), (built, len(MODES) * len(NETWORKS))):
        lines = [line for line in text.splitlines() if any(f" {name}" in line for name in NETWORKS)]
        assert len(lines) == count
        assert all(line.endswith("unchanged") for line in lines)


def test_every_engine_passes_its_gate(reference_engines: Path) -> None:
    bundle = manifest.load(reference_engines / "embedded" / "cpu")
    assert [(record.model, record.mode) for record in bundle.engines] == list(itertools.product(NETWORKS, MODES))
    for record in bundle.engines:
        assert record.gate.outcome == manifest.PASSED
        assert all(difference.within_limit for difference in record.gate.parity)


PERTURBED = [*((name, "batch") for name in NETWORKS), ("body_standard", "realtime")]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        case if case == ("am_en_standard", "batch") else pytest.param(*case, marks=pytest.mark.slow)
        for case in PERTURBED
    ],
)
def test_gate_rejects_engine_with_weights_off_by_one_percent(
    name: str, mode: str, reference_graphs: Path, tmp_path: Path
) -> None:
    """Every network in its real size, on the gate's inputs of one item: corners with large batches take minutes."""
    (job,) = plan(CATALOGUE, reference_graphs, Arch.CPU, compiler(None, Arch.CPU), (name,), mode=mode)
    engine = tmp_path / "perturbed.onnx"
    onnx.save(perturbed(job.reference.read_bytes(), 0.01), engine)
    inputs = gate.half_inputs(job)
    actual, expected = (onnxruntime.run(path, list(inputs.values())) for path in (engine, job.reference))
    cases = [
        gate.measured(job, case, job.precision, ours, theirs)
        for case, ours, theirs in zip(inputs, actual, expected, strict=True)
    ]
    with pytest.raises(GateError, match=f"^{name} {mode} for cpu: the engine differs from its graph: "):
        gate.check_tolerances(job, "the engine differs from its graph", cases)


@pytest.mark.parametrize("arch", COMPILED, ids=lambda arch: arch.value)
def test_every_network_compiles(arch: Arch, reference_graphs: Path) -> None:
    """Compile ahead of time with the real TensorRT-RTX, which needs no GPU."""
    run(
        "build.engines",
        "--arch",
        arch.value,
        "--compiler",
        "tensorrt_rtx",
        "--onnx",
        reference_graphs,
        "--out",
        OUT / "check",
    )
    bundle = OUT / "check" / "compile-check" / arch.value
    records = manifest.load(bundle).engines
    assert [(record.model, record.mode) for record in records] == list(itertools.product(NETWORKS, MODES))
    for record in records:
        assert (record.compiler, record.precision, record.gate.outcome) == ("tensorrt_rtx", "fp16", manifest.NOT_RUN)
        assert (bundle / record.file).stat().st_size == record.size_bytes > 10_000


def test_rejects_bundle_of_a_compile_check(reference_graphs: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "engines"
    arguments = ("--arch", "sm80", "--compiler", "tensorrt_rtx", "--model", "diar_standard")
    run("build.engines", *arguments, "--onnx", reference_graphs, "--out", bundles)
    command = serving.command(bundles, tmp_path / "repository")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 41
    assert (
        "(diar_standard/batch, diar_standard/realtime): Triton has no backend for TensorRT-RTX engines" in result.stderr
    )


def test_both_operating_points_are_ready(server: Running) -> None:
    assert probe.models(server.url) == dict.fromkeys(SERVED, "READY")
    table = server.log.read_text()
    for name in SERVED:
        assert f"| {name} " in table


def test_every_model_returns_its_golden_answer(server: Running) -> None:
    report = probe.run(server.url, serving.READY_S, CATALOGUE, live=False, inference=True, answer_timeout_s=60)
    assert report.endswith(f"; {len(SERVED)} answered correctly")


def test_ensemble_has_the_tensors_of_the_catalogue(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata("ensemble_en_standard")
    assert {(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in metadata.inputs} == {
        ("audio", "FP32", (-1, -1)),
        ("audio_lengths", "INT32", (-1, 1)),
    }
    bundle = manifest.load(OUT / "engines" / "embedded" / "cpu")
    (size,) = {each.dims["encoder_size"] for each in bundle.engines if each.model == "body_standard"}
    assert {(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in metadata.outputs} == {
        ("top_log_probs", "FP32", (-1, -1, 16)),
        ("top_tokens", "INT32", (-1, -1, 16)),
        ("encoder_out", "FP16", (-1, -1, size)),
        ("encoder_lengths", "INT32", (-1, 1)),
    }


@pytest.mark.parametrize("model", SERVED)
def test_padding_does_not_change_an_item(model: str, client: triton.InferenceServerClient) -> None:
    spec = MODELS[model].family
    items = [_inputs(client, model, index) for index in (0, 2)]
    alone = [_infer(client, model, item) for item in items]
    together = _infer(client, model, _padded(items))
    largest = LARGEST_DIFFERENCE_OF_ENSEMBLES if spec.is_ensemble else LARGEST_DIFFERENCE
    for row, outputs in enumerate(alone):
        for tensor in spec.outputs:
            theirs = outputs[tensor.name][0]
            ours = together[tensor.name][row][tuple(slice(None, size) for size in theirs.shape)]
            _assert_same(tensor.name, ours, theirs, outputs, largest)


def _assert_same(
    name: str, ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any], outputs: Arrays, largest: float
) -> None:
    if ours.dtype == np.float16:
        # The tensor is FP16: a sum near the middle between two FP16 numbers may round either way.
        steps = np.abs(ours.view(np.int16).astype(int) - theirs.view(np.int16).astype(int))
        close = np.abs(ours.astype(float) - theirs.astype(float)) < LARGEST_DIFFERENCE
        assert np.all((steps <= 1) | close), f"{name}: {steps.max()} steps of FP16"
        difference = np.linalg.norm(ours.astype(float) - theirs.astype(float)) / np.linalg.norm(theirs.astype(float))
        assert difference < LARGEST_DIFFERENCE, name
    elif name == "top_tokens":
        # Tokens of equal probability may be in either order.
        gaps = -np.diff(outputs["top_log_probs"][0], axis=-1)
        tied = np.pad(gaps < largest, ((0, 0), (1, 0))) | np.pad(gaps < largest, ((0, 0), (0, 1)))
        assert np.all((ours == theirs) | tied), name
    else:
        np.testing.assert_allclose(ours, theirs, atol=largest, err_msg=name)


def _inputs(client: triton.InferenceServerClient, model: str, index: int) -> Arrays:
    """Return the inputs of one item at its own length; the server runs the upstream models."""
    spec = MODELS[model].family
    audio = read_demo().segments[index].samples
    if spec.name == "diar":
        audio = audio[: spec.modes["batch"].axes[SAMPLES].max]
    made: Arrays = {"audio": audio[None], "audio_lengths": np.array([[len(audio)]], dtype=np.int32)}
    if {tensor.name for tensor in spec.inputs} == set(made):
        return made
    encoded = _infer(client, model.replace(spec.name, "body"), made)
    tokens = np.array([[[7, 9, 30 + index, 12], [7, 9, 40, 0]]], dtype=np.int32)
    made |= {**encoded, "hypotheses": tokens, "hypothesis_lengths": np.array([[4, 3]], dtype=np.int32)}
    return {tensor.name: made[tensor.name] for tensor in spec.inputs}


def _padded(items: list[Arrays]) -> Arrays:
    """Return one batch of items of unequal length, padded to a bucket."""
    joined = {}
    for name in items[0]:
        arrays = [item[name] for item in items]
        shape = np.max([array.shape for array in arrays], axis=0)
        if name in ("audio", "encoder_out"):
            family = "body" if name == "audio" else "decoder"
            axis = SAMPLES if name == "audio" else ENCODER_FRAMES
            shape[1] = bucket(int(shape[1]), CATALOGUE.families[family].modes["batch"].axes[axis])
        joined[name] = np.concatenate(
            [np.pad(array, [(0, size - own) for size, own in zip(shape, array.shape, strict=True)]) for array in arrays]
        )
    return joined


def _infer(client: triton.InferenceServerClient, model: str, arrays: Arrays) -> Arrays:
    answer = infer(client, model, {name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return {tensor.name: answer.as_numpy(tensor.name) for tensor in MODELS[model].family.outputs}


@pytest.mark.parametrize("point", LARGEST_WORD_ERROR_RATES)
def test_transcribes_the_dialogue(point: str, server: Running, tmp_path: Path) -> None:
    """Few words are wrong, and two speakers are found although their number is not given."""
    target = tmp_path / "dialogue.json"
    endpoint = f"127.0.0.1:{server.grpc}"
    options = ("--operating-point", point, "--format", "json-v2", "--output", target)
    run("transcriber", "demo/dialogue.flac", "--endpoint", endpoint, *options)
    reference = json.loads((ROOT / "demo" / "dialogue.json").read_text())
    found = score(json.loads(target.read_text()), reference)
    assert found.word_error_rate <= LARGEST_WORD_ERROR_RATES[point]
    assert found.speakers == found.reference_speakers == 2
    # Words count for their speaker here: with all words given to one speaker the rate would be far higher.
    assert found.speaker_word_error_rate <= found.word_error_rate + 0.1


def test_word_times_lie_within_their_turn(server: Running, tmp_path: Path) -> None:
    """Every word lies within its turn, give or take the pause before and after."""
    target = tmp_path / "dialogue.json"
    run("transcriber", "demo/dialogue.flac", "--endpoint", f"127.0.0.1:{server.grpc}", "--output", target)
    turns = json.loads((ROOT / "demo" / "dialogue.json").read_text())["turns"]
    words = [result for result in json.loads(target.read_text())["results"] if result["type"] == "word"]
    assert len(words) > 50
    for word in words:
        assert word["start_time"] <= word["end_time"]
        middle = (word["start_time"] + word["end_time"]) / 2
        assert any(turn["start"] - 0.3 <= middle <= turn["end"] + 0.3 for turn in turns), word


def test_runs_a_share_of_a_bulk_job(server: Running, tmp_path: Path) -> None:
    """As a pod of deploy/helm/voxwright-bulk runs it; tests/unit/deploy/test_bulk.py tests the failures."""
    (tmp_path / "recordings" / "monday").mkdir(parents=True)
    (tmp_path / "recordings" / "monday" / "dialogue.flac").symlink_to(ROOT / "demo" / "dialogue.flac")
    (tmp_path / "recordings" / "broken.wav").write_text("no recording")
    (tmp_path / "list").write_text("monday/dialogue.flac\nbroken.wav\n")
    settings = {
        "SM_INFERENCE_ENDPOINT": f"localhost:{server.grpc}",
        "LIST": str(tmp_path / "list"),
        "RECORDINGS": str(tmp_path / "recordings"),
        "TRANSCRIPTS": str(tmp_path / "transcripts"),
        "FORMAT": "json-v2",
        "SHARES": "1",
        "JOB_COMPLETION_INDEX": "0",
    }
    script = ROOT / "deploy" / "helm" / "voxwright-bulk" / "files" / "transcribe-share.sh"
    done = subprocess.run(
        ["sh", script, sys.executable, "-m", "transcriber"],
        cwd=ROOT, env=serving.environment(**settings), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 50, done.stderr
    assert done.stderr.splitlines()[-1] == "broken.wav: exit code 50"
    (transcript,) = [path for path in (tmp_path / "transcripts").rglob("*") if path.is_file()]
    assert transcript == tmp_path / "transcripts" / "monday" / "dialogue.flac.json"
    assert len(json.loads(transcript.read_text())["results"]) > 20


@pytest.mark.parametrize("point", LARGEST_STREAMED_WORD_ERROR_RATES)
def test_transcribes_the_dialogue_in_real_time(point: str, streams: Running) -> None:
    """From a pipe, with partial transcripts, and two speakers that keep their labels."""
    sound, endpoint = io.BytesIO(), f"127.0.0.1:{streams.grpc}"
    soundfile.write(sound, *soundfile.read(ROOT / "demo" / "dialogue.flac"), format="WAV", subtype="PCM_16")
    arguments = ("--realtime", "--endpoint", endpoint, "--operating-point", point, "--format", "json-v2")
    done = subprocess.run(
        [sys.executable, "-m", "transcriber", "-", *arguments],
        cwd=ROOT, input=sound.getvalue(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = Counter(message["message"] for message in messages)
    assert kinds["AddPartialTranscript"] > 5 * kinds["AddTranscript"] > 25
    finals = [message for message in messages if message["message"] == "AddTranscript"]
    words = {"results": [result for message in finals for result in message["results"]]}
    found = score(words, json.loads((ROOT / "demo" / "dialogue.json").read_text()))
    assert found.word_error_rate <= LARGEST_STREAMED_WORD_ERROR_RATES[point]
    assert found.speakers == found.reference_speakers == 2
    assert found.speaker_word_error_rate <= found.word_error_rate + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("point", LARGEST_STREAMED_WORD_ERROR_RATES)
def test_long_stream_keeps_its_two_speakers(point: str, streams: Running, tmp_path: Path) -> None:
    """Six minutes: the dialogue is repeated without a pause, so that several segments have both voices."""
    samples, rate_hz = soundfile.read(ROOT / "demo" / "dialogue.flac", dtype="int16")
    sound, target = io.BytesIO(), tmp_path / "long.json"
    soundfile.write(sound, np.tile(samples, 5), rate_hz, format="WAV", subtype="PCM_16")
    arguments = ("--endpoint", f"127.0.0.1:{streams.grpc}", "--operating-point", point, "--output", target)
    subprocess.run(
        [sys.executable, "-m", "transcriber", "--realtime", "-", *arguments],
        cwd=ROOT, input=sound.getvalue(), stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    words = [result for result in json.loads(target.read_text())["results"] if result["type"] == "word"]
    assert len(words) > 5 * 180
    assert {word["alternatives"][0]["speaker"] for word in words} == {"S1", "S2"}


def test_rejects_recording_for_a_realtime_server(streams: Running) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "transcriber", "demo/dialogue.flac", "--endpoint", f"127.0.0.1:{streams.grpc}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 52
    assert "it is served in real time, for streams and not for recordings. Use --realtime" in done.stderr


def test_stream_equals_the_recording_under_the_same_mask(streams: Running) -> None:
    """Real speech, window by window through the server with FP16 states, equals torch on the whole recording."""
    mode = CATALOGUE.families["body"].modes["realtime"]
    window, audio = mode.axes[SAMPLES].max, read_demo().segments[-1].samples
    begins = mode.window_starts(len(audio))
    outputs = [triton.InferRequestedOutput(name) for name in ("encoder_out", "encoder_lengths", "top_tokens")]
    received = []
    with triton.InferenceServerClient(f"127.0.0.1:{streams.grpc}") as client:
        for first in begins:
            part = audio[first : first + window]
            sent = np.zeros((1, window), dtype=np.float32)
            sent[0, : len(part)] = part
            inputs = tensors({"audio": sent, "audio_lengths": np.array([[len(part)]], dtype=np.int32)})
            answer = client.infer(
                "ensemble_en_standard",
                inputs,
                outputs=outputs,
                sequence_id=5,
                sequence_start=first == 0,
                sequence_end=first == begins[-1],
            )
            length = int(answer.as_numpy("encoder_lengths")[0, 0])
            received.append(answer.as_numpy("encoder_out")[0, :length])
    body: Any = weights.open_checkpoint(MODELS["body_standard"]).network
    with torch.no_grad():
        whole = body.front_end(torch.from_numpy(audio[None])), body.front_end.lengths(torch.tensor([len(audio)]))
        expected = body.network.encode(*whole, chunk=mode.axes[ENCODER_FRAMES].max, left=128)[0]
    found = np.concatenate(received)[: expected.shape[1]].astype(np.float32)
    assert found.shape == expected[0].shape
    difference = np.linalg.norm(found - expected[0].numpy()) / np.linalg.norm(expected[0].numpy())
    assert difference < 5e-3
