"""A TLS terminator: it decrypts connections and relays them to a server, as a balancer in front of it does."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.certificates import Pair

_BYTES = 65_536


@contextlib.contextmanager
def terminating(
    target: int, pair: Pair, *, client_ca: Path | None = None, protocols: Sequence[str] = ("h2", "http/1.1")
) -> Iterator[int]:
    """Relay TLS connections to a port of this machine and yield the port of the terminator.

    With `client_ca`, clients need a certificate of it.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    context.load_cert_chain(pair.certificate, pair.key)
    context.verify_mode = ssl.CERT_NONE if client_ca is None else ssl.CERT_REQUIRED
    context.set_alpn_protocols(list(protocols))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, target), daemon=True).start()
        yield listener.getsockname()[1]
        # Closing alone does not end a thread that accepts.
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, target: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, context, target), daemon=True).start()


def _relay(client: socket.socket, context: ssl.SSLContext, target: int) -> None:
    # Clients that reject the certificate, or have none, are expected.
    with (
        contextlib.suppress(OSError),
        client,
        context.wrap_socket(client, server_side=True) as front,
        socket.create_connection(("127.0.0.1", target)) as back,
    ):
        answers = threading.Thread(target=_pump, args=(back, front), daemon=True)
        answers.start()
        _pump(front, back)
        answers.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_BYTES):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
