"""The synthetic speakers, and which of them are held out of training."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

# The voice names of espeak-ng that accept a `+variant`.
ACCENTS: Mapping[str, str] = MappingProxyType(
    {
        "american": "en-us",
        "british": "gmw/en",
        "scottish": "en-gb-scotland",
        "received": "en-gb-x-rp",
        "lancaster": "en-gb-x-gbclan",
        "caribbean": "en-029",
        "new-york": "en-us-nyc",
    }
)
HELD_OUT_ACCENT = "en-gb-x-gbcwmd"

# espeak-ng's variants except those that do not sound like a person (robots, whispers) and exact duplicates: `fast`
# sounds like the plain accent, `klatt` and `klatt6` like `caleb`.
VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "AnxiousAndy", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo",
    "Jacky", "Lee", "Marco", "Mike", "Mr serious", "Nguyen", "RicishayMax", "RicishayMax2", "RicishayMax3", "Storm",
    "Tweaky", "adam", "anika", "announcer", "antonio", "aunty", "benjamin", "boris", "caleb", "david", "ed",
    "edward", "f1", "f3", "f4", "grandma", "grandpa", "gustave", "iven", "iven2", "iven3", "iven4", "kaukovalta",
    "klatt2", "klatt3", "klatt4", "klatt5", "linda", "m1", "m2", "m4", "m6", "m7", "m8", "marcelo", "michel",
    "miguel", "norbert", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2",
    "travis", "victor", "zac",
)  # fmt: skip
HELD_OUT_VARIANTS = ("Annie", "Mario", "Michael", "belinda", "f5", "john", "m5", "max", "pablo")
# The speakers of the demonstration's dialogue: held out of training and of the choice of every threshold.
DIALOGUE_VARIANTS = ("m3", "f2")
PITCHES = (30, 55, 80)
PITCH_RANGE = (20, 90)

FLITE_VOICES = ("kal16", "awb", "slt")
HELD_OUT_FLITE_VOICE = "rms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """One synthetic speaker; `pitch` is espeak-ng's, 0 to 99, and flite has none."""

    synthesiser: str
    name: str
    pitch: int = 50

    @property
    def speaker(self) -> str:
        """Return the name that all utterances of this speaker are labelled with."""
        return f"{self.synthesiser}:{self.name}:{self.pitch}"


@cache
def training_voices() -> tuple[Voice, ...]:
    """Return the espeak-ng speakers of training: all variants at three clearly different pitches, accents in turn."""
    return _speakers(VARIANTS, tuple(ACCENTS.values()))


def any_voice(source: random.Random) -> Voice:
    """Draw a variant, an accent and a pitch of training independently."""
    name = f"{source.choice(tuple(ACCENTS.values()))}+{source.choice(VARIANTS)}"
    return Voice(synthesiser="espeak", name=name, pitch=source.randint(*PITCH_RANGE))


@cache
def held_out_voices() -> tuple[Voice, ...]:
    """Return the espeak-ng speakers of evaluation: unseen variants, a third of them with the unseen accent."""
    return _speakers(HELD_OUT_VARIANTS, (ACCENTS["american"], HELD_OUT_ACCENT, ACCENTS["received"]))


def unseen_voices() -> tuple[Voice, ...]:
    """Return the unseen variants with accents of the training."""
    return tuple(voice for voice in held_out_voices() if not voice.name.startswith(HELD_OUT_ACCENT))


@cache
def unseen_accent() -> tuple[Voice, ...]:
    """Return variants of the training with the accent that is in no training set."""
    return _speakers(VARIANTS, (HELD_OUT_ACCENT,))


def festival_voices() -> tuple[Voice, ...]:
    """Return the speaker of the synthesiser that is in no training set."""
    return (Voice(synthesiser="festival", name="voice_ked_diphone"),)


def unseen_flite() -> tuple[Voice, ...]:
    """Return the flite speaker of evaluation, as the only one."""
    return (held_out_flite_voice(),)


def flite_voices() -> tuple[Voice, ...]:
    """Return the flite speakers of training."""
    return tuple(Voice(synthesiser="flite", name=name) for name in FLITE_VOICES)


def held_out_flite_voice() -> Voice:
    """Return the one flite speaker of evaluation."""
    return Voice(synthesiser="flite", name=HELD_OUT_FLITE_VOICE)


def _speakers(variants: Sequence[str], accents: Sequence[str]) -> tuple[Voice, ...]:
    pairs = [(variant, pitch) for variant in variants for pitch in PITCHES]
    return tuple(
        Voice(synthesiser="espeak", name=f"{accents[index % len(accents)]}+{variant}", pitch=pitch)
        for index, (variant, pitch) in enumerate(pairs)
    )
