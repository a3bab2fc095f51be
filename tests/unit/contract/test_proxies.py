"""Where proxy variables apply, and which one an error names."""

import socket
from typing import Any

import pytest

from contract import proxies

PROXY = "http://proxy.example.org:3128"
VARIABLES = [
    f"{prefix}_proxy".upper() if upper else f"{prefix}_proxy"
    for prefix in ("http", "https", "grpc", "all", "no")
    for upper in (False, True)
]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0"])  # noqa: S104
def test_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    assert proxies.is_local(host)
    for name in VARIABLES[:-2]:
        monkeypatch.setenv(name, PROXY)
    assert proxies.of_grpc(host) is None
    assert proxies.of_http(f"http://{f'[{host}]' if ':' in host else host}:8000") is None


def test_other_machines() -> None:
    assert not proxies.is_local("192.0.2.1")
    assert not proxies.is_local("2001:db8::1")
    assert not proxies.is_local("no-such-host.invalid")


def test_own_name_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = [(socket.AF_INET, 0, 0, "", ("192.0.2.1", 0)), (socket.AF_INET, 0, 0, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert proxies.is_local("both")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"grpc_proxy": "http://a:1", "https_proxy": "http://b:2", "http_proxy": "http://c:3"},
            "grpc_proxy=http://a:1",
        ),
        ({"https_proxy": "http://b:2", "http_proxy": "http://c:3"}, "https_proxy=http://b:2"),
        ({"http_proxy": "http://user:secret@c:3"}, "http_proxy=http://c:3"),
        ({"HTTP_PROXY": "http://c:3", "all_proxy": "http://d:4"}, None),
        ({"http_proxy": "http://c:3", "no_proxy": "other.org, 192.0.2.0/24"}, None),
        ({"http_proxy": "http://c:3", "no_proxy": "192.0.2.1"}, None),
        ({"http_proxy": "http://c:3", "no_proxy": "192.0.3.0/24"}, "http_proxy=http://c:3"),
        ({"http_proxy": "http://c:3", "no_grpc_proxy": "192.0.3.1", "no_proxy": "192.0.2.1"}, "http_proxy=http://c:3"),
        ({"http_proxy": ""}, None),
    ],
)
def test_proxy_of_grpc(variables: dict[str, str], expected: str | None) -> None:
    assert proxies.of_grpc("192.0.2.1", variables) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"http_proxy": "http://user:secret@c:3", "HTTP_PROXY": "http://d:4"}, "http_proxy=http://c:3"),
        ({"HTTP_PROXY": "http://d:4"}, "HTTP_PROXY=http://d:4"),
        ({"https_proxy": "http://b:2"}, None),
        ({"http_proxy": "http://c:3", "NO_PROXY": "192.0.2.1"}, None),
    ],
)
def test_proxy_of_http(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str | None) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxies.of_http("http://192.0.2.1:8000") == expected


def test_remedy_names_the_variable() -> None:
    assert proxies.remedy("http_proxy=http://c:3", "server") == (
        "http_proxy=http://c:3 leads through a proxy: if the server is reached without it, add server to no_proxy"
    )
