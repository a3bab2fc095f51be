"""python -m runtime.licence: issues, shows and verifies licences, by the vendor's signature and without a network."""

import base64
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from contract import command_line, files, signature
from contract.catalogue import OPERATING_POINTS, Family, catalogue
from contract.errors import LicenceError, SettingError, VoxwrightError
from contract.manifest import Signature
from runtime.preflight import Finding
from runtime.terms import PLACE, Licence

PRODUCT = "voxwright"
LICENCE_FILE = Path("/license.json")
VENDOR_KEY = Path("/etc/voxwright/vendor.pem")
Clock = Callable[[], datetime]
_WARNING_PERIOD = timedelta(days=30)
# A clock that is a little slow must not refuse a licence on the day of its issue. Nothing is tolerated at its end: a
# clock is easily set back.
_SKEW = timedelta(days=1)
_RENEW = "Ask the vendor for a new licence, and put it in this one's place"


@dataclass(frozen=True, kw_only=True, slots=True)
class Licensing:
    """What came of asking for a licence; with neither a licence nor a refusal none is needed."""

    licence: Licence | None = None
    refusal: VoxwrightError | None = None
    warnings: tuple[Finding, ...] = ()

    def describe(self, families: Mapping[str, Family]) -> str:
        """Say in one line what is licensed."""
        if self.licence is not None:
            return describe(self.licence, families)
        return "refused" if self.refusal else f"no licence is needed: there is no vendor's key at {VENDOR_KEY}"


def now() -> datetime:
    """Give the time of this machine's clock."""
    return datetime.now(UTC)


def settle(
    path: Path, vendor_key: Path, operating_point: str | None, families: Mapping[str, Family], clock: Clock = now
) -> Licensing:
    """Find out what is licensed, and whether that is enough for what was asked for."""
    at = clock()
    try:
        licence = obtain(path, vendor_key, at)
        if licence is None:
            return Licensing()
        check_use(licence, path, operating_point, families)
    except VoxwrightError as error:
        return Licensing(refusal=error)
    return Licensing(licence=licence, warnings=tuple(_advise(licence, path, at)))


def obtain(path: Path, vendor_key: Path, at: datetime) -> Licence | None:
    """Read a licence and believe it; None where this installation has no vendor's key, so that it needs no licence.

    Raise LicenceError for a licence that is absent, unreadable, not the vendor's, changed, of another product or of
    another time; KeyFileError for a vendor's key that is none.
    """
    # Only the place in the image may be empty: a key that somebody named is not to be missed by a slip in its name.
    if vendor_key == VENDOR_KEY and not vendor_key.exists():
        return None
    licence = read(path)
    check_signature(licence, path, vendor_key)
    check_terms(licence, path, at)
    return licence


def read(path: Path) -> Licence:
    """Read a licence without believing it; raise LicenceError where there is none."""
    try:
        return Licence.from_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError as error:
        raise LicenceError(path, "there is no licence here", PLACE) from error
    except UnicodeDecodeError as error:
        raise LicenceError(path, "it is not text", PLACE) from error
    except OSError as error:
        raise LicenceError(path, f"it cannot be read ({error.strerror})", PLACE) from error


def check_signature(licence: Licence, path: Path, vendor_key: Path) -> None:
    """Raise LicenceError unless the vendor signed these very terms."""
    if importlib.util.find_spec("cryptography") is None:
        cause = "cryptography, which checks its signature, is not installed"
        raise SettingError("--licence", cause, "Install it with `pip install 'voxwright[serve]'`")
    key, signed = signature.public_key(vendor_key), licence.signature
    if signed is None:
        raise LicenceError(path, "it is not signed", PLACE)
    if signed.key != signature.fingerprint(key):
        raise LicenceError(path, f"it is signed by key {signed.key}, which is not the vendor's", PLACE)
    if not signature.verifies(key, signed.value, licence.signed_bytes()):
        raise LicenceError(path, "its signature does not fit its content, so it was changed", PLACE)


def check_terms(licence: Licence, path: Path, at: datetime) -> None:
    """Raise LicenceError for a licence of another product, and outside its time."""
    if licence.product != PRODUCT:
        raise LicenceError(path, f"it is for the product {licence.product!r}, and this is {PRODUCT!r}", _RENEW)
    if at + _SKEW < licence.not_before:
        remedy = "Wait until then, or correct this machine's clock"
        raise LicenceError(path, f"it is not valid before {_shown(licence.not_before)}", remedy)
    if at >= licence.expires:
        raise LicenceError(path, f"it expired on {_shown(licence.expires)}", _RENEW)


def check_use(licence: Licence, path: Path, operating_point: str | None, families: Mapping[str, Family]) -> None:
    """Raise LicenceError where what was asked for, or all there is, is not licensed."""
    points = [operating_point] if operating_point else list(OPERATING_POINTS)
    if not set(points) & set(licence.operating_points):
        remedy = "Ask with SM_OPERATING_POINT for one that is, or the vendor for a licence for this one"
        raise LicenceError(path, _unlicensed("operating point", points, licence.operating_points), remedy)
    languages = sorted({family.language for family in families.values() if family.language})
    if languages and not set(languages) & set(licence.languages):
        remedy = "Serve a catalogue with one that is, or ask the vendor for a licence for this one"
        raise LicenceError(path, _unlicensed("language", languages, licence.languages), remedy)


def describe(licence: Licence, families: Mapping[str, Family]) -> str:
    """Say in one line what is licensed, and what there is besides and is therefore not served."""
    languages = sorted({family.language for family in families.values() if family.language})
    missing = [
        *(f"operating point {point}" for point in OPERATING_POINTS if point not in licence.operating_points),
        *(f"language {language}" for language in languages if language not in licence.languages),
    ]
    granted = f"{_listed(licence.operating_points)} in {_listed(licence.languages)}"
    rest = f"; not licensed, so not served: {_listed(missing)}" if missing else ""
    return f"licensed to {licence.licensee} until {_shown(licence.expires)}: {granted}{rest}"


def issue(licence: Licence, key: Path, path: Path) -> Licence:
    """Sign a licence and write it; raise KeyFileError for a key that is no Ed25519 private key."""
    opened = signature.private_key(key)
    value = base64.b64encode(opened.sign(licence.signed_bytes())).decode()
    signed = replace(licence, signature=Signature(key=signature.fingerprint(opened.public_key()), value=value))
    files.write(path, signed.to_json())
    return signed


def summary(licence: Licence, at: datetime) -> str:
    """Describe a licence for people, one fact a line; whether it is genuine is for `verify` to say."""
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


def _advise(licence: Licence, path: Path, at: datetime) -> Iterator[Finding]:
    left = licence.expires - at
    if left <= _WARNING_PERIOD:
        found = f"it expires on {_shown(licence.expires)}, in {_days(left)}"
        yield Finding(subject=str(path), found=found, wanted="a licence for longer", remedy=_RENEW)


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
_verbose = click.option("--verbose", is_flag=True, expose_value=False, help="Add the traceback to a refusal.")
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
@click.option("--licensee", required=True, help="Whom it is for.")
@click.option("--expires", required=True, type=_day, help="The first moment, in UTC, at which it holds no more.")
@click.option("--not-before", type=_day, help="The first moment, in UTC, at which it holds.  [default: today]")
@click.option("--operating-point", "points", multiple=True, type=click.Choice(OPERATING_POINTS), help="Repeatable.")
@click.option("--language", "languages", multiple=True, help="Such as en; repeatable.  [default: all there are]")
@click.option("--out", required=True, type=_path, help="Where to write it.")
@_verbose
def issue_command(
    key: Path,
    licensee: str,
    expires: datetime,
    not_before: datetime | None,
    points: tuple[str, ...],
    languages: tuple[str, ...],
    out: Path,
) -> None:
    """Sign a licence; without --operating-point for every one."""
    spoken = sorted({family.language for family in catalogue().values() if family.language})
    start = not_before or now().replace(hour=0, minute=0, second=0, microsecond=0)
    terms = Licence(
        product=PRODUCT,
        licensee=licensee,
        not_before=start.replace(tzinfo=UTC),
        expires=expires.replace(tzinfo=UTC),
        operating_points=points or OPERATING_POINTS,
        languages=languages or tuple(spoken),
    )
    if terms.expires <= terms.not_before:
        cause = f"{_shown(terms.expires)} is not after {_shown(terms.not_before)}, when it begins"
        raise SettingError("--expires", cause, "Give a later day")
    print(summary(issue(terms, key, out), now()), end="")


@command.command("show")
@_licence
@_verbose
def show_command(path: Path) -> None:
    """Print a licence for people; it is not verified."""
    print(summary(read(path), now()), end="")


@command.command("verify")
@_licence
@_vendor_key
@click.option(
    "--operating-point", envvar="SM_OPERATING_POINT", show_envvar=True, help="Whether it is licensed as well."
)
@_verbose
def verify_command(path: Path, vendor_key: Path, operating_point: str | None) -> None:
    """Say whether a start would accept a licence; exit with the refusal's code otherwise."""
    licence = read(path)
    check_signature(licence, path, vendor_key)
    check_terms(licence, path, now())
    check_use(licence, path, operating_point, catalogue())
    print(f"{path} is genuine: {describe(licence, catalogue())}", file=sys.stderr)


def main() -> None:
    """Run the command line."""
    command_line.run(command)


if __name__ == "__main__":
    main()
