"""Define samples without a header: `--raw mulaw:8000:2`."""

from dataclasses import dataclass

from contract.errors import SettingError

FORMATS = (
    *("mulaw", "alaw", "s8", "u8", "s16le", "s16be", "s24le", "s24be"),
    *("s32le", "s32be", "f32le", "f32be", "f64le", "f64be"),
)
_RATES_HZ = range(1_000, 768_001)
_CHANNELS = range(1, 65)
_FORM = "FORMAT:RATE or FORMAT:RATE:CHANNELS"


@dataclass(frozen=True, kw_only=True, slots=True)
class RawFormat:
    """The format, rate and channels of samples without a header; the formats are libav's names."""

    name: str
    sample_rate_hz: int
    channels: int = 1

    @property
    def options(self) -> dict[str, str]:
        """Return the options of libav's demuxer."""
        return {"sample_rate": str(self.sample_rate_hz), "ch_layout": f"{self.channels}C"}


def parse(text: str) -> RawFormat:
    """Return the format of `FORMAT:RATE[:CHANNELS]`; raise SettingError for anything else."""
    parts = text.split(":")
    if not 2 <= len(parts) <= 3 or not all(part.isascii() and part.isdecimal() for part in parts[1:]):  # noqa: PLR2004
        raise SettingError("--raw", f"{text!r} is not of the form {_FORM}", "Use for example mulaw:8000 or s16le:16000")
    name, rate_hz, channels = parts[0], int(parts[1]), int((*parts, "1")[2])
    if name not in FORMATS:
        raise SettingError("--raw", f"{name!r} is not a format", f"Use one of {', '.join(FORMATS)}")
    _check("rate", rate_hz, _RATES_HZ)
    _check("number of channels", channels, _CHANNELS)
    return RawFormat(name=name, sample_rate_hz=rate_hz, channels=channels)


def _check(what: str, number: int, known: range) -> None:
    if number not in known:
        raise SettingError("--raw", f"the {what} is {number}", f"Use a {what} from {known[0]} to {known[-1]}")
