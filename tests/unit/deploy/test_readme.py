"""Check the pages on deployment: links and files of commands exist, local commands run, and Helm accepts the values."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from contract.arch import Arch
from deploy import render
from service import keys
from tests.pages import NOT_RUN, RUN, blocks

ROOT = Path(__file__).parents[3]
README = ROOT / "deploy" / "README.md"
BUILD_FARM_README = ROOT / "deploy" / "build-farm" / "README.md"
PAGES = (
    README,
    BUILD_FARM_README,
    ROOT / "docs" / "architecture" / "90-containers.md",
    ROOT / "docs" / "architecture" / "95-deployment.md",
)
TEXT = README.read_text()
BLOCKS = blocks(README)
COMMANDS = [line for block in BLOCKS for line in block.text.splitlines()]
INSTALLS = [command for command in COMMANDS if command.startswith("helm install")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or f"## {heading.replace('-', ' ')}\n" in target.read_text().lower(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_are_in_bash_blocks_with_valid_syntax(page: Path) -> None:
    """An indented block, or one without a language, would not be found by a reader that runs the blocks."""
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^ {4,}\S.*$", outside, re.MULTILINE)
    fences = {"bash", "text", *(f"bash {needs}" for needs in NOT_RUN)}
    assert set(re.findall(r"^```(.+)$", page.read_text(), re.MULTILINE)) <= fences
    for block in blocks(page):
        checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, ""), block


def test_blocks_without_other_requirements_run(tmp_path: Path) -> None:
    """Run the blocks that need neither Docker, a cluster nor promtool, in a copy of the files that they read."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns(".env", "__pycache__"))
    (tmp_path / "demo").mkdir()
    shutil.copy(ROOT / "demo" / "dialogue.flac", tmp_path / "demo")
    for name in ("contract", "model_repository"):
        (tmp_path / name).symlink_to(ROOT / name)
    # As `make env` has it, whichever environment runs this test.
    (tmp_path / ".venv").symlink_to(sys.prefix)
    local = [block for block in BLOCKS if block.needs == RUN]
    assert len(local) == 5
    for block in local:
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], cwd=tmp_path, check=True)
    settings = (tmp_path / "deploy/compose/.env").read_text()
    assert f"\nOWNER={os.getuid()}:{os.getgid()}\n" in settings
    assert "\nCOMPOSE_FILE=compose.yaml:gpu.yaml:service.yaml\n" in settings
    assert re.search(r"^DATABASE_PASSWORD=\w{32}$", settings, re.MULTILINE)
    assert keys.read(tmp_path / "deploy/compose/api-keys").names
    images = re.findall(r"image: (.*)$", (tmp_path / "dist/voxwright.yaml").read_text(), re.MULTILINE)
    assert images
    named = {image.partition(":")[0] for image in images}
    assert named == {f'"registry.example/speech/voxwright-{name}' for name in ("runtime", "service")}
    own = (tmp_path / "dist/voxwright-sm86.yaml").read_text()
    assert re.findall(r"image: (.*)$", own, re.MULTILINE) == [
        '"registry.example/speech/voxwright-runtime:0.1.0-26.08-sm86"'
    ]
    assert (tmp_path / "dist/recordings.txt").read_text() == "calls/0001.wav\ncalls/0002.wav\n"


def test_files_of_commands_exist() -> None:
    named = {word for command in COMMANDS for word in shlex.split(command) if word.startswith("deploy/")}
    assert len(named) >= 6
    # The commands create these, and git ignores them.
    created = {
        "deploy/compose/.env",
        "deploy/compose/api-keys",
        "deploy/compose/recordings",
        "deploy/compose/recordings/",
        "deploy/compose/transcripts",
    }
    assert not [name for name in named - created if not (ROOT / name).exists()]
    copied = [shlex.split(command)[1] for command in COMMANDS if command.startswith("cp ")]
    assert copied == ["deploy/compose/gpu.env", "demo/dialogue.flac"]
    assert all((ROOT / path).exists() for path in copied)


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
def test_helm_installs_render(command: str) -> None:
    containers = [
        container
        for each in _rendered(command)
        if "template" in each.get("spec", {})
        for container in each["spec"]["template"]["spec"]["containers"]
    ]
    assert containers
    assert all(container["image"].startswith("registry.example/speech/") for container in containers)


def test_table_of_values_lists_existing_values() -> None:
    table = TEXT.partition("Often used:")[2].partition("A licence and public keys")[0]
    rows = re.findall(r"^\| (`.*`) \|", table, re.MULTILINE)
    settings = [setting for row in rows for setting in row.split("`")[1::2]]
    assert len(settings) >= 8
    before = render.manifests("voxwright", {"architectures": {"sm86": {"replicas": 1}}})
    for setting in settings:
        values: dict[str, Any] = {"architectures": {"sm86": {"replicas": 1}}}
        _merge(values, helm_python.parse_set_string(setting))
        assert render.manifests("voxwright", values) != before, f"{setting} changes nothing"


def test_built_images_are_those_that_are_deployed() -> None:
    tags = {match for command in COMMANDS for match in re.findall(r"--tag (\S+) \.", command)}
    applications = render.VALUES["voxwright"]["applications"]
    values = {"architectures": {"cpu": {"replicas": 1}, "sm86": {"replicas": 1}}, "applications": applications}
    text = render.manifests("voxwright", values) + "---\n" + render.manifests("voxwright-bulk", {"list": "a.wav"})
    assert tags == set(re.findall(r'image: "([^"]+)"', text))


def test_lists_gpus_of_architectures() -> None:
    for arch in Arch:
        if arch.capability:
            named = arch.example_gpus.partition(", RTX")[0].partition(", H200")[0].partition(", L40S")[0]
            assert f"{arch.value} ({named}" in TEXT
