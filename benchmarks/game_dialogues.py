"""Dialogues of real voices: the recordings of Debian's game Fish Fillets, in the order of the game's own program.

The package fillets-ng-data-nl has the recordings, one sentence each. The package fillets-ng-data has the program in
Lua: `dialogs_nl.lua` of a level states who speaks a sentence, and `code.lua` plans the sentences with the pauses before
them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.recordings import Dialogue, Turn
from contract.errors import AudioError
from transcriber.audio import Recording, Samples

SOUNDS, SCRIPTS = Path("/usr/share/games/fillets-ng/sound"), Path("/usr/share/games/fillets-ng/script")
LANGUAGE, RATE_HZ = "nl", 16_000
# The two fish of the player; other figures have few sentences, and perhaps the same voices.
LEADS = {"font_small": "small", "font_big": "big"}
SHORTEST_DIALOGUE = 8
"""Sentences; shorter dialogues are left out."""
_TICK_S = 0.1
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S, _EDGE_S = 0.2, 2.0, 0.5
# Where the loudness of 10 ms is this far below the loudest 10 ms of a sentence, nothing is spoken.
_SILENCE_DB = -35.0
_SENTENCE = re.compile(r'dialogId\("([^"]+)",\s*"([^"]+)"')
_PLANNED = re.compile(r'\badd([mv])\((.+?),\s*"([^"]+)"\s*\)')
_NUMBER = re.compile(r"\d+")
_REMEDY = "Install Debian's fillets-ng-data-nl and fillets-ng-data, or name the folders with --sounds and --scripts"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """A recorded sentence of a lead, and the pause before it."""

    path: Path
    speaker: str
    pause_s: float


def read_dialogues(sounds: Path, scripts: Path) -> dict[str, tuple[Sentence, ...]]:
    """Return by level the sentences of the leads, each once, in the order of the game's program.

    Raises AudioError where there are none.
    """
    found = {code.parent.name: tuple(_sentences(code, sounds)) for code in sorted(scripts.glob("*/code.lua"))}
    long = {
        name: each
        for name, each in found.items()
        if len(each) >= SHORTEST_DIALOGUE and len({sentence.speaker for sentence in each}) == len(LEADS)
    }
    if not long:
        raise AudioError(scripts, "there are no dialogues with recordings", _REMEDY)
    return long


def _sentences(code: Path, sounds: Path) -> Iterator[Sentence]:
    texts = code.with_name(f"dialogs_{LANGUAGE}.lua")
    if not texts.is_file():
        return
    speakers = dict(_SENTENCE.findall(texts.read_text(encoding="utf-8", errors="replace")))
    seen = set()
    for _, delay, name in _PLANNED.findall(code.read_text(encoding="utf-8", errors="replace")):
        path = sounds / code.parent.name / LANGUAGE / f"{name}.ogg"
        if name not in seen and speakers.get(name) in LEADS and path.is_file():
            yield Sentence(path=path, speaker=LEADS[speakers[name]], pause_s=_pause_s(delay))
        seen.add(name)


def _pause_s(delay: str) -> float:
    """Return the pause of a delay such as `5` or `random(10) + 5`, whose numbers are tenths of a second."""
    ticks = sum(map(int, _NUMBER.findall(delay)))
    return min(max(ticks * _TICK_S, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)


def samples_of(path: Path) -> Samples:
    """Return the samples of a recording at 16 kHz, without the silence at its ends; some recordings have no sound."""
    try:
        samples = np.concatenate(list(Recording(path, sample_rate_hz=RATE_HZ).blocks()))
    except AudioError:
        return np.zeros(0, dtype=np.float32)
    size = RATE_HZ // 100
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = (frames.astype(np.float64) ** 2).mean(axis=1)
    loud: NDArray[np.int64] = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (_SILENCE_DB / 10))
    return samples[loud[0] * size : (loud[-1] + 1) * size] if loud.size else samples[:0]


def write_dialogue(sentences: Sequence[Sentence], path: Path) -> Dialogue:
    """Write the sentences as one recording, with their pauses; return it with the times of its turns."""
    parts, turns, place = [np.zeros(round(_EDGE_S * RATE_HZ), dtype=np.float32)], [], round(_EDGE_S * RATE_HZ)
    for sentence in sentences:
        samples, pause = samples_of(sentence.path), round(sentence.pause_s * RATE_HZ)
        if samples.size == 0:
            continue
        parts += [np.zeros(pause, dtype=np.float32), samples]
        begin, place = place + pause, place + pause + len(samples)
        turns.append(Turn(speaker=sentence.speaker, start=begin / RATE_HZ, end=place / RATE_HZ))
    parts.append(parts[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), RATE_HZ, subtype="PCM_16")
    return Dialogue(path=path, turns=tuple(turns))


def changes(dialogue: Dialogue) -> int:
    """Return how often the speaker of a dialogue changes."""
    return sum(before.speaker != after.speaker for before, after in pairwise(dialogue.turns))
