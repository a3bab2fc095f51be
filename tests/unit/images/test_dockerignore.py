"""Test that a build receives the packages and the bundles, but no history, no environment and no key."""

import pytest

from tests.unit.images.dockerfile import ROOT, included
from tests.unit.images.test_dockerfile import tracked_files

IGNORED = (ROOT / ".dockerignore").read_text()
PACKAGES = ("build", "contract", "export", "model_repository", "runtime", "service", "transcriber")
SINGLE_FILES = (
    *("images/gather.py", "images/requirements.py", "pyproject.toml", "requirements.lock"),
    *("demo/dialogue.flac", "demo/dialogue.json"),
)


def test_includes_only_the_packages() -> None:
    wanted = {path for path in tracked_files() if path.split("/")[0] in PACKAGES or path in SINGLE_FILES}
    assert {path for path in tracked_files() if included(path, IGNORED)} == wanted
    assert {path.split("/")[0] for path in wanted} == {
        *PACKAGES,
        "images",
        "demo",
        "pyproject.toml",
        "requirements.lock",
    }


@pytest.mark.parametrize(
    "path",
    [
        "build/engines.py",
        "build/compilers/tensorrt.py",
        "build/pages/report.html.jinja",
        "dist/engines/26.08/sm86/manifest.json",
        "dist/engines/26.08/sm86/body_standard/batch/model.plan",
        "dist/engines/embedded/cpu/lm_enhanced/batch/model.onnx",
    ],
)
def test_includes(path: str) -> None:
    assert included(path, IGNORED)


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".venv-slim/bin/python",
        "tests/unit/test_packaging.py",
        "tests/gpu/test_engines.py",
        "work/training/shards/0",
        "training/recipe.py",
        "private.pem",
        "license.json",
        ".env",
        "dist/onnx/body_standard/fp32.onnx",
        "dist/repository/body_standard/config.pbtxt",
        "dist/store/ab/abcd/manifest.json",
        "dist/engines/compile-check/sm86/manifest.json",
        "dist/engines/26.08/.sm86.x1.partial/manifest.json",
        "runtime/__pycache__/gpu.cpython-311.pyc",
        "build/__pycache__/engines.cpython-311.pyc",
        "contract/stale.pyc",
    ],
)
def test_excludes(path: str) -> None:
    assert not included(path, IGNORED)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("build", "build/engines.py", True),
        ("build", "other/build/engines.py", False),
        ("*", "deep/down/file", True),
        ("*.py", "room/file.py", False),
        ("**/*.py", "room/file.py", True),
        ("**/*.py", "file.py", True),
        ("**/__pycache__", "a/b/__pycache__/c", True),
        ("a/**/.*", "a/b/.c/d", True),
        ("a/**/.*", "a/.c", True),
        ("a/?", "a/bc", False),
        ("*.py[cod]", "x.pyc", True),
        ("a.b", "axb", False),
    ],
)
def test_patterns_match_as_in_docker(pattern: str, path: str, matches: bool) -> None:
    """Examples from Docker's documentation, and patterns that this project's file uses."""
    assert included(path, pattern) is not matches
