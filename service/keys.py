"""Check API keys: a file names one client a line, and only digests of the keys stay in memory."""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from contract.errors import SettingError

_SHORTEST_KEY = 16
_SCHEME = "bearer"
_REMEDY = "Write one client a line: a name, a blank, and a key of at least 16 characters"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKeys:
    """The names of clients by the SHA-256 of their keys."""

    names: dict[bytes, str]

    def client(self, key: str) -> str | None:
        """Return the name of the client with a key; None for an unknown key. The time does not depend on the key."""
        digest, found = _digest(key), None
        for known, name in self.names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


def read(path: Path) -> ApiKeys:
    """Read a file of keys: lines `name key`; empty lines and lines that begin with # are skipped.

    Raises SettingError for a file that cannot be read, that has no key, or that has a wrong line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingError("--api-keys", f"{path} cannot be read ({reason})", _REMEDY) from error
    names: dict[bytes, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, key = _entry(path, number, line)
        names[_digest(key)] = name
    if not names:
        raise SettingError("--api-keys", f"{path} has no key", _REMEDY)
    return ApiKeys(names=names)


def bearer(header: str | None) -> str:
    """Return the key of an Authorization header; empty when there is none."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == _SCHEME else ""


def _entry(path: Path, number: int, line: str) -> tuple[str, str]:
    words = line.split()
    if len(words) != 2:  # noqa: PLR2004 - a name and a key
        raise SettingError("--api-keys", f"line {number} of {path} is not a name and a key", _REMEDY)
    name, key = words
    if len(key) < _SHORTEST_KEY:
        cause = f"the key in line {number} of {path} has fewer than {_SHORTEST_KEY} characters"
        raise SettingError("--api-keys", cause, "Make one with `openssl rand -hex 16`")
    return name, key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
