"""Build the image `runtime` from a stub of NVIDIA's image, start it, and check where it stops.

The stub has the folders, names, run paths and links of NVIDIA's tritonserver image, as Triton's build scripts define
them. Its libraries are empty, and its tritonserver prints its arguments and loads the tensorrt backend. A build shows
that the Dockerfile and images/gather.py fit that layout. A start shows that runtime and the copied libraries fit
together. Neither shows anything about NVIDIA's own files.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract.arch import Arch
from contract.platform import Platform, platforms
from images.engine import GPU_SERVER, ROOT, Engine, stub_tag
from images.host import expect, fail, log, run
from runtime import flags
from tests.fakes.driver import A10, fake_driver
from tests.unit.runtime import synthetic

PLATFORMS = tuple(name for name, found in platforms().items() if found.cuda and found.backend)
ARCH = Arch.SM86
GPU = A10
DRIVER_FOLDER = "/opt/driver"
EXIT_NO_GPU = 40
LICENCE = "opt/tritonserver/NVIDIA_Deep_Learning_Container_License.pdf"
# What the stages of `runtime` copy from the checkout, except for the bundle.
SOURCES = (
    *("Dockerfile", ".dockerignore", "pyproject.toml", "requirements.lock"),
    *("images/gather.py", "images/requirements.py", "contract", "model_repository", "runtime"),
)
LISTED_FOLDERS = ("/opt/tritonserver", "/usr/local/cuda")
_BACKEND_FOLDER, _BACKEND = "opt/tritonserver/backends/tensorrt", "libtriton_tensorrt.so"
_DIAGNOSTICS = "libdcgm_cublas_proxy12.so.3"
_SYSTEM_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_SERVER = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    char backend[4096];
    for (int each = 1; each < argc; each++) printf("argument %s\n", argv[each]);
    int folder = (int)(strrchr(argv[0], '/') - argv[0]);
    snprintf(backend, sizeof backend, "%.*s/../backends/tensorrt/libtriton_tensorrt.so", folder, argv[0]);
    if (!dlopen(backend, RTLD_NOW | RTLD_LOCAL)) return fprintf(stderr, "stub tritonserver: %s\n", dlerror()), 1;
    puts("stub tritonserver: the tensorrt backend and all its libraries were loaded");
    return 0;
}
"""
# The image of NVIDIA has Python, and a loader's cache with the libraries of CUDA.
_DOCKERFILE = """\
ARG DEBIAN_IMAGE=debian:bookworm-slim
FROM ${DEBIAN_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
COPY tree/ /
RUN ldconfig
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """An empty library of the stub: the folder and name of its file, its soname, and the libraries that it needs."""

    folder: str
    soname: str
    version: str = ""
    needs: tuple[str, ...] = ()
    run_path: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The layout of NVIDIA's tritonserver image for one platform."""

    cuda: str
    compatibility_driver: str
    has_compatibility: bool
    """Whether `runtime` contains CUDA's compatibility library."""
    libraries: tuple[Library, ...] = field(repr=False)


def layout(platform: Platform) -> Layout:
    """Return the layout of NVIDIA's image for a platform that serves on GPUs."""
    if platform.cuda is None or platform.tensorrt is None:
        raise ValueError(f"platform {platform.name} has no image of NVIDIA")
    cuda = ".".join(platform.cuda.split(".")[:2])
    major, tensorrt = cuda.partition(".")[0], platform.tensorrt.partition(".")[0]
    old = tensorrt == "8"
    toolkit = f"usr/local/cuda-{cuda}/targets/x86_64-linux/lib"
    cudart, nvinfer, plugin = f"libcudart.so.{major}", f"libnvinfer.so.{tensorrt}", f"libnvinfer_plugin.so.{tensorrt}"
    dcgm = 3 if old else 4
    # TensorRT 8.6 opens cuBLAS and cuDNN at run time; NCCL is part of the image since 26.06.
    opened = (
        [
            *(Library(folder=toolkit, soname=f"lib{name}.so.12") for name in ("cublas", "cublasLt")),
            *(Library(folder=_SYSTEM_LIBRARIES, soname=f"lib{name}.so.8") for name in ("cudnn", "cudnn_ops_infer")),
            # DCGM 3 brings cuBLAS for its diagnostics, which the slim image must not have.
            Library(folder=_SYSTEM_LIBRARIES, soname=_DIAGNOSTICS),
        ]
        if old
        else [Library(folder=_SYSTEM_LIBRARIES, soname="libnccl.so.2", version="2.32.3")]
    )
    needed = () if old else ("libnccl.so.2",)
    return Layout(
        cuda=cuda,
        has_compatibility=old,
        compatibility_driver="545.23.08" if old else "610.43.02",
        libraries=(
            *opened,
            Library(folder=toolkit, soname=cudart, version=f"{cuda}.1"),
            Library(folder=_SYSTEM_LIBRARIES, soname=f"libdcgm.so.{dcgm}"),
            Library(folder=_SYSTEM_LIBRARIES, soname=f"libdcgmmodulesysmon.so.{dcgm}"),
            # A library that only a builder of engines opens: the slim image must not have it.
            Library(folder=_SYSTEM_LIBRARIES, soname=_builder(platform)),
            Library(folder=_SYSTEM_LIBRARIES, soname=nvinfer, version=platform.tensorrt, needs=needed),
            Library(folder=_SYSTEM_LIBRARIES, soname=plugin, version=platform.tensorrt, needs=(nvinfer,)),
            Library(
                folder="opt/tritonserver/lib",
                soname="libtritonserver.so",
                needs=(cudart, f"libdcgm.so.{dcgm}"),
                run_path="$ORIGIN",
            ),
            # The run path of tensorrt_backend does not contain the folder of libtritonserver.so.
            Library(
                folder=_BACKEND_FOLDER,
                soname=_BACKEND,
                needs=("libtritonserver.so", nvinfer, plugin, cudart),
                run_path="$ORIGIN",
            ),
        ),
    )


def write_tree(folder: Path, platform: Platform) -> Path:
    """Write the stub's files below a folder, compiled with gcc; return the folder."""
    made = layout(platform)
    for library in made.libraries:
        _compile_library(folder, library, made.libraries)
    _compile_server(folder, made.libraries)
    (folder / LICENCE).write_text("This file stands for NVIDIA's licence in a stub of NVIDIA's image.\n")
    toolkit = f"usr/local/cuda-{made.cuda}"
    compatibility = f"{toolkit}/compat/lib.real"
    _compile_library(
        folder, Library(folder=compatibility, soname="libcuda.so.1", version=made.compatibility_driver), ()
    )
    for link, target in {"etc/alternatives/cuda": f"/{toolkit}", "usr/local/cuda": "/etc/alternatives/cuda"}.items():
        (folder / link).parent.mkdir(parents=True, exist_ok=True)
        (folder / link).symlink_to(target)
    configuration = folder / "etc/ld.so.conf.d/000_cuda.conf"
    configuration.parent.mkdir(parents=True)
    configuration.write_text("/usr/local/cuda/targets/x86_64-linux/lib\n")
    return folder


def write_image(folder: Path, platform: Platform) -> Path:
    """Write the folder that the stub image is built from; return it."""
    write_tree(folder / "tree", platform)
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    return folder


def write_context(folder: Path, platform: Platform) -> Path:
    """Copy what `runtime` is built from to a folder, and write a made-up bundle there; return the folder.

    The checkout's own dist/ stays as it is: a server must never find engines there that are not engines.
    """
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    bundle = synthetic.full_manifest(ARCH, platform.name)
    synthetic.write(folder / "dist/engines" / platform.name / ARCH.value, bundle)
    return folder


def build(engine: Engine, folder: Path, platform: Platform) -> None:
    """Build the stub of NVIDIA's image and the image `runtime` from it."""
    log(f"STUB: {stub_tag(platform.name)} stands for NVIDIA's image. It contains no software of")
    log("NVIDIA, and the bundle contains no engines. The image that is built here serves nothing and is for tests only")
    arguments = engine.build_stub(write_image(folder / "nvidia", platform), platform.name)
    selected = [f"--build-arg=PLATFORM={platform.name}", f"--build-arg=ARCH={ARCH.value}"]
    engine.build(GPU_SERVER, write_context(folder / "context", platform), [*arguments, *selected])


def check(engine: Engine, folder: Path, platform: Platform) -> None:
    """List the image's files, and start it without a driver and with a fake one; end the program on a difference."""
    listed = engine.run_once(GPU_SERVER, "find", *LISTED_FOLDERS, "-not", "-type", "d")
    check_files(listed.stdout.split(), platform)
    log("starting it without a driver")
    check_without_driver(engine.run_once(GPU_SERVER), platform)
    driver = folder / "driver"
    driver.mkdir()
    fake_driver(driver, **GPU)
    driver.chmod(0o755)
    log(f"starting it with a fake driver that lists a GPU: {GPU['NAME']}")
    done = engine.run_once(GPU_SERVER, folders={driver: DRIVER_FOLDER}, LD_LIBRARY_PATH=DRIVER_FOLDER)
    check_with_driver(done)


def check_files(found: Sequence[str], platform: Platform) -> None:
    """Check that exactly the needed files of NVIDIA's image were copied: no library that only a builder needs."""
    wanted = copied_files(platform)
    for path in sorted(wanted):
        log(f"  copied {path}")
    expect(wanted == set(found), f"missing: {sorted(wanted - set(found))}, unexpected: {sorted(set(found) - wanted)}")


def copied_files(platform: Platform) -> set[str]:
    """Return the files of NVIDIA's image that the image `runtime` of a platform has."""
    made = layout(platform)
    left = (_BACKEND, _builder(platform), _DIAGNOSTICS)
    libraries = {each.soname for each in made.libraries if each.soname not in left}
    # Drivers older than 545 need CUDA's compatibility library, which the container toolkit looks for in this folder.
    driver = {f"libcuda.so.{made.compatibility_driver}", "libcuda.so.1"} if made.has_compatibility else set()
    return {
        f"/{LICENCE}",
        "/opt/tritonserver/bin/tritonserver",
        f"/{_BACKEND_FOLDER}/{_BACKEND}",
        *(f"/opt/tritonserver/lib/{name}" for name in libraries),
        *(f"/usr/local/cuda/compat/{name}" for name in driver),
    }


def check_without_driver(done: subprocess.CompletedProcess[str], platform: Platform) -> None:
    """Check that a start without a driver ended with the exit code and the sentence for it."""
    sentence = no_driver_sentence(platform)
    ended = f"the container ended with exit code {done.returncode}: {done.stderr.strip()}{done.stdout.strip()}"
    log(ended)
    expect(done.returncode == EXIT_NO_GPU, f"without a driver, exit code {EXIT_NO_GPU} is expected")
    expect(sentence in done.stderr, f"without a driver, this sentence is expected: {sentence}")


def no_driver_sentence(platform: Platform) -> str:
    """Return what runtime prints on a host without a driver."""
    return f"platform {platform.name}: no GPU was found (there is no libcuda.so.1), but one is required"


def check_with_driver(done: subprocess.CompletedProcess[str]) -> None:
    """Check that a start with a driver reached tritonserver, with runtime's flags and a backend that can be loaded."""
    for line in [*done.stderr.splitlines(), *done.stdout.splitlines()]:
        # The key of the restricted APIs is random, and is not for logs.
        log(f"  {re.sub('admin-key=.*', 'admin-key=...', line)}")
    log(f"the container ended with exit code {done.returncode}")
    expect(done.returncode == 0, "with a driver, the stub of tritonserver is expected to start and to end with 0")
    started_with = [line.removeprefix("argument ") for line in done.stdout.splitlines() if line.startswith("argument ")]
    missing = [flag for flag in flags.FIXED if flag not in started_with]
    expect(not missing, f"tritonserver was started without {', '.join(missing)}")
    expect("--model-repository=/tmp/voxwright/repository" in started_with, "tritonserver got another repository")


def _builder(platform: Platform) -> str:
    return f"libnvinfer_builder_resource_sm86.so.{platform.tensorrt}"


def _compile_library(folder: Path, library: Library, known: Sequence[Library]) -> None:
    stem = library.soname.partition(".so")[0]
    target = folder / library.folder / (f"{stem}.so.{library.version}" if library.version else library.soname)
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ["-shared", "-fPIC", f"-Wl,-soname,{library.soname}"]
    if library.run_path:
        options.append(f"-Wl,-rpath,{library.run_path}")
    _gcc("int stub;", target, options, _paths(folder, library.needs, known))
    if target.name != library.soname:
        (target.parent / library.soname).symlink_to(target.name)


def _compile_server(folder: Path, known: Sequence[Library]) -> None:
    target = folder / "opt/tritonserver/bin/tritonserver"
    target.parent.mkdir(parents=True)
    needs = [library.soname for library in known if library.soname.startswith(("libtritonserver", "libcudart"))]
    _gcc(_SERVER, target, ["-Wl,-rpath,${ORIGIN}/../lib"], _paths(folder, needs, known))


def _paths(folder: Path, sonames: Sequence[str], known: Sequence[Library]) -> list[Path]:
    return [folder / library.folder / library.soname for library in known if library.soname in sonames]


def _gcc(source: str, target: Path, options: Sequence[str], needs: Sequence[Path]) -> None:
    if shutil.which("gcc") is None:
        fail("the stub of NVIDIA's image is compiled with gcc, which is not installed")
    folders = {f"-Wl,-rpath-link,{path.parent}" for path in needs}
    text = target.with_name(f"{target.name}.c")
    text.write_text(source)
    linked = ["-Wl,--no-as-needed", *sorted(folders), *map(str, needs)]
    # ${ORIGIN} and undefined libraries of libraries are resolved when the program starts.
    allowed = ["-Wl,--allow-shlib-undefined"]
    run("gcc", "-Wall", "-Werror", "-o", str(target), *options, *allowed, str(text), *linked, "-ldl")
    text.unlink()
