"""Define where the server is and how long it may be away, without imports that slow `--help` down."""

from contract.errors import SettingError

DEFAULT_ENDPOINT = "localhost:8001"
ENDPOINT_VARIABLE = "SM_INFERENCE_ENDPOINT"
RETRY_TIMEOUT_S = 60.0
_LARGEST_PORT = 65_535


def checked_endpoint(text: str) -> str:
    """Return `host:port` unchanged; raise SettingError for anything else, such as a URL."""
    host, _, port = text.rpartition(":")
    if host and "/" not in host and port.isdecimal() and 0 < int(port) <= _LARGEST_PORT:
        return text
    raise SettingError("--endpoint", f"{text!r} is not of the form host:port", f"Use for example {DEFAULT_ENDPOINT}")
