"""Open gRPC channels to a server: pings, proxies, TLS and headers. Find out why a server can never answer."""

import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferenceServerClientPlugin, service_pb2
from tritonclient.utils import InferenceServerException

from contract import certificates, proxies
from contract.access import Access
from contract.certificates import Problem
from transcriber import wire
from transcriber.endpoint import split
from transcriber.recogniser import CancelledRequestError

# Address translators and balancers forget a connection without data, some after less than a minute, and report nothing.
# So a request after this time without any opens another connection. During a request the client sends a ping after the
# same time without data, and expects its answer within the timeout. gRPC's own `client_idle_timeout_ms` is no
# replacement: in version 1.85 a channel closes its connection only once.
IDLE_S, PING_TIMEOUT_S = 5, 5
# The time that one attempt to connect may take. TLS needs three round trips.
CONNECT_S = 5
_RESOLVED_FOR_S = 30.0
# How often a call that may be cancelled checks it. Results do not wait for it.
_POLL_S = 0.2
_MILLISECONDS = 1_000
_ARGUMENTS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default the pause between two attempts to connect grows to two minutes, longer than the retry timeout.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Despite its name, this is the limit of an attempt.
    ("grpc.min_reconnect_backoff_ms", CONNECT_S * _MILLISECONDS),
    ("grpc.keepalive_time_ms", IDLE_S * _MILLISECONDS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_S * _MILLISECONDS),
    # The timeout above only counts until any data arrives. This one is a minute by default.
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_S * _MILLISECONDS),
    ("grpc.http2.max_pings_without_data", 0),
]
# A name may stand for several servers. By default all requests would go to the first one that answers.
_ROUND_ROBIN = ("grpc.lb_policy_name", "round_robin")
_NO_PROXY = ("grpc.enable_http_proxy", 0)
_NO_TRITON = "StatusCode.UNIMPLEMENTED"
REFUSALS = ("StatusCode.UNAUTHENTICATED", "StatusCode.PERMISSION_DENIED", _NO_TRITON)
"""The statuses of a server that refuses every request of this client."""
# Triton's answer to a request of an API that needs a header has the status UNAVAILABLE.
_RESTRICTED = "protocol is restricted"
_HTTP1 = "http1.x server"


class Client(InferenceServerClient):  # type: ignore[misc]
    """tritonclient's client, which also sends messages that are serialised already."""

    def __init__(
        self, endpoint: str, credentials: grpc.ChannelCredentials | None, arguments: list[Any], access: Access
    ) -> None:
        """Prepare a client; nothing is sent yet."""
        super().__init__(endpoint, creds=credentials, channel_args=arguments)
        if access.headers:
            self.register_plugin(_Headers(access.headers))
        self._metadata = tuple((name.lower(), value) for name, value in access.headers.items())
        # With equal arguments it shares the connection of tritonclient's channel.
        self._requests = (
            grpc.insecure_channel(endpoint, options=arguments)
            if credentials is None
            else grpc.secure_channel(endpoint, credentials, options=arguments)
        )
        self._call = self._requests.unary_unary(
            wire.METHOD, response_deserializer=service_pb2.ModelInferResponse.FromString
        )

    def send(
        self, message: bytes, timeout_s: float, is_cancelled: Callable[[], bool] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Send a message of `wire`, and return the tensors of the response by their names.

        Raises InferenceServerException as tritonclient does, and CancelledRequestError when `is_cancelled` is true.
        """
        try:
            if is_cancelled is None:
                return wire.tensors(self._call(message, timeout=timeout_s, metadata=self._metadata))
            call = self._call.future(message, timeout=timeout_s, metadata=self._metadata)
            return wire.tensors(_result(call, is_cancelled))
        except grpc.FutureCancelledError:
            if is_cancelled is not None and is_cancelled():
                raise CancelledRequestError("the request was cancelled") from None
            raise InferenceServerException(msg="the server cancelled it", status="StatusCode.CANCELLED") from None
        except grpc.RpcError as error:
            raise InferenceServerException(
                msg=error.details(), status=str(error.code()), debug_details=error.debug_error_string()
            ) from None

    def close(self) -> None:
        """Close the channels."""
        super().close()
        self._requests.close()


def _result(call: Any, is_cancelled: Callable[[], bool]) -> Any:
    """Return the result of a call, which is cancelled when `is_cancelled` returns True."""
    while True:
        try:
            return call.result(timeout=_POLL_S)
        except grpc.FutureTimeoutError:
            if is_cancelled():
                # The next round raises FutureCancelledError, unless the result has come meanwhile.
                call.cancel()


class Channels:
    """Open clients of a server, all with the same options."""

    def __init__(self, endpoint: str, access: Access, *, one_server: bool) -> None:
        """Prepare clients of `host:port`, a checked endpoint; raise OSError for a file of TLS that is gone."""
        self._endpoint, self._access = endpoint, access
        self._host, self._port = split(endpoint)
        self.proxy = proxies.of_grpc(self._host)
        balancing = [] if one_server else [_ROUND_ROBIN]
        self._arguments = [*_ARGUMENTS, *balancing, *([] if self.proxy else [_NO_PROXY])]
        self._credentials = _credentials(access) if access.tls else None
        self._servers: int | None = None
        self._resolved_s = 0.0

    def open(self, generation: int = 0) -> Client:
        """Return a client. Nothing is sent yet, and the clients of a generation share their connections."""
        # gRPC shares a connection between channels whose arguments are equal, so any argument keeps them apart.
        arguments = [*self._arguments, ("voxwright.generation", generation)]
        return Client(self._endpoint, self._credentials, arguments, self._access)

    def servers(self) -> int:
        """Return among how many servers requests take turns: the addresses of the name, of one family.

        1 behind a proxy, and where the name cannot be resolved. A name is resolved again after half a minute.
        """
        if self.proxy is not None or _ROUND_ROBIN not in self._arguments:
            return 1
        now_s = time.monotonic()
        if self._servers is None or now_s - self._resolved_s > _RESOLVED_FOR_S:
            # First the time: other threads go on with the old number while the name is resolved.
            self._resolved_s = now_s
            self._servers = self._resolve()
        return self._servers

    def _resolve(self) -> int:
        try:
            found = {
                (family, *address[:2])
                for family, *_, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            }
        except OSError:
            return 1
        # A server of two families has an address of each.
        return max(Counter(family for family, *_ in found).values())

    def permanent_problem(self, status: str | None, text: str) -> Problem | None:
        """Return why requests will never succeed, from the status and the text of a failed one; None for an outage."""
        if status == _NO_TRITON:
            return Problem(cause=f"it is not a Triton server ({_brief(text)})", remedy="Name the gRPC port of a server")
        if status in REFUSALS or _RESTRICTED in text:
            cause = f"it refuses the requests of this client ({_brief(text)})"
            return Problem(cause=cause, remedy="Name the header that it expects with --header")
        if _HTTP1 in text:
            remedy = "Name the gRPC port of the server (usually 8001)"
            return Problem(cause="an HTTP server without gRPC answers there", remedy=remedy)
        if self.proxy is not None:
            return None
        has_certificate = self._access.certificate is not None
        return certificates.find_problem(self._host, self._port, self._context(), has_certificate=has_certificate)

    def proxy_remedy(self) -> str | None:
        """Return the sentence that names the proxy variable in use, None without one."""
        return None if self.proxy is None else proxies.remedy(self.proxy, self._host)

    def _context(self) -> ssl.SSLContext | None:
        return self._access.context() if self._access.tls else None


class _Headers(InferenceServerClientPlugin):  # type: ignore[misc]
    """Add headers to every request."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: Any) -> None:
        request.headers = {**request.headers, **self._headers}


def _credentials(access: Access) -> grpc.ChannelCredentials:
    # gRPC has authorities of its own, which lack those that an administrator added to the system.
    authorities = access.ca or _system_authorities()
    return grpc.ssl_channel_credentials(
        root_certificates=None if authorities is None else authorities.read_bytes(),
        private_key=None if access.key is None else access.key.read_bytes(),
        certificate_chain=None if access.certificate is None else access.certificate.read_bytes(),
    )


def _system_authorities() -> Path | None:
    found = ssl.get_default_verify_paths().cafile
    return None if found is None else Path(found)


def _brief(text: str) -> str:
    return " ".join(text.split()).rstrip(".") or "no reason given"
