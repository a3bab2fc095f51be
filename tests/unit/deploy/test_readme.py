"""A stranger's path through deploy/README.md: what it names is there, and what it tells Helm works."""

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from contract.arch import Arch
from deploy import render

ROOT = Path(__file__).parents[3]
README = ROOT / "deploy" / "README.md"
PAGES = (README, ROOT / "docs" / "architecture" / "95-deployment.md")
TEXT = README.read_text()
COMMANDS = [line.strip().partition("   #")[0] for line in TEXT.splitlines() if line.startswith("    ")]
INSTALLS = [command for command in COMMANDS if command.startswith("helm install")]


@pytest.mark.parametrize(
    "page", [README, ROOT / "docs" / "architecture" / "95-deployment.md"], ids=lambda path: path.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_files_of_commands_are_there() -> None:
    named = {word for command in COMMANDS for word in shlex.split(command) if word.startswith("deploy/")}
    assert len(named) >= 6
    assert not [name for name in named if not (ROOT / name).exists()]
    (copied,) = [shlex.split(command)[1] for command in COMMANDS if command.startswith("cp ")]
    assert (ROOT / "deploy" / "compose" / copied).exists()


def _rendered(command: str) -> list[dict[str, Any]]:
    words = shlex.split(command)
    values: dict[str, Any] = {}
    for option, text in pairwise(words):
        if option == "--set":
            _merge(values, helm_python.parse_set_string(text))
        elif option == "--set-file":
            _merge(values, {text.partition("=")[0]: "calls/0001.wav\n"})
    return [each for each in yaml.safe_load_all(render.manifests(Path(words[3]).name, values)) if each]


def _merge(values: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _merge(values.setdefault(key, {}), value)
        else:
            values[key] = value


@pytest.mark.parametrize("command", INSTALLS, ids=lambda command: command.split()[2])
def test_installs_render(command: str) -> None:
    containers = [
        container
        for each in _rendered(command)
        if "template" in each.get("spec", {})
        for container in each["spec"]["template"]["spec"]["containers"]
    ]
    assert containers
    assert all(container["image"].startswith("registry.example/speech/") for container in containers)


def test_the_table_of_values_is_of_values_that_there_are() -> None:
    table = TEXT.partition("Often wanted:")[2].partition("A licence and keys")[0]
    rows = re.findall(r"^\| (`.*`) \|", table, re.MULTILINE)
    settings = [setting for row in rows for setting in row.split("`")[1::2]]
    assert len(settings) >= 8
    before = render.manifests("voxwright", {"architectures": {"sm86": {"replicas": 1}}})
    for setting in settings:
        values: dict[str, Any] = {"architectures": {"sm86": {"replicas": 1}}}
        _merge(values, helm_python.parse_set_string(setting))
        assert render.manifests("voxwright", values) != before, f"{setting} changes nothing"


def test_the_images_that_it_builds_are_those_that_are_deployed() -> None:
    tags = {match for command in COMMANDS for match in re.findall(r"--tag (\S+) \.", command)}
    values = {"architectures": {"cpu": {"replicas": 1}, "sm86": {"replicas": 1}}}
    text = render.manifests("voxwright", values) + "---\n" + render.manifests("voxwright-bulk", {"list": "a.wav"})
    assert tags == set(re.findall(r'image: "([^"]+)"', text))


def test_it_tells_which_gpu_is_of_which_architecture() -> None:
    for arch in Arch:
        if arch.capability:
            named = arch.gpus.partition(", RTX")[0].partition(", H200")[0].partition(", L40S")[0]
            assert f"{arch.value} ({named}" in TEXT
