"""Test Prometheus' rules with promtool, and that rules, adapter and dashboard are consistent."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.arch import Arch
from deploy import render
from service.metrics import Metrics

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = PROMETHEUS / "voxwright.rules.yaml"
DASHBOARD = DEPLOY / "grafana" / "voxwright.json"
# `ci/promtool` extracts it to dist/tools if the host has none.
PROMTOOL = shutil.which("promtool", path=f"{os.environ['PATH']}:{ROOT / 'dist' / 'tools'}")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: run ci/promtool")


SERVICE_WITH_TLS: dict[str, Any] = {
    "architectures": {"cpu": {"replicas": 1}},
    "applications": {
        "enabled": True,
        "keys": {"secretName": "keys"},
        "storage": {"volume": {"persistentVolumeClaim": {"claimName": "jobs"}}},
        "tls": {"secretName": "tls"},
    },
}


def _promtool(*arguments: str | Path) -> str:
    command = [str(PROMTOOL), *map(str, arguments)]
    found = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return panels


def _queries() -> list[str]:
    """Return the queries of the dashboard; a row has no panel of its own."""
    return [target["expr"] for panel in _panels() if panel["type"] != "row" for target in panel["targets"]]


def test_files_pass_yamllint() -> None:
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", ".yamllint.yaml", "deploy"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


@needs_promtool
def test_rules_are_valid() -> None:
    assert f"{len(_rules())} rules found" in _promtool("check", "rules", "--lint-fatal", RULES)


@needs_promtool
def test_rules_pass_their_tests() -> None:
    _promtool("test", "rules", "voxwright.rules.test.yaml")


def test_every_rule_has_a_test() -> None:
    text = (PROMETHEUS / "voxwright.rules.test.yaml").read_text()
    for rule in _rules():
        if "record" in rule:
            assert f"- expr: {rule['record']}\n" in text
        else:
            # One test in which it fires, and one in which it does not.
            name = rule["alert"]
            assert f"- alertname: {name}\n" in text
            assert re.search(rf"alertname: {name}(, |\n +)eval_time: \w+(, |\n +)exp_alerts: \[\]", text)


def test_alerts_have_summary_and_remedy() -> None:
    for rule in _rules():
        if "alert" in rule:
            assert rule["alert"].startswith("Voxwright")
            assert rule["labels"].keys() == {"severity"}
            assert rule["annotations"].keys() == {"summary", "remedy"}


def test_deployment_alert_covers_every_architecture() -> None:
    (rule,) = [rule for rule in _rules() if rule.get("alert") == "VoxwrightServerNotReady"]
    assert f"({'|'.join(arch.value for arch in Arch)})" in rule["expr"]


@needs_promtool
@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_scrape_configurations_are_valid(name: str, tmp_path: Path) -> None:
    table = yaml.safe_load((PROMETHEUS / name).read_text())
    assert [job["job_name"] for job in table["scrape_configs"]] == ["voxwright", "voxwright-service"]
    for job in table["scrape_configs"]:
        # Debian's promtool does not support discovery through Kubernetes. Everything else is checked.
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [{"targets": ["pod:8002"]}]
    shutil.copy(RULES, tmp_path)
    (tmp_path / name).write_text(yaml.safe_dump(table))
    _promtool("check", "config", tmp_path / name)


def test_scrape_configuration_matches_labels_of_chart() -> None:
    """Each job takes one port of each pod: the metrics of a server, and the only port of a service."""
    jobs = yaml.safe_load((PROMETHEUS / "kubernetes.yaml").read_text())["scrape_configs"]
    assert [job["kubernetes_sd_configs"] for job in jobs] == [[{"role": "pod"}]] * 2
    texts = (DEPLOY / "kubernetes" / "voxwright.yaml").read_text(), render.manifests("voxwright", SERVICE_WITH_TLS)
    manifests = [each for text in texts for each in yaml.safe_load_all(text) if each["kind"] == "Deployment"]
    kept: list[tuple[str, str, str | None, str | None]] = []
    for pod in (each["spec"]["template"] for each in manifests):
        labels = pod["metadata"]["labels"]
        for port in (port["name"] for container in pod["spec"]["containers"] for port in container["ports"]):
            for job in jobs:
                found = _relabelled(job["relabel_configs"], labels, port)
                if found is not None:
                    kept.append((job["job_name"], port, found.get("arch"), found.get("__scheme__")))
    servers = [("voxwright", "metrics", arch.value, None) for arch in Arch if arch.capability]
    services = [("voxwright-service", scheme, None, scheme) for scheme in ("http", "https")]
    assert sorted(kept, key=str) == sorted([*servers, ("voxwright", "metrics", "cpu", None), *services], key=str)


def _relabelled(rules: list[dict[str, Any]], labels: dict[str, str], port: str) -> dict[str, str] | None:
    """Apply Prometheus' relabelling to a pod's port. Return the labels, or None for a dropped target."""
    prefix = "__meta_kubernetes_pod_label_"
    known = {prefix + re.sub(r"[^a-zA-Z0-9]", "_", name): text for name, text in labels.items()}
    known |= {"__meta_kubernetes_pod_container_port_name": port, "__meta_kubernetes_pod_phase": "Running"}
    for rule in rules:
        value = ";".join(known.get(name, "") for name in rule["source_labels"])
        if rule.get("action") == "keep":
            if not re.fullmatch(rule["regex"], value):
                return None
        else:
            known[rule["target_label"]] = value
    return known


@needs_promtool
def test_adapter_query_matches_recorded_rule(tmp_path: Path) -> None:
    (rule,) = yaml.safe_load((PROMETHEUS / "adapter.yaml").read_text())["rules"]
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "namespace, pod").replace("<<.LabelMatchers>>", 'pod=~"a|b"')
    series = 'nv_inference_queue_duration_us{namespace="speech", pod="POD", model="MODEL", version="1"}'
    tests = {
        "rule_files": [],
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": series.replace("POD", pod).replace("MODEL", model), "values": f"0+{step}x40"}
                    for pod, model, step in [("a", "body", 30_000_000), ("a", "lm", 15_000_000), ("b", "body", 0)]
                ],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": "5m",
                        "exp_samples": [
                            {"labels": '{namespace="speech", pod="a"}', "value": 3},
                            {"labels": '{namespace="speech", pod="b"}', "value": 0},
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "adapter.test.yaml").write_text(yaml.safe_dump(tests))
    _promtool("test", "rules", tmp_path / "adapter.test.yaml")


def test_dashboard_has_expected_panels() -> None:
    titles = [panel["title"] for panel in _panels()]
    assert len(set(titles)) == len(titles)
    for wanted in (
        "Servers up",
        "Requests per second, by model",
        "Queue time, p50 and p95",
        "Compute time, p50 and p95",
        "Batch size formed",
        "Failures per second, by model and reason",
        "GPU utilisation",
        "GPU memory",
        "Service for applications",
        "Real-time sessions",
        "Jobs waiting and running",
        "Audio seconds per second, by kind",
        "Real-time factor, p50 and p95",
        "Errors per second, by kind",
        "Answers per second, by route and status",
        "Time to answer, p95, by route",
    ):
        assert wanted in titles


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in _panels()}) == len(_panels())


@needs_promtool
def test_dashboard_queries_are_valid(tmp_path: Path) -> None:
    queries = _queries()
    assert len(queries) >= len([panel for panel in _panels() if panel["type"] != "row"])
    filled = [re.sub(r"\$\w+", ".*", query) for query in queries]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(filled)]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(queries)} rules found" in _promtool("check", "rules", path)


def test_dashboard_uses_existing_recorded_rules() -> None:
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    used = {name for text in _queries() for name in re.findall(r"\bvoxwright:\w+:\w+", text)}
    assert used <= recorded


def test_dashboard_variables_are_defined() -> None:
    table = json.loads(DASHBOARD.read_text())
    defined = {variable["name"] for variable in table["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text())) - {"__all"}
    assert used == defined


def test_metrics_of_the_service_exist() -> None:
    """Every metric and label of the service in rules and dashboard is one that it has."""
    metrics = Metrics()
    for kind in ("job", "request", "session"):
        metrics.transcribed(kind, 1.0, 1.0)
    metrics.jobs.labels("waiting")
    metrics.requests.labels("/v2/jobs", "200")
    metrics.request_s.labels("/v2/jobs")
    served = {
        name: set(re.findall(r"(\w+)=", labels))
        for name, labels in re.findall(r"^(voxwright_\w+)(?:\{(.*)\})? ", metrics.text().decode(), re.MULTILINE)
    }
    texts = [*_queries(), *(rule["expr"] for rule in _rules())]
    used = {name: labels for text in texts for name, labels in re.findall(r"\b(voxwright_\w+)\{([^}]*)\}", text)}
    assert used.keys() <= served.keys()
    assert {"voxwright_ready", "voxwright_sessions", "voxwright_jobs", "voxwright_errors_total"} <= used.keys()
    for name, labels in used.items():
        assert set(re.findall(r"(\w+)=", labels)) - {"job", "namespace"} <= served[name], name


def test_defects_are_counted_from_the_start() -> None:
    """A counter that begins with 1 shows no increase to Prometheus."""
    (rule,) = [rule for rule in _rules() if rule.get("alert") == "VoxwrightServiceDefect"]
    (kinds,) = re.findall(r'kind=~"([^"]*)"', rule["expr"])
    served = re.findall(r'^voxwright_errors_total\{kind="(\w+)"\} 0.0$', Metrics().text().decode(), re.MULTILINE)
    assert sorted(served) == sorted(kinds.split("|"))
