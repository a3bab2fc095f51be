"""Calls of URLs that clients name, to a real HTTP server of this machine."""

import io
from collections.abc import Iterator

import pytest

from service import addresses
from service.addresses import Destination
from service.calls import Caller, CallError
from tests.integration import receiver
from tests.integration.receiver import Receiver

LOCAL = ("127.0.0.1",)
CALLER = Caller(hosts=LOCAL, option="--fetch-host")


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver.started() as state:
        yield state


def test_sends_headers_as_latin_1(there: Receiver) -> None:
    CALLER.send("POST", there.url, {"X-Name": "Zo\xeb"})
    assert there.received[0].headers["x-name"] == "Zo\xeb"


def test_rejects_headers_of_earlier_releases(there: Receiver) -> None:
    with pytest.raises(CallError, match=r"^a header has characters that are not Latin-1$") as raised:
        CALLER.fetch(there.url, {"X-Name": "\N{EURO SIGN}"}, io.BytesIO(), 10)
    assert raised.value.is_final
    assert there.received == []


def test_names_a_host_in_ascii(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Destination(scheme="http", host="b\xfccher.example", port=there.port, address="127.0.0.1")
    monkeypatch.setattr(addresses, "check", lambda *_: here)
    CALLER.send("POST", f"http://b\xfccher.example:{there.port}/", {})
    assert there.received[0].headers["host"] == f"xn--bcher-kva.example:{there.port}"


def test_rejects_urls_that_the_client_of_http_does_not_take() -> None:
    with pytest.raises(CallError, match=r"^127\.0\.0\.1 cannot be called \(Invalid non-printable ASCII") as raised:
        CALLER.send("POST", "http://127.0.0.1/\x07", {})
    assert raised.value.is_final
