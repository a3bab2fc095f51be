"""The embedded server against ONNX Runtime in this process, on the same engines, inputs and cores."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tritonclient import grpc as triton

from benchmarks.graphs import Network, ServedGraph
from benchmarks.measuring import Comparison, alternate, seconds
from benchmarks.server import ensure_bundle, served
from contract.access import from_environment
from transcriber.channel import Channels

REQUESTS, ROUNDS, CONCURRENCY = 16, 7, 4
SECONDS, RATE_HZ = 10, 16_000


def measure() -> list[Comparison]:
    """Compare the ensemble of the standard point with its two networks in this process."""
    ensure_bundle()
    generator = np.random.default_rng(1)
    requests = [generator.normal(0.0, 0.1, (1, SECONDS * RATE_HZ)).astype(np.float32) for _ in range(REQUESTS)]
    body, head = (ServedGraph(name, os.cpu_count() or 1) for name in ("body_standard", "am_en_standard"))
    audio_seconds = REQUESTS * SECONDS
    with (
        served() as endpoint,
        Channels(endpoint, from_environment(), one_server=True).open() as client,
        ThreadPoolExecutor(CONCURRENCY) as pool,
    ):
        pairs = alternate(
            ROUNDS,
            lambda: audio_seconds / seconds(lambda: _run_all(body, head, requests)),
            lambda: audio_seconds / seconds(lambda: list(pool.map(lambda audio: _infer(client, audio), requests))),
        )
    return [
        Comparison.of_pairs(
            pairs,
            title=f"body and acoustic head on {SECONDS} s of audio a request",
            unit="seconds of audio a second",
            first=f"ONNX Runtime in this process, {os.cpu_count()} threads",
            second=f"tritonserver over gRPC, {CONCURRENCY} in flight",
        )
    ]


def _run_all(body: Network, head: Network, requests: list[np.ndarray[Any, Any]]) -> None:
    for audio in requests:
        lengths = np.array([audio.shape[1]], dtype=np.int32)
        encoded = body.run({"audio": audio, "audio_lengths": lengths})
        head.run({name: encoded[name] for name in ("encoder_out", "encoder_lengths")})


def _infer(client: triton.InferenceServerClient, audio: np.ndarray[Any, Any]) -> None:
    inputs = [
        triton.InferInput("audio", audio.shape, "FP32"),
        triton.InferInput("audio_lengths", [1, 1], "INT32"),
    ]
    inputs[0].set_data_from_numpy(audio)
    inputs[1].set_data_from_numpy(np.array([[audio.shape[1]]], dtype=np.int32))
    client.infer("ensemble_en_standard", inputs)
