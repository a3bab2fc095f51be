"""Call the URLs that clients name: to fetch recordings, and to notify of jobs that ended."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx

from service import addresses
from service.addresses import Destination

USER_AGENT = "Speechmatics-API/2.0"
_MOST_REDIRECTS = 5
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SUCCESS = 200
_LOOK_S = 0.1
_CONNECTED = frozenset({"connection.connect_tcp.complete", "connection.start_tls.complete"})
"""The events of httpcore's extension `trace` that come with a new connection."""


class CallError(Exception):
    """A URL that could not be called, or that answered with an error. `is_final`: a repetition is of no use."""

    def __init__(self, text: str, *, is_final: bool = False) -> None:
        super().__init__(text)
        self.is_final = is_final


class StoppedError(Exception):
    """A call that was cancelled before its end."""


def _never() -> bool:
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Call listed hosts only; `option` is the one that lists them. A call takes at most `longest_s` as a whole."""

    hosts: Sequence[str]
    option: str
    longest_s: float

    def fetch(
        self,
        url: str,
        headers: Mapping[str, str],
        target: BinaryIO,
        most_bytes: int,
        is_cancelled: Callable[[], bool] = _never,
    ) -> None:
        """Write what a URL returns to a file; raise CallError, or StoppedError soon after `is_cancelled`."""
        written = 0
        with self._watched(url, is_cancelled) as watch, self._following(url, headers, watch) as response:
            for block in response.iter_bytes(2**18):
                watch.check()
                written += len(block)
                if written > most_bytes:
                    raise CallError(f"{_host(url)} sends more than {most_bytes} bytes, the limit", is_final=True)
                target.write(block)
            # Without a declared length, the end of a connection is the end of the content.
            watch.check()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        is_cancelled: Callable[[], bool] = _never,
        **body: Any,
    ) -> None:
        """Send a request and wait for its answer; raise CallError unless the status is 200 to 299.

        Raises StoppedError soon after `is_cancelled` returns True.
        """
        with (
            self._watched(url, is_cancelled) as watch,
            self._requested(method, url, headers, watch, **body) as response,
        ):
            if not response.is_success:
                raise CallError(f"{_host(url)} answered with status {response.status_code}")

    @contextlib.contextmanager
    def _watched(self, url: str, is_cancelled: Callable[[], bool]) -> Iterator["_Watch"]:
        watch = _Watch(_host(url), self.longest_s, is_cancelled)
        thread = threading.Thread(target=watch.run, name="call", daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            watch.done.set()
            thread.join()

    @contextlib.contextmanager
    def _following(self, url: str, headers: Mapping[str, str], watch: "_Watch") -> Iterator[httpx.Response]:
        for _ in range(_MOST_REDIRECTS):
            with self._requested("GET", url, headers, watch) as response:
                if response.status_code not in _REDIRECTS:
                    if response.status_code != _SUCCESS:
                        raise CallError(f"{_host(url)} answered with status {response.status_code}")
                    yield response
                    return
                there = urljoin(url, response.headers.get("location", ""))
            # What proves the client's identity to one host is not for another.
            headers = headers if urlsplit(there).netloc == urlsplit(url).netloc else {}
            url = there
        raise CallError(f"{_host(url)} redirects more than {_MOST_REDIRECTS} times")

    @contextlib.contextmanager
    def _requested(
        self, method: str, url: str, headers: Mapping[str, str], watch: "_Watch", **body: Any
    ) -> Iterator[httpx.Response]:
        try:
            there = addresses.check(url, self.hosts, self.option)
        except addresses.ForbiddenUrlError as error:
            raise CallError(str(error), is_final=True) from error
        named, direct = _addressed(url, there)
        sent = [*_encoded(headers), (b"Host", named.netloc), (b"User-Agent", USER_AGENT.encode())]
        extensions = {"trace": watch.trace, "sni_hostname": named.raw_host.decode("ascii")}
        try:
            with (
                httpx.Client(timeout=_TIMEOUT, trust_env=False, follow_redirects=False) as client,
                client.stream(method, direct, headers=sent, extensions=extensions, **body) as response,
            ):
                yield response
        except httpx.HTTPError as error:
            watch.check()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CallError(f"{_host(url)} cannot be called ({reason})") from error


class _Watch:
    """Ends a call that is cancelled or takes too long, whatever it waits for, by a shutdown of its socket.

    The timeouts of httpx begin again with each byte.
    """

    def __init__(self, host: str, longest_s: float, is_cancelled: Callable[[], bool]) -> None:
        self._host, self._longest_s, self._is_cancelled = host, longest_s, is_cancelled
        self._end_s = time.monotonic() + longest_s
        self._socket: socket.socket | None = None
        self.done = threading.Event()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Note the socket of a new connection, as httpcore's extension `trace`."""
        if event in _CONNECTED:
            self._socket = info["return_value"].get_extra_info("socket")

    def check(self) -> None:
        """Raise StoppedError or CallError where the call must end."""
        if self._is_cancelled():
            raise StoppedError
        if time.monotonic() > self._end_s:
            raise CallError(f"{self._host} takes more than {self._longest_s:g} seconds, the limit", is_final=True)

    def run(self) -> None:
        """Watch a call until it is done."""
        while not self.done.wait(_LOOK_S):
            try:
                self.check()
            except (StoppedError, CallError):
                self._shut_down()

    def _shut_down(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # That of a socket with TLS would change its state while the other thread reads.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _addressed(url: str, there: Destination) -> tuple[httpx.URL, httpx.URL]:
    """Return a URL with its host in ASCII, as requests name it, and with the address to which the connection goes.

    It is the address that was checked: the name could have another one a moment later.
    """
    try:
        named = httpx.URL(url)
        return named, named.copy_with(host=there.address)
    except httpx.InvalidURL as error:
        raise CallError(f"{_host(url)} cannot be called ({error})", is_final=True) from error


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    try:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    except UnicodeEncodeError as error:
        # Jobs of earlier releases may have such a header.
        raise CallError("a header has characters that are not Latin-1", is_final=True) from error


def headers_of(lines: Sequence[str]) -> dict[str, str]:
    """Return the headers of lines `Name: value`."""
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
