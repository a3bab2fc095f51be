"""Packaging: the wheel, the lock, the repository's files, and a package named `build` next to PyPA's."""

import importlib.util
import os
import platform
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from transcriber import native

ROOT = Path(__file__).parents[2]
SHIPPED_PACKAGES = ("contract", "runtime", "transcriber", "service", "model_repository")
SHIPPED_SUFFIXES = (".py", ".toml", ".typed", ".c", ".json", ".html", ".css", ".js", ".svg")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_git_does_not_ignore_the_build_package() -> None:
    """With a `build/` line in .gitignore, git, hatchling and ruff would skip the package."""
    # Without --no-index, git never reports a tracked file as ignored.
    for path in [*(ROOT / "build").rglob("*.py"), ROOT / "build" / "new.py"]:
        assert _git("check-ignore", "--no-index", str(path)).returncode == 1, f"git ignores {path}"


def test_git_ignores_outputs_of_the_pipeline() -> None:
    for path in ("dist/onnx/body_standard/fp32.onnx", ".venv/bin/python", "work/training/shards"):
        assert _git("check-ignore", path).returncode == 0, f"git does not ignore {path}"


def test_ruff_and_mypy_check_the_build_package() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert str(ROOT / "build" / "bundle.py") in shown.stdout
    assert "build" in _pyproject()["tool"]["mypy"]["packages"]


def test_every_test_file_is_collected() -> None:
    """The folders that pytest skips by default include `build`."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider"]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.partition(":")[0] for line in collected.splitlines() if ".py:" in line} == files
    assert not [path for path in (ROOT / "tests").rglob("build") if path.is_dir()]


def test_installed_package_named_build_is_not_used(tmp_path: Path) -> None:
    """`python -m build.engines` in the checkout runs our package even where another `build` is installed."""
    other = tmp_path / "build"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the other package')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "build.engines", "--help"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Build engines for one architecture" in result.stdout


def test_environment_does_not_contain_pypas_build() -> None:
    pins = (ROOT / "requirements.lock").read_text().splitlines()
    assert not [pin for pin in pins if pin.startswith("build==")]
    found = importlib.util.find_spec("build")
    assert found is not None
    assert found.origin == str(ROOT / "build" / "__init__.py")


def test_lock_pins_every_dependency() -> None:
    pins = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
    project = _pyproject()["project"]
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(each for extra in extras for each in extra)]:
        name = requirement.split("[")[0].split("=")[0].split(">")[0].lower().replace("_", "-")
        assert name in pins, f"requirements.lock lacks {name}: run `make lock`"


def test_wheel_contains_only_the_online_packages(tmp_path: Path) -> None:
    """`build` and `export` would shadow other packages of these names, so they stay in the checkout."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    # The compiled search runs with every Python on Linux of this machine's kind.
    (wheel,) = tmp_path.glob(f"voxwright-*-py3-none-manylinux_2_17_{platform.machine()}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt")))
    expected = {
        str(path.relative_to(ROOT))
        for package in SHIPPED_PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SHIPPED_SUFFIXES and "__pycache__" not in path.parts
    }
    assert names == {*expected, str(native.library_path().relative_to(ROOT))}
    assert "runtime/backends/onnxruntime/model.py" in names
    assert "contract/platforms.toml" in names
    assert b"voxwright-serve = runtime.__main__:main" in entry_points
    assert b"voxwright-doctor = runtime.doctor:main" in entry_points
    assert b"voxwright-transcribe = transcriber.__main__:main" in entry_points
    assert b"voxwright-service = service.__main__:main" in entry_points


@pytest.mark.parametrize(
    "module",
    [
        "export",
        "build.engines",
        "build.check",
        "build.explain",
        "build.report",
        "build.release",
        "build.farm",
        "build.sign",
        "build.store",
        "build.verify",
        "runtime",
        "runtime.doctor",
        "runtime.licence",
        "runtime.probe",
        "service",
        "transcriber",
        "training",
    ],
)
def test_help_needs_no_heavy_library(module: str) -> None:
    """Run in a process of its own, in which an import of torch, TensorRT or the like fails."""
    names = ("torch", "onnx", "onnxruntime", "polygraphy", "tensorrt", "tensorrt_rtx", "cuda", "pynvml", "jinja2")
    heavy = f"dict.fromkeys({names})"
    script = f"import sys, runpy; sys.modules |= {heavy}; sys.argv = ['x', '--help']\n"
    script += f"runpy.run_module('{module}', run_name='__main__', alter_sys=True)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "--help" in result.stdout
    # training has its own kind of errors, each without a traceback.
    assert ("--verbose" in result.stdout) == (module not in ("training", "runtime.licence"))


def test_no_file_contains_the_path_of_this_checkout() -> None:
    tracked = _git("ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            assert f"{ROOT}/".encode() not in (ROOT / name).read_bytes(), name


def test_repository_stays_small() -> None:
    """The weights have at most 12 MB together, and every other file at most 1.5 MB."""
    tracked = _git("ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    sizes = {name: (ROOT / name).stat().st_size for name in tracked if (ROOT / name).is_file()}
    assert sum(size for name, size in sizes.items() if name.startswith("export/checkpoints/reference/")) <= 12_000_000
    assert not [name for name, size in sizes.items() if size > 1_500_000 and not name.endswith(".safetensors")]
    assert not [name for name in sizes if name.endswith((".onnx", ".plan", ".rtx"))]


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
