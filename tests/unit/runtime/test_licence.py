"""Licences: what is granted, every way in which one is refused, with its exact sentence, and the command line."""

import importlib.util
import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from contract import signature
from contract.catalogue import catalogue
from contract.errors import KeyFileError, LicenceError, SettingError
from contract.manifest import Signature
from runtime import licence
from runtime.terms import Licence

VENDOR, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
START, END = datetime(2026, 11, 25, tzinfo=UTC), datetime(2027, 11, 25, tzinfo=UTC)
MIDDLE, DAY = datetime(2027, 5, 1, 12, tzinfo=UTC), timedelta(days=1)
PLACE = "Put the licence file that came with the product there, or name it with VOXWRIGHT_LICENCE"
RENEW = "Ask the vendor for a new licence, and put it in this one's place"
TERMS = Licence(
    product="voxwright",
    licensee="Größe & Söhne",
    not_before=START,
    expires=END,
    operating_points=("standard",),
    languages=("en",),
)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Write the vendor's pair; give the public key."""
    private = VENDOR.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private.pem").write_bytes(private)
    public = tmp_path / "vendor.pem"
    public.write_bytes(VENDOR.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


@pytest.fixture
def path(keys: Path, tmp_path: Path) -> Path:
    """Issue a genuine licence; give its file."""
    licence.issue(TERMS, tmp_path / "private.pem", tmp_path / "license.json")
    return tmp_path / "license.json"


def obtain(path: Path, keys: Path, at: datetime = MIDDLE) -> Licence:
    found = licence.obtain(path, keys, at)
    assert found is not None
    return found


def refusal(path: Path, keys: Path, at: datetime = MIDDLE) -> str:
    with pytest.raises(LicenceError) as refused:
        obtain(path, keys, at)
    assert refused.value.exit_code == 46
    return str(refused.value)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def test_a_genuine_licence_is_read_as_it_was_issued(path: Path, keys: Path) -> None:
    found = obtain(path, keys)
    assert replace(found, signature=None) == TERMS
    assert found.signature is not None
    assert found.signature.key == signature.fingerprint(VENDOR.public_key())
    assert Licence.from_json(found.to_json(), "copy") == found


def test_the_layout_of_the_file_is_not_signed(path: Path, keys: Path) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(table.items())), indent=7), encoding="utf-8")
    assert replace(obtain(path, keys), signature=None) == TERMS


def test_without_a_vendors_key_no_licence_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tmp_path / "etc" / "vendor.pem"
    monkeypatch.setattr(licence, "VENDOR_KEY", absent)
    assert licence.obtain(tmp_path / "license.json", absent, MIDDLE) is None


def test_a_vendors_key_that_was_named_must_be_there(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"vendr\.pem: it cannot be read \(No such file or directory\)"):
        licence.obtain(path, tmp_path / "vendr.pem", MIDDLE)


def test_cryptography_is_missing(path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingError) as refused:
        obtain(path, keys)
    assert str(refused.value) == (
        "--licence: cryptography, which checks its signature, is not installed. "
        "Install it with `pip install 'voxwright[serve]'`."
    )


def test_absent(tmp_path: Path, keys: Path) -> None:
    path = tmp_path / "absent.json"
    assert refusal(path, keys) == f"{path}: there is no licence here. {PLACE}."


def test_a_folder(tmp_path: Path, keys: Path) -> None:
    # What Docker makes of a mount whose source does not exist.
    assert refusal(tmp_path, keys) == f"{tmp_path}: it cannot be read (Is a directory). {PLACE}."


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\xff\xfe", "it is not text"),
        (b"", "it is not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"{", "it is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"[]", "a table is wanted, not a list"),
        (b"{}", "schema_version: this field is missing"),
        (b'{"schema_version": 2}', "schema_version: it is 2, and this release reads 1"),
    ],
)
def test_unreadable(tmp_path: Path, keys: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "license.json"
    path.write_bytes(content)
    assert refusal(path, keys) == f"{path}: {cause}. {PLACE}."


@pytest.mark.parametrize("content", ["[" * 100_000, f'{{"schema_version": {"9" * 5000}}}'])
def test_json_that_is_made_to_hurt(tmp_path: Path, keys: Path, content: str) -> None:
    path = tmp_path / "license.json"
    path.write_text(content)
    assert refusal(path, keys).startswith(f"{path}: it is not JSON (")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda table: table.pop("licensee"), "licensee: this field is missing"),
        (lambda table: table.update(seats=5), "seats: this field is unknown"),
        (lambda table: table.update(languages="en"), "languages: a list is wanted, not a text"),
        (lambda table: table.update(operating_points=[1]), "operating_points[0]: a text is wanted, not an integer"),
        (lambda table: table.update(expires="soon"), "expires: 'soon' is no time like 2027-11-25T00:00:00Z"),
        (lambda table: table.update(signature="none"), "signature: a table is wanted, not a text"),
        (lambda table: table["signature"].pop("value"), "signature.value: this field is missing"),
        (lambda table: table.pop("signature"), "it is not signed"),
        (lambda table: table.update(signature=None), "it is not signed"),
    ],
)
def test_a_wrong_field(path: Path, keys: Path, change: Callable[[dict[str, Any]], object], cause: str) -> None:
    edit(path, change)
    assert refusal(path, keys) == f"{path}: {cause}. {PLACE}."


@pytest.mark.parametrize(
    "change",
    [
        {"product": "voxwright-pro"},
        {"licensee": "Somebody else"},
        {"not_before": "2020-01-01T00:00:00Z"},
        {"expires": "2037-11-25T00:00:00Z"},
        {"operating_points": ["standard", "enhanced"]},
        {"languages": ["en", "de"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_of_the_terms_is_seen(path: Path, keys: Path, change: dict[str, Any]) -> None:
    edit(path, lambda table: table.update(change))
    cause = "its signature does not fit its content, so it was changed"
    assert refusal(path, keys) == f"{path}: {cause}. {PLACE}."


@pytest.mark.parametrize("value", ["", "?", "é", "AAAA"])
def test_a_signature_that_is_none(path: Path, keys: Path, value: str) -> None:
    edit(path, lambda table: table["signature"].update(value=value))
    assert "its signature does not fit its content" in refusal(path, keys)


def test_a_licence_that_somebody_else_signed(path: Path, keys: Path, tmp_path: Path) -> None:
    private = tmp_path / "other.pem"
    private.write_bytes(OTHER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    licence.issue(TERMS, private, path)
    theirs = signature.fingerprint(OTHER.public_key())
    assert refusal(path, keys) == f"{path}: it is signed by key {theirs}, which is not the vendor's. {PLACE}."
    # Nor does it help to claim the vendor's key.
    vendors = signature.fingerprint(VENDOR.public_key())
    edit(path, lambda table: table["signature"].update(key=vendors))
    assert "its signature does not fit its content" in refusal(path, keys)


def test_another_product(path: Path, keys: Path, tmp_path: Path) -> None:
    licence.issue(replace(TERMS, product="voxwright-lite"), tmp_path / "private.pem", path)
    assert refusal(path, keys) == (f"{path}: it is for the product 'voxwright-lite', and this is 'voxwright'. {RENEW}.")


def test_expired(path: Path, keys: Path) -> None:
    assert obtain(path, keys, END - timedelta(seconds=1))
    # No clock is given a grace at this end.
    assert refusal(path, keys, END) == f"{path}: it expired on 2027-11-25 00:00 UTC. {RENEW}."


def test_not_yet_valid(path: Path, keys: Path) -> None:
    assert obtain(path, keys, START - DAY)
    assert refusal(path, keys, START - DAY - timedelta(seconds=1)) == (
        f"{path}: it is not valid before 2026-11-25 00:00 UTC. Wait until then, or correct this machine's clock."
    )


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (timedelta(days=31), None),
        (timedelta(days=30), "in 30 days"),
        (timedelta(days=1, hours=5), "in 1 day"),
        (timedelta(hours=5), "in 0 days"),
    ],
)
def test_a_licence_that_ends_soon(path: Path, keys: Path, left: timedelta, said: str | None) -> None:
    settled = licence.settle(path, keys, None, catalogue(), lambda: END - left)
    expected = [f"{path}: it expires on 2027-11-25 00:00 UTC, {said}, and a licence for longer is wanted. {RENEW}."]
    assert [str(warning) for warning in settled.warnings] == (expected if said else [])


def test_a_start_settles_it_once(path: Path, keys: Path) -> None:
    settled = licence.settle(path, keys, "standard", catalogue(), lambda: MIDDLE)
    assert (settled.refusal, settled.warnings) == (None, ())
    assert settled.describe(catalogue()).startswith("licensed to Größe & Söhne until ")
    refused = licence.settle(path, keys, "enhanced", catalogue(), lambda: MIDDLE)
    assert refused.licence is None
    assert isinstance(refused.refusal, LicenceError)
    assert refused.describe(catalogue()) == "refused"
    assert isinstance(licence.settle(path, path, None, catalogue()).refusal, KeyFileError)


def test_no_licence_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(licence, "VENDOR_KEY", Path("/nowhere/vendor.pem"))
    settled = licence.settle(tmp_path / "license.json", Path("/nowhere/vendor.pem"), "enhanced", catalogue())
    assert settled == licence.Licensing()
    assert settled.describe(catalogue()) == "no licence is needed: there is no vendor's key at /nowhere/vendor.pem"


POINT_REMEDY = "Ask with SM_OPERATING_POINT for one that is, or the vendor for a licence for this one"
LANGUAGE_REMEDY = "Serve a catalogue with one that is, or ask the vendor for a licence for this one"


@pytest.mark.parametrize(
    ("terms", "point", "cause"),
    [
        (TERMS, "enhanced", f"operating point enhanced is not licensed, only standard. {POINT_REMEDY}"),
        (
            replace(TERMS, operating_points=()),
            None,
            f"operating point standard, enhanced is not licensed, only nothing. {POINT_REMEDY}",
        ),
        (replace(TERMS, languages=("de", "fr")), None, f"language en is not licensed, only de, fr. {LANGUAGE_REMEDY}"),
    ],
)
def test_what_is_not_licensed(terms: Licence, point: str | None, cause: str) -> None:
    with pytest.raises(LicenceError, match=f"^/license.json: {re.escape(cause)}\\.$"):
        licence.check_use(terms, Path("/license.json"), point, catalogue())


@pytest.mark.parametrize("point", [None, "standard"])
def test_what_is_licensed(point: str | None) -> None:
    licence.check_use(TERMS, Path("/license.json"), point, catalogue())


def test_a_model_that_is_not_licensed() -> None:
    assert TERMS.objection("standard", "en") is None
    assert TERMS.objection("standard", None) is None
    assert TERMS.objection("enhanced", "en") == "operating point enhanced is not licensed"
    assert TERMS.objection("standard", "de") == "language de is not licensed"


def test_the_catalogue_of_the_licensed_languages() -> None:
    german = {name: replace(catalogue()[f"{name[:-3]}_en"], name=name) for name in ("am_de", "ensemble_de")}
    assert set(TERMS.limit({**catalogue(), **german})) == set(catalogue())
    assert "body" in replace(TERMS, languages=("de",)).limit(catalogue())


def test_what_the_log_says() -> None:
    german = {"am_de": replace(catalogue()["am_en"], name="am_de")}
    start = "licensed to Größe & Söhne until 2027-11-25 00:00 UTC: "
    assert licence.describe(replace(TERMS, operating_points=("standard", "enhanced")), catalogue()) == (
        f"{start}standard, enhanced in en"
    )
    assert licence.describe(TERMS, {**catalogue(), **german}) == (
        f"{start}standard in en; not licensed, so not served: operating point enhanced, language de"
    )


def call(*arguments: object, **variables: str) -> Result:
    return CliRunner().invoke(licence.command, [str(each) for each in arguments], env=variables)


def issued(folder: Path, *arguments: object) -> Result:
    key, out = folder / "private.pem", folder / "made" / "license.json"
    return call("issue", "--key", key, "--licensee", "Example Ltd", "--out", out, *arguments)


def test_issue_show_verify(keys: Path, tmp_path: Path) -> None:
    end = datetime.now(UTC).date() + timedelta(days=100)
    made = issued(tmp_path, "--expires", end)
    path = tmp_path / "made" / "license.json"
    assert made.exit_code == 0, made.output
    assert made.output == call("show", path).output == call("show", VOXWRIGHT_LICENCE=str(path)).output
    rows = dict(line.split("  ", 1) for line in made.output.splitlines())
    assert {name.strip(): text.strip() for name, text in rows.items()} == {
        "product": "voxwright",
        "licensee": "Example Ltd",
        "not before": f"{datetime.now(UTC).date()} 00:00 UTC",
        "expires": f"{end} 00:00 UTC (99 days left)",
        "operating points": "standard, enhanced",
        "languages": "en",
        "signed by key": signature.fingerprint(VENDOR.public_key()),
    }
    verified = call("verify", path, "--vendor-key", keys)
    assert verified.exit_code == 0
    assert verified.output == (
        f"{path} is genuine: licensed to Example Ltd until {end} 00:00 UTC: standard, enhanced in en\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in path.parent.iterdir()] == ["license.json"]


def test_verify_says_what_a_start_would_say(path: Path, keys: Path) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    for arguments, variables in ((("--operating-point", "enhanced"), {}), ((), {"SM_OPERATING_POINT": "enhanced"})):
        made = call("verify", path, "--vendor-key", keys, *arguments, **variables)
        assert isinstance(made.exception, LicenceError)
        assert "operating point enhanced is not licensed, only standard" in str(made.exception)
    path.write_text(json.dumps({**table, "licensee": "Me"}), encoding="utf-8")
    assert isinstance(call("verify", path, VOXWRIGHT_VENDOR_KEY=str(keys)).exception, LicenceError)
    # Where a start needs no licence there is nothing to verify by, and that is no yes.
    absent = call("verify", path, "--vendor-key", keys.with_name("absent.pem")).exception
    assert isinstance(absent, KeyFileError)


def test_show_of_a_licence_outside_its_time(path: Path) -> None:
    shown = licence.summary(TERMS, END + DAY)
    assert "expires           2027-11-25 00:00 UTC (expired)\n" in shown
    assert "signed by key     none\n" in shown
    assert "not before        2026-11-25 00:00 UTC (not valid yet)\n" in licence.summary(TERMS, START - DAY)


def test_a_licence_of_some_points_and_languages(keys: Path, tmp_path: Path) -> None:
    granted = ("--operating-point", "standard", "--language", "en", "--language", "de")
    made = issued(tmp_path, "--expires", "2099-01-01", "--not-before", "2026-01-01T12:30:00Z", *granted)
    assert made.exit_code == 0, made.output
    found = licence.read(tmp_path / "made" / "license.json")
    assert (found.operating_points, found.languages) == (("standard",), ("en", "de"))
    assert found.not_before == datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def test_a_licence_that_would_never_hold_is_not_issued(keys: Path, tmp_path: Path) -> None:
    made = issued(tmp_path, "--expires", "2026-01-01", "--not-before", "2026-01-01")
    assert str(made.exception) == (
        "--expires: 2026-01-01 00:00 UTC is not after 2026-01-01 00:00 UTC, when it begins. Give a later day."
    )
    assert not (tmp_path / "made").exists()


def test_issue_needs_a_private_key(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "private.pem").write_bytes(keys.read_bytes())
    assert isinstance(issued(tmp_path, "--expires", "2099-01-01").exception, KeyFileError)
    assert not (tmp_path / "made").exists()


def test_a_signature_covers_the_licence_alone() -> None:
    assert replace(TERMS, signature=Signature(key="k", value="v")).signed_bytes() == TERMS.signed_bytes()
    assert b'"schema_version":1' in TERMS.signed_bytes()
