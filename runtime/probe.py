"""Command line `python -m runtime.probe`: check that the server is live, ready and correct; needs only click."""

import http.client
import json
import os
import struct
import time
import urllib.error
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import click

from contract import command_line
from contract.access import PLAIN, Access, url_options
from contract.catalogue import Catalogue, Family
from contract.errors import ProbeError, ServerUnreachableError
from runtime import answers, listening
from runtime.http_client import HttpClient, read

LIVE, READY = ("live",), ("live", "ready")
_PAUSE_S = 0.25
_ANSWER_S = 2.0
_NO_HTTP = (OSError, http.client.HTTPException, ValueError, RecursionError)
_SEE_LOG = "Read the server's log; `python -m runtime.doctor` reports what would stop a start"
_OTHER_RELEASE = "Use the probe of the server's release, or name the catalogue of the server with --catalogue"
_RESTART = "Restart the server; if that does not help, build the engines again with `python -m build.engines`"


def wait(
    url: str,
    timeout_s: float,
    states: tuple[str, ...] = READY,
    clock: Callable[[], float] = time.monotonic,
    access: Access = PLAIN,
) -> str | None:
    """Poll until the server is live and ready; return None, or the problem of the last attempt.

    Raises ServerUnreachableError for a server that can never answer, such as one whose certificate is wrong.
    """
    end = clock() + timeout_s
    while (problem := check(url, states, access)) is not None and clock() < end:
        time.sleep(_PAUSE_S)
    return problem


def check(url: str, states: tuple[str, ...] = READY, access: Access = PLAIN) -> str | None:
    """Return None when the server is live and every model is ready, otherwise the problem; poll once."""
    for state in states:
        try:
            HttpClient(url, access).get(f"/v2/health/{state}", _ANSWER_S)
        except urllib.error.HTTPError as error:
            error.close()
            return f"the server is not {state} (HTTP {error.code})"
        except _NO_HTTP as error:
            return f"no HTTP server answers ({getattr(error, 'reason', error)!s})"
    return None


def models(url: str, access: Access = PLAIN) -> dict[str, str]:
    """Return the server's models, each READY or UNAVAILABLE; raise ServerUnreachableError where it does not list them.

    The names come from the statistics, because the repository index is one of the APIs that runtime closes.
    """
    try:
        server = HttpClient(url, access)
        listed = json.loads(server.get("/v2/models/stats", _ANSWER_S))["model_stats"]
        names = sorted({entry["name"] for entry in listed})
        return {name: "READY" if _is_ready(server, name) else "UNAVAILABLE" for name in names}
    except (*_NO_HTTP, KeyError, TypeError) as error:
        raise ServerUnreachableError(url, f"it does not list its models ({error})", _SEE_LOG) from error


def infer(url: str, model: str, family: Family, timeout_s: float, access: Access = PLAIN) -> None:
    """Send a model a request with a known answer; raise ProbeError for a wrong or late answer."""
    subject, server = f"model {model}", HttpClient(url, access)
    try:
        metadata = json.loads(server.get(f"/v2/models/{model}", timeout_s))
        _check_inputs(subject, family, metadata)
        inputs = answers.make_request(family, metadata)
        streaming = answers.served_mode(family, metadata).is_streaming
        body, headers = answers.encode(inputs, whole_stream=streaming)
        with server.open(f"/v2/models/{model}/infer", timeout_s, body, headers) as response:
            outputs = answers.decode(read(response, timeout_s), int(response.headers[answers.HEADER_LENGTH]))
    except urllib.error.HTTPError as error:
        with error:
            raise ProbeError(subject, f"it fails: {_reason(error)}", _RESTART) from error
    except (OSError, http.client.HTTPException) as error:
        cause = f"it does not answer within {timeout_s:g} s ({getattr(error, 'reason', error)!s})"
        raise ProbeError(subject, cause, _RESTART) from error
    except (ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise ProbeError(subject, "its answer does not follow Triton's protocol", _RESTART) from error
    problem = answers.validate_response(family, inputs, outputs)
    if problem is not None:
        raise ProbeError(subject, f"its answer is wrong: {problem}", _RESTART)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    default=lambda: _default_url(os.environ),
    help="The server's HTTP address.  [default: this machine, at VOXWRIGHT_HTTP_ADDRESS and VOXWRIGHT_HTTP_PORT]",
)
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait at most.")
@click.option("--live", is_flag=True, help="Check only that the process lives, for use while models load.")
@click.option("--inference", is_flag=True, help="Send a request to every model as well, and check the answers.")
@click.option("--answer-timeout", type=float, default=10.0, show_default=True, help="Seconds to wait for one answer.")
@url_options
@click.option(
    "--engines",
    default="dist/engines",
    show_default=True,
    envvar="VOXWRIGHT_ENGINES",
    show_envvar=True,
    help="Folder of bundles that the server was started with, for its catalogue.",
)
@command_line.catalogue_option("engines")
@command_line.verbose_option()
def command(
    url: str,
    timeout: float,
    engines: str,  # noqa: ARG001 - the option of the catalogue reads it
    catalogue: Catalogue,
    access: Access,
    *,
    live: bool,
    inference: bool,
    answer_timeout: float,
) -> None:
    """Wait until the server is ready, and print which models it serves."""
    url = _checked(url)
    print(run(url, timeout, catalogue, access, live=live, inference=inference, answer_timeout_s=answer_timeout))


def run(
    url: str,
    timeout_s: float,
    catalogue: Catalogue,
    access: Access = PLAIN,
    *,
    live: bool,
    inference: bool,
    answer_timeout_s: float,
) -> str:
    """Return the state of the server in one line; raise ServerUnreachableError or ProbeError for a problem."""
    states = LIVE if live else READY
    problem = wait(url, timeout_s, states, access=access)
    if problem is not None:
        cause = f"not {states[-1]} after {timeout_s:g} s: {problem}"
        raise ServerUnreachableError(url, cause, HttpClient(url, access).proxy_remedy() or _SEE_LOG)
    if live:
        return f"{url}: live"
    served = models(url, access)
    ready = f"{url}: ready, {len(served)} models: {', '.join(served)}"
    if not inference:
        return ready
    known = {name: model.family for name, model in catalogue.models().items() if name in served}
    for name, family in known.items():
        infer(url, name, family, answer_timeout_s, access)
    unknown = [name for name in served if name not in known]
    rest = f"; not in the catalogue, so not checked: {', '.join(unknown)}" if unknown else ""
    return f"{ready}; {len(known)} answered correctly{rest}"


def _check_inputs(subject: str, family: Family, metadata: Mapping[str, Any]) -> None:
    """Raise ProbeError for a model with other inputs than the catalogue's, such as one that takes features."""
    served = [str(entry["name"]) for entry in metadata["inputs"]]
    missing = [tensor.name for tensor in family.inputs if tensor.name not in served]
    if missing:
        cause = f"it has no input {missing[0]}, only {', '.join(served)}: it is not of this release or catalogue"
        raise ProbeError(subject, cause, _OTHER_RELEASE)


def _default_url(environment: Mapping[str, str]) -> str:
    """Return the URL of a server that was started on this machine with the same variables."""
    chosen = listening.choose(environment.get("VOXWRIGHT_HTTP_ADDRESS"), None, None, listening.families()).http
    # `localhost` may have no IPv6 address.
    host = {listening.ALL_IPV4: "localhost", listening.ALL_IPV6: "::1"}.get(chosen, chosen)
    return f"http://{listening.bracketed(host)}:{environment.get('VOXWRIGHT_HTTP_PORT') or 8000}"


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_known = parts.scheme in {"http", "https"} and parts.hostname is not None and parts.port != 0
    except ValueError:
        is_known = False
    if not is_known:
        raise click.BadParameter(
            f"{url!r} is not of the form http://host:port or https://host:port", param_hint="--url"
        )
    return url.rstrip("/")


def _is_ready(server: HttpClient, model: str) -> bool:
    try:
        server.get(f"/v2/models/{model}/ready", _ANSWER_S)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    return True


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        body: Mapping[str, Any] = json.loads(text)
        return str(body["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {error.code}"


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
