"""Read and write the licence file: JSON, signed by the vendor, that states what a customer may serve.

    {"schema_version": 1, "product": "voxwright", "licensee": "Example Ltd",
     "not_before": "2026-11-25T00:00:00Z", "expires": "2027-11-25T00:00:00Z",
     "operating_points": ["standard"], "languages": ["en"],
     "signature": {"key": "<fingerprint of the vendor's key>", "value": "<base64>"}}

The signature covers all other fields: `Licence.signed_bytes`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from contract.catalogue import Family
from contract.errors import LicenceError
from contract.fields import Fields
from contract.manifest import Signature

SCHEMA_VERSION = 1
PLACE = "Put the licence file that came with the product there, or name it with VOXWRIGHT_LICENCE"
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """What the vendor grants. Times are in UTC; `expires` is the first moment after the licence's validity."""

    product: str
    licensee: str
    not_before: datetime
    expires: datetime
    operating_points: tuple[str, ...]
    languages: tuple[str, ...]
    signature: Signature | None = None

    def to_json(self) -> str:
        """Return the licence as JSON text; from_json reads an equal record from it."""
        return json.dumps(self._table(), indent=2, ensure_ascii=False) + "\n"

    def signed_bytes(self) -> bytes:
        """Return the bytes that are signed: all fields except for the signature, in one canonical form."""
        table = self._table()
        del table["signature"]
        return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()

    def _table(self) -> dict[str, Any]:
        times = {"not_before": _written(self.not_before), "expires": _written(self.expires)}
        return {"schema_version": SCHEMA_VERSION, **asdict(self), **times}

    @classmethod
    def from_json(cls, text: str, source: object) -> "Licence":
        """Return a licence without verifying it; raise LicenceError that names the file and the wrong field."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LicenceError(source, f"it is not JSON ({error})", PLACE) from error
        fields = Fields(value, source=source, error=LicenceError, remedy=PLACE)
        if fields.integer("schema_version") != SCHEMA_VERSION:
            cause = f"it is {fields.integer('schema_version')}, but this release reads {SCHEMA_VERSION}"
            raise fields.error("schema_version", cause)
        # An unknown signed field might limit the licence, so it is rejected.
        fields.reject_unknown("schema_version", *cls.__dataclass_fields__)
        signed = fields.table("signature") if fields.has("signature") else None
        return cls(
            product=_printable(fields, "product", fields.text("product")),
            licensee=_printable(fields, "licensee", fields.text("licensee")),
            not_before=_time(fields, "not_before"),
            expires=_time(fields, "expires"),
            operating_points=_names(fields, "operating_points"),
            languages=_names(fields, "languages"),
            signature=Signature(key=signed.text("key"), value=signed.text("value")) if signed else None,
        )

    def objection(self, operating_point: str, language: str | None) -> str | None:
        """Return why a model may not be served under this licence; None where it may."""
        if operating_point not in self.operating_points:
            return f"operating point {operating_point} is not licensed"
        if language is not None and language not in self.languages:
            return f"language {language} is not licensed"
        return None

    def limit(self, families: Mapping[str, Family]) -> dict[str, Family]:
        """Return the families whose language is licensed, and those without a language."""
        return {name: each for name, each in families.items() if each.language in (None, *self.languages)}


def _written(moment: datetime) -> str:
    # strftime writes years before 1000 without zeros, which strptime does not read.
    return f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def _names(fields: Fields, key: str) -> tuple[str, ...]:
    return tuple(_printable(fields, key, name) for name in fields.items(key, str))


def _printable(fields: Fields, key: str, text: str) -> str:
    """Return a text that a terminal may show before the signature is verified."""
    if not text.isprintable():
        raise fields.error(key, f"{text!a} has characters that cannot be printed")
    return text


def _time(fields: Fields, key: str) -> datetime:
    text = fields.text(key)
    try:
        return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise fields.error(key, f"{text!r} is not a time such as 2027-11-25T00:00:00Z") from error
