"""Test licences: what is granted, the exact sentence of every error, and the command line."""

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
from contract.errors import KeyFileError, LicenceError, SettingError
from contract.manifest import Signature
from runtime import licence
from runtime.licence_file import Licence
from tests.unit.runtime import synthetic

VENDOR, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
START, END = datetime(2026, 11, 25, tzinfo=UTC), datetime(2027, 11, 25, tzinfo=UTC)
MIDDLE, DAY = datetime(2027, 5, 1, 12, tzinfo=UTC), timedelta(days=1)
PLACE = "Put the licence file that came with the product there, or name it with VOXWRIGHT_LICENCE"
RENEW = "Request a new licence from the vendor, and replace this file with it"
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
    """Write the vendor's key pair; return the public key."""
    private = VENDOR.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "private.pem").write_bytes(private)
    public = tmp_path / "vendor.pem"
    public.write_bytes(VENDOR.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


@pytest.fixture
def path(keys: Path, tmp_path: Path) -> Path:
    """Issue a valid licence; return its file."""
    licence.issue(TERMS, tmp_path / "private.pem", tmp_path / "license.json")
    return tmp_path / "license.json"


def load(path: Path, keys: Path, at: datetime = MIDDLE) -> Licence:
    found = licence.load_verified(path, keys, at)
    assert found is not None
    return found


def refusal(path: Path, keys: Path, at: datetime = MIDDLE) -> str:
    with pytest.raises(LicenceError) as refused:
        load(path, keys, at)
    assert refused.value.exit_code == 46
    return str(refused.value)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def test_reads_licence_as_issued(path: Path, keys: Path) -> None:
    found = load(path, keys)
    assert replace(found, signature=None) == TERMS
    assert found.signature is not None
    assert found.signature.key == signature.fingerprint(VENDOR.public_key())
    assert Licence.from_json(found.to_json(), "copy") == found


def test_signature_ignores_the_layout_of_the_file(path: Path, keys: Path) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(dict(reversed(table.items())), indent=7), encoding="utf-8")
    assert replace(load(path, keys), signature=None) == TERMS


def test_no_licence_is_needed_without_a_vendor_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tmp_path / "etc" / "vendor.pem"
    monkeypatch.setattr(licence, "VENDOR_KEY", absent)
    assert licence.load_verified(tmp_path / "license.json", absent, MIDDLE) is None


def test_rejects_missing_configured_vendor_key(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"vendr\.pem: it cannot be read \(No such file or directory\)"):
        licence.load_verified(path, tmp_path / "vendr.pem", MIDDLE)


def test_requires_cryptography(path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingError) as refused:
        load(path, keys)
    assert str(refused.value) == (
        "--licence: cryptography, which checks its signature, is not installed. "
        "Install it with `pip install 'voxwright[serve]'`."
    )


def test_rejects_missing_licence(tmp_path: Path, keys: Path) -> None:
    path = tmp_path / "absent.json"
    assert refusal(path, keys) == f"{path}: there is no licence here. {PLACE}."


def test_rejects_folder(tmp_path: Path, keys: Path) -> None:
    # Docker creates a folder for a mount whose source does not exist.
    assert refusal(tmp_path, keys) == f"{tmp_path}: it cannot be read (Is a directory). {PLACE}."


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"\xff\xfe", "it is not text"),
        (b"", "it is not JSON (Expecting value: line 1 column 1 (char 0))"),
        (b"{", "it is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        (b"[]", "expected a table, found a list"),
        (b"{}", "schema_version: this field is missing"),
        (b'{"schema_version": 2}', "schema_version: it is 2, but this release reads 1"),
    ],
)
def test_rejects_unreadable_licence(tmp_path: Path, keys: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "license.json"
    path.write_bytes(content)
    assert refusal(path, keys) == f"{path}: {cause}. {PLACE}."


@pytest.mark.parametrize("content", ["[" * 100_000, f'{{"schema_version": {"9" * 5000}}}'])
def test_rejects_malicious_json(tmp_path: Path, keys: Path, content: str) -> None:
    path = tmp_path / "license.json"
    path.write_text(content)
    assert refusal(path, keys).startswith(f"{path}: it is not JSON (")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda table: table.pop("licensee"), "licensee: this field is missing"),
        (lambda table: table.update(seats=5), "seats: this field is unknown"),
        (lambda table: table.update(languages="en"), "languages: expected a list, found a string"),
        (lambda table: table.update(operating_points=[1]), "operating_points[0]: expected a string, found an integer"),
        (lambda table: table.update(expires="soon"), "expires: 'soon' is not a time such as 2027-11-25T00:00:00Z"),
        (lambda table: table.update(signature="none"), "signature: expected a table, found a string"),
        (lambda table: table["signature"].pop("value"), "signature.value: this field is missing"),
        (lambda table: table.pop("signature"), "it is not signed"),
        (lambda table: table.update(signature=None), "it is not signed"),
    ],
)
def test_rejects_wrong_field(path: Path, keys: Path, change: Callable[[dict[str, Any]], object], cause: str) -> None:
    edit(path, change)
    assert refusal(path, keys) == f"{path}: {cause}. {PLACE}."


@pytest.mark.parametrize(
    "change",
    [
        {"product": "voxwright-pro"},
        {"licensee": "Another Ltd"},
        {"not_before": "2020-01-01T00:00:00Z"},
        {"expires": "2037-11-25T00:00:00Z"},
        {"operating_points": ["standard", "enhanced"]},
        {"languages": ["en", "de"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_rejects_changed_field(path: Path, keys: Path, change: dict[str, Any]) -> None:
    edit(path, lambda table: table.update(change))
    cause = "its signature does not match its content, so the file was changed"
    assert refusal(path, keys) == f"{path}: {cause}. {PLACE}."


@pytest.mark.parametrize("value", ["", "?", "é", "AAAA"])
def test_rejects_malformed_signature(path: Path, keys: Path, value: str) -> None:
    edit(path, lambda table: table["signature"].update(value=value))
    assert "its signature does not match its content" in refusal(path, keys)


def test_rejects_licence_signed_with_another_key(path: Path, keys: Path, tmp_path: Path) -> None:
    private = tmp_path / "other.pem"
    private.write_bytes(OTHER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    licence.issue(TERMS, private, path)
    theirs = signature.fingerprint(OTHER.public_key())
    assert refusal(path, keys) == f"{path}: it is signed by key {theirs}, which is not the vendor's key. {PLACE}."
    # The vendor's fingerprint with another key's signature is rejected too.
    vendors = signature.fingerprint(VENDOR.public_key())
    edit(path, lambda table: table["signature"].update(key=vendors))
    assert "its signature does not match its content" in refusal(path, keys)


def test_rejects_another_product(path: Path, keys: Path, tmp_path: Path) -> None:
    licence.issue(replace(TERMS, product="voxwright-lite"), tmp_path / "private.pem", path)
    assert refusal(path, keys) == (
        f"{path}: it is for the product 'voxwright-lite', but this product is 'voxwright'. {RENEW}."
    )


def test_rejects_expired_licence(path: Path, keys: Path) -> None:
    assert load(path, keys, END - timedelta(seconds=1))
    # There is no tolerance at the end.
    assert refusal(path, keys, END) == f"{path}: it expired on 2027-11-25 00:00 UTC. {RENEW}."


def test_rejects_licence_that_is_not_valid_yet(path: Path, keys: Path) -> None:
    assert load(path, keys, START - DAY)
    assert refusal(path, keys, START - DAY - timedelta(seconds=1)) == (
        f"{path}: it is not valid before 2026-11-25 00:00 UTC. Wait until then, or correct this machine's clock."
    )


@pytest.mark.parametrize(
    ("left", "in_days"),
    [
        (timedelta(days=31), None),
        (timedelta(days=30), "in 30 days"),
        (timedelta(days=1, hours=5), "in 1 day"),
        (timedelta(hours=5), "in 0 days"),
    ],
)
def test_warns_before_the_licence_ends(path: Path, keys: Path, left: timedelta, in_days: str | None) -> None:
    settled = licence.evaluate(path, keys, None, synthetic.CATALOGUE, lambda: END - left)
    expected = [
        f"{path}: it expires on 2027-11-25 00:00 UTC, {in_days}, but a licence that ends later is required. {RENEW}."
    ]
    assert [str(warning) for warning in settled.warnings] == (expected if in_days else [])


def test_evaluate(path: Path, keys: Path) -> None:
    settled = licence.evaluate(path, keys, "standard", synthetic.CATALOGUE, lambda: MIDDLE)
    assert (settled.refusal, settled.warnings) == (None, ())
    assert settled.describe(synthetic.CATALOGUE).startswith("licensed to Größe & Söhne until ")
    refused = licence.evaluate(path, keys, "enhanced", synthetic.CATALOGUE, lambda: MIDDLE)
    assert refused.licence is None
    assert isinstance(refused.refusal, LicenceError)
    assert refused.describe(synthetic.CATALOGUE) == "rejected"
    assert isinstance(licence.evaluate(path, path, None, synthetic.CATALOGUE).refusal, KeyFileError)


def test_evaluate_without_a_vendor_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(licence, "VENDOR_KEY", Path("/nowhere/vendor.pem"))
    settled = licence.evaluate(tmp_path / "license.json", Path("/nowhere/vendor.pem"), "enhanced", synthetic.CATALOGUE)
    assert (settled.licence, settled.refusal) == (None, None)
    assert (
        settled.describe(synthetic.CATALOGUE) == "no licence is needed: there is no vendor key at /nowhere/vendor.pem"
    )


def test_warns_of_a_licence_that_protects_nothing(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default file need not exist; a file that is named, or that exists, was meant to limit something."""
    nowhere = Path("/nowhere/vendor.pem")
    monkeypatch.setattr(licence, "VENDOR_KEY", nowhere)
    warning = (
        "it protects nothing, because there is no vendor key at /nowhere/vendor.pem, but the vendor's public key is "
        "required. Build the image with --build-arg VENDOR_KEY (docs/licence.md), or name the key with --vendor-key."
    )
    for given in (path, tmp_path / "missing.json"):
        (found,) = licence.evaluate(given, nowhere, None, synthetic.CATALOGUE).warnings
        assert str(found) == f"{given}: {warning}"
    monkeypatch.setattr(licence, "LICENCE_FILE", tmp_path / "missing.json")
    assert licence.evaluate(tmp_path / "missing.json", nowhere, None, synthetic.CATALOGUE) == licence.Licensing()
    monkeypatch.setattr(licence, "LICENCE_FILE", path)
    assert len(licence.evaluate(path, nowhere, None, synthetic.CATALOGUE).warnings) == 1


POINT_REMEDY = "Set SM_OPERATING_POINT to a licensed one, or request a licence for this one from the vendor"
LANGUAGE_REMEDY = "Serve a catalogue with a licensed one, or request a licence for this one from the vendor"


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
def test_rejects_unlicensed_use(terms: Licence, point: str | None, cause: str) -> None:
    with pytest.raises(LicenceError, match=f"^/license.json: {re.escape(cause)}\\.$"):
        licence.check_use(terms, Path("/license.json"), point, synthetic.CATALOGUE)


@pytest.mark.parametrize("point", [None, "standard"])
def test_accepts_licensed_use(point: str | None) -> None:
    licence.check_use(TERMS, Path("/license.json"), point, synthetic.CATALOGUE)


def test_objection_to_a_model() -> None:
    assert TERMS.objection("standard", "en") is None
    assert TERMS.objection("standard", None) is None
    assert TERMS.objection("enhanced", "en") == "operating point enhanced is not licensed"
    assert TERMS.objection("standard", "de") == "language de is not licensed"


@pytest.mark.parametrize("text", ["a\x1b[2J", "a\nb", "\ud800"])
@pytest.mark.parametrize("field", ["licensee", "product", "languages"])
def test_rejects_text_that_controls_a_terminal(path: Path, field: str, text: str) -> None:
    """`show` prints a licence that is not verified."""
    table = json.loads(path.read_text(encoding="utf-8"))
    table[field] = [text] if field == "languages" else text
    with pytest.raises(LicenceError) as refused:
        Licence.from_json(json.dumps(table), "copy")
    assert f"{field}: {text!a} has characters that cannot be printed" in str(refused.value)


def test_reads_a_period_that_begins_in_the_first_year() -> None:
    early = replace(TERMS, not_before=datetime(1, 1, 1, tzinfo=UTC))
    assert Licence.from_json(early.to_json(), "copy") == early


def test_limit_keeps_licensed_languages() -> None:
    assert set(TERMS.limit(synthetic.two_languages().families)) == set(synthetic.FAMILIES)
    assert "body" in replace(TERMS, languages=("de",)).limit(synthetic.FAMILIES)


def test_describe() -> None:
    start = "licensed to Größe & Söhne until 2027-11-25 00:00 UTC: "
    assert licence.describe(replace(TERMS, operating_points=("standard", "enhanced")), synthetic.CATALOGUE) == (
        f"{start}standard, enhanced in en"
    )
    assert licence.describe(TERMS, synthetic.two_languages()) == (
        f"{start}standard in en; not licensed, so not served: operating point enhanced, language tlh"
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
        f"{path} is valid: licensed to Example Ltd until {end} 00:00 UTC: standard, enhanced in en\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in path.parent.iterdir()] == ["license.json"]


def test_verify_fails_as_a_start_would(path: Path, keys: Path) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    for arguments, variables in ((("--operating-point", "enhanced"), {}), ((), {"SM_OPERATING_POINT": "enhanced"})):
        made = call("verify", path, "--vendor-key", keys, *arguments, **variables)
        assert isinstance(made.exception, LicenceError)
        assert "operating point enhanced is not licensed, only standard" in str(made.exception)
    path.write_text(json.dumps({**table, "licensee": "Me"}), encoding="utf-8")
    assert isinstance(call("verify", path, VOXWRIGHT_VENDOR_KEY=str(keys)).exception, LicenceError)
    # Without a vendor key a start needs no licence, but `verify` cannot verify, so it fails.
    absent = call("verify", path, "--vendor-key", keys.with_name("absent.pem")).exception
    assert isinstance(absent, KeyFileError)


def test_summary_outside_the_period(path: Path) -> None:
    shown = licence.summary(TERMS, END + DAY)
    assert "expires           2027-11-25 00:00 UTC (expired)\n" in shown
    assert "signed by key     none\n" in shown
    assert "not before        2026-11-25 00:00 UTC (not valid yet)\n" in licence.summary(TERMS, START - DAY)


def test_issues_licence_for_some_points_and_languages(keys: Path, tmp_path: Path) -> None:
    granted = ("--operating-point", "standard", "--language", "en", "--language", "de")
    made = issued(tmp_path, "--expires", "2099-01-01", "--not-before", "2026-01-01T12:30:00Z", *granted)
    assert made.exit_code == 0, made.output
    found = licence.read(tmp_path / "made" / "license.json")
    assert (found.operating_points, found.languages) == (("standard",), ("en", "de"))
    assert found.not_before == datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def test_does_not_issue_licence_without_a_period(keys: Path, tmp_path: Path) -> None:
    made = issued(tmp_path, "--expires", "2026-01-01", "--not-before", "2026-01-01")
    assert str(made.exception) == (
        "--expires: 2026-01-01 00:00 UTC is not after the begin of the licence, 2026-01-01 00:00 UTC. Use a later day."
    )
    assert not (tmp_path / "made").exists()


def test_issue_requires_a_private_key(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "private.pem").write_bytes(keys.read_bytes())
    assert isinstance(issued(tmp_path, "--expires", "2099-01-01").exception, KeyFileError)
    assert not (tmp_path / "made").exists()


def test_signature_does_not_cover_itself() -> None:
    assert replace(TERMS, signature=Signature(key="k", value="v")).signed_bytes() == TERMS.signed_bytes()
    assert b'"schema_version":1' in TERMS.signed_bytes()


def test_does_not_issue_licence_for_unknown_point(keys: Path, tmp_path: Path) -> None:
    made = issued(tmp_path, "--expires", "2099-01-01", "--operating-point", "best")
    assert str(made.exception) == (
        f"--operating-point: 'best' is not an operating point of {synthetic.CATALOGUE.folder}. "
        "Use standard or enhanced."
    )
    assert not (tmp_path / "made").exists()


def test_issues_licence_for_another_catalogue(keys: Path, tmp_path: Path) -> None:
    other = synthetic.write_catalogue(tmp_path / "catalogue", "quick", "slow")
    made = issued(tmp_path, "--expires", "2099-01-01", "--catalogue", other)
    assert made.exit_code == 0, made.output
    found = licence.read(tmp_path / "made" / "license.json")
    assert (found.operating_points, found.languages) == (("quick", "slow"), ("en",))
    verify = ("verify", tmp_path / "made" / "license.json", "--vendor-key", keys)
    assert call(*verify, "--catalogue", other, "--operating-point", "quick").exit_code == 0
    refused = call(*verify, "--operating-point", "quick").exception
    assert str(refused) == (
        f"--operating-point: 'quick' is not an operating point of {synthetic.CATALOGUE.folder}. "
        "Use standard or enhanced."
    )


def test_check_key_rejects_a_private_key(keys: Path, tmp_path: Path) -> None:
    done = call("check-key", keys)
    assert (done.exit_code, done.exception) == (0, None)
    private = tmp_path / "vendor.key"
    private.write_bytes(VENDOR.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert isinstance(call("check-key", private).exception, KeyFileError)
