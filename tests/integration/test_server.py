"""The real embedded server, started by `python -m runtime` with networks of a few nodes."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from contract.catalogue import CATALOGUE_FOLDER, read_catalogue
from contract.client import PARAMETER, ClientSpec, SearchSpec
from contract.errors import ManifestError
from contract.frames import FrameRule
from runtime import probe
from tests.integration import serving
from tests.integration.requests import Arrays, infer, tensors
from tests.integration.serving import LONG_TEXT, Running
from tests.ports import free_ports
from tests.unit.runtime import synthetic

pytestmark = pytest.mark.integration
MODELS = read_catalogue().models()
NO_LICENCE = "no licence is needed: there is no vendor key at /etc/voxwright/vendor.pem"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only looked at
BODY = FrameRule.of((400, 160), (3, 2), (3, 2))
GENERATOR = np.random.default_rng(7)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    serving.write_bundle(folder / "embedded" / "cpu")
    return folder


@pytest.fixture(scope="module")
def server(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving.started(engines, tmp_path_factory.mktemp("server")) as running:
        serving.wait_ready(running)
        yield running


@pytest.fixture
def joining(engines: Path, tmp_path: Path) -> Iterator[triton.InferenceServerClient]:
    """Serve with a catalogue that limits a queue, so that models keep their batcher on a CPU."""
    catalogue = shutil.copytree(CATALOGUE_FOLDER, tmp_path / "catalogue")
    for name in ("body", "lm"):
        path = catalogue / name / "model.toml"
        assert path.read_text().rstrip().endswith("max_queue_delay_microseconds = 2000")
        path.write_text(path.read_text() + "default_queue_policy = { max_queue_size = 64 }\n")
    with serving.started(engines, tmp_path, ("--catalogue", str(catalogue))) as running:
        serving.wait_ready(running)
        with triton.InferenceServerClient(f"127.0.0.1:{running.grpc}") as client:
            yield client


def infer_together(client: triton.InferenceServerClient, model: str, requests: list[Arrays]) -> list[Any]:
    """Send all requests at once and return a result or an exception for each, in order."""
    answers: list[Future[Any]] = [Future() for _ in requests]

    def answer(future: Future[Any], result: Any, error: Any) -> None:
        future.set_result(error if error is not None else result)

    for future, arrays in zip(answers, requests, strict=True):
        client.async_infer(
            model, tensors(arrays), callback=lambda result, error, future=future: answer(future, result, error)
        )
    return [future.result(30) for future in answers]


def speech(frames: int, batch: int = 1) -> Arrays:
    """Return noise of a number of encoder frames."""
    samples = BODY.shortest + (frames - 1) * BODY.hop
    return {
        "audio": GENERATOR.normal(size=(batch, samples)).astype(np.float32),
        "audio_lengths": np.full((batch, 1), samples, dtype=np.int32),
    }


def encoded(arrays: Arrays) -> np.ndarray[Any, Any]:
    """Return what the small body makes of audio: the first eight samples of every frame."""
    windows = np.lib.stride_tricks.sliding_window_view(arrays["audio"], BODY.shortest, axis=1)
    return windows[:, :: BODY.hop, :8].astype(np.float16)


def hypotheses(*tokens: int) -> Arrays:
    return {
        "hypotheses": np.array(tokens, dtype=np.int32).reshape(1, 1, -1),
        "hypothesis_lengths": np.array([[len(tokens)]], dtype=np.int32),
    }


def runs(client: triton.InferenceServerClient, model: str) -> tuple[int, int]:
    """Return the number of items that a model has completed, and of runs of its network."""
    counted = client.get_inference_statistics(model).model_stats[0]
    return counted.inference_count, counted.execution_count


def shared_memory_of(server: Running) -> list[str]:
    return [path.name for path in SHARED_MEMORY.glob(f"voxwright-*-{server.process.pid}-*")]


def test_every_model_is_ready(server: Running) -> None:
    assert probe.models(server.url) == dict.fromkeys(MODELS, "READY")
    table = re.findall(r"^\| (\w+) +\| 1 +\| (\w+) +\|$", server.log.read_text(), re.MULTILINE)
    assert dict(table) == dict.fromkeys(MODELS, "READY")


def test_probe_reports_ready_models(server: Running) -> None:
    ready = f"{server.url}: ready, 11 models: {', '.join(MODELS)}"
    assert run_probe(server, "--live") == f"{server.url}: live\n"
    assert run_probe(server) == f"{ready}\n"
    assert run_probe(server, "--inference") == f"{ready}; 11 answered correctly\n"


def run_probe(server: Running, *options: str) -> str:
    called = CliRunner().invoke(probe.command, ["--url", server.url, "--timeout", "5", *options])
    assert called.exception is None, called.exception
    return called.output


def test_log_lists_served_models(server: Running) -> None:
    head = server.log.read_text().splitlines()[:4]
    assert head == [
        f"voxwright: {NO_LICENCE}",
        "voxwright: serving arch cpu, as selected with --platform",
        f"voxwright: serving standard and enhanced: {', '.join(MODELS)}",
        f"voxwright: precision FP32: {', '.join(sorted(synthetic.engine_models()))}",
    ]


@pytest.mark.parametrize("name", MODELS)
def test_metadata_matches_the_catalogue(client: triton.InferenceServerClient, name: str) -> None:
    metadata, family = client.get_model_metadata(name), MODELS[name].family
    for found, expected in ((metadata.inputs, family.inputs), (metadata.outputs, family.outputs)):
        assert [(tensor.name, tensor.datatype) for tensor in found] == [
            (tensor.name, tensor.type) for tensor in expected
        ]
        for tensor, entry in zip(expected, found, strict=True):
            dims = [axis if isinstance(axis, int) else synthetic.DIMS.get(axis, -1) for axis in tensor.shape]
            assert list(entry.shape) == [-1, *(dims or [1])]


@pytest.mark.parametrize("name", ["am_en_standard", "ensemble_en_standard"])
def test_parameters_reach_the_client(client: triton.InferenceServerClient, name: str) -> None:
    text = client.get_model_config(name).config.parameters[PARAMETER].string_value
    found = ClientSpec.from_json(text, name, ManifestError, "")
    assert found.tokens == synthetic.CLIENTS["ctc"].tokens
    assert found.search == SearchSpec(ngram=LONG_TEXT)
    assert found.audio == (synthetic.CLIENTS["encoder"].audio if name.startswith("ensemble") else None)


def test_serves_metrics(server: Running) -> None:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics") as answer:
        assert b'nv_inference_count{model="body_standard",version="1"}' in answer.read()


def test_ensemble_computes_its_steps(client: triton.InferenceServerClient) -> None:
    arrays = speech(frames=10, batch=3)
    result = infer(client, "ensemble_en_enhanced", arrays)
    expected = encoded(arrays)
    wide = expected.astype(np.float32)
    order = np.argsort(-wide, axis=-1, kind="stable")[..., :4]
    log_probs = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    np.testing.assert_array_equal(result.as_numpy("encoder_out"), expected)
    np.testing.assert_array_equal(result.as_numpy("encoder_lengths"), [[10], [10], [10]])
    np.testing.assert_array_equal(result.as_numpy("top_tokens"), order)
    np.testing.assert_allclose(
        result.as_numpy("top_log_probs"), np.take_along_axis(log_probs, order, -1), rtol=1e-5, atol=1e-6
    )
    types = [str(result.as_numpy(name).dtype) for name in ("encoder_out", "top_log_probs", "top_tokens")]
    assert types == ["float16", "float32", "int32"]


def test_returns_only_requested_outputs(client: triton.InferenceServerClient) -> None:
    result = infer(client, "ensemble_en_standard", speech(frames=10), "top_tokens", "encoder_lengths")
    assert {output.name for output in result.get_response().outputs} == {"top_tokens", "encoder_lengths"}
    result = infer(client, "body_standard", speech(frames=10), "encoder_lengths")
    assert [output.name for output in result.get_response().outputs] == ["encoder_lengths"]


def test_decoder_scores_hypotheses(client: triton.InferenceServerClient) -> None:
    arrays: Arrays = {
        "encoder_out": np.zeros((1, 5, 8), dtype=np.float16),
        "encoder_lengths": np.array([[100]], dtype=np.int32),
        "hypotheses": np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.int32),
        "hypothesis_lengths": np.array([[3, 3]], dtype=np.int32),
    }
    np.testing.assert_array_equal(infer(client, "decoder_standard", arrays).as_numpy("scores"), [[-106.0, -115.0]])


@pytest.mark.parametrize("are_joined", [False, True])
def test_requests_get_their_own_results(request: pytest.FixtureRequest, *, are_joined: bool) -> None:
    client = request.getfixturevalue("joining" if are_joined else "client")
    items_before, runs_before = runs(client, "body_standard")
    requests = [speech(frames, batch) for frames in (10, 20) for batch in (1, 2, 1, 1, 3, 1, 1, 2)]
    for arrays, result in zip(requests, infer_together(client, "body_standard", requests), strict=True):
        expected = encoded(arrays)
        np.testing.assert_array_equal(result.as_numpy("encoder_out"), expected)
        np.testing.assert_array_equal(result.as_numpy("encoder_lengths"), [[expected.shape[1]]] * len(expected))
    items_after, runs_after = runs(client, "body_standard")
    assert items_after - items_before == sum(len(arrays["audio"]) for arrays in requests)
    assert (runs_after - runs_before < len(requests)) == are_joined


def test_bad_request_fails_alone(joining: triton.InferenceServerClient) -> None:
    client = joining
    _, runs_before = runs(client, "lm_enhanced")
    requests = [hypotheses(index, 1) if index != 3 else hypotheses(99, 1) for index in range(8)]
    answers = infer_together(client, "lm_enhanced", requests)
    for index, answer in enumerate(answers):
        if index != 3:
            np.testing.assert_array_equal(answer.as_numpy("scores"), [[-index - 1.0]])
    assert isinstance(answers[3], InferenceServerException)
    assert "model lm_enhanced: " in answers[3].message()
    assert "indices element out of data bounds, idx=99" in answers[3].message()
    # Some requests shared a batch with the bad one; otherwise this would prove nothing.
    assert runs(client, "lm_enhanced")[1] - runs_before < len(requests)


def test_rejects_request_of_wrong_type(client: triton.InferenceServerClient) -> None:
    arrays = {**speech(frames=10), "audio": np.zeros((1, 32_000), dtype=np.float16)}
    with pytest.raises(InferenceServerException, match="inference input 'audio' data-type is 'FP16'"):
        infer(client, "ensemble_en_standard", arrays)


def test_second_server_with_one_operating_point(engines: Path, server: Running, tmp_path: Path) -> None:
    of_first = shared_memory_of(server)
    with serving.started(engines, tmp_path, SM_OPERATING_POINT="standard", VOXWRIGHT_THREADS="2") as second:
        serving.wait_ready(second)
        assert probe.models(second.url) == dict.fromkeys(
            ["am_en_standard", "body_standard", "decoder_standard", "diar_standard", "ensemble_en_standard"], "READY"
        )
        # Two instances of each of four models.
        assert len(shared_memory_of(second)) == 8
        assert second.stop() == 0
        assert shared_memory_of(second) == []
    assert of_first
    assert shared_memory_of(server) == of_first
    assert probe.check(server.url) is None


def test_removes_shared_memory_of_a_killed_server(engines: Path, tmp_path: Path) -> None:
    with serving.started(engines, tmp_path, SM_OPERATING_POINT="standard") as killed:
        serving.wait_ready(killed)
        serving.kill(killed.process)
    assert shared_memory_of(killed) != []
    with serving.started(engines, tmp_path, SM_OPERATING_POINT="standard") as next_one:
        while next_one.process.poll() is None and not shared_memory_of(next_one):
            time.sleep(0.05)
        assert shared_memory_of(killed) == []


def refused(engines: Path, folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        serving.command(engines, folder / "repository", *options),
        env=serving.environment(**variables),
        cwd=serving.ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "Traceback" not in result.stderr
    assert not (folder / "repository").exists()
    return result


def test_rejects_damaged_engine_before_start(tmp_path: Path) -> None:
    bundle = serving.write_bundle(tmp_path / "engines" / "embedded" / "cpu")
    engine = bundle / "lm_enhanced" / "batch" / "model.onnx"
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    ports = free_ports(3)
    result = refused(tmp_path / "engines", tmp_path, *flags(*ports))
    assert result.returncode == 42
    assert f"error: {engine}: its content does not match the manifest. " in result.stderr


def flags(http: int, grpc: int, metrics: int) -> list[str]:
    return [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]


def test_rejects_port_in_use(engines: Path, server: Running, tmp_path: Path) -> None:
    http, _, metrics = free_ports(3)
    result = refused(engines, tmp_path, *flags(http, server.grpc, metrics))
    assert result.returncode == 44
    assert result.stderr.splitlines()[-1] == (
        f"error: port {server.grpc}: another process listens on it. "
        "Stop that process, or choose another port with --grpc-port."
    )


def test_rejects_unknown_operating_point(engines: Path, tmp_path: Path) -> None:
    result = refused(engines, tmp_path, SM_OPERATING_POINT="premium")
    assert result.returncode == 10
    assert result.stderr == (
        f"error: SM_OPERATING_POINT: 'premium' is not an operating point of {CATALOGUE_FOLDER}. "
        "Use standard or enhanced.\n"
    )


def test_rejects_realtime_without_realtime_engines(engines: Path, tmp_path: Path) -> None:
    result = refused(engines, tmp_path, SM_BATCH_MODE="false")
    assert result.returncode == 41
    assert "it is built for batch, not for realtime" in result.stderr


def test_rejects_unknown_schema(tmp_path: Path) -> None:
    bundle = serving.write_bundle(tmp_path / "engines" / "embedded" / "cpu", "standard")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 5}))
    result = refused(tmp_path / "engines", tmp_path)
    assert result.returncode == 12
    assert f"error: {bundle / 'manifest.json'}: schema_version: it is 5, and this release reads 4." in result.stderr


def test_rejects_folder_without_bundle(tmp_path: Path) -> None:
    result = refused(tmp_path / "engines", tmp_path)
    assert result.returncode == 41
    assert "or build one with `python -m build.engines --arch cpu --platform embedded`." in result.stderr


def test_serves_bundle_with_one_operating_point(tmp_path: Path) -> None:
    serving.write_bundle(tmp_path / "engines" / "embedded" / "cpu", "standard")
    result = subprocess.run(
        serving.command(tmp_path / "engines", tmp_path / "repository", "--assemble-only"),
        env=serving.environment(), cwd=serving.ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    left_out, served, precision = result.stderr.splitlines()[2:]
    assert left_out == (
        "voxwright: operating point enhanced is not served: no engine for am_en_enhanced, body_enhanced"
    )
    assert served == (
        "voxwright: serving standard: am_en_standard, body_standard, decoder_standard, diar_standard, "
        "ensemble_en_standard"
    )
    assert precision == "voxwright: precision FP32: am_en_standard, body_standard, decoder_standard, diar_standard"
    assert len(list((tmp_path / "repository").iterdir())) == 5


def test_ends_when_a_model_file_is_not_onnx(tmp_path: Path) -> None:
    wanted = [model for model in synthetic.engine_models().values() if model.operating_point == "standard"]
    made = synthetic.manifest(*(synthetic.record(model, b"no model at all") for model in wanted))
    synthetic.write(tmp_path / "engines" / "embedded" / "cpu", made, lambda _: b"no model at all")
    with serving.started(tmp_path / "engines", tmp_path) as broken:
        assert broken.process.wait(30) != 0
        assert "model body_standard: model.onnx is damaged or not an ONNX model: " in broken.log.read_text()
