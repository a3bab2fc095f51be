"""Run the application with uvicorn; stop in order after a signal."""

import errno
import os
import socket
import ssl
import time
from collections.abc import Sequence
from types import FrameType

import uvicorn

from contract.errors import PortInUseError, SettingError
from service import app, connections, core, logs
from service.core import Core, Part
from service.settings import Settings, Tls

_LARGEST_FRAME_BYTES = 16 * 2**20
_RESPONSES_END_S = 10
# The longest time that a client leaves what was sent to it unread.
_UNREAD_MS = 60_000


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raise PortInUseError or SettingError when the service cannot listen."""
    shared = core.make(settings)
    parts = app.make_parts(shared)
    connections.Http.most = connections.raise_limit()
    config = uvicorn.Config(
        app.assemble(shared, parts),
        http=connections.Http,
        backlog=connections.BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        # Clients may send audio in frames of more than the usual megabyte.
        ws_max_size=_LARGEST_FRAME_BYTES,
        timeout_graceful_shutdown=_RESPONSES_END_S,
    )
    if settings.tls is not None:
        _check_tls(settings.tls)
        config.ssl_certfile, config.ssl_keyfile = str(settings.tls.certificate), str(settings.tls.key)
    with _listening(settings.host, settings.port) as listener:
        scheme = "http" if settings.tls is None else "https"
        logs.info(f"serving at {scheme}://{_shown(settings.host)}:{listener.getsockname()[1]}")
        _Server(config, shared, parts).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that finishes sessions and jobs after the first signal, and stops at once after the second one."""

    def __init__(self, config: uvicorn.Config, shared: Core, parts: Sequence[Part]) -> None:
        super().__init__(config)
        self._core, self._parts = shared, parts
        self._end_s = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the parts see the event, and /ready answers 503 from now on."""
        if self._core.draining.is_set():
            super().handle_exit(sig, frame)
            return
        self._end_s = time.monotonic() + self._core.settings.drain_s
        self._core.draining.set()

    async def on_tick(self, counter: int) -> bool:
        """Stop when the parts have no more work, or when the time to drain is over."""
        if self._core.draining.is_set() and not self.should_exit:
            is_over = time.monotonic() >= self._end_s
            self.should_exit = is_over or not any(part.is_busy() for part in self._parts)
        return await super().on_tick(counter)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A client that does not read would keep its connection open for ever. Every connection inherits the option.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    os.set_inheritable(listener.fileno(), True)  # noqa: FBT003 - the standard library's own
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(f"port {port}", "another program listens at it", "Choose another one with --port")
    if error.errno == errno.EACCES:
        return SettingError("--port", f"this user may not listen at {port}", "Choose one from 1024 on")
    return SettingError("--host", f"this machine cannot listen at {host} ({error.strerror or error})", "Use 127.0.0.1")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _check_tls(tls: Tls) -> None:
    try:
        # uvicorn would show a traceback.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tls.certificate, tls.key)
    except (ssl.SSLError, OSError) as error:
        cause = f"{tls.certificate} and {tls.key} are not a certificate and its key, both PEM"
        raise SettingError("--tls-certificate", cause, "Check both files") from error
