"""A real HTTP server of a test: it receives notifications and serves recordings."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A request that was received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(kw_only=True, slots=True)
class Receiver:
    """What was received, and what is answered: a status for each of the next requests, then 200."""

    port: int = 0
    received: list[Received] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def started() -> Iterator[Receiver]:
    """Start a receiver on a free port of this machine."""
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.received.append(Received(method=self.command, path=self.path, headers=headers, body=body))
            path = self.path.partition("?")[0]
            status = state.statuses.pop(0) if state.statuses else 302 if path in state.redirects else 200
            content = state.files.get(path, b"")
            self.send_response(status)
            if path in state.redirects:
                self.send_header("Location", state.redirects[path])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer  # noqa: N815 - the names of the standard library

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002 - the standard library's
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
