"""Signs a manifest with Ed25519 (RFC 8032) and says whose signature it bears.

The manifest names every file of its bundle with its SHA-256, so one signature covers all. This module needs more than
the standard library, and asks for it only when a key is used: a signature is no place for own code, and build and
runtime must not come to two verdicts.
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
_MAKE = "Make a pair with `openssl genpkey -algorithm ed25519`, or name the right file"


class Verdict(Enum):
    """What is to be said of a bundle's signature."""

    NOT_ASKED = "no key is trusted here, so no signature is asked for"
    TRUSTED = "signed by a trusted key"
    UNSIGNED = "it is not signed"
    UNKNOWN_KEY = "it is signed by a key that is not trusted here"
    INVALID = "its signature does not fit its manifest"

    @property
    def is_acceptable(self) -> bool:
        """Say whether the bundle may be used."""
        return self in (Verdict.NOT_ASKED, Verdict.TRUSTED)


def sign(manifest: BundleManifest, key: "Ed25519PrivateKey") -> BundleManifest:
    """Give the manifest with a signature in place of the one it had."""
    value = key.sign(manifest.signed_bytes())
    signature = Signature(key=fingerprint(key.public_key()), value=base64.b64encode(value).decode())
    return replace(manifest, signature=signature)


def judge(manifest: BundleManifest, trusted: "Sequence[Ed25519PublicKey]") -> Verdict:
    """Say what a manifest's signature is worth to somebody who trusts these keys; no keys, no question."""
    if not trusted:
        return Verdict.NOT_ASKED
    if manifest.signature is None:
        return Verdict.UNSIGNED
    keys = [key for key in trusted if fingerprint(key) == manifest.signature.key]
    if not keys:
        return Verdict.UNKNOWN_KEY
    return Verdict.TRUSTED if verifies(keys[0], manifest.signature.value, manifest.signed_bytes()) else Verdict.INVALID


def verifies(key: "Ed25519PublicKey", value: str, data: bytes) -> bool:
    """Say whether a signature in base64 is this key's over the data."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        key.verify(base64.b64decode(value, validate=True), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(key: "Ed25519PublicKey") -> str:
    """Name a public key: the first 16 hexadecimal digits of the SHA-256 over its 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_FINGERPRINT_LENGTH]


def private_key(path: Path) -> "Ed25519PrivateKey":
    """Read an Ed25519 private key, PEM without a passphrase; raise KeyFileError for anything else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    key = _loaded(path, lambda data: load_pem_private_key(data, password=None), "private")
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(path, "it holds a private key of another kind than Ed25519", _MAKE)
    return key


def public_key(path: Path) -> "Ed25519PublicKey":
    """Read an Ed25519 public key, PEM; raise KeyFileError for anything else."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    key = _loaded(path, load_pem_public_key, "public")
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(path, "it holds a public key of another kind than Ed25519", _MAKE)
    return key


def _loaded(path: Path, load: Any, kind: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415

    try:
        return load(path.read_bytes())
    except OSError as error:
        raise KeyFileError(path, f"it cannot be read ({error.strerror})", _MAKE) from error
    except TypeError as error:
        # cryptography's word for a passphrase that is wanted and not given.
        cause = "it is locked with a passphrase, and nobody is there to type it"
        raise KeyFileError(path, cause, "Give the key without one, from a secret store") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, f"it holds no {kind} key in PEM", _MAKE) from error
