"""Test the command line of tritonserver, its ports, and the search for each server."""

import ctypes.util
import dataclasses
import errno
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ServerUnavailableError, SettingError
from contract.platform import platform
from runtime import embedded, flags, launch, shared_memory
from runtime.listening import Ports
from runtime.server import Server
from runtime.settings import Settings
from tests.unit.runtime import synthetic

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SERVER = Server(executable=Path("/opt/tritonserver"), flags=("--backend-directory=b",), environment={})


def test_arguments() -> None:
    assert launch.arguments(SERVER, chosen(admin_key="k" * 16, triton_flags=("--log-verbose=1",))) == [
        "/opt/tritonserver",
        "--model-repository=a/repository",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        "--exit-timeout-secs=25",
        "--http-restricted-api=shared-memory,model-repository,trace,logging:admin-key=kkkkkkkkkkkkkkkk",
        "--grpc-restricted-protocol=shared-memory,model-repository,trace,logging:admin-key=kkkkkkkkkkkkkkkk",
        "--http-address=0.0.0.0",
        "--grpc-address=0.0.0.0",
        "--metrics-address=0.0.0.0",
        "--http-port=1",
        "--grpc-port=2",
        "--metrics-port=3",
        "--grpc-http2-min-recv-ping-interval-without-data=1000",
        "--grpc-keepalive-permit-without-calls=true",
        "--grpc-keepalive-time=60000",
        "--grpc-keepalive-timeout=20000",
        "--backend-directory=b",
        "--log-verbose=1",
    ]


def chosen(**changes: Any) -> Settings:
    ports = Ports(http=1, grpc=2, metrics=3)
    made = Settings(
        catalogue=synthetic.CATALOGUE,
        engines=Path("engines"),
        repository=Path("a/repository"),
        platform=None,
        operating_point=None,
        mode="batch",
        ports=ports,
        threads=1,
    )
    return dataclasses.replace(made, **changes)


def test_random_admin_key_by_default() -> None:
    first, second = ([flag for flag in launch.arguments(SERVER, chosen()) if "restricted" in flag] for _ in range(2))
    for flag in (*first, *second):
        assert re.fullmatch(r"--(http-restricted-api|grpc-restricted-protocol)=[a-z,-]+:admin-key=[\w-]{43}", flag)
    assert len({flag.partition(":")[2] for flag in first}) == 1
    assert not set(first) & set(second)


def test_json_log_gives_triton_lines_the_full_date() -> None:
    arguments = launch.arguments(SERVER, chosen(log_format="json", triton_flags=("--log-format=default",)))
    # The last one counts: an operator's flag comes after ours.
    assert arguments[-3:] == ["--log-format=ISO8601", "--backend-directory=b", "--log-format=default"]


@pytest.mark.parametrize(
    ("flag", "note", "remedy"),
    [
        ("--model-repository=/other", "", "Remove it; choose the folder with --repository, before the --"),
        ("--model-repository", "", "Remove it; choose the folder with --repository, before the --"),
        ("--model-store=/other", "", "Remove it; choose the folder with --repository, before the --"),
        (
            "--model-repo=/other",
            ", which tritonserver reads as --model-repository",
            "Remove it; choose the folder with --repository, before the --",
        ),
        ("--model-control-mode=explicit", "", "Remove it; `python -m runtime` always sets this flag itself"),
        ("--strict-model-config=false", "", "Remove it; `python -m runtime` always sets this flag itself"),
        ("--strict-readiness=false", "", "Remove it; `python -m runtime` always sets this flag itself"),
        ("--exit-timeout-secs=0", "", "Remove it; `python -m runtime` always sets this flag itself"),
        ("--http-port=9000", "", "Put it before the --"),
        ("--http-address=127.0.0.1", "", "Put it before the --"),
        ("--grpc-address=::1", "", "Put it before the --"),
        ("--metrics-address=::1", "", "Put it before the --"),
    ],
)
def test_rejects_reserved_flag(flag: str, note: str, remedy: str) -> None:
    with pytest.raises(SettingError) as refusal:
        flags.check(["--log-verbose=1", flag])
    name = flag.partition("=")[0]
    assert str(refusal.value) == f"tritonserver flag {name}{note}: it is set by `python -m runtime` itself. {remedy}."


def test_every_flag_that_is_set_is_reserved() -> None:
    repeatable = ("--http-restricted-api", "--grpc-restricted-protocol", "--backend-config", "--log-format")
    for flag in launch.arguments(SERVER, chosen())[1:]:
        if flag.partition("=")[0] not in repeatable and flag not in flags.PINGS:
            with pytest.raises(SettingError):
                flags.check([flag])


def test_limits_of_pings_of_the_operator_come_last() -> None:
    own = "--grpc-http2-min-recv-ping-interval-without-data=30000"
    assert launch.arguments(SERVER, chosen(triton_flags=flags.check([own])))[-1] == own


def test_accepts_other_flags() -> None:
    extra = ("--log-verbose=1", "--http-thread-count", "4", "--model-load-thread-count=2", "--log-info=false", "--")
    more = ("--http-restricted-api=statistics:key=value", "--backend-config=python,key=value", "--rate-limit=off")
    assert flags.check([*extra, *more]) == (*extra, *more)


def test_pool_flags() -> None:
    expected = ["--cuda-memory-pool-byte-size=0:5", "--pinned-memory-pool-byte-size=7"]
    assert launch.arguments(SERVER, chosen(), flags.pools(5, 7))[-3:] == [*expected, "--backend-directory=b"]


@pytest.mark.parametrize(
    ("extra", "sizes"),
    [
        ([], (None, None)),
        (["--cuda-memory-pool-byte-size=0:5", "--pinned-memory-pool-byte-size=7"], (5, 7)),
        (["--cuda-memory-pool-byte-size", "0:5", "--cuda-memory=0:6"], (6, None)),
    ],
)
def test_pool_sizes_of_the_operator(extra: list[str], sizes: tuple[int | None, int | None]) -> None:
    assert flags.pool_sizes(extra) == flags.PoolSizes(cuda_bytes=sizes[0], pinned_bytes=sizes[1])
    assert flags.check(extra) == tuple(extra)


def test_rejects_pool_of_another_gpu() -> None:
    with pytest.raises(SettingError) as refusal:
        flags.check(["--cuda-memory-pool-byte-size=1:5"])
    assert str(refusal.value) == (
        "tritonserver flag --cuda-memory-pool-byte-size: '1:5' is not of the form 0:BYTES. "
        "Use --cuda-memory-pool-byte-size=0:BYTES, where 0 is the one visible GPU."
    )


def test_start_replaces_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: called.append(arguments))
    start: Callable[..., object] = launch.start  # which mypy knows never to come back
    start(SERVER, ["tritonserver", "--flag"])
    assert called == [(SERVER.executable, ["tritonserver", "--flag"], {})]


def test_rejects_server_that_cannot_be_started(tmp_path: Path) -> None:
    broken = Server(executable=tmp_path / "absent", flags=(), environment={})
    with pytest.raises(ServerUnavailableError, match="it cannot be started \\(No such file or directory\\)"):
        launch.start(broken, ["absent"])


def test_installed_server(tmp_path: Path) -> None:
    (tmp_path / "tritonserver").touch(mode=0o755)
    found = launch.installed(platform("26.08"), {"PATH": str(tmp_path), "A": "b"})
    assert found == Server(
        executable=tmp_path / "tritonserver", flags=(), environment={"PATH": str(tmp_path), "A": "b"}
    )


def test_no_installed_server(tmp_path: Path) -> None:
    with pytest.raises(ServerUnavailableError) as refusal:
        launch.installed(platform("26.08"), {"PATH": str(tmp_path)})
    assert str(refusal.value) == (
        "tritonserver: it is not on the PATH; platform 26.08 needs the one of Triton 26.08. "
        "Start inside the serving image, or serve on the CPU with `--platform embedded`."
    )


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a fake nvidia-pytriton, with stubs for this Python and for another; return its root."""
    root = tmp_path / "site" / "pytriton"
    for path in (
        *("bin/tritonserver", "backends/python/libtriton_python.so", "backends/python/utils.py"),
        *(f"python_backend_stubs/{version}/triton_python_backend_stub" for version in ("3.8", PYTHON)),
    ):
        file = root / "tritonserver" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
    spec = ModuleSpec("pytriton", None)
    spec.submodule_search_locations = [str(root)]
    found = {"pytriton": spec, "numpy": spec, "onnxruntime": spec}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    return root


def test_locate(wheel: Path) -> None:
    found = embedded.locate()
    assert found.server == wheel / "tritonserver" / "bin" / "tritonserver"
    assert found.stub == wheel / "tritonserver" / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    assert found.libraries == wheel.parent / "nvidia_pytriton.libs"


def test_rejects_missing_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ServerUnavailableError) as refusal:
        embedded.locate()
    assert str(refusal.value) == (
        "embedded tritonserver: nvidia-pytriton is not installed. Install it with `pip install 'voxwright[embedded]'`."
    )


def test_rejects_missing_package_of_the_backend(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(ServerUnavailableError, match=r"^embedded tritonserver: onnxruntime is not installed\. "):
        embedded.locate()


def test_rejects_wheel_without_a_stub_for_this_python(wheel: Path) -> None:
    (wheel / "tritonserver" / "python_backend_stubs" / PYTHON / "triton_python_backend_stub").unlink()
    with pytest.raises(ServerUnavailableError) as refusal:
        embedded.locate()
    assert str(refusal.value) == (
        f"embedded tritonserver: nvidia-pytriton has no stub for Python {PYTHON}. "
        "Use a Python version for which it has one: 3.8."
    )


def test_rejects_damaged_wheel(wheel: Path) -> None:
    (wheel / "tritonserver" / "bin" / "tritonserver").unlink()
    with pytest.raises(ServerUnavailableError, match="nvidia-pytriton is damaged: the server binary is missing"):
        embedded.locate()


def test_python_without_a_shared_library_is_found_before_anything_is_written(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: "/nowhere")
    monkeypatch.setattr(sys, "base_prefix", "/nowhere")
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)
    with pytest.raises(ServerUnavailableError, match="this Python has no shared library"):
        embedded.locate()


@pytest.mark.parametrize("entries", [(), ("python", "onnxruntime")])
def test_old_backends_are_replaced(tmp_path: Path, entries: tuple[str, ...]) -> None:
    folder = embedded.backends_of(tmp_path / "repository")
    embedded.check_backends(folder)
    for entry in entries:
        (folder / entry).mkdir(parents=True)
    embedded.check_backends(folder)


def test_other_content_is_no_folder_of_backends(tmp_path: Path) -> None:
    folder = tmp_path / "repository.backends"
    (folder / "python").mkdir(parents=True)
    (folder / "notes.txt").touch()
    with pytest.raises(SettingError) as refusal:
        embedded.check_backends(folder)
    assert str(refusal.value) == (
        f"{folder}: it exists and has other content than the backends of a server; all of it would be replaced. "
        "Remove it, or name another folder with --repository."
    )


def test_regions_of_another_user_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder such as /dev/shm only the owner may remove a file."""
    names = [f"voxwright-{shared_memory._namespace()}-{2**22 + number}-region" for number in range(3)]
    for name in names:
        (tmp_path / name).touch()
    unlink = Path.unlink

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == names[1]:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert shared_memory.sweep(tmp_path) == [names[0], names[2]]


def test_prepare(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_libpython_folders", lambda: (Path("/python/lib"),))
    backends = tmp_path / "backends"
    server = embedded.prepare(embedded.locate(), backends, {"PATH": "/bin", "LD_LIBRARY_PATH": "/mine", "HOME": "/h"})
    assert sorted(str(path.relative_to(backends)) for path in backends.rglob("*") if path.is_file()) == [
        "onnxruntime/model.py",
        "python/libtriton_python.so",
        "python/triton_python_backend_stub",
        "python/utils.py",
    ]
    assert os.access(backends / "python" / "triton_python_backend_stub", os.X_OK)
    assert server.executable == wheel / "tritonserver" / "bin" / "tritonserver"
    assert server.flags == (
        f"--backend-directory={backends}",
        "--backend-config=python,shm-default-byte-size=1048576",
        f"--backend-config=python,shm-region-prefix-name={shared_memory.prefix()}",
        "--allow-gpu-metrics=false",
        "--pinned-memory-pool-byte-size=0",
    )
    assert server.environment == {
        "HOME": "/h",
        "PATH": f"{Path(sys.executable).parent}:/bin",
        "LD_LIBRARY_PATH": f"{wheel.parent}/nvidia_pytriton.libs:/python/lib:/mine",
        "OPENBLAS_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def test_sweep_removes_only_regions_of_dead_servers(tmp_path: Path) -> None:
    mine = shared_memory.prefix()
    namespace, dead = mine.split("-")[1], 2**22 + 1  # above the largest process id that Linux gives
    names = {
        "earlier, as the same process": f"{mine}a",
        "dead": f"voxwright-{namespace}-{dead}-b",
        "alive": f"voxwright-{namespace}-{os.getppid()}-c",
        "of another container": f"voxwright-{int(namespace) + 1}-{dead}-d",
        "not ours": "sem.mp-xyz",
        "not ours either": "voxwright-notes",
    }
    for name in names.values():
        (tmp_path / name).touch()
    assert shared_memory.sweep(tmp_path) == sorted([names["earlier, as the same process"], names["dead"]])
    kept = [names[key] for key in ("alive", "of another container", "not ours", "not ours either")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
