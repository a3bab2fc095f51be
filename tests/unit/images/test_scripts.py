"""Test the scripts of the images: the requirements for pip, and the files that are copied out of NVIDIA's image."""

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
    """Return the copied libraries, without those of glibc and the compiler, which depend on this host."""
    found = {path.name for path in (target / "opt/tritonserver/lib").glob("*")}
    return {name for name in found if name.startswith(("libnv", "libown"))}


@needs_gcc
def test_gather_copies_program_and_its_libraries(vendor: Path, tmp_path: Path) -> None:
    library(vendor, "libown_deep.so.1")
    library(vendor, "libnvinfer.so.11", "libown_deep.so.1")
    library(vendor, "libown_unused.so.1")
    server = program(vendor, "libnvinfer.so.11")
    done = run("gather", tmp_path / "slim", "--base", tmp_path, server, LD_LIBRARY_PATH=str(vendor))
    assert (done.returncode, done.stderr) == (0, "")
    assert gathered(tmp_path / "slim") == {"libnvinfer.so.11", "libown_deep.so.1"}
    copy = tmp_path / "slim" / server.relative_to("/")
    shutil.rmtree(vendor)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "slim/opt/tritonserver/lib")}
    assert subprocess.run([copy], env=environment, check=False).returncode == 0


@needs_gcc
def test_gather_finds_server_library_of_backend(tmp_path: Path) -> None:
    """In NVIDIA's image the backend's run path is $ORIGIN, and libtritonserver.so is in another folder."""
    server_folder = tmp_path / "image/opt/tritonserver"
    libraries, backend_folder = server_folder / "lib", server_folder / "backends/tensorrt"
    for folder in (server_folder / "bin", libraries, backend_folder):
        folder.mkdir(parents=True)
    _compiled(libraries, "libtritonserver.so", ["-shared", "-fPIC", "-Wl,-soname,libtritonserver.so"], "int own;", ())
    backend = backend_folder / "libtriton_tensorrt.so"
    command = [
        "gcc",
        "-x",
        "c",
        "-",
        "-shared",
        "-fPIC",
        "-o",
        str(backend),
        "-Wl,--no-as-needed",
        "-Wl,-rpath,$ORIGIN",
    ]
    command += [f"-L{libraries}", "-ltritonserver"]
    subprocess.run(command, input="int backend;", text=True, check=True)
    listed = subprocess.run(["ldd", backend], capture_output=True, text=True, check=True)
    assert "libtritonserver.so => not found" in listed.stdout
    done = run("gather", tmp_path / "slim", "--base", tmp_path, backend, LD_LIBRARY_PATH="")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "slim/opt/tritonserver/lib/libtritonserver.so").is_file()


@needs_gcc
def test_gather_follows_links_and_skips_libraries_of_base(vendor: Path, tmp_path: Path) -> None:
    library(vendor, "libown_real.so.1").rename(vendor / "libown_real.so.1.2.3")
    (vendor / "libown_real.so.1").symlink_to("libown_real.so.1.2.3")
    library(vendor, "libown_base.so.1")
    server = program(vendor, "libown_real.so.1", "libown_base.so.1")
    libraries = tmp_path / "base/usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    shutil.copy(vendor / "libown_base.so.1", libraries)
    done = run("gather", tmp_path / "slim", "--base", tmp_path / "base", server, LD_LIBRARY_PATH=str(vendor))
    assert (done.returncode, done.stderr) == (0, "")
    assert gathered(tmp_path / "slim") == {"libown_real.so.1"}
    assert not (tmp_path / "slim/opt/tritonserver/lib/libown_real.so.1").is_symlink()


@needs_gcc
def test_gather_skips_driver_libraries(vendor: Path, tmp_path: Path) -> None:
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        library(vendor, name)
    server = program(vendor, "libcuda.so.1", "libnvidia-ml.so.1")
    for present in (True, False):
        done = run("gather", tmp_path / "slim", "--base", tmp_path, server, LD_LIBRARY_PATH=str(vendor))
        assert (done.returncode, done.stderr) == (0, ""), present
        assert gathered(tmp_path / "slim") == set()
        (vendor / "libcuda.so.1").unlink(missing_ok=True)


@needs_gcc
def test_gather_rejects_missing_library(vendor: Path, tmp_path: Path) -> None:
    library(vendor, "libown_lost.so.1")
    server = program(vendor, "libown_lost.so.1")
    (vendor / "libown_lost.so.1").unlink()
    done = run("gather", tmp_path / "slim", "--base", tmp_path, server, LD_LIBRARY_PATH=str(vendor))
    assert done.returncode == 1
    assert done.stderr == f"error: {server}: it needs libown_lost.so.1, which is not in this image\n"


@needs_gcc
def test_gather_rejects_builder_library(vendor: Path, tmp_path: Path) -> None:
    name = "libnvinfer_builder_resource_sm86.so.11.2.1"
    library(vendor, name)
    done = run("gather", tmp_path / "slim", "--base", tmp_path, program(vendor, name), LD_LIBRARY_PATH=str(vendor))
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {name}: one of the binaries loads this library, which only a builder of engines needs\n",
    )


@needs_gcc
def test_gather_adds_libraries_opened_at_run_time(vendor: Path, tmp_path: Path) -> None:
    """The loader's cache is searched: it lists glibc's libraries here, and DCGM's too in NVIDIA's image."""
    slim = tmp_path / "slim"
    done = run("gather", slim, "--base", tmp_path, "--also", "libnss_file*.so.2", program(vendor))
    assert (done.returncode, done.stderr) == (0, "")
    assert (slim / "opt/tritonserver/lib/libnss_files.so.2").is_file()
    done = run("gather", slim, "--base", tmp_path, "--also", "libdcgmmodule_none*", program(vendor))
    assert done.returncode == 1
    error = "libdcgmmodule_none*: the loader's cache of this image (ldconfig -p) has no such library"
    assert done.stderr == f"error: {error}\n"


@needs_gcc
def test_gather_copies_licence_from_first_existing_place(vendor: Path, tmp_path: Path) -> None:
    """Triton's build scripts put it below /opt/tritonserver, other images of NVIDIA at /."""
    server, places = program(vendor), [vendor / "tritonserver/licence.pdf", vendor / "licence.pdf"]
    options = [f"--licence={place}" for place in places]
    done = run("gather", tmp_path / "slim", "--base", tmp_path, *options, server)
    error = f"the image's licence is at none of {places[0]}, {places[1]}: name its path with --licence"
    assert (done.returncode, done.stderr) == (1, f"error: {error}\n")
    places[0].parent.mkdir()
    for place in reversed(places):
        place.write_text(str(place))
        done = run("gather", tmp_path / "slim", "--base", tmp_path, *options, server)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "slim/opt/tritonserver/licence.pdf").read_text() == str(place)


@pytest.mark.skipif(importlib.util.find_spec("pytriton") is None, reason="needs nvidia-pytriton")
def test_gather_copies_a_real_tritonserver(tmp_path: Path) -> None:
    """Its libraries lie in one folder of nvidia-pytriton's wheel; in NVIDIA's image they lie in many folders."""
    found = importlib.util.find_spec("pytriton")
    assert found is not None
    assert found.submodule_search_locations
    package = Path(found.submodule_search_locations[0])
    server, libraries = package / "tritonserver/bin/tritonserver", package.parent / "nvidia_pytriton.libs"
    done = run("gather", tmp_path, "--base", "/", server, LD_LIBRARY_PATH=str(libraries))
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "opt/tritonserver/lib"
    assert any(path.name.startswith("libtritonserver") for path in folder.iterdir())
    assert not (folder / "libc.so.6").exists(), "the base already has it"
    copy = tmp_path / server.relative_to("/")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    shown = subprocess.run([copy, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert "--model-repository" in shown.stdout + shown.stderr
    alone = subprocess.run([copy, "--help"], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=False)
    assert "error while loading shared libraries" in alone.stderr, "the copy must not load the libraries of the wheel"


def test_requirements_of_project_and_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert run("requirements").stdout.splitlines() == project["dependencies"]
    both = [*project["dependencies"], *extras["export"], *extras["build"]]
    assert run("requirements", "export", "build").stdout.splitlines() == both
    refused = run("requirements", "nonsense")
    assert (refused.returncode, refused.stdout) == (1, "")


def test_cpu_image_installs_requirements_of_runtime() -> None:
    """nvidia-pytriton is installed without its dependencies, so the extra has to list those that are used."""
    names = {line.split("=")[0].split(">")[0] for line in run("requirements", "embedded").stdout.splitlines()}
    assert names == {"click", "cryptography", "nvidia-pytriton", "numpy", "onnxruntime"}
