"""The flags of tritonserver that a start sets itself, so that an operator's own flags cannot undo them.

They follow Triton's guide to secure deployments. Triton 2.41 (23.12), 2.51 (embedded) and 2.72 (26.08) know them all.
"""

from collections.abc import Sequence

from contract.errors import SettingError

# Kubernetes kills a container 30 s after it asked it to end: be done before.
EXIT_TIMEOUT_S = 25
ADMIN_HEADER = "admin-key"
"""The HTTP header that carries the admin key; over gRPC it is `triton-grpc-protocol-admin-key`."""
# What reaches into the server or changes it. Health, metadata, configuration, statistics and inference stay open: the
# clients and the probe need them, and they change nothing.
ADMIN_APIS = ("shared-memory", "model-repository", "trace", "logging")
FIXED = (
    "--model-control-mode=none",
    "--disable-auto-complete-config",
    "--strict-readiness=true",
    "--exit-on-error=true",
    f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
)
_OURS = "Leave it out; a start always sets it itself"
# Why each may not be given, by its name; other spellings of the same thing are among them.
_TAKEN = {
    "--model-repository": "Leave it out; choose the folder with --repository, before the --",
    "--model-store": "Leave it out; choose the folder with --repository, before the --",
    "--http-port": "Give it before the --",
    "--grpc-port": "Give it before the --",
    "--metrics-port": "Give it before the --",
    "--allow-metrics": _OURS,
    "--model-control-mode": _OURS,
    "--load-model": _OURS,
    "--repository-poll-secs": _OURS,
    "--disable-auto-complete-config": _OURS,
    "--strict-model-config": _OURS,
    "--strict-readiness": _OURS,
    "--exit-on-error": _OURS,
    "--exit-timeout-secs": _OURS,
    "--backend-directory": _OURS,
}


def restricted(admin_key: str) -> tuple[str, ...]:
    """Close the interfaces of ADMIN_APIS, over HTTP and gRPC, to whoever does not send the key."""
    rule = f"{','.join(ADMIN_APIS)}:{ADMIN_HEADER}={admin_key}"
    return (f"--http-restricted-api={rule}", f"--grpc-restricted-protocol={rule}")


def check(extra: Sequence[str]) -> tuple[str, ...]:
    """Give an operator's own flags; raise SettingError for one that contradicts what a start sets."""
    for flag in extra:
        name = flag.partition("=")[0]
        taken = next((known for known in _TAKEN if _means(name, known)), None)
        if taken is not None:
            same = "" if name == taken else f", which tritonserver reads as {taken}"
            raise SettingError(f"tritonserver flag {name}{same}", "it contradicts what a start sets", _TAKEN[taken])
    return tuple(extra)


def _means(name: str, known: str) -> bool:
    # getopt_long(3) accepts any unambiguous beginning of a flag: `--model-repo` is --model-repository.
    return name.startswith("--") and name != "--" and known.startswith(name)
