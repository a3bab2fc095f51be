"""Sign a manifest with Ed25519 (RFC 8032), and verify its signature.

The manifest lists every file of its bundle with its SHA-256, so one signature covers all of them. `cryptography` is
imported only when a key is used. The module stands here so that build and runtime share one verification, and uses a
library because cryptography should not be written by hand.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.errors import KeyFileError
from contract.manifest import BundleManifest, Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_FINGERPRINT_LENGTH = 16
_REMEDY = (
    "Make a private key with `openssl genpkey -algorithm ed25519 -out release.key` and its public key with "
    "`openssl pkey -in release.key -pubout -out release.pub`, or pass the right file"
)


class Verdict(Enum):
    """The result of verifying a bundle's signature; the value is a sentence for people."""

    NOT_CHECKED = "its signature was not checked, because no trusted key is configured"
    TRUSTED = "signed by a trusted key"
    UNSIGNED = "it is not signed"
    UNKNOWN_KEY = "it is signed by a key that is not trusted here"
    INVALID = "its signature does not match its manifest"

    @property
    def is_acceptable(self) -> bool:
        """Return whether the bundle may be used."""
        return self in (Verdict.NOT_CHECKED, Verdict.TRUSTED)


def sign(manifest: BundleManifest, key: "Ed25519PrivateKey") -> BundleManifest:
    """Return the manifest with a new signature, which replaces an old one."""
    value = key.sign(manifest.signed_bytes())
    signature = Signature(key=fingerprint(key.public_key()), value=base64.b64encode(value).decode())
    return replace(manifest, signature=signature)


def verify(manifest: BundleManifest, trusted: "Sequence[Ed25519PublicKey]") -> Verdict:
    """Return the verdict on a manifest's signature, given the trusted keys; NOT_CHECKED for no keys."""
    if not trusted:
        return Verdict.NOT_CHECKED
    if manifest.signature is None:
        return Verdict.UNSIGNED
    keys = [key for key in trusted if fingerprint(key) == manifest.signature.key]
    if not keys:
        return Verdict.UNKNOWN_KEY
    return Verdict.TRUSTED if is_valid(keys[0], manifest.signature.value, manifest.signed_bytes()) else Verdict.INVALID


def is_valid(key: "Ed25519PublicKey", value: str, data: bytes) -> bool:
    """Return whether a signature in base64 was made with this key over the data."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        key.verify(base64.b64decode(value, validate=True), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(key: "Ed25519PublicKey") -> str:
    """Return the name of a public key: the first 16 hexadecimal digits of the SHA-256 over its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_FINGERPRINT_LENGTH]


def load_private_key(path: Path) -> "Ed25519PrivateKey":
    """Return the Ed25519 private key of a PEM file without a passphrase; raise KeyFileError for any other file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    key = _load(path, lambda data: load_pem_private_key(data, password=None), "private")
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(path, "its private key is not an Ed25519 key", _REMEDY)
    return key


def load_public_key(path: Path) -> "Ed25519PublicKey":
    """Return the Ed25519 public key of a PEM file; raise KeyFileError for any other file."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    key = _load(path, load_pem_public_key, "public")
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(path, "its public key is not an Ed25519 key", _REMEDY)
    return key


def _load(path: Path, load: Any, kind: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415

    try:
        return load(path.read_bytes())
    except OSError as error:
        raise KeyFileError(path, f"it cannot be read ({error.strerror})", _REMEDY) from error
    except TypeError as error:
        # cryptography raises it for a key that needs a passphrase.
        cause = "it needs a passphrase, and keys with a passphrase are not supported"
        raise KeyFileError(path, cause, "Pass the key without a passphrase, from a secret store") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, f"it holds no {kind} key in PEM format", _REMEDY) from error
