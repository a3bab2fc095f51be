"""A relay that forgets connections without a word, as address translators and balancers do."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_BYTES = 65_536


@dataclass(kw_only=True)
class Relay:
    """What a relay forgets: a connection after `idle_s` without data, the first ones after `forget_after_bytes`.

    A forgotten connection stays open, and no data passes in either direction.
    """

    port: int = 0
    idle_s: float = float("inf")
    forget_after_bytes: list[int] = field(default_factory=list)
    """For each connection that sends so much, in the order in which they do."""
    forgotten: int = 0
    opened: int = 0


@contextlib.contextmanager
def relaying(target: int, relay: Relay) -> Iterator[Relay]:
    """Relay connections to a port of this machine; `relay.port` is that of the relay."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay.port = listener.getsockname()[1]
        threading.Thread(target=_accept, args=(listener, target, relay), daemon=True).start()
        yield relay
        # Closing alone does not end a thread that accepts.
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, target: int, relay: Relay) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            relay.opened += 1
            server = socket.create_connection(("127.0.0.1", target))
            link = _Link(relay)
            for source, sink, is_request in ((client, server, True), (server, client, False)):
                threading.Thread(target=link.pump, args=(source, sink, is_request), daemon=True).start()


class _Link:
    """One connection through the relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay, self._last_s, self._sent, self._is_forgotten = relay, time.monotonic(), 0, False

    def pump(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BYTES):
                self._sent += len(data) if is_request else 0
                self._forget()
                if not self._is_forgotten:
                    self._last_s = time.monotonic()
                    sink.sendall(data)
            if not self._is_forgotten:
                sink.shutdown(socket.SHUT_WR)

    def _forget(self) -> None:
        if self._is_forgotten:
            return
        limits = self._relay.forget_after_bytes
        is_full = bool(limits) and self._sent > limits[0]
        if is_full:
            limits.pop(0)
        if is_full or time.monotonic() - self._last_s > self._relay.idle_s:
            self._is_forgotten = True
            self._relay.forgotten += 1
