"""Check the assumptions of deploy/ about the images against the Dockerfile that builds them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import render
from runtime.__main__ import parse

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "Dockerfile"
DEPLOY = ROOT / "deploy"
SERVERS, CLIENT = ("voxwright-runtime", "voxwright-runtime-cpu"), "voxwright-transcriber"
SERVICE, DATABASE = "voxwright-service", "postgres"
SCRATCH = "/tmp"  # noqa: S108 - in the container


def _stages() -> dict[str, str]:
    """Return the instructions of each stage of the Dockerfile, by the stage's name."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _stage(image: str) -> str:
    return _stages()[image.removeprefix("voxwright-")]


def _pods() -> list[dict[str, Any]]:
    applications = render.VALUES["voxwright"]["applications"]
    values = {"architectures": {"cpu": {"replicas": 1}, "sm86": {"replicas": 1}}, "applications": applications}
    texts = [render.manifests("voxwright", values), render.manifests("voxwright-bulk", {"list": "a.wav"})]
    documents = [each for text in texts for each in yaml.safe_load_all(text)]
    return [each["spec"]["template"]["spec"] for each in documents if "template" in each.get("spec", {})]


def _name(reference: str) -> str:
    return reference.rpartition("/")[2].partition(":")[0]


def test_images_of_deploy_are_built_by_dockerfile() -> None:
    named = {_name(container["image"]) for pod in _pods() for container in pod["containers"]}
    assert named == {*SERVERS, CLIENT, SERVICE}
    for path in (DEPLOY / "compose").glob("*.yaml"):
        services = yaml.safe_load(path.read_text())["services"].values()
        images = [re.sub(r"\$\{[^}]*\}", "", service["image"]) for service in services if "image" in service]
        assert {image.partition(":")[0] for image in images} <= named | {DATABASE}
    for image in named:
        assert f'org.opencontainers.image.title="{image}"' in _stage(image)


@pytest.mark.parametrize("image", [*SERVERS, CLIENT, SERVICE])
def test_image_user_matches_pods(image: str) -> None:
    (user,) = re.findall(r"^USER (\S+)$", _stage(image), re.MULTILINE)
    assert {f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" for pod in _pods()} == {
        user
    }
    for variant in ("gpu", "cpu"):
        assert f"\nOWNER={user}\n" in (DEPLOY / "compose" / f"{variant}.env").read_text()


@pytest.mark.parametrize("image", SERVERS)
def test_repository_is_on_writable_volume(image: str) -> None:
    (repository,) = re.findall(r"VOXWRIGHT_REPOSITORY=(\S+)", _stage(image))
    assert Path(repository).is_relative_to(SCRATCH)
    (service,) = [each for each in _pods() if _name(each["containers"][0]["image"]) == image]
    assert SCRATCH in [mount["mountPath"] for mount in service["containers"][0]["volumeMounts"]]


@pytest.mark.parametrize("image", SERVERS)
def test_server_image_has_ports_and_health_check(image: str) -> None:
    (opened,) = re.findall(r"^EXPOSE (.*)$", _stage(image), re.MULTILINE)
    assert sorted(map(int, opened.split())) == sorted(parse([]).ports.flags().values())
    # Compose only sets the time that it may take.
    assert re.search(r"^HEALTHCHECK .*runtime\.probe", _stage(image), re.MULTILINE)
    # The entrypoint receives the arguments: deploy/ passes flags for tritonserver.
    assert 'ENTRYPOINT ["python3", "-m", "runtime"]' in _stage(image)


def test_service_image_starts_without_arguments() -> None:
    """Compose and the chart give it variables only. A default argument such as --help would end it at once."""
    assert 'ENTRYPOINT ["python3", "-m", "service"]' in _stage(SERVICE)
    assert not re.search(r"^CMD ", _stage(SERVICE), re.MULTILINE)


def test_recordings_are_relative_to_mounted_folder() -> None:
    assert re.search(r"^WORKDIR /recordings$", _stage(CLIENT), re.MULTILINE)
    assert 'ENTRYPOINT ["python3", "-m", "transcriber"]' in _stage(CLIENT)
