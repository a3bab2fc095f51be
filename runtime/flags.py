"""Define the tritonserver flags that runtime always sets, and check that an operator's own flags do not override them.

The flags follow Triton's guide to secure deployments. Triton 2.41 (23.12), 2.51 (embedded) and 2.72 (26.08) have all
of them.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from contract.errors import SettingError

# Kubernetes kills a container 30 s after SIGTERM. The server must have ended by then.
EXIT_TIMEOUT_S = 25
ADMIN_HEADER = "admin-key"
"""The HTTP header that carries the admin key; over gRPC it is `triton-grpc-protocol-admin-key`."""
# The APIs that read the server's memory or change its state. `model-repository` holds the repository index as well as
# load and unload. Health, metadata, configuration, statistics and inference stay open: clients and the health probe
# need them, and they change nothing. To list the served models use the statistics, not the index.
ADMIN_APIS = ("shared-memory", "model-repository", "trace", "logging")
FIXED = (
    "--model-control-mode=none",
    "--disable-auto-complete-config",
    "--strict-readiness=true",
    "--exit-on-error=true",
    f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
)
# By default gRPC allows a ping in 5 minutes during a request and in 2 hours without one, and Triton closes the
# connection of a client that sends three more. With these limits a client may detect within seconds that the network
# forgot its connection. The server sends pings as well, and closes the connections of clients that vanished.
PINGS = (
    "--grpc-http2-min-recv-ping-interval-without-data=1000",
    "--grpc-keepalive-permit-without-calls=true",
    "--grpc-keepalive-time=60000",
    "--grpc-keepalive-timeout=20000",
)
"""Flags that an operator may set to other values."""
CUDA_POOL = "--cuda-memory-pool-byte-size"
PINNED_POOL = "--pinned-memory-pool-byte-size"
_TLS = "Use --grpc-certificate, --grpc-key and --grpc-client-ca, before the --"
_ALWAYS_SET = "Remove it; `python -m runtime` always sets this flag itself"
# Reserved flags, older spellings included, and the remedy for each.
_RESERVED = {
    "--model-repository": "Remove it; choose the folder with --repository, before the --",
    "--model-store": "Remove it; choose the folder with --repository, before the --",
    "--http-port": "Put it before the --",
    "--grpc-port": "Put it before the --",
    "--metrics-port": "Put it before the --",
    "--http-address": "Put it before the --",
    "--grpc-address": "Put it before the --",
    "--metrics-address": "Put it before the --",
    "--grpc-use-ssl": _TLS,
    "--grpc-use-ssl-mutual": _TLS,
    "--grpc-server-cert": _TLS,
    "--grpc-server-key": _TLS,
    "--grpc-root-cert": _TLS,
    "--allow-metrics": _ALWAYS_SET,
    "--model-control-mode": _ALWAYS_SET,
    "--load-model": _ALWAYS_SET,
    "--repository-poll-secs": _ALWAYS_SET,
    "--disable-auto-complete-config": _ALWAYS_SET,
    "--strict-model-config": _ALWAYS_SET,
    "--strict-readiness": _ALWAYS_SET,
    "--exit-on-error": _ALWAYS_SET,
    "--exit-timeout-secs": _ALWAYS_SET,
    "--backend-directory": _ALWAYS_SET,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSizes:
    """The sizes of Triton's memory pools that an operator's flags set; None for a pool without a flag."""

    cuda_bytes: int | None = None
    pinned_bytes: int | None = None


def pools(cuda_bytes: int, pinned_bytes: int) -> tuple[str, ...]:
    """Return the flags that set the size of both memory pools.

    The pool on the GPU is that of CUDA's device 0, because exactly one GPU is visible.
    """
    return f"{CUDA_POOL}=0:{cuda_bytes}", f"{PINNED_POOL}={pinned_bytes}"


def pool_sizes(extra: Sequence[str]) -> PoolSizes:
    """Return the pool sizes among an operator's own flags; raise SettingError for one that cannot be counted.

    As in Triton the last flag counts.
    """
    return PoolSizes(
        cuda_bytes=_last_size(extra, CUDA_POOL, r"0:(\d+)", "0:BYTES"),
        pinned_bytes=_last_size(extra, PINNED_POOL, r"(\d+)", "BYTES"),
    )


def _last_size(extra: Sequence[str], flag: str, pattern: str, form: str) -> int | None:
    found = None
    for text in _values(extra, flag):
        match = re.fullmatch(pattern, text, re.ASCII)
        if match is None:
            note = ", where 0 is the one visible GPU" if form.startswith("0:") else ""
            cause = f"{text!r} is not of the form {form}"
            raise SettingError(f"tritonserver flag {flag}", cause, f"Use {flag}={form}{note}")
        found = int(match[1])
    return found


def _values(extra: Sequence[str], flag: str) -> Iterator[str]:
    for text, after in itertools.zip_longest(extra, extra[1:], fillvalue=""):
        name, equals, value = text.partition("=")
        if _abbreviates(name, flag):
            yield value if equals else after


def restricted(admin_key: str) -> tuple[str, ...]:
    """Return the flags that restrict ADMIN_APIS, over HTTP and gRPC, to requests with the admin key."""
    rule = f"{','.join(ADMIN_APIS)}:{ADMIN_HEADER}={admin_key}"
    return (f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}")


def check(extra: Sequence[str]) -> tuple[str, ...]:
    """Return an operator's own flags unchanged; raise SettingError for a flag that runtime reserves."""
    pool_sizes(extra)
    for flag in extra:
        name = flag.partition("=")[0]
        reserved = next((known for known in _RESERVED if _abbreviates(name, known)), None)
        if reserved is not None:
            same = "" if name == reserved else f", which tritonserver reads as {reserved}"
            raise SettingError(
                f"tritonserver flag {name}{same}", "it is set by `python -m runtime` itself", _RESERVED[reserved]
            )
    return tuple(extra)


def _abbreviates(name: str, known: str) -> bool:
    # getopt_long(3) accepts any unambiguous abbreviation of a flag: `--model-repo` is --model-repository.
    return name.startswith("--") and name != "--" and known.startswith(name)
