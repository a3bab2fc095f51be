"""Command line `python -m runtime.licence`: issue, show and verify licences by the vendor's signature, offline."""

import base64
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from contract import command_line, files, signature
from contract.catalogue import Catalogue
from contract.errors import LicenceError, SettingError, VoxwrightError
from contract.manifest import Signature
from runtime.licence_file import PLACE, Licence
from runtime.preflight import Finding

PRODUCT = "voxwright"
LICENCE_FILE = Path("/license.json")
VENDOR_KEY = Path("/etc/voxwright/vendor.pem")
Clock = Callable[[], datetime]
_WARNING_PERIOD = timedelta(days=30)
# A clock that is slightly slow must not reject a licence on the day of its issue. There is no tolerance at the end,
# because a clock is easily set back.
_SKEW = timedelta(days=1)
_RENEW = "Request a new licence from the vendor, and replace this file with it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Licensing:
    """The result of the licence check: a licence, an error, or neither where no licence is needed."""

    licence: Licence | None = None
    refusal: VoxwrightError | None = None
    warnings: tuple[Finding, ...] = ()

    def describe(self, catalogue: Catalogue) -> str:
        """Return in one line what is licensed."""
        if self.licence is not None:
            return describe(self.licence, catalogue)
        return "rejected" if self.refusal else f"no licence is needed: there is no vendor key at {VENDOR_KEY}"


def now() -> datetime:
    """Return the time of this machine's clock, in UTC."""
    return datetime.now(UTC)


def evaluate(
    path: Path, vendor_key: Path, operating_point: str | None, catalogue: Catalogue, clock: Clock = now
) -> Licensing:
    """Return what is licensed, or the error where that does not cover the requested operating point."""
    at = clock()
    try:
        licence = load_verified(path, vendor_key, at)
        if licence is None:
            return Licensing(warnings=tuple(_unprotected(path, vendor_key)))
        check_use(licence, path, operating_point, catalogue)
    except VoxwrightError as error:
        return Licensing(refusal=error)
    return Licensing(licence=licence, warnings=tuple(_expiry_warnings(licence, path, at)))


def load_verified(path: Path, vendor_key: Path, at: datetime) -> Licence | None:
    """Return the verified licence; None where this installation has no vendor key and so needs no licence.

    Raise LicenceError for a licence that is absent, unreadable, not signed by the vendor, changed, for another product,
    expired or not valid yet. Raise KeyFileError for an unusable vendor key.
    """
    # Only the default file may be absent. A key that an operator configured must exist: its name may be mistyped.
    if vendor_key == VENDOR_KEY and not vendor_key.exists():
        return None
    licence = read(path)
    check_signature(licence, path, vendor_key)
    check_validity(licence, path, at)
    return licence


def read(path: Path) -> Licence:
    """Return a licence without verifying it; raise LicenceError where it cannot be read."""
    try:
        return Licence.from_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise LicenceError(path, "there is no licence here", PLACE) from error
    except UnicodeDecodeError as error:
        raise LicenceError(path, "it is not text", PLACE) from error
    except OSError as error:
        raise LicenceError(path, f"it cannot be read ({error.strerror})", PLACE) from error


def check_signature(licence: Licence, path: Path, vendor_key: Path) -> None:
    """Raise LicenceError unless the vendor's signature fits the content of the licence."""
    if importlib.util.find_spec("cryptography") is None:
        cause = "cryptography, which checks its signature, is not installed"
        raise SettingError("--licence", cause, "Install it with `pip install 'voxwright[serve]'`")
    key, signed = signature.load_public_key(vendor_key), licence.signature
    if signed is None:
        raise LicenceError(path, "it is not signed", PLACE)
    if signed.key != signature.fingerprint(key):
        raise LicenceError(path, f"it is signed by key {signed.key}, which is not the vendor's key", PLACE)
    if not signature.is_valid(key, signed.value, licence.signed_bytes()):
        raise LicenceError(path, "its signature does not match its content, so the file was changed", PLACE)


def check_validity(licence: Licence, path: Path, at: datetime) -> None:
    """Raise LicenceError for a licence of another product, and before and after its period."""
    if licence.product != PRODUCT:
        raise LicenceError(path, f"it is for the product {licence.product!r}, but this product is {PRODUCT!r}", _RENEW)
    if at + _SKEW < licence.not_before:
        remedy = "Wait until then, or correct this machine's clock"
        raise LicenceError(path, f"it is not valid before {_shown(licence.not_before)}", remedy)
    if at >= licence.expires:
        raise LicenceError(path, f"it expired on {_shown(licence.expires)}", _RENEW)


def check_use(licence: Licence, path: Path, operating_point: str | None, catalogue: Catalogue) -> None:
    """Raise LicenceError where the requested operating point, or every point or language, is not licensed."""
    points = [operating_point] if operating_point else list(catalogue.operating_points)
    if not set(points) & set(licence.operating_points):
        remedy = "Set SM_OPERATING_POINT to a licensed one, or request a licence for this one from the vendor"
        raise LicenceError(path, _unlicensed("operating point", points, licence.operating_points), remedy)
    languages = catalogue.languages()
    if languages and not set(languages) & set(licence.languages):
        remedy = "Serve a catalogue with a licensed one, or request a licence for this one from the vendor"
        raise LicenceError(path, _unlicensed("language", languages, licence.languages), remedy)


def describe(licence: Licence, catalogue: Catalogue) -> str:
    """Return in one line what is licensed, and what the catalogue has that is not licensed and so not served."""
    languages = catalogue.languages()
    missing = [
        *(f"operating point {point}" for point in catalogue.operating_points if point not in licence.operating_points),
        *(f"language {language}" for language in languages if language not in licence.languages),
    ]
    granted = f"{_listed(licence.operating_points)} in {_listed(licence.languages)}"
    rest = f"; not licensed, so not served: {_listed(missing)}" if missing else ""
    return f"licensed to {licence.licensee} until {_shown(licence.expires)}: {granted}{rest}"


def issue(licence: Licence, key: Path, path: Path) -> Licence:
    """Sign a licence, write it and return it; raise KeyFileError for a key that is not an Ed25519 private key."""
    opened = signature.load_private_key(key)
    value = base64.b64encode(opened.sign(licence.signed_bytes())).decode()
    signed = replace(licence, signature=Signature(key=signature.fingerprint(opened.public_key()), value=value))
    files.write(path, signed.to_json())
    return signed


def summary(licence: Licence, at: datetime) -> str:
    """Return a licence as text, one fact per line; the signature is not verified."""
    state = "expired" if at >= licence.expires else f"{_days(licence.expires - at)} left"
    rows = {
        "product": licence.product,
        "licensee": licence.licensee,
        "not before": _shown(licence.not_before) + (" (not valid yet)" if at < licence.not_before else ""),
        "expires": f"{_shown(licence.expires)} ({state})",
        "operating points": _listed(licence.operating_points),
        "languages": _listed(licence.languages),
        "signed by key": licence.signature.key if licence.signature else "none",
    }
    return "".join(f"{name:<16}  {text}\n" for name, text in rows.items())


def _expiry_warnings(licence: Licence, path: Path, at: datetime) -> Iterator[Finding]:
    left = licence.expires - at
    if left <= _WARNING_PERIOD:
        found = f"it expires on {_shown(licence.expires)}, in {_days(left)}"
        yield Finding(subject=str(path), found=found, wanted="a licence that ends later", remedy=_RENEW)


def _unprotected(path: Path, vendor_key: Path) -> Iterator[Finding]:
    """Yield a warning where a licence was given to an installation that verifies none."""
    if path != LICENCE_FILE or path.exists():
        found = f"it protects nothing, because there is no vendor key at {vendor_key}"
        remedy = "Build the image with --build-arg VENDOR_KEY (docs/licence.md), or name the key with --vendor-key"
        yield Finding(subject=str(path), found=found, wanted="the vendor's public key", remedy=remedy)


def _unlicensed(kind: str, wanted: Iterable[str], granted: Iterable[str]) -> str:
    return f"{kind} {_listed(wanted)} is not licensed, only {_listed(granted)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _days(span: timedelta) -> str:
    return "1 day" if span.days == 1 else f"{span.days} days"


_HELP = {"help_option_names": ["-h", "--help"]}
_path = click.Path(path_type=Path)
_day = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])
_licence = click.argument("path", type=_path, envvar="VOXWRIGHT_LICENCE", default=LICENCE_FILE, metavar="[LICENCE]")
_vendor_key = click.option(
    "--vendor-key",
    type=_path,
    envvar="VOXWRIGHT_VENDOR_KEY",
    default=VENDOR_KEY,
    show_default=True,
    show_envvar=True,
    help="The vendor's Ed25519 public key, PEM.",
)


@click.group(context_settings=_HELP)
def command() -> None:
    """Issue, show and verify licences."""


@command.command("issue")
@click.option("--key", required=True, type=_path, help="The vendor's Ed25519 private key, PEM.")
@click.option("--licensee", required=True, help="Name of the customer.")
@click.option(
    "--expires", required=True, type=_day, help="The first moment, in UTC, at which it is not valid any more."
)
@click.option("--not-before", type=_day, help="The first moment, in UTC, at which it is valid.  [default: today]")
@click.option("--operating-point", "points", multiple=True, help="Such as standard; repeatable.")
@click.option(
    "--language", "languages", multiple=True, help="Such as en; repeatable.  [default: every language of the catalogue]"
)
@click.option("--out", required=True, type=_path, help="File to write.")
@command_line.catalogue_option()
@command_line.verbose_option()
def issue_command(
    key: Path,
    licensee: str,
    expires: datetime,
    not_before: datetime | None,
    points: tuple[str, ...],
    languages: tuple[str, ...],
    out: Path,
    catalogue: Catalogue,
) -> None:
    """Sign a licence; without --operating-point it covers every operating point."""
    for point in points:
        catalogue.check_operating_point(point, "--operating-point")
    start = not_before or now().replace(hour=0, minute=0, second=0, microsecond=0)
    terms = Licence(
        product=PRODUCT,
        licensee=licensee,
        not_before=start.replace(tzinfo=UTC),
        expires=expires.replace(tzinfo=UTC),
        operating_points=points or catalogue.operating_points,
        languages=languages or catalogue.languages(),
    )
    if terms.expires <= terms.not_before:
        cause = f"{_shown(terms.expires)} is not after the begin of the licence, {_shown(terms.not_before)}"
        raise SettingError("--expires", cause, "Use a later day")
    print(summary(issue(terms, key, out), now()), end="")


@command.command("show")
@_licence
@command_line.verbose_option()
def show_command(path: Path) -> None:
    """Print a licence without verifying it."""
    print(summary(read(path), now()), end="")


@command.command("verify")
@_licence
@_vendor_key
@click.option(
    "--operating-point", envvar="SM_OPERATING_POINT", show_envvar=True, help="Check that it is licensed as well."
)
@command_line.catalogue_option()
@command_line.verbose_option()
def verify_command(path: Path, vendor_key: Path, operating_point: str | None, catalogue: Catalogue) -> None:
    """Check whether a start would accept a licence; exit with the exit code of the error otherwise."""
    if operating_point is not None:
        catalogue.check_operating_point(operating_point, "--operating-point")
    licence = read(path)
    check_signature(licence, path, vendor_key)
    check_validity(licence, path, now())
    check_use(licence, path, operating_point, catalogue)
    print(f"{path} is valid: {describe(licence, catalogue)}", file=sys.stderr)


@command.command("check-key")
@click.argument("key", type=_path)
@command_line.verbose_option()
def check_key_command(key: Path) -> None:
    """Check that a file is an Ed25519 public key, as the build of an image does; a private key is rejected."""
    print(f"{key} is the public key {signature.fingerprint(signature.load_public_key(key))}", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
