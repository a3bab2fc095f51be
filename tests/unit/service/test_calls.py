"""Calls of URLs that clients name, to real servers of this machine."""

import contextlib
import dataclasses
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service import addresses
from service.addresses import Destination
from service.calls import Caller, CallError, StoppedError
from tests.integration import receiver
from tests.integration.receiver import Receiver

LOCAL = ("127.0.0.1",)
CALLER = Caller(hosts=LOCAL, option="--fetch-host", longest_s=30.0)


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


SLOW: dict[str, tuple[bytes, bytes]] = {
    "no answer": (b"", b""),
    "headers without an end": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "content without an end": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    # The end of the connection is the end of the content.
    "content without a length": (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "content that stalls": (b"HTTP/1.1 200 OK\r\n\r\nx", b""),
}


@contextmanager
def slow(first: bytes, later: bytes) -> Iterator[str]:
    """Yield the URL of a server that sends something at once, and then something every 50 ms."""
    done = threading.Event()

    def answer(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(first)
                while not done.wait(0.05):
                    connection.sendall(later)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        done.set()
        # Ends an `accept` that still waits.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.mark.parametrize("name", SLOW)
def test_fetch_has_a_time_as_a_whole(name: str) -> None:
    brief, began_s = dataclasses.replace(CALLER, longest_s=0.5), time.monotonic()
    with slow(*SLOW[name]) as url, pytest.raises(CallError) as raised:
        brief.fetch(url, {}, io.BytesIO(), 10**6)
    assert (str(raised.value), raised.value.is_final) == ("127.0.0.1 takes more than 0.5 seconds, the limit", True)
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("name", SLOW)
def test_fetch_ends_soon_after_it_is_cancelled(name: str) -> None:
    began_s = time.monotonic()
    with slow(*SLOW[name]) as url, pytest.raises(StoppedError):
        CALLER.fetch(url, {}, io.BytesIO(), 10**6, lambda: time.monotonic() > began_s + 0.3)
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("name", ["no answer", "headers without an end"])
def test_send_has_a_time_as_a_whole(name: str) -> None:
    brief = dataclasses.replace(CALLER, longest_s=0.5)
    with slow(*SLOW[name]) as url, pytest.raises(CallError, match=r"takes more than 0\.5 seconds"):
        brief.send("POST", url, {}, content=b"x")


def test_send_ends_soon_after_it_is_cancelled() -> None:
    with slow(*SLOW["no answer"]) as url, pytest.raises(StoppedError):
        CALLER.send("POST", url, {}, content=b"x", is_cancelled=lambda: True)


def test_watch_ends_with_its_call(there: Receiver) -> None:
    CALLER.send("POST", there.url, {})
    assert "call" not in {thread.name for thread in threading.enumerate()}
