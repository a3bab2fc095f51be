"""The scripts behind the images: what pip is asked for, and what is taken out of a vendor's image."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.unit.images.dockerfile import ROOT

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def run(script: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "images" / f"{script}.py"), *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def library(folder: Path, name: str, *needs: str) -> Path:
    """Compile a library that needs others of the folder."""
    return _compiled(folder, name, ["-shared", "-fPIC", f"-Wl,-soname,{name}"], "int own;", needs)


def program(folder: Path, *needs: str) -> Path:
    """Compile a program that needs libraries of the folder."""
    return _compiled(folder, "server", [], "int main(void) { return 0; }", needs)


def _compiled(folder: Path, name: str, flags: list[str], source: str, needs: tuple[str, ...]) -> Path:
    target = folder / name
    linked = ["-Wl,--no-as-needed", f"-Wl,-rpath-link,{folder}", *(str(folder / each) for each in needs)]
    command = ["gcc", "-x", "c", "-", "-o", str(target), *flags, "-x", "none", *linked]
    subprocess.run(command, input=source, text=True, check=True)
    return target


@pytest.fixture
def vendor(tmp_path: Path) -> Path:
    folder = tmp_path / "vendor"
    folder.mkdir()
    return folder


def gathered(target: Path) -> set[str]:
    """Name the libraries that were gathered, glibc's and the compiler's aside, which depend on this host."""
    found = {path.name for path in (target / "opt/tritonserver/lib").glob("*")}
    return {name for name in found if name.startswith(("libnv", "libown"))}


@needs_gcc
def test_gather_takes_a_program_and_all_that_it_loads(vendor: Path, tmp_path: Path) -> None:
    library(vendor, "libown_deep.so.1")
    library(vendor, "libnvinfer.so.11", "libown_deep.so.1")
    library(vendor, "libown_unused.so.1")
    server = program(vendor, "libnvinfer.so.11")
    done = run("gather", tmp_path / "slim", "--base", tmp_path, server, LD_LIBRARY_PATH=str(vendor))
    assert (done.returncode, done.stderr) == (0, "")
    assert gathered(tmp_path / "slim") == {"libnvinfer.so.11", "libown_deep.so.1"}
    copy = tmp_path / "slim" / server.relative_to("/")
    shutil.rmtree(vendor)
    there = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "slim/opt/tritonserver/lib")}
    assert subprocess.run([copy], env=there, check=False).returncode == 0


@needs_gcc
def test_gather_follows_links_and_leaves_what_the_base_has(vendor: Path, tmp_path: Path) -> None:
    library(vendor, "libown_real.so.1").rename(vendor / "libown_real.so.1.2.3")
    (vendor / "libown_real.so.1").symlink_to("libown_real.so.1.2.3")
    library(vendor, "libown_base.so.1")
    server = program(vendor, "libown_real.so.1", "libown_base.so.1")
    held = tmp_path / "base/usr/lib/x86_64-linux-gnu"
    held.mkdir(parents=True)
    shutil.copy(vendor / "libown_base.so.1", held)
    done = run("gather", tmp_path / "slim", "--base", tmp_path / "base", server, LD_LIBRARY_PATH=str(vendor))
    assert (done.returncode, done.stderr) == (0, "")
    assert gathered(tmp_path / "slim") == {"libown_real.so.1"}
    assert not (tmp_path / "slim/opt/tritonserver/lib/libown_real.so.1").is_symlink()


@needs_gcc
def test_gather_leaves_the_drivers_libraries_to_the_driver(vendor: Path, tmp_path: Path) -> None:
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        library(vendor, name)
    server = program(vendor, "libcuda.so.1", "libnvidia-ml.so.1")
    for present in (True, False):
        done = run("gather", tmp_path / "slim", "--base", tmp_path, server, LD_LIBRARY_PATH=str(vendor))
        assert (done.returncode, done.stderr) == (0, ""), present
        assert gathered(tmp_path / "slim") == set()
        (vendor / "libcuda.so.1").unlink(missing_ok=True)


@needs_gcc
def test_gather_refuses_a_missing_library(vendor: Path, tmp_path: Path) -> None:
    library(vendor, "libown_lost.so.1")
    server = program(vendor, "libown_lost.so.1")
    (vendor / "libown_lost.so.1").unlink()
    done = run("gather", tmp_path / "slim", "--base", tmp_path, server, LD_LIBRARY_PATH=str(vendor))
    assert done.returncode == 1
    assert done.stderr == f"error: {server}: it needs libown_lost.so.1, which is nowhere in this image\n"


@needs_gcc
def test_gather_refuses_what_only_a_builder_needs(vendor: Path, tmp_path: Path) -> None:
    name = "libnvinfer_builder_resource_sm86.so.11.2.1"
    library(vendor, name)
    done = run("gather", tmp_path / "slim", "--base", tmp_path, program(vendor, name), LD_LIBRARY_PATH=str(vendor))
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {name}: only a builder needs it, and something asked for it\n",
    )


@needs_gcc
def test_gather_adds_what_is_opened_at_run_time(vendor: Path, tmp_path: Path) -> None:
    """The loader's own list is asked: here it has glibc's libraries, in a vendor's image DCGM's too."""
    slim = tmp_path / "slim"
    done = run("gather", slim, "--base", tmp_path, "--also", "libnss_file*.so.2", program(vendor))
    assert (done.returncode, done.stderr) == (0, "")
    assert (slim / "opt/tritonserver/lib/libnss_files.so.2").is_file()
    done = run("gather", slim, "--base", tmp_path, "--also", "libdcgmmodule_none*", program(vendor))
    assert done.returncode == 1
    assert done.stderr == "error: libdcgmmodule_none*: the loader knows no such library in this image\n"


@pytest.mark.skipif(importlib.util.find_spec("pytriton") is None, reason="needs nvidia-pytriton")
def test_gather_makes_a_real_tritonserver_run_elsewhere(tmp_path: Path) -> None:
    """The one of nvidia-pytriton: its libraries lie in a folder of the wheel, as NVIDIA's lie all over an image."""
    found = importlib.util.find_spec("pytriton")
    assert found is not None
    assert found.submodule_search_locations
    package = Path(found.submodule_search_locations[0])
    server, libraries = package / "tritonserver/bin/tritonserver", package.parent / "nvidia_pytriton.libs"
    done = run("gather", tmp_path, "--base", "/", server, LD_LIBRARY_PATH=str(libraries))
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "opt/tritonserver/lib"
    assert any(path.name.startswith("libtritonserver") for path in folder.iterdir())
    assert not (folder / "libc.so.6").exists(), "the base has it"
    copy = tmp_path / server.relative_to("/")
    there = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    shown = subprocess.run([copy, "--help"], env=there, capture_output=True, text=True, check=False)
    assert "--model-repository" in shown.stdout + shown.stderr
    alone = subprocess.run([copy, "--help"], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False)
    assert "error while loading shared libraries" in alone.stderr, "the copy must not find the wheel's own"


def test_requirements_are_those_of_the_project_and_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert run("requirements").stdout.splitlines() == project["dependencies"]
    both = [*project["dependencies"], *extras["export"], *extras["build"]]
    assert run("requirements", "export", "build").stdout.splitlines() == both
    refused = run("requirements", "nonsense")
    assert (refused.returncode, refused.stdout) == (1, "")


def test_what_the_cpu_image_installs_is_what_runtime_asks_for() -> None:
    """nvidia-pytriton comes without its own dependencies: ours must name all that is used of them."""
    asked = {line.split("=")[0].split(">")[0] for line in run("requirements", "embedded").stdout.splitlines()}
    assert asked == {"click", "cryptography", "nvidia-pytriton", "numpy", "onnxruntime"}
