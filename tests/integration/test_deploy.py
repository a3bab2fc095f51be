"""Check deploy/ against real servers: the names of their metrics, and how a client distributes requests among them."""

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import yaml
from tritonclient import grpc as triton

from contract.catalogue import read_catalogue
from tests.integration import serving
from tests.integration.requests import Arrays, infer
from tests.integration.serving import Running
from transcriber.connection import Connection

pytestmark = pytest.mark.integration
DEPLOY = serving.ROOT / "deploy"
# Metrics that a server without a GPU does not have, from "GPU Metrics" in Triton's docs/user_guide/metrics.md.
GPU_METRICS = {"nv_gpu_utilization", "nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes"}
# Metrics of Prometheus (docs/concepts/jobs_instances, docs/configuration/alerting_rules), and of kube-state-metrics
# (docs/metrics/workload/deployment-metrics.md).
OTHER_METRICS = {"up", "ALERTS", "kube_deployment_status_replicas_unavailable"}
SUCCESS = "nv_inference_request_success"
REQUESTS, COUNTED_S = 12, 10


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    serving.write_bundle(folder / "embedded" / "cpu", "standard")
    return folder


@pytest.fixture(scope="module")
def servers(engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Start two servers with the flags of deploy/."""
    flags = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"]["server"]["command"]
    started = []
    with ExitStack() as stack:
        # One after the other: a port that the first server has not opened yet would look free to the second.
        for _ in range(2):
            server = stack.enter_context(serving.started(engines, tmp_path_factory.mktemp("server"), flags))
            serving.wait_ready(server)
            started.append(server)
        yield started


@pytest.fixture(scope="module")
def metrics(servers: list[Running]) -> str:
    """Return a server's metrics after one inference."""
    arrays: Arrays = {
        "audio": np.zeros((1, 32_000), dtype=np.float32),
        "audio_lengths": np.array([[32_000]], dtype=np.int32),
    }
    with triton.InferenceServerClient(f"127.0.0.1:{servers[0].grpc}") as client:
        infer(client, "ensemble_en_standard", arrays)
    _wait_until(lambda: _value(_read(servers[0]), SUCCESS, "ensemble_en_standard") == 1)
    return _read(servers[0])


def _wait_until(counted: Callable[[], bool]) -> None:
    """Wait until a response is counted: the counter may be updated shortly after the response."""
    end = time.monotonic() + COUNTED_S
    while not counted() and time.monotonic() < end:
        time.sleep(0.1)


def _read(server: Running) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics}/metrics") as answer:
        return str(answer.read().decode())


def _rules() -> list[dict[str, str]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "voxwright.rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _queries() -> list[str]:
    panels = json.loads((DEPLOY / "grafana" / "voxwright.json").read_text())
    adapter = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text())["rules"]
    return [
        *(rule["expr"] for rule in _rules()),
        *(target["expr"] for panel in panels["panels"] for target in panel.get("targets", [])),
        *(str(variable["query"]) for variable in panels["templating"]["list"]),
        *(rule["metricsQuery"] for rule in adapter),
        *(rule["seriesQuery"] for rule in adapter),
    ]


def _queried_metrics() -> set[str]:
    """Return every metric name in the queries: names before braces, and names with Triton's prefix.

    Those of the service are compared with the service in tests/unit/deploy/test_monitoring.py.
    """
    names = {name for query in _queries() for name in re.findall(r"\b(?:nv_\w+|[A-Za-z_][\w:]*(?=\{))", query)}
    return {name for name in names if not name.startswith("voxwright_")}


def test_every_queried_metric_exists(metrics: str) -> None:
    served = set(re.findall(r"^(nv_\w+)\{?", metrics, re.MULTILINE))
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    assert _queried_metrics() - served - recorded == GPU_METRICS | OTHER_METRICS
    # An exception that the server does have would hide a change of its name.
    assert not served & GPU_METRICS


def test_metrics_have_the_labels_that_rules_expect(metrics: str) -> None:
    """Rules sum over these labels, and the dashboard's quantiles are among Triton's default ones."""
    plain = ("request_success", "queue_duration_us", "pending_request_count", "count", "exec_count")
    for name in plain:
        assert _labels(metrics, f"nv_inference_{name}") == {("model", "version")}
    assert _labels(metrics, "nv_inference_request_failure") == {("model", "reason", "version")}
    quantiles = set(re.findall(r'^nv_inference_queue_summary_us\{.*quantile="([\d.]+)"', metrics, re.MULTILINE))
    wanted = {quantile for query in _queries() for quantile in re.findall(r'quantile="([\d.]+)"', query)}
    assert wanted == {"0.5", "0.95"} <= quantiles


def test_one_inference_is_counted_in_queried_metrics(metrics: str) -> None:
    for model in ("ensemble_en_standard", "body_standard", "am_en_standard"):
        assert _value(metrics, SUCCESS, model) == 1
        assert _value(metrics, "nv_inference_count", model) == _value(metrics, "nv_inference_exec_count", model) == 1
        assert _value(metrics, "nv_inference_pending_request_count", model) == 0


def _labels(metrics: str, name: str) -> set[tuple[str, ...]]:
    series = re.findall(rf"^{name}\{{(.*)\}} ", metrics, re.MULTILINE)
    return {tuple(sorted(re.findall(r"(\w+)=", labels))) for labels in series}


def _value(metrics: str, name: str, model: str) -> float:
    (value,) = re.findall(rf'^{name}\{{model="{model}",version="1"\}} (.*)$', metrics, re.MULTILINE)
    return float(value)


def test_client_distributes_requests_among_servers(servers: list[Running]) -> None:
    """A headless Service resolves to several addresses; this gRPC target lists them without a resolver."""
    before = [_inference_count(server) for server in servers]
    endpoint = "ipv4:" + ",".join(f"127.0.0.1:{server.grpc}" for server in servers)
    arrays: Arrays = {
        "audio": np.zeros((1, 32_000), dtype=np.float32),
        "audio_lengths": np.array([32_000], dtype=np.int32),
    }
    connection = Connection(endpoint, retry_timeout_s=10, notify=lambda _: None)
    try:
        connection.first_ready(("decoder_standard",))
        for _ in range(REQUESTS):
            connection.infer("diar_standard", read_catalogue().families["diar"], arrays)
    finally:
        connection.close()

    def new_inferences() -> list[int]:
        return [_inference_count(server) - earlier for server, earlier in zip(servers, before, strict=True)]

    _wait_until(lambda: sum(new_inferences()) == REQUESTS)
    assert sum(new_inferences()) == REQUESTS
    assert min(new_inferences()) >= REQUESTS // 3, new_inferences()


def _inference_count(server: Running) -> int:
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc}") as client:
        return int(client.get_inference_statistics("diar_standard").model_stats[0].inference_count)
