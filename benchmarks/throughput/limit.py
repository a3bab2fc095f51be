"""The raw networks: all runs that the transcript of a recording needs, in bare ONNX Runtime and with nothing else.

The requests are those of the transcriber for the same recording: the same segments, hypotheses and windows of speech,
without padding. The limit is the faster of two ways to use the cores: every run on all of them, or a run on each.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from benchmarks.graphs import Arrays, ExportedPoint, Network, ServedGraph
from benchmarks.measuring import seconds
from benchmarks.recogniser import GraphRecogniser
from transcriber import pipeline
from transcriber.audio import Recording
from transcriber.pipeline import Plan

Request: TypeAlias = tuple[str, Arrays]
"""A run of a network: its role and its inputs."""
CORES = os.cpu_count() or 1


class RecordedNetwork:
    """A benchmarks.graphs.Network that keeps what it was run on."""

    def __init__(self, role: str, network: Network, requests: list[Request]) -> None:
        self._role, self._network, self._requests = role, network, requests

    def run(self, inputs: Arrays) -> Arrays:
        """Run on arrays with a batch axis."""
        self._requests.append((self._role, inputs))
        return self._network.run(inputs)


class Limit:
    """The networks of an operating point in this process."""

    def __init__(self, exported: ExportedPoint) -> None:
        models = {role: record.model for role, record in exported.records.items()}
        self._exported = exported
        self._on_all_cores = {role: ServedGraph(model, CORES) for role, model in models.items()}
        self._on_one_core = {role: ServedGraph(model, 1) for role, model in models.items()}

    def requests(self, recording: Path, plan: Plan) -> list[Request]:
        """Return the runs that the transcript of a recording needs."""
        found: list[Request] = []
        networks = {role: RecordedNetwork(role, network, found) for role, network in self._on_all_cores.items()}
        rate_hz = GraphRecogniser(self._exported, networks).audio.sample_rate_hz
        opened = Recording(recording, sample_rate_hz=rate_hz)
        pipeline.transcribe(opened, GraphRecogniser(self._exported, networks), plan)
        return found

    def seconds(self, requests: Sequence[Request]) -> float:
        """Return the seconds of all runs, in the faster of the two ways."""
        return min(
            seconds(lambda: self._one_after_another(requests)),
            seconds(lambda: self._one_a_core(requests)),
        )

    def _one_after_another(self, requests: Sequence[Request]) -> None:
        for role, inputs in requests:
            self._on_all_cores[role].run(inputs)

    def _one_a_core(self, requests: Sequence[Request]) -> None:
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda request: self._on_one_core[request[0]].run(request[1]), requests))
