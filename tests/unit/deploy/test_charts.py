"""Test the Helm charts, rendered by Helm, against Kubernetes' schemas and the code that runs in their pods."""

import copy
import functools
import json
import operator
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, cast

import click
import helm_python
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from fastapi.routing import APIRoute

from contract import access, errors
from contract.arch import Arch
from contract.platform import platforms
from deploy import render
from runtime import flags, probe
from runtime.__main__ import command, parse
from service import health
from service.__main__ import command as service_command
from service.__main__ import parse as parse_service
from service.core import Core
from service.settings import DEFAULT_PORT
from tests.unit.images.dockerfile import stages
from transcriber.__main__ import parse as parse_transcriber
from transcriber.endpoint import ENDPOINT_VARIABLE, checked_endpoint
from transcriber.formats import FORMATS

ROOT = Path(__file__).parents[3]
# The oldest release that the charts allow, and the newest release that exists.
KUBERNETES = ("1.29", "1.37")
EVERY_ARCH = {arch.value: {"replicas": 1} for arch in Arch}
EVERYTHING: dict[str, Any] = {
    "architectures": {**EVERY_ARCH, "sm86": {"replicas": 2, "maxReplicas": 5}},
    "image": {"registry": "registry.example/speech/", "pullSecrets": ["registry"]},
    "operatingPoint": "standard",
    "mode": "realtime",
    "engines": {"volume": {"nfs": {"server": "files.example", "path": "/engines"}}, "subPath": "release"},
    "licence": {"secretName": "licence"},
    "signatures": {"configMapName": "keys", "keys": ["release.pem", "old.pem"]},
    "runtimeClassName": "nvidia",
}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]
        }
    }
}
TOLERATION = {"key": "speech", "operator": "Exists", "effect": "NoSchedule"}
# What cluster operators set for the pods of any chart; the same names in both charts.
PODS: dict[str, Any] = {
    "nodeSelector": {"pool": "speech"},
    "affinity": AFFINITY,
    "tolerations": [TOLERATION],
    "priorityClassName": "high",
    "podAnnotations": {"example.com/team": "speech"},
    "podLabels": {"team": "speech"},
    "extraEnv": [
        {"name": "VOXWRIGHT_LOG_FORMAT", "value": "json"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/own", "readOnly": True}],
}
OUTSIDE: dict[str, Any] = {
    **PODS,
    "architectures": EVERY_ARCH,
    "service": {
        "type": "LoadBalancer",
        "http": True,
        "annotations": {"example.com/internal": "true"},
        "labels": {"team": "speech"},
        "externalTrafficPolicy": "Local",
        "loadBalancerClass": "example.com/internal",
        "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
    },
    "networkPolicy": {
        "moreClients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "moreEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"protocol": "TCP", "port": 4317}]}],
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "podDisruptionBudget": {"maxUnavailable": "25%"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "30s", "scrapeTimeout": "10s"},
}
JOBS = {"persistentVolumeClaim": {"claimName": "jobs"}}
APPLICATIONS: dict[str, Any] = {
    "architectures": {"cpu": {"replicas": 1}},
    "applications": {
        "enabled": True,
        "keys": {"secretName": "api-keys"},
        "storage": {"volume": JOBS},
    },
}
EVERY_APPLICATION_VALUE: dict[str, Any] = {
    "architectures": {"cpu": {"replicas": 1}},
    "image": {"registry": "registry.example/speech/", "pullSecrets": ["registry"]},
    "mode": "realtime",
    "tls": {"secretName": "server-tls", "clientCertificates": True},
    "addresses": {"http": "::", "grpc": "::", "metrics": "::"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "interval": "30s", "scrapeTimeout": "10s"},
    "applications": {
        "enabled": True,
        "replicas": 3,
        "endpoint": "batch:8001",
        "servers": {
            "tls": {"secretName": "client-tls", "clientCertificate": True},
            "headers": {"secretName": "headers"},
        },
        "keys": {"secretName": "api-keys"},
        "database": {"secretName": "database", "port": 6432},
        "storage": {"url": "s3://bucket/jobs"},
        "tls": {"secretName": "public-tls"},
        "drainSeconds": 60,
        "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.com/internal": "true"}},
        "ingress": {"enabled": True, "className": "nginx", "host": "speech.example", "tlsSecretName": "host-tls"},
        "clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}],
        "moreEgress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"protocol": "TCP", "port": 443}]}],
        "scratch": {"sizeLimit": "32Gi"},
        **PODS,
        "extraEnv": [{"name": "VOXWRIGHT_SERVICE_RETENTION", "value": "1"}],
    },
}
BULK: dict[str, Any] = {"list": "a.wav\nb/c.flac\n", "operatingPoint": "enhanced", "image": {"pullSecrets": ["x"]}}
BULK_TLS: dict[str, Any] = {
    "tls": {"secretName": "client-tls", "clientCertificate": True},
    "headers": {"secretName": "headers"},
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "one GPU": ("voxwright", {"architectures": {"sm75": {"replicas": 1}}}),
    "everything": ("voxwright", EVERYTHING),
    "as shipped": ("voxwright", render.VALUES["voxwright"]),
    "bulk": ("voxwright-bulk", BULK),
    "open to the outside": ("voxwright", OUTSIDE),
    "bulk with everything": ("voxwright-bulk", {**BULK, **PODS, **BULK_TLS}),
    "applications": ("voxwright", APPLICATIONS),
    "applications with everything": ("voxwright", EVERY_APPLICATION_VALUE),
}
# Definitions of the Prometheus operator, which Kubernetes' schemas do not contain.
OPERATOR_KINDS = {"ServiceMonitor"}


def _documents(chart: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(render.manifests(chart, values)) if each]


def _kind(kind: str, values: dict[str, Any], chart: str = "voxwright") -> dict[str, Any]:
    found = [each for each in _documents(chart, values) if each["kind"] == kind]
    return {each["metadata"]["name"]: each for each in found}


def _deployments(values: dict[str, Any]) -> dict[str, Any]:
    found = _kind("Deployment", values).values()
    return {arch: each for each in found if (arch := each["metadata"]["labels"].get("voxwright/arch"))}


def _application(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    return dict(_kind(kind, values)["voxwright-service"])


def _pod(workload: dict[str, Any]) -> dict[str, Any]:
    return dict(workload["spec"]["template"]["spec"])


def _container(workload: dict[str, Any]) -> dict[str, Any]:
    (container,) = _pod(workload)["containers"]
    return dict(container)


def _environment(workload: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in _container(workload)["env"]}


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


@pytest.mark.parametrize("chart", sorted(render.VALUES))
def test_charts_pass_lint(chart: str) -> None:
    found = helm_python.lint(render.CHARTS / chart, render.VALUES[chart], strict=True)
    messages = [message["error"] for message in found["messages"] if "icon is recommended" not in message["error"]]
    assert (messages, found["errors"]) == ([], [])


@pytest.mark.parametrize("chart", sorted(render.VALUES))
def test_chart_version_is_project_version(chart: str) -> None:
    described = yaml.safe_load((render.CHARTS / chart / "Chart.yaml").read_text())
    assert (described["version"], described["appVersion"]) == (_version(), _version())
    assert described["kubeVersion"] == f">={KUBERNETES[0]}.0-0"


@pytest.mark.parametrize("chart", sorted(render.VALUES))
def test_plain_manifests_match_charts(chart: str) -> None:
    text = (render.MANIFESTS / f"{chart}.yaml").read_text()
    assert text.split("\n", 1)[1] == render.manifests(chart, render.VALUES[chart]), (
        "run `.venv/bin/python -m deploy.render`"
    )


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("case", CASES)
def test_manifests_match_kubernetes_schema(case: str, version: str) -> None:
    documents = _documents(*CASES[case])
    assert documents
    for each in documents:
        if each["kind"] not in OPERATOR_KINDS:
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_names_are_unique_and_selectors_match_pods(case: str) -> None:
    documents = _documents(*CASES[case])
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(set(names)) == len(names)
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in documents if "template" in each.get("spec", {})]
    services = [each["metadata"]["labels"] for each in documents if each["kind"] == "Service"]
    for each in documents:
        selector = each.get("spec", {}).get("selector") or each.get("spec", {}).get("podSelector")
        if selector:
            wanted = selector.get("matchLabels", selector)
            selected = services if each["kind"] in OPERATOR_KINDS else pods
            assert [labels for labels in selected if wanted.items() <= labels.items()], each["metadata"]["name"]


def test_architectures_match_contract() -> None:
    table = re.search(r"^\{\".*\}$", (render.CHARTS / "voxwright/templates/_helpers.tpl").read_text(), re.MULTILINE)
    assert table
    known = {arch.value: [str(number) for number in arch.capability or ()] for arch in Arch}
    assert json.loads(table[0]) == known
    schema = json.loads((render.CHARTS / "voxwright" / "values.schema.json").read_text())
    assert schema["properties"]["architectures"]["properties"].keys() == known.keys()
    assert schema["properties"]["platform"]["enum"] == [name for name, each in platforms().items() if each.cuda]
    with_gpu = {arch.value for arch in Arch if arch.capability}
    assert _deployments(render.VALUES["voxwright"]).keys() == with_gpu


def test_architectures_select_nodes_by_gpu() -> None:
    deployments = _deployments({"architectures": EVERY_ARCH})
    assert list(deployments) == sorted(EVERY_ARCH)
    for arch in Arch:
        pod, container = _pod(deployments[arch.value]), _container(deployments[arch.value])
        selector = {key.rpartition("/")[2]: value for key, value in pod["nodeSelector"].items() if "nvidia" in key}
        if arch.capability is None:
            assert selector == {}
            assert "nvidia.com/gpu" not in container["resources"]["limits"]
            assert container["image"] == f"voxwright-runtime-cpu:{_version()}"
        else:
            major, minor = arch.capability
            assert selector == {"gpu.compute.major": str(major), "gpu.compute.minor": str(minor)}
            assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
            assert container["image"] == f"voxwright-runtime:{_version()}-26.08-{arch.value}"
            assert [entry["key"] for entry in pod["tolerations"]] == ["nvidia.com/gpu"]


@pytest.mark.parametrize("arch", sorted(EVERY_ARCH))
def test_runtime_accepts_environment_and_arguments(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = _deployments(EVERYTHING)[arch]
    environment = _environment(deployment)
    # Signatures are required with an option of runtime that takes the keys.
    known = {option.envvar for option in command().params}
    assert environment.keys() <= known
    for name, value in environment.items():
        if isinstance(value, str):
            monkeypatch.setenv(name, value)
    settings = parse(_container(deployment)["args"])
    assert (settings.operating_point, settings.mode, settings.engines) == ("standard", "realtime", Path("/engines"))
    assert settings.triton_flags == ("--metrics-config=summary_latencies=true",)
    assert environment["VOXWRIGHT_TRUSTED_KEY"] == "/keys/release.pem:/keys/old.pem"
    threads = {"resourceFieldRef": {"resource": "limits.cpu"}} if arch == "cpu" else None
    assert environment.get("VOXWRIGHT_THREADS") == threads


def test_default_serves_engines_of_image_at_all_points() -> None:
    deployment = _deployments({"architectures": {"sm86": {"replicas": 1}}})["sm86"]
    assert _environment(deployment) == {"SM_BATCH_MODE": "true"}
    assert [mount["mountPath"] for mount in _container(deployment)["volumeMounts"]] == ["/tmp"]  # noqa: S108


def test_ports_probes_and_service_match_server() -> None:
    values = {"architectures": EVERY_ARCH}
    ports = parse([]).ports
    for deployment in _deployments(values).values():
        container = _container(deployment)
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert named == {"http": ports.http, "grpc": ports.grpc, "metrics": ports.metrics}
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
        assert probes == {
            "liveness": {"path": "/v2/health/live", "port": "http"},
            "readiness": {"path": "/v2/health/ready", "port": "http"},
        }
    (service,) = _kind("Service", values).values()
    assert service["spec"]["clusterIP"] == "None"
    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [
        (ports.grpc, "grpc"),
        (ports.metrics, "metrics"),
    ]


def test_startup_probe_is_a_command_of_the_image() -> None:
    """It parses, and checks every model with a request."""
    for deployment in _deployments({"architectures": EVERY_ARCH}).values():
        python, module, name, *options = _container(deployment)["startupProbe"]["exec"]["command"]
        assert (python, module, name) == ("python3", "-m", probe.__name__)
        context = probe.command.make_context(name, options)
        assert (context.params["inference"], context.params["timeout"]) == (True, 0.0)


def test_grace_period_exceeds_exit_timeout() -> None:
    for deployment in _deployments({"architectures": EVERY_ARCH}).values():
        assert _pod(deployment)["terminationGracePeriodSeconds"] > flags.EXIT_TIMEOUT_S


def test_rollout_needs_no_spare_gpu() -> None:
    strategy = _deployments(EVERYTHING)["sm86"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("case", CASES)
def test_pods_run_with_minimal_privileges(case: str) -> None:
    for each in _documents(*CASES[case]):
        if each["kind"] not in ("Deployment", "Job"):
            continue
        pod, container = _pod(each), _container(each)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable <= {"/tmp", "/dev/shm", "/transcripts", "/data"}  # noqa: S108 - in the container


def test_licence_is_mounted_at_expected_path() -> None:
    deployment = _deployments(render.VALUES["voxwright"])["sm75"]
    (mount,) = [each for each in _container(deployment)["volumeMounts"] if each["name"] == "licence"]
    assert (mount["mountPath"], mount["subPath"], mount["readOnly"]) == ("/license.json", "license.json", True)
    (volume,) = [each for each in _pod(deployment)["volumes"] if each["name"] == "licence"]
    assert volume["secret"]["secretName"] == "voxwright-licence"


def test_only_embedded_server_mounts_shared_memory() -> None:
    for arch, deployment in _deployments({"architectures": EVERY_ARCH}).items():
        media = [each["emptyDir"].get("medium") for each in _pod(deployment)["volumes"] if "emptyDir" in each]
        assert ("Memory" in media) == (arch == "cpu")


def test_disruption_budgets_and_autoscalers_match_deployments() -> None:
    budgets = _kind("PodDisruptionBudget", EVERYTHING)
    assert list(budgets) == [f"voxwright-{arch}" for arch in sorted(EVERY_ARCH)]
    assert {budget["spec"]["maxUnavailable"] for budget in budgets.values()} == {1}
    scaled = _kind("HorizontalPodAutoscaler", EVERYTHING)
    assert list(scaled) == ["voxwright-sm86"]
    spec = scaled["voxwright-sm86"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    deployments = _deployments(EVERYTHING)
    # Only the autoscaler may write `replicas` where there is one, or two writers would overwrite each other.
    assert "replicas" not in deployments["sm86"]["spec"]
    assert deployments["sm90"]["spec"]["replicas"] == 1
    assert spec["scaleTargetRef"]["name"] == deployments["sm86"]["metadata"]["name"]
    rule = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yaml").read_text())["rules"][0]
    assert [metric["pods"]["metric"]["name"] for metric in spec["metrics"]] == [rule["name"]["as"]]


def test_network_policy_limits_ingress_and_egress() -> None:
    (policy,) = _kind("NetworkPolicy", EVERYTHING).values()
    clients, prometheus = policy["spec"]["ingress"]
    assert [port["port"] for port in clients["ports"]] == ["grpc"]
    assert [port["port"] for port in prometheus["ports"]] == ["metrics"]
    assert list(prometheus["from"][0]) == ["namespaceSelector", "podSelector"]
    (egress,) = policy["spec"]["egress"]
    assert {(port["protocol"], port["port"]) for port in egress["ports"]} == {("UDP", 53), ("TCP", 53)}
    (job,) = _kind("Job", BULK, "voxwright-bulk").values()
    assert clients["from"][0]["podSelector"]["matchLabels"].items() <= (
        job["spec"]["template"]["metadata"]["labels"].items()
    )
    assert _kind("NetworkPolicy", {**EVERYTHING, "networkPolicy": {"enabled": False}}) == {}


def test_bulk_job_reaches_servers_of_server_chart() -> None:
    (job,) = _kind("Job", BULK, "voxwright-bulk").values()
    (service,) = _kind("Service", EVERYTHING).values()
    endpoint = _environment(job)[ENDPOINT_VARIABLE]
    assert checked_endpoint(endpoint) == f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    (policy,) = _kind("NetworkPolicy", BULK, "voxwright-bulk").values()
    servers, _ = policy["spec"]["egress"]
    labels = _deployments(EVERYTHING)["sm86"]["spec"]["template"]["metadata"]["labels"]
    assert servers["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()


def test_bulk_job_divides_list_into_shares() -> None:
    (job,) = _kind("Job", {**BULK, "shares": 3, "parallelism": 2}, "voxwright-bulk").values()
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 2)
    assert _environment(job)["SHARES"] == "3"
    (map_,) = _kind("ConfigMap", BULK, "voxwright-bulk").values()
    assert map_["data"]["recordings.txt"] == "a.wav\nb/c.flac\n"
    script = render.CHARTS / "voxwright-bulk" / "files" / "transcribe-share.sh"
    assert map_["data"]["transcribe-share.sh"] == script.read_text()
    assert _container(job)["command"] == ["sh", "/bulk/transcribe-share.sh", "python3", "-m", "transcriber"]
    mounts = {mount["mountPath"] for mount in _container(job)["volumeMounts"]}
    assert {_environment(job)["RECORDINGS"], _environment(job)["TRANSCRIPTS"], "/bulk"} <= mounts


@pytest.mark.parametrize("format_name", FORMATS)
def test_bulk_job_writes_every_format(format_name: str) -> None:
    (job,) = _kind("Job", {**BULK, "format": format_name}, "voxwright-bulk").values()
    options = parse_transcriber([*_container(job)["args"], "--format", _environment(job)["FORMAT"], "--", "a.wav"])
    assert (options.format, options.operating_point) == (format_name, "enhanced")
    assert f".{format_name.removesuffix('-v2')}" == FORMATS[format_name].suffix


def test_share_is_not_retried_after_permanent_failure() -> None:
    (job,) = _kind("Job", BULK, "voxwright-bulk").values()
    values = job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    lasting = (errors.SettingError, errors.AudioError, errors.ServerContractError)
    # 2 is click's exit code for a wrong command line.
    assert values == [2, *(error.exit_code for error in lasting)]


@pytest.mark.parametrize("case", ["open to the outside", "bulk with everything"])
def test_pods_get_what_cluster_operators_set(case: str) -> None:
    for each in _documents(*CASES[case]):
        if each["kind"] not in ("Deployment", "Job"):
            continue
        pod, container = _pod(each), _container(each)
        assert pod["nodeSelector"].items() >= {"pool": "speech", "kubernetes.io/arch": "amd64"}.items()
        assert pod["affinity"] == AFFINITY
        assert pod["tolerations"][-1] == TOLERATION
        assert pod["priorityClassName"] == "high"
        metadata = each["spec"]["template"]["metadata"]
        assert metadata["annotations"] == PODS["podAnnotations"]
        assert metadata["labels"]["team"] == "speech"
        assert container["env"][-len(PODS["extraEnv"]) :] == PODS["extraEnv"]
        assert container["volumeMounts"][-1] == PODS["extraVolumeMounts"][0]
        assert pod["volumes"][-1] == PODS["extraVolumes"][0]


def test_only_servers_with_a_gpu_tolerate_its_taint() -> None:
    for arch, deployment in _deployments(OUTSIDE).items():
        keys = [each["key"] for each in _pod(deployment)["tolerations"]]
        assert keys == (["speech"] if arch == "cpu" else ["nvidia.com/gpu", "speech"])


def test_own_spread_counts_the_servers_of_an_architecture() -> None:
    for arch, deployment in _deployments(OUTSIDE).items():
        (constraint,) = _pod(deployment)["topologySpreadConstraints"]
        assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
        assert constraint["labelSelector"]["matchLabels"]["voxwright/arch"] == arch
    own = {"matchLabels": {"team": "speech"}}
    given = [{**OUTSIDE["topologySpreadConstraints"][0], "labelSelector": own}]
    deployments = _deployments({**OUTSIDE, "topologySpreadConstraints": given})
    assert all(_pod(each)["topologySpreadConstraints"] == given for each in deployments.values())


def test_service_for_the_outside_leaves_a_headless_one() -> None:
    services = _kind("Service", OUTSIDE)
    outside, inside = services["voxwright"], services["voxwright-headless"]
    assert outside["metadata"]["annotations"] == {"example.com/internal": "true"}
    assert outside["metadata"]["labels"]["team"] == "speech"
    spec = outside["spec"]
    assert (spec["type"], spec["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert spec["loadBalancerClass"] == "example.com/internal"
    assert spec["loadBalancerSourceRanges"] == ["10.0.0.0/8", "fd00::/8"]
    # Metrics name the models and their load: they stay inside.
    assert [port["name"] for port in spec["ports"]] == ["grpc", "http"]
    assert inside["spec"]["clusterIP"] == "None"
    assert [port["name"] for port in inside["spec"]["ports"]] == ["grpc", "metrics"]
    (policy,) = _kind("NetworkPolicy", OUTSIDE).values()
    clients = policy["spec"]["ingress"][0]
    assert [port["port"] for port in clients["ports"]] == ["grpc", "http"]
    assert clients["from"][-1] == {"ipBlock": {"cidr": "10.0.0.0/8"}}
    assert policy["spec"]["egress"][-1] == OUTSIDE["networkPolicy"]["moreEgress"][0]


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort"])
def test_service_types_leave_out_fields_of_others(kind: str) -> None:
    values = {**OUTSIDE, "service": {**OUTSIDE["service"], "type": kind}}
    spec = _kind("Service", values)["voxwright"]["spec"]
    assert spec["type"] == kind
    assert "loadBalancerClass" not in spec
    assert ("externalTrafficPolicy" in spec) == (kind == "NodePort")


def test_service_monitor_gives_the_labels_of_the_scrape_configuration() -> None:
    (monitor,) = _kind("ServiceMonitor", OUTSIDE).values()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["interval"], endpoint["scrapeTimeout"]) == ("metrics", "30s", "10s")
    selected = [
        name
        for name, service in _kind("Service", OUTSIDE).items()
        if monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ]
    assert selected == ["voxwright-headless"]
    (headless,) = _kind("Service", EVERYTHING).values()
    assert headless["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "voxwright"
    assert headless["metadata"]["labels"]["voxwright/metrics"] == "true"
    job, _ = yaml.safe_load((ROOT / "deploy" / "prometheus" / "kubernetes.yaml").read_text())["scrape_configs"]
    arch = {"source_labels": endpoint["relabelings"][0]["sourceLabels"], "target_label": "arch"}
    assert arch in job["relabel_configs"]
    assert _kind("ServiceMonitor", EVERYTHING) == {}


def test_service_accepts_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every variable is an option of the service or of its access to servers, and its image sets the rest."""
    environment = _environment(_application("Deployment", EVERY_APPLICATION_VALUE))
    options = {name for option in service_command().params for name in option.envvar or ()}
    to_servers = {"VOXWRIGHT_CA", "VOXWRIGHT_CLIENT_CERTIFICATE", "VOXWRIGHT_CLIENT_KEY", "VOXWRIGHT_HEADERS"}
    assert environment.keys() <= options | to_servers
    assert to_servers <= environment.keys() & access_variables()
    in_image = stages((ROOT / "Dockerfile").read_text())["service"].environment()
    secrets = {
        "VOXWRIGHT_SERVICE_DATABASE": "postgresql://voxwright:x@database/voxwright",
        "VOXWRIGHT_HEADERS": "authorization: Bearer x",
        "VOXWRIGHT_SERVICE_API_KEYS": str(tmp_path / "keys"),
    }
    (tmp_path / "keys").write_text("alice 0123456789abcdef\n")
    files = {"/tls/": "public", "/servers-tls/": "client"}
    for name, text in {**in_image, **environment, **secrets}.items():
        if isinstance(text, str) and name.startswith("VOXWRIGHT_"):
            for folder, stem in files.items():
                text = text.replace(folder, f"{tmp_path}/{stem}/")  # noqa: PLW2901
            monkeypatch.setenv(name, text)
    make_certificates(tmp_path / "public", tmp_path / "client")
    settings = parse_service([])
    assert (settings.endpoint, settings.realtime_endpoint) == ("batch:8001", "voxwright:8001")
    assert (settings.storage, settings.drain_s) == ("s3://bucket/jobs", 60)
    assert settings.tls is not None
    assert settings.access.tls
    assert settings.access.headers == {"authorization": "Bearer x"}
    assert settings.limits.retention_s == 86_400
    assert {"VOXWRIGHT_SERVICE_DATABASE", "VOXWRIGHT_HEADERS"} == {
        name for name, value in environment.items() if isinstance(value, dict)
    }


def access_variables() -> set[str]:
    """Return the variables that every client of a server has."""
    described = click.command()(access.options(lambda **_: None))
    return {str(option.envvar) for option in described.params if option.envvar}


def make_certificates(*folders: Path) -> None:
    """Write a self-signed certificate as a Secret of the type kubernetes.io/tls has it."""
    for folder in folders:
        folder.mkdir()
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=x"
        files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
        subprocess.run([*command.split(), *files], check=True, capture_output=True)
        shutil.copy(folder / "tls.crt", folder / "ca.crt")


def _leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in values.items():
        nested = isinstance(value, dict) and name not in ("affinity", "nodeSelector", "podAnnotations", "podLabels")
        found += _leaves(value, (*path, name)) if nested and value else [(*path, name)]
    return found


@pytest.mark.parametrize("path", _leaves(EVERY_APPLICATION_VALUE["applications"]), ids=".".join)
def test_every_value_of_the_service_is_used(path: tuple[str, ...]) -> None:
    """Without the value the manifest is another one, or the chart demands the value."""
    without = copy.deepcopy(EVERY_APPLICATION_VALUE)
    *parents, last = "applications", *path
    functools.reduce(operator.getitem, parents, without).pop(last)
    try:
        assert render.manifests("voxwright", without) != render.manifests("voxwright", EVERY_APPLICATION_VALUE)
    except helm_python.HelmError as error:
        assert f"applications.{path[0]}" in str(error)  # noqa: PT017


def test_values_of_the_service_are_all_tested() -> None:
    values = yaml.safe_load((render.CHARTS / "voxwright" / "values.yaml").read_text())["applications"]
    schema = json.loads((render.CHARTS / "voxwright" / "values.schema.json").read_text())
    assert schema["properties"]["applications"]["properties"].keys() == values.keys()
    given = {path[:2] for case in (APPLICATIONS, EVERY_APPLICATION_VALUE) for path in _leaves(case["applications"])}
    own = {"realtimeEndpoint", "resources"}  # the first is empty, the second kept as it is
    assert values.keys() - own <= {path[0] for path in given}


@pytest.mark.parametrize("mode", ["batch", "realtime"])
def test_service_uses_the_servers_of_its_release(mode: str) -> None:
    values = {**APPLICATIONS, "mode": mode}
    environment = _environment(_application("Deployment", values))
    variable = {"batch": "VOXWRIGHT_SERVICE_ENDPOINT", "realtime": "VOXWRIGHT_SERVICE_REALTIME_ENDPOINT"}
    assert environment == {variable[mode]: "voxwright:8001", "VOXWRIGHT_SERVICE_DRAIN": "30"}
    other = {**APPLICATIONS["applications"], "realtimeEndpoint": "other:8001"}
    environment = _environment(_application("Deployment", {**values, "applications": other}))
    assert environment[variable["realtime"]] == "other:8001"


@pytest.mark.parametrize(
    ("values", "scheme"), [(APPLICATIONS, "http"), (EVERY_APPLICATION_VALUE, "https")], ids=["http", "https"]
)
def test_ports_probes_and_ingress_of_the_service(values: dict[str, Any], scheme: str) -> None:
    container = _container(_application("Deployment", values))
    assert container["ports"] == [{"name": scheme, "containerPort": DEFAULT_PORT}]
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    paths = {route.path for route in health.part(cast("Core", None)).router.routes if isinstance(route, APIRoute)}
    assert {probe["path"] for probe in probes.values()} == {"/live", "/ready"} <= paths
    assert {probe["scheme"] for probe in probes.values()} == {scheme.upper()}
    (port,) = _application("Service", values)["spec"]["ports"]
    assert (port["name"], port["targetPort"], port["appProtocol"]) == (scheme, scheme, scheme)
    (monitor,) = _application("ServiceMonitor", {**values, "serviceMonitor": {"enabled": True}})["spec"]["endpoints"]
    assert (monitor["port"], monitor["scheme"], "tlsConfig" in monitor) == (scheme, scheme, scheme == "https")


def test_pods_of_the_service_end_after_their_work() -> None:
    for values, drain_s in ((APPLICATIONS, 30), (EVERY_APPLICATION_VALUE, 60)):
        deployment = _application("Deployment", values)
        assert float(_environment(deployment)["VOXWRIGHT_SERVICE_DRAIN"]) == drain_s
        assert _pod(deployment)["terminationGracePeriodSeconds"] >= drain_s + 10


def test_service_mounts_what_its_image_expects() -> None:
    in_image = stages((ROOT / "Dockerfile").read_text())["service"].environment()
    mounts = {
        mount["mountPath"]: mount for mount in _container(_application("Deployment", APPLICATIONS))["volumeMounts"]
    }
    keys = mounts[in_image["VOXWRIGHT_SERVICE_API_KEYS"]]
    assert (keys["subPath"], keys["readOnly"]) == ("api-keys", True)
    assert Path(in_image["VOXWRIGHT_SERVICE_STORAGE"]).parent == Path("/data") in map(Path, mounts)
    assert in_image["VOXWRIGHT_SERVICE_DATABASE"].startswith("sqlite:////data/")
    volumes = {volume["name"]: volume for volume in _pod(_application("Deployment", APPLICATIONS))["volumes"]}
    assert volumes["data"] == {"name": "data", **JOBS}
    assert volumes["api-keys"]["secret"]["secretName"] == "api-keys"


def test_update_of_the_service_fits_its_database() -> None:
    """Two services share PostgreSQL; SQLite in a volume is for one."""
    assert _application("Deployment", APPLICATIONS)["spec"]["strategy"] == {"type": "Recreate"}
    strategy = _application("Deployment", EVERY_APPLICATION_VALUE)["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_ingress_leaves_websockets_and_uploads_alone() -> None:
    ingress = _application("Ingress", EVERY_APPLICATION_VALUE)
    prefix = "nginx.ingress.kubernetes.io/"
    annotations = {name.removeprefix(prefix): text for name, text in ingress["metadata"]["annotations"].items()}
    assert annotations == {
        "backend-protocol": "HTTPS",
        "proxy-body-size": "0",
        "proxy-buffering": "off",
        "proxy-read-timeout": "3600",
        "proxy-request-buffering": "off",
        "proxy-send-timeout": "3600",
    }
    assert ingress["spec"]["tls"] == [{"hosts": ["speech.example"], "secretName": "host-tls"}]
    (rule,) = ingress["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert (rule["host"], backend) == ("speech.example", {"name": "voxwright-service", "port": {"name": "https"}})
    plain = {**APPLICATIONS["applications"], "ingress": {"enabled": True, "host": "a"}}
    assert (
        f"{prefix}backend-protocol"
        not in (_application("Ingress", {**APPLICATIONS, "applications": plain})["metadata"]["annotations"])
    )


def test_network_policies_connect_the_service_with_servers_and_database() -> None:
    policies = _kind("NetworkPolicy", EVERY_APPLICATION_VALUE)
    servers, service = (policies[f"voxwright-{name}"]["spec"] for name in ("server", "service"))
    pod = _application("Deployment", EVERY_APPLICATION_VALUE)["spec"]["template"]["metadata"]["labels"]
    assert servers["ingress"][0]["from"][0]["podSelector"]["matchLabels"].items() <= pod.items()
    to_servers, names, database, more = service["egress"]
    labels = _deployments(EVERY_APPLICATION_VALUE)["cpu"]["spec"]["template"]["metadata"]["labels"]
    assert to_servers["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert [port["port"] for port in to_servers["ports"]] == ["grpc"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert database == {"ports": [{"protocol": "TCP", "port": 6432}]}
    assert more == EVERY_APPLICATION_VALUE["applications"]["moreEgress"][0]
    clients, prometheus = service["ingress"]
    assert clients["from"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    assert [port["port"] for port in (*clients["ports"], *prometheus["ports"])] == ["https", "https"]
    (everyone,) = _application("NetworkPolicy", APPLICATIONS)["spec"]["ingress"]
    assert everyone == {"ports": [{"protocol": "TCP", "port": "http"}]}
    assert len(_application("NetworkPolicy", APPLICATIONS)["spec"]["egress"]) == 2


def test_server_has_the_variables_of_tls_and_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deployment = _deployments(EVERY_APPLICATION_VALUE)["cpu"]
    environment = _environment(deployment)
    assert environment.keys() <= {option.envvar for option in command().params}
    make_certificates(tmp_path / "tls")
    for name, value in environment.items():
        if isinstance(value, str):
            monkeypatch.setenv(name, value.replace("/tls/", f"{tmp_path}/tls/"))
    settings = parse(_container(deployment)["args"])
    assert settings.grpc_tls is not None
    assert {name: environment[f"VOXWRIGHT_{name}_ADDRESS"] for name in ("HTTP", "GRPC", "METRICS")} == (
        dict.fromkeys(("HTTP", "GRPC", "METRICS"), "::")
    )
    assert environment["VOXWRIGHT_GRPC_CLIENT_CA"] == "/tls/ca.crt"
    ports = _kind("Service", EVERY_APPLICATION_VALUE)["voxwright"]["spec"]["ports"]
    assert [port["appProtocol"] for port in ports if port["name"] == "grpc"] == ["https"]


def test_bulk_job_reaches_servers_with_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (job,) = _kind("Job", {**BULK, **BULK_TLS}, "voxwright-bulk").values()
    environment = _environment(job)
    own = {name: value for name, value in environment.items() if name.startswith("VOXWRIGHT_")}
    assert own.keys() <= access_variables()
    make_certificates(tmp_path / "tls")
    for name, value in own.items():
        if isinstance(value, str):
            monkeypatch.setenv(name, value.replace("/tls/", f"{tmp_path}/tls/"))
    found = parse_transcriber(["a.wav"]).access
    assert (found.tls, found.certificate) == (True, tmp_path / "tls/tls.crt")
    assert own["VOXWRIGHT_HEADERS"] == {"secretKeyRef": {"name": "headers", "key": "headers"}}
    assert "/tls" in {mount["mountPath"] for mount in _container(job)["volumeMounts"] if mount.get("readOnly")}


def test_disruption_budget_is_optional() -> None:
    budgets = _kind("PodDisruptionBudget", OUTSIDE).values()
    assert {budget["spec"]["maxUnavailable"] for budget in budgets} == {"25%"}
    assert _kind("PodDisruptionBudget", {**OUTSIDE, "podDisruptionBudget": {"enabled": False}}) == {}


def test_schema_describes_every_value() -> None:
    for chart in render.VALUES:
        values = yaml.safe_load((render.CHARTS / chart / "values.yaml").read_text())
        schema = json.loads((render.CHARTS / chart / "values.schema.json").read_text())
        assert schema["properties"].keys() - {"global"} == values.keys()


def test_render_writes_manifests_with_own_values(tmp_path: Path) -> None:
    base, more, out = tmp_path / "base.yaml", tmp_path / "more.yaml", tmp_path / "out.yaml"
    base.write_text("architectures: {sm86: {replicas: 1}}\nimage: {registry: a/, version: '1'}\n")
    more.write_text("image: {registry: b/}\n")
    done = CliRunner().invoke(render.command, ["--values", str(base), "--values", str(more), "--out", str(out)])
    assert (done.exit_code, done.exception) == (0, None)
    expected = {"architectures": {"sm86": {"replicas": 1}}, "image": {"registry": "b/", "version": "1"}}
    assert out.read_text() == render.manifests("voxwright", expected)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("architectures: {sm99: {replicas: 1}}", "Helm rejects them: .*additional properties 'sm99' not allowed"),
        ("- a", "is no mapping of values. Write it as deploy/helm"),
        ("a: [", "cannot be read .*Name a YAML file"),
        (None, "cannot be read .*No such file or directory.*Name a YAML file"),
    ],
)
def test_render_rejects_files_with_other_values(content: str | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    if content is not None:
        path.write_text(content)
    found = CliRunner().invoke(render.command, ["--values", str(path)]).exception
    assert isinstance(found, errors.SettingError)
    assert re.search(sentence, str(found))
    without = CliRunner().invoke(render.command, ["--out", str(path)]).exception
    assert str(without) == ("--out: it is for manifests with your own values. Name their file with --values.")


def _named(text: str) -> dict[str, dict[str, Any]]:
    """Return values of each chart in which every name that an operator chooses is the same text."""
    pods = {"image": {"pullSecrets": [text]}, "priorityClassName": text}
    service = {
        **APPLICATIONS["applications"],
        "priorityClassName": text,
        "keys": {"secretName": text},
        "database": {"secretName": text},
        "tls": {"secretName": text},
        "servers": {"tls": {"secretName": text}, "headers": {"secretName": text}},
        "ingress": {"enabled": True, "host": text, "className": text, "tlsSecretName": text},
    }
    server = {
        "architectures": EVERY_ARCH,
        "engines": {"volume": {"nfs": {"server": "files.example", "path": "/engines"}}, "subPath": text},
        "licence": {"secretName": text},
        "signatures": {"configMapName": text},
        "tls": {"secretName": text},
        "runtimeClassName": text,
        "service": {"type": "LoadBalancer", "loadBalancerClass": text, "loadBalancerIP": text},
        "networkPolicy": {"enabled": False},
        "applications": service,
    }
    bulk = {"list": "a.wav\n", "server": text, "tls": {"secretName": text}, "headers": {"secretName": text}}
    return {"voxwright": {**pods, **server}, "voxwright-bulk": {**pods, **bulk}}


def _replaced(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, text) for each in value]
    return value.replace("a-name", text) if isinstance(value, str) else value


@pytest.mark.parametrize("chart", ["voxwright", "voxwright-bulk"])
@pytest.mark.parametrize(
    "text", ["26.08", "yes", "1e3", "0x10", "null", "~", "*.example.com", "&a", "a: b", "a #b", "{a", "- a", "'a", "!a"]
)
def test_every_text_of_an_operator_stays_a_text(chart: str, text: str) -> None:
    """YAML reads 26.08 as a number, yes as a boolean, and an asterisk as an alias."""
    plain = _documents(chart, _named("a-name")[chart])
    assert _documents(chart, _named(text)[chart]) == _replaced(plain, text)


@pytest.mark.parametrize("name", ["123", "1e3", "0x10"])
def test_release_may_have_the_name_of_a_number(name: str) -> None:
    for chart, values in _named("a-name").items():
        with helm_python.Chart.load(render.CHARTS / chart) as loaded:
            texts = [text for path, text in loaded.render(values, name=name, namespace="n").items() if "yaml" in path]
        for document in filter(None, (each for text in texts for each in yaml.safe_load_all(text))):
            metadata = document["metadata"]
            assert (type(metadata["name"]), metadata["labels"]["app.kubernetes.io/instance"]) == (str, name)


def test_large_numbers_are_whole_numbers() -> None:
    """Helm holds numbers as floats, and writes large ones with an exponent."""
    many = 2_000_000
    service = {**APPLICATIONS["applications"], "drainSeconds": many}
    values = {"architectures": {"cpu": {"replicas": many, "maxReplicas": many}}, "applications": service}
    application = _application("Deployment", values)
    assert _environment(application)["VOXWRIGHT_SERVICE_DRAIN"] == str(many)
    assert _pod(application)["terminationGracePeriodSeconds"] == many + 15


@pytest.mark.parametrize(
    "listed",
    [
        "a.wav\nb.wav\n",
        "  a.wav\nb.wav\n",
        "\n\na.wav\n",
        "a\tb.wav\n",
        "# c\n  x.wav\n",
        "caf\u00e9.wav\nq\x85z.wav\n",
        "a.wav\u2028b.wav\nc.wav\u2029\n",
        "a.wav\r\nb.wav\r\n",
        "\ufeffa.wav\n",
        "a\x07\x1b.wav\n",
        '\U0001f600.wav\n{{ x }}\n"quoted" \\ & <b>\n',
    ],
)
def test_list_reaches_the_job_unchanged(listed: str) -> None:
    (map_,) = _kind("ConfigMap", {"list": listed}, "voxwright-bulk").values()
    assert map_["data"]["recordings.txt"] == listed


@pytest.mark.parametrize(
    ("chart", "values", "sentence"),
    [
        (
            "voxwright",
            {},
            "architectures: the list is empty, so no server would be deployed. Name the architectures of your GPUs",
        ),
        (
            "voxwright",
            {"architectures": {"sm86": {"replicas": 3, "maxReplicas": 2}}},
            "architectures.sm86.maxReplicas: it is less than replicas. Remove it to turn off autoscaling, or raise it.",
        ),
        ("voxwright", {"architectures": {"sm70": {"replicas": 1}}}, "sm70"),
        ("voxwright", {"architectures": {"sm86": {"replicas": 0}}}, "replicas"),
        ("voxwright", {"architectures": EVERY_ARCH, "mode": "fast"}, "mode"),
        ("voxwright", {"architectures": EVERY_ARCH, "operatingPoint": "premium"}, "operatingPoint"),
        ("voxwright", {"architectures": EVERY_ARCH, "image": {"registry": "no-slash"}}, "registry"),
        ("voxwright", {"architectures": EVERY_ARCH, "resources": {"cpu": {"limits": {"cpu": None}}}}, "cpu"),
        ("voxwright", {"architecture": {}}, "architecture"),
        (
            "voxwright-bulk",
            {},
            "list: it contains no recordings. Give a file with one path a line: --set-file list=recordings.txt.",
        ),
        ("voxwright-bulk", {"list": "x" * 1_000_001}, "list"),
        ("voxwright-bulk", {"list": "a.wav", "format": "pdf"}, "format"),
        *(
            (chart, {**values, name: value}, f"{name}: the chart itself sets {taken}. Remove it")
            for chart, values in (("voxwright", {"architectures": EVERY_ARCH}), ("voxwright-bulk", BULK))
            for name, value, taken in (
                ("nodeSelector", {"kubernetes.io/arch": "arm64"}, "kubernetes.io/arch"),
                ("podLabels", {"app.kubernetes.io/name": "x"}, "app.kubernetes.io/name"),
                ("extraVolumes", [{"name": "scratch", "emptyDir": {}}], "scratch"),
                ("extraVolumeMounts", [{"name": "x", "mountPath": "/tmp"}], "/tmp"),  # noqa: S108
                ("extraVolumeMounts", [{"name": "x", "mountPath": "/tmp/"}], "/tmp"),  # noqa: S108
                ("extraVolumeMounts", [{"name": "x", "mountPath": "/./tmp//"}], "/tmp"),  # noqa: S108
            )
        ),
        *(
            (chart, {**values, name: [row, row]}, f"{name}: {found} is in it twice. Remove one of them.")
            for chart, values in (("voxwright", {"architectures": EVERY_ARCH}), ("voxwright-bulk", BULK))
            for name, row, found in (
                ("extraEnv", {"name": "A", "value": "1"}, "A"),
                ("extraVolumes", {"name": "x", "emptyDir": {}}, "x"),
                ("extraVolumeMounts", {"name": "x", "mountPath": "/x"}, "/x"),
            )
        ),
        *(
            (
                "voxwright",
                {"architectures": EVERY_ARCH, "extraEnv": [{"name": f"VOXWRIGHT_{port}_PORT", "value": "9000"}]},
                f"extraEnv: the chart itself sets VOXWRIGHT_{port}_PORT",
            )
            for port in ("HTTP", "GRPC", "METRICS")
        ),
        (
            "voxwright",
            {"architectures": EVERY_ARCH, "extraEnv": [{"name": "SM_BATCH_MODE", "value": "true"}]},
            "extraEnv: the chart itself sets SM_BATCH_MODE",
        ),
        ("voxwright-bulk", {**BULK, "extraEnv": [{"name": "LIST", "value": "x"}]}, "the chart itself sets LIST"),
        (
            "voxwright",
            {"architectures": EVERY_ARCH, "service": {"type": "NodePort"}},
            "service.type: with NodePort clients come from outside, and the NetworkPolicy admits none of them.",
        ),
        ("voxwright", {"architectures": EVERY_ARCH, "service": {"type": "ExternalName"}}, "type"),
        ("voxwright", {"architectures": EVERY_ARCH, "affinity": {"node": {}}}, "affinity"),
        ("voxwright", {"architectures": EVERY_ARCH, "podAnnotations": {"a": 1}}, "podAnnotations"),
        ("voxwright", {"architectures": EVERY_ARCH, "podDisruptionBudget": {"maxUnavailable": 0}}, "maxUnavailable"),
        ("voxwright", {"architectures": EVERY_ARCH, "serviceMonitor": {"interval": "often"}}, "interval"),
        *(
            ("voxwright", {**APPLICATIONS, "applications": {**APPLICATIONS["applications"], **changed}}, sentence)
            for changed, sentence in (
                ({"keys": {"secretName": ""}}, "applications.keys.secretName: it is empty, and the service demands"),
                ({"replicas": 2}, "applications.replicas: several services share one PostgreSQL database."),
                ({"storage": {}}, "applications.storage: recordings and transcripts have no place. Set volume"),
                ({"storage": {"volume": JOBS, "url": "s3://b"}}, "applications.storage: volume and url are both set."),
                ({"storage": {"url": "s3://b"}}, "applications.storage.url: the database would be lost with the pod."),
                ({"storage": {"url": "bucket"}}, "url"),
                ({"ingress": {"enabled": True}}, "applications.ingress.host: it is empty."),
                ({"endpoint": "voxwright"}, "endpoint"),
                ({"service": {"type": "Headless"}}, "type"),
                ({"podLabels": {"voxwright/client": "x"}}, "applications.podLabels: the chart itself sets voxwright/"),
                ({"nodeSelector": {"kubernetes.io/arch": "x"}}, "applications.nodeSelector: the chart itself sets"),
                (
                    {"extraEnv": [{"name": "VOXWRIGHT_SERVICE_DRAIN", "value": "1"}]},
                    "applications.extraEnv: the chart itself sets VOXWRIGHT_SERVICE_DRAIN",
                ),
                ({"extraVolumes": [{"name": "data"}]}, "applications.extraVolumes: the chart itself sets data"),
                (
                    {"extraVolumeMounts": [{"name": "x", "mountPath": "/data"}]},
                    "applications.extraVolumeMounts: the chart itself sets /data",
                ),
            )
        ),
        (
            "voxwright",
            {"architectures": EVERY_ARCH, "extraEnv": [{"name": "VOXWRIGHT_HTTP_ADDRESS"}]},
            "extraEnv: the chart itself sets VOXWRIGHT_HTTP_ADDRESS",
        ),
        ("voxwright-bulk", {**BULK, "extraEnv": [{"name": "VOXWRIGHT_CA"}]}, "the chart itself sets VOXWRIGHT_CA"),
    ],
)
def test_rejects_unusable_values(chart: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(helm_python.HelmError) as refusal:
        render.manifests(chart, values)
    assert sentence in str(refusal.value)
