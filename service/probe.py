"""Check that the service of this container answers: `python -m service.probe`, exit code 0 or 1."""

import os
import ssl
import sys
import urllib.request

from service.settings import DEFAULT_PORT

_TIMEOUT_S = 5.0


def address() -> str:
    """Return the URL of /live, by the variables that configure the service."""
    scheme = "https" if os.environ.get("VOXWRIGHT_SERVICE_TLS_CERTIFICATE") else "http"
    return f"{scheme}://127.0.0.1:{os.environ.get('VOXWRIGHT_SERVICE_PORT', DEFAULT_PORT)}/live"


def main() -> None:
    """Exit with 0 when the service answers, else with 1 and the reason."""
    # The certificate is for the service's public name.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001 - the connection stays within the container
    try:
        with urllib.request.urlopen(address(), timeout=_TIMEOUT_S, context=context):  # noqa: S310 - a fixed address
            return
    except OSError as error:
        sys.exit(f"{address()} does not answer ({error})")


if __name__ == "__main__":
    main()
