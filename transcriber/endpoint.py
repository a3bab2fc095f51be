"""Where the server is, and how long it may be away; light enough for `--help`."""

from contract.errors import SettingError

DEFAULT_ENDPOINT = "localhost:8001"
ENDPOINT_VARIABLE = "SM_INFERENCE_ENDPOINT"
PATIENCE_S = 60.0
_LARGEST_PORT = 65_535


def checked_endpoint(text: str) -> str:
    """Accept `host:port`; raise SettingError for anything else, a URL included."""
    host, _, port = text.rpartition(":")
    if host and "/" not in host and port.isdecimal() and 0 < int(port) <= _LARGEST_PORT:
        return text
    raise SettingError("--endpoint", f"{text!r} is not of the form host:port", f"Use for example {DEFAULT_ENDPOINT}")
