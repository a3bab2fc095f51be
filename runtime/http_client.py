"""Send HTTP requests to a server: directly on this machine, by TLS for https, with the headers of an Access."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from contract import certificates, proxies
from contract.access import Access
from contract.certificates import Problem
from contract.errors import ServerUnreachableError

_PORTS = {"http": 80, "https": 443}
_BLOCK_BYTES, _MOST_BYTES = 1 << 16, 1 << 28


def read(answer: Any, timeout_s: float) -> bytes:
    """Return the content of a response; raise TimeoutError or ValueError for one that takes too long or is too large.

    A socket's own timeout begins again with each byte.
    """
    end_s, content = time.monotonic() + timeout_s, bytearray()
    while block := answer.read1(_BLOCK_BYTES):
        content += block
        if len(content) > _MOST_BYTES:
            raise ValueError(f"the answer has more than {_MOST_BYTES} bytes")
        if time.monotonic() > end_s:
            raise TimeoutError(f"the answer is not complete after {timeout_s:g} s")
    return bytes(content)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treat a redirect as an error: Triton sends none, and the headers of this client are for its server alone."""

    def redirect_request(self, *_: Any) -> None:
        """Return no request, so that the status of the response is the error."""


class HttpClient:
    """A server at a URL."""

    def __init__(self, url: str, access: Access) -> None:
        """Prepare requests to a URL without a slash at its end."""
        parts = urlsplit(url)
        self.url, self._host, self._headers = url, parts.hostname or "", dict(access.headers)
        self._port, self._is_plain = parts.port or _PORTS[parts.scheme], parts.scheme == "http"
        self._proxy = proxies.of_http(url)
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        handlers += [] if self._proxy else [urllib.request.ProxyHandler({})]
        if not self._is_plain:
            handlers.append(urllib.request.HTTPSHandler(context=access.context()))
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, timeout_s: float) -> bytes:
        """Return the content of a path; see `open` and `read`."""
        with self.open(path, timeout_s) as answer:
            return read(answer, timeout_s)

    def open(
        self, path: str, timeout_s: float, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Send a request, a POST where it has a body, and return the response.

        Raises HTTPError, OSError and HTTPException as urllib does, and ServerUnreachableError for a server that can
        never answer, such as one whose certificate is wrong.
        """
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked
            f"{self.url}{path}", body, {**self._headers, **(headers or {})}
        )
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            if error.code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
                with error:
                    cause = f"it refuses the requests of this client (HTTP {error.code}, {error.reason})"
                raise ServerUnreachableError(
                    self.url, cause, "Name the header that it expects with --header"
                ) from error
            raise
        except (OSError, http.client.HTTPException) as error:
            problem = self._problem(error)
            if problem is not None:
                raise ServerUnreachableError(self.url, problem.cause, problem.remedy) from error
            raise

    def proxy_remedy(self) -> str | None:
        """Return the sentence that names the proxy variable in use, None without one."""
        return None if self._proxy is None else proxies.remedy(self._proxy, self._host)

    def _problem(self, error: Exception) -> Problem | None:
        # Both URLError and SSLError have a `reason`; that of an SSLError is text.
        reason = error if isinstance(error, ssl.SSLError) else getattr(error, "reason", error)
        if self._proxy is not None:
            return certificates.explain(reason, self._host) if isinstance(reason, ssl.SSLError) else None
        if self._is_plain:
            # A server with TLS ends the connection of a client without it, or answers with an alert.
            is_ended = isinstance(reason, (ConnectionResetError, http.client.HTTPException))
            return certificates.plain_problem(self._host, self._port) if is_ended else None
        if not isinstance(reason, (ssl.SSLError, ConnectionResetError)):
            return None
        explained = certificates.explain(reason, self._host) if isinstance(reason, ssl.SSLError) else None
        no_tls = certificates.answers_http(self._host, self._port)
        return explained or (certificates.NO_TLS if no_tls else None)
