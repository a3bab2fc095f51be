"""`python -m runtime.probe`: wait until the server is ready, with nothing but the standard library."""

import argparse
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

_PAUSE_S = 0.25
_ANSWER_S = 2.0


def wait(url: str, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> str | None:
    """Ask until the server is live and ready; give None, or what was wrong at the last try."""
    end = clock() + timeout_s
    while (problem := check(url)) is not None and clock() < end:
        time.sleep(_PAUSE_S)
    return problem


def check(url: str) -> str | None:
    """Ask once; give None when the server is live and every model is ready, otherwise what is wrong."""
    for state in ("live", "ready"):
        try:
            _get(f"{url}/v2/health/{state}")
        except urllib.error.HTTPError as error:
            error.close()
            return f"the server is not {state} (HTTP {error.code})"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"nothing answers that speaks HTTP ({getattr(error, 'reason', error)!s})"
    return None


def models(url: str) -> dict[str, str]:
    """List the server's models with their state, such as READY."""
    request = urllib.request.Request(f"{url}/v2/repository/index", data=b"{}", method="POST")  # noqa: S310 - checked
    with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310 - checked in parse
        return {entry["name"]: entry.get("state", "UNKNOWN") for entry in json.load(answer)}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m runtime.probe", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--url", default="http://localhost:8000", help="the server's HTTP address (%(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds to wait at most (%(default)s)")
    options = parser.parse_args(arguments)
    options.url = options.url.rstrip("/")
    if not options.url.startswith(("http://", "https://")):
        parser.error(f"--url: {options.url!r} does not start with http://")
    return options


def run(options: argparse.Namespace) -> int:
    """Wait and say how it went; give the exit code."""
    problem = wait(options.url, options.timeout)
    if problem is not None:
        print(f"{options.url}: not ready after {options.timeout:g} s: {problem}", file=sys.stderr)
        return 1
    states = models(options.url)
    print(f"{options.url}: ready, {len(states)} models: {', '.join(sorted(states))}")
    return 0


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=_ANSWER_S):  # noqa: S310 - the scheme is checked in parse
        pass


if __name__ == "__main__":
    sys.exit(run(parse(sys.argv[1:])))
