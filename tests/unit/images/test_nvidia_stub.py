"""Test the stub of NVIDIA's image: its layout, its tritonserver, the context of the build, and the checks."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from contract.platform import Platform, platforms
from images import nvidia_stub
from images.__main__ import main
from runtime import bundles, flags
from tests.unit.images.dockerfile import ROOT, included, lineage, stages
from tests.unit.images.test_dockerfile import GPU_PLATFORMS, tracked_files

STAGES = stages((ROOT / "Dockerfile").read_text())
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
every_platform = pytest.mark.parametrize("platform", [platforms()[name] for name in GPU_PLATFORMS], ids=GPU_PLATFORMS)


def done(code: int, out: str = "", err: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, out, err)


def loader_paths(tree: Path) -> str:
    """Return the folders that the loader's cache of the stub image has, for LD_LIBRARY_PATH."""
    toolkit = next((tree / "usr/local").glob("cuda-*/targets/x86_64-linux/lib"))
    return f"{tree / 'usr/lib/x86_64-linux-gnu'}:{toolkit}"


def missing_libraries(binary: Path, tree: Path, *folders: Path) -> set[str]:
    """Return the libraries that the loader does not find for a binary of the stub, with further folders."""
    path = ":".join([*map(str, folders), loader_paths(tree)])
    command, environment = ["ldd", str(binary)], {**os.environ, "LD_LIBRARY_PATH": path}
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if "not found" in line}


@needs_gcc
@every_platform
def test_tree_has_run_paths_of_nvidias_image(platform: Platform, tmp_path: Path) -> None:
    """The server finds its library by its run path; the backend does not find it, as its run path is $ORIGIN only."""
    tree = nvidia_stub.write_tree(tmp_path, platform)
    server = tree / "opt/tritonserver"
    backend = server / "backends/tensorrt/libtriton_tensorrt.so"
    assert missing_libraries(server / "bin/tritonserver", tree) == set()
    assert missing_libraries(backend, tree) == {"libtritonserver.so"}
    assert missing_libraries(backend, tree, server / "lib") == set()
    assert (tree / nvidia_stub.LICENCE).is_file()


@needs_gcc
@every_platform
def test_tree_has_every_library_of_the_layout(platform: Platform, tmp_path: Path) -> None:
    tree = nvidia_stub.write_tree(tmp_path, platform)
    for library in nvidia_stub.layout(platform).libraries:
        path = tree / library.folder / library.soname
        assert path.is_file()
        shown = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
        assert f"Library soname: [{library.soname}]" in shown
        assert {f"[{name}]" for name in library.needs} <= set(shown.split())
    assert not list(tree.rglob("*.c"))


@needs_gcc
def test_tree_has_compatibility_library_in_lib_real(tmp_path: Path) -> None:
    tree = nvidia_stub.write_tree(tmp_path, platforms()["23.12"])
    folder = tree / "usr/local/cuda-12.3/compat/lib.real"
    assert {path.name for path in folder.iterdir()} == {"libcuda.so.1", "libcuda.so.545.23.08"}
    assert (tree / "usr/local/cuda").readlink() == Path("/etc/alternatives/cuda")
    assert (tree / "etc/alternatives/cuda").readlink() == Path("/usr/local/cuda-12.3")


@needs_gcc
def test_stub_server_prints_arguments_and_loads_backend(tmp_path: Path) -> None:
    tree = nvidia_stub.write_tree(tmp_path, platforms()["26.08"])
    server = tree / "opt/tritonserver/bin/tritonserver"
    environment = {"LD_LIBRARY_PATH": loader_paths(tree)}
    started = subprocess.run([server, "--a=1", "-b"], env=environment, capture_output=True, text=True, check=False)
    assert (started.returncode, started.stderr, started.stdout.splitlines()) == (
        0,
        "",
        [
            "argument --a=1",
            "argument -b",
            "stub tritonserver: the tensorrt backend and all its libraries were loaded",
        ],
    )
    (tree / "usr/lib/x86_64-linux-gnu/libnvinfer_plugin.so.11").unlink()
    failed = subprocess.run([server], env=environment, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("stub tritonserver: libnvinfer_plugin.so.11: cannot open shared object file")


def test_layout_needs_a_gpu_platform() -> None:
    with pytest.raises(ValueError, match="platform embedded has no image of NVIDIA"):
        nvidia_stub.layout(platforms()["embedded"])
    assert list(nvidia_stub.PLATFORMS) == GPU_PLATFORMS


@every_platform
def test_context_has_the_sources_of_runtime_and_a_bundle(platform: Platform, tmp_path: Path) -> None:
    """Everything that the stages of `runtime` copy, and nothing from the checkout's own dist/."""
    nvidia_stub.write_context(tmp_path, platform)
    needed = {"runtime", "serve-environment", f"server-{platform.name}", f"base-{platform.name}"}
    copied = {source for name in needed for stage in lineage(STAGES, name) for source in stage.sources()}
    bundle = f"dist/engines/{platform.name}/{nvidia_stub.ARCH.value}"
    assert {source for source in copied if not source.startswith("dist/")} | {"Dockerfile", ".dockerignore"} == set(
        nvidia_stub.SOURCES
    )
    tracked = {path for path in tracked_files() if path.startswith(tuple(copied))}
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert tracked <= files
    assert included(f"{bundle}/manifest.json", (tmp_path / ".dockerignore").read_text())
    (found,) = bundles.find(tmp_path / "dist/engines")
    assert (found.folder, found.manifest.platform) == (tmp_path / bundle, platform.name)


def test_copied_files() -> None:
    """The libraries get the names that binaries list; the builder's library stays in NVIDIA's image."""
    server = "/opt/tritonserver"
    common = {
        f"{server}/NVIDIA_Deep_Learning_Container_License.pdf",
        f"{server}/bin/tritonserver",
        f"{server}/backends/tensorrt/libtriton_tensorrt.so",
        f"{server}/lib/libtritonserver.so",
    }
    newest = (
        *("libcudart.so.13", "libdcgm.so.4", "libdcgmmodulesysmon.so.4"),
        *("libnccl.so.2", "libnvinfer.so.11", "libnvinfer_plugin.so.11"),
    )
    assert nvidia_stub.copied_files(platforms()["26.08"]) == common | {f"{server}/lib/{name}" for name in newest}
    older = (
        *("libcublas.so.12", "libcublasLt.so.12", "libcudnn.so.8", "libcudnn_ops_infer.so.8"),
        *("libcudart.so.12", "libdcgm.so.3", "libdcgmmodulesysmon.so.3", "libnvinfer.so.8", "libnvinfer_plugin.so.8"),
    )
    compatibility = {f"/usr/local/cuda/compat/{name}" for name in ("libcuda.so.1", "libcuda.so.545.23.08")}
    wanted = common | compatibility | {f"{server}/lib/{name}" for name in older}
    assert nvidia_stub.copied_files(platforms()["23.12"]) == wanted


def test_check_rejects_other_files() -> None:
    platform = platforms()["26.08"]
    wanted = nvidia_stub.copied_files(platform)
    nvidia_stub.check_files(sorted(wanted), platform)
    lost = "/opt/tritonserver/lib/libnvinfer.so.11"
    with pytest.raises(SystemExit, match=rf"missing: \['{lost}'\], unexpected: \['/opt/tritonserver/x'\]"):
        nvidia_stub.check_files([*(wanted - {lost}), "/opt/tritonserver/x"], platform)


def test_check_wants_exit_code_and_sentence_without_driver() -> None:
    platform = platforms()["26.08"]
    sentence = nvidia_stub.no_driver_sentence(platform)
    nvidia_stub.check_without_driver(done(40, err=f"error: {sentence}. Check `nvidia-smi`"), platform)
    with pytest.raises(SystemExit, match="exit code 40 is expected"):
        nvidia_stub.check_without_driver(done(1, err=sentence), platform)
    with pytest.raises(SystemExit, match=r"this sentence is expected: platform 26\.08: no GPU was found"):
        nvidia_stub.check_without_driver(done(40, err="Traceback"), platform)


def test_check_wants_flags_of_runtime_with_driver(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model-repository=/tmp/voxwright/repository", *flags.FIXED, *flags.restricted("secret")]
    nvidia_stub.check_with_driver(done(0, "".join(f"argument {flag}\n" for flag in given)))
    shown = capsys.readouterr().out
    assert "ci/images:   argument --strict-readiness=true\n" in shown
    assert "secret" not in shown
    with pytest.raises(SystemExit, match="tritonserver was started without --strict-readiness=true"):
        nvidia_stub.check_with_driver(
            done(0, "".join(f"argument {flag}\n" for flag in given if flag != "--strict-readiness=true"))
        )
    with pytest.raises(SystemExit, match="expected to start and to end with 0"):
        nvidia_stub.check_with_driver(done(1, err="cannot open shared object file"))
    with pytest.raises(SystemExit, match="tritonserver got another repository"):
        nvidia_stub.check_with_driver(done(0, "".join(f"argument {flag}\n" for flag in given[1:])))


@pytest.mark.parametrize("arguments", [["runtime"], ["--stub-nvidia"], ["runtime", "transcriber", "--stub-nvidia"]])
def test_runtime_is_built_from_the_stub_and_alone(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="run `ci/images runtime --stub-nvidia`"):
        main(arguments)


def test_stub_exists_for_gpu_platforms_only() -> None:
    error = "--platform embedded: there is no image of NVIDIA for it. Name 26.08 or 23.12"
    with pytest.raises(SystemExit, match=re.escape(error)):
        main(["runtime", "--stub-nvidia", "--platform", "embedded"])
