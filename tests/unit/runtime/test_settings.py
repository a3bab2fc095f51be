"""Test that the command line and the environment become settings, or an error."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from contract.catalogue import CATALOGUE_FOLDER, read_catalogue
from contract.errors import CatalogueError, SettingError
from contract.platform import platform
from runtime import listening
from runtime.__main__ import command, parse
from runtime.listening import Addresses, Families, Ports
from runtime.settings import Settings
from tests.unit.runtime import synthetic


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in command().params:
        if isinstance(option.envvar, str):
            monkeypatch.delenv(option.envvar, raising=False)
    monkeypatch.setattr(listening, "families", lambda: Families(ipv4=True, ipv6=True))


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
    assert parse([]) == Settings(
        catalogue=read_catalogue(),
        engines=Path("dist/engines"),
        repository=Path("dist/repository"),
        platform=None,
        operating_point=None,
        mode="batch",
        ports=Ports(http=8000, grpc=8001, metrics=8002),
        threads=3,
        trusted_keys=(),
        licence=Path("/license.json"),
        vendor_key=Path("/etc/voxwright/vendor.pem"),
        admin_key=None,
        log_format="text",
        assemble_only=False,
        triton_flags=(),
    )


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("SM_OPERATING_POINT", "enhanced", "operating_point", "enhanced"),
        ("SM_OPERATING_POINT", " Standard ", "operating_point", "standard"),
        ("SM_OPERATING_POINT", "", "operating_point", None),
        ("SM_BATCH_MODE", "false", "mode", "realtime"),
        ("SM_BATCH_MODE", "True", "mode", "batch"),
        ("SM_BATCH_MODE", "", "mode", "batch"),
        ("VOXWRIGHT_ENGINES", "elsewhere", "engines", Path("elsewhere")),
        ("VOXWRIGHT_REPOSITORY", "there", "repository", Path("there")),
        ("VOXWRIGHT_PLATFORM", "embedded", "platform", platform("embedded")),
        ("VOXWRIGHT_HTTP_PORT", "9000", "ports", Ports(http=9000, grpc=8001, metrics=8002)),
        ("VOXWRIGHT_GRPC_PORT", "9001", "ports", Ports(http=8000, grpc=9001, metrics=8002)),
        ("VOXWRIGHT_METRICS_PORT", "9002", "ports", Ports(http=8000, grpc=8001, metrics=9002)),
        ("VOXWRIGHT_HTTP_ADDRESS", "::", "addresses", Addresses(http="::", metrics="::")),
        ("VOXWRIGHT_GRPC_ADDRESS", "::1", "addresses", Addresses(grpc="::1")),
        ("VOXWRIGHT_METRICS_ADDRESS", "127.0.0.1", "addresses", Addresses(metrics="127.0.0.1")),
        ("VOXWRIGHT_THREADS", "7", "threads", 7),
        ("VOXWRIGHT_LICENCE", "mine.json", "licence", Path("mine.json")),
        ("VOXWRIGHT_VENDOR_KEY", "theirs.pem", "vendor_key", Path("theirs.pem")),
        ("VOXWRIGHT_LOG_FORMAT", "json", "log_format", "json"),
        ("VOXWRIGHT_ADMIN_KEY", "", "admin_key", None),
        ("VOXWRIGHT_TRUSTED_KEY", "a.pem:b.pem", "trusted_keys", (Path("a.pem"), Path("b.pem"))),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: Any) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(parse([]), field) == value


def test_reads_admin_key_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("0123456789abcdef-._~\n")
    monkeypatch.setenv("VOXWRIGHT_ADMIN_KEY", str(path))
    found = parse([])
    assert found.admin_key == "0123456789abcdef-._~"
    assert "0123456789" not in repr(found)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "it cannot be read (No such file or directory)"),
        (b"\xff" * 20, "it cannot be read (it is not plain text)"),
        (b"", "it must hold a secret of 16 or more letters, digits and any of . _ ~ -"),
        (b"too short", "it must hold a secret of 16 or more letters, digits and any of . _ ~ -"),
        (b"with a blank and a = sign", "it must hold a secret of 16 or more letters, digits and any of . _ ~ -"),
    ],
)
def test_rejects_unusable_admin_key(tmp_path: Path, content: bytes | None, cause: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError) as refusal:
        parse(["--admin-key", str(path)])
    assert str(refusal.value) == (
        f"--admin-key {path}: {cause}. Create one with `openssl rand -hex 32`, and mount it as a file."
    )


def test_rejects_reserved_flag_of_tritonserver() -> None:
    with pytest.raises(SettingError, match="--model-repository: it is set by `python -m runtime` itself"):
        parse(["--", "--model-repository=/other"])


def test_option_overrides_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_OPERATING_POINT", "enhanced")
    assert parse(["--operating-point", "standard"]).operating_point == "standard"


def test_passes_flags_to_tritonserver() -> None:
    assert parse(["--", "--log-verbose=1", "--http-thread-count=4"]).triton_flags == (
        "--log-verbose=1",
        "--http-thread-count=4",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--operating-point", "best"],
            f"SM_OPERATING_POINT: 'best' is not an operating point of {CATALOGUE_FOLDER}. Use standard or enhanced.",
        ),
        (
            ["--batch-mode", "perhaps"],
            "SM_BATCH_MODE: 'perhaps' is neither true nor false. Use true for batch, false for real time.",
        ),
        (
            ["--platform", "19.01"],
            "platform '19.01': it is not known. Choose one of 26.08, 23.12, embedded, compile-check.",
        ),
        (
            ["--platform", "compile-check"],
            "platform 'compile-check': no Triton server serves its engines. Choose a platform that has a server.",
        ),
        (
            ["--http-port", "8002"],
            "--metrics-port: port 8002 is already used by --http-port. Set a different port for each.",
        ),
    ],
)
def test_rejects_unusable_settings(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{re.escape(message)}$"):
        parse(arguments)


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--http-port", "none"], ["--http-port", "0"]])
def test_misuse_has_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(arguments)
    assert left.value.code == 2
    assert "Error: " in capsys.readouterr().err


def test_help_lists_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["--help"])
    assert left.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for option in command().params:
        assert option.envvar is None or f"env var: {option.envvar}" in text


def test_repository_is_the_folder_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "repository")
    assert parse(["--repository", str(tmp_path / "link")]).repository == tmp_path / "disk" / "repository"
    (tmp_path / "bad").symlink_to(tmp_path / "a disk")
    with pytest.raises(SettingError, match="python backend cannot use that path"):
        parse(["--repository", str(tmp_path / "bad")])


@pytest.mark.parametrize("path", ["re po", "a;b", "$(x)", "", "/", "."])
def test_rejects_repository_path_that_a_shell_would_interpret(path: str) -> None:
    with pytest.raises(SettingError) as refusal:
        parse(["--repository", path])
    assert str(refusal.value) == (
        f"--repository {path!r}: Triton's python backend cannot use that path. "
        "Use a folder of letters, digits and any of . _ - + = @ : / in its path."
    )


def test_catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = synthetic.write_catalogue(tmp_path, "quick", "slow")
    assert parse(["--catalogue", str(folder), "--operating-point", "quick"]).operating_point == "quick"
    monkeypatch.setenv("VOXWRIGHT_CATALOGUE", str(folder))
    assert sorted(parse([]).catalogue.families) == ["am_en", "body", "ensemble_en"]
    with pytest.raises(SettingError) as refusal:
        parse(["--operating-point", "standard"])
    assert str(refusal.value) == (
        f"SM_OPERATING_POINT: 'standard' is not an operating point of {folder}. Use quick or slow."
    )


def test_rejects_folder_that_is_not_a_catalogue(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as refusal:
        parse(["--catalogue", str(tmp_path)])
    assert str(refusal.value) == (
        f"{tmp_path}: it holds no catalogue.toml, so it is not a catalogue. "
        "Name the folder of a catalogue, or reinstall the package."
    )
