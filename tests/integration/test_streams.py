"""Streams on the real server: it keeps states from request to request, separately for each stream."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

from contract.catalogue import read_catalogue
from runtime import probe
from tests.integration import serving
from tests.integration.requests import tensors
from tests.integration.serving import Running

pytestmark = pytest.mark.integration
WINDOW, CHUNK, SLOTS = 5840, 8, 192
OUTPUTS = ("encoder_out", "encoder_lengths", "top_log_probs", "top_tokens")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("streams")
    serving.write_bundle(folder / "engines" / "embedded" / "cpu", mode="realtime")
    with serving.started(folder / "engines", folder, SM_BATCH_MODE="false") as running:
        serving.wait_ready(running)
        yield running


def step(client: triton.InferenceServerClient, stream: int, *, start: bool = False, end: bool = False) -> int:
    """Send silence as the next window of a stream and return the number of past frames that the state holds."""
    inputs = tensors(
        {"audio": np.zeros((1, WINDOW), dtype=np.float32), "audio_lengths": np.array([[WINDOW]], dtype=np.int32)}
    )
    outputs = [triton.InferRequestedOutput(name) for name in OUTPUTS]
    answer: Any = client.infer(
        "ensemble_en_standard",
        inputs,
        outputs=outputs,
        sequence_id=stream,
        sequence_start=start,
        sequence_end=end,
    )
    assert answer.as_numpy("top_tokens").shape == (1, CHUNK, 4)
    (found,) = set(answer.as_numpy("encoder_out").flatten().tolist())
    return int(found)


def test_every_model_returns_its_golden_answer(server: Running) -> None:
    catalogue = read_catalogue()
    report = probe.run(server.url, serving.READY_S, catalogue, live=False, inference=True, answer_timeout_s=60)
    assert report.endswith(f"; {len(catalogue.models())} answered correctly")


def test_stream_keeps_and_resets_its_states(client: triton.InferenceServerClient) -> None:
    assert [step(client, 7, start=number == 0) for number in range(20)] == [min(8 * n, 128) for n in range(20)]
    assert step(client, 7, start=True) == 0
    assert step(client, 7, end=True) == 8
    assert step(client, 7, start=True, end=True) == 0


def test_streams_are_independent(client: triton.InferenceServerClient) -> None:
    for number in range(4):
        assert step(client, 11, start=number == 0, end=number == 3) == 8 * number
        if number in (1, 2):
            assert step(client, 12, start=number == 1, end=number == 2) == 8 * (number - 1)
    assert step(client, 13, start=True, end=True) == 0


def test_rejects_stream_without_start(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="must specify the START flag on the first request"):
        step(client, 99)


def test_serves_a_stream_in_every_slot(client: triton.InferenceServerClient) -> None:
    """One more stream would wait for a slot. The streams of earlier tests have ended."""
    streams = range(200, 200 + SLOTS)
    for number in range(3):
        assert {step(client, stream, start=number == 0, end=number == 2) for stream in streams} == {8 * number}
