"""A licence: what a customer may serve, as a JSON file that the vendor signed.

    {"schema_version": 1, "product": "voxwright", "licensee": "Example Ltd",
     "not_before": "2026-11-25T00:00:00Z", "expires": "2027-11-25T00:00:00Z",
     "operating_points": ["standard"], "languages": ["en"],
     "signature": {"key": "<fingerprint of the vendor's key>", "value": "<base64>"}}

The signature is over all the other fields: `Licence.signed_bytes`.
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
    """What the vendor grants; times are in UTC, and `expires` is the first moment at which it holds no more."""

    product: str
    licensee: str
    not_before: datetime
    expires: datetime
    operating_points: tuple[str, ...]
    languages: tuple[str, ...]
    signature: Signature | None = None

    def to_json(self) -> str:
        """Write the licence as text; from_json reads it back equal."""
        return json.dumps(self._table(), indent=2, ensure_ascii=False) + "\n"

    def signed_bytes(self) -> bytes:
        """Give what the signature is over: all but the signature itself, in one spelling."""
        table = self._table()
        del table["signature"]
        return json.dumps(table, sort_keys=True, separators=(",", ":")).encode()

    def _table(self) -> dict[str, Any]:
        times = {"not_before": _written(self.not_before), "expires": _written(self.expires)}
        return {"schema_version": SCHEMA_VERSION, **asdict(self), **times}

    @classmethod
    def from_json(cls, text: str, source: object) -> "Licence":
        """Read a licence; raise LicenceError with the file and the field that is wrong. Nothing is believed yet."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LicenceError(source, f"it is not JSON ({error})", PLACE) from error
        fields = Fields(value, source=source, error=LicenceError, remedy=PLACE)
        if fields.integer("schema_version") != SCHEMA_VERSION:
            cause = f"it is {fields.integer('schema_version')}, and this release reads {SCHEMA_VERSION}"
            raise fields.error("schema_version", cause)
        # A field that was signed and is not read here might have limited the licence.
        fields.reject_unknown("schema_version", *cls.__dataclass_fields__)
        signed = fields.table("signature") if fields.has("signature") else None
        return cls(
            product=fields.text("product"),
            licensee=fields.text("licensee"),
            not_before=_time(fields, "not_before"),
            expires=_time(fields, "expires"),
            operating_points=fields.items("operating_points", str),
            languages=fields.items("languages", str),
            signature=Signature(key=signed.text("key"), value=signed.text("value")) if signed else None,
        )

    def objection(self, operating_point: str, language: str | None) -> str | None:
        """Say why a model may not be served under this licence; None where it may."""
        if operating_point not in self.operating_points:
            return f"operating point {operating_point} is not licensed"
        if language is not None and language not in self.languages:
            return f"language {language} is not licensed"
        return None

    def limit(self, families: Mapping[str, Family]) -> dict[str, Family]:
        """Give the families whose language is licensed, and those that serve every language."""
        return {name: each for name, each in families.items() if each.language in (None, *self.languages)}


def _written(moment: datetime) -> str:
    return moment.strftime(_FORMAT)


def _time(fields: Fields, key: str) -> datetime:
    text = fields.text(key)
    try:
        return datetime.strptime(text, _FORMAT).replace(tzinfo=UTC)
    except ValueError as error:
        raise fields.error(key, f"{text!r} is no time like 2027-11-25T00:00:00Z") from error
