"""Speech synthesis with espeak-ng through its C interface: samples, and the start of every phoneme."""

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from training.errors import MissingProgramError

# From espeak-ng/speak_lib.h.
_SYNCHRONOUS = 2
_PHONEME_EVENTS = 0x0001
_DO_NOT_EXIT = 0x8000
_CHARS_UTF8 = 1
_END_PAUSE = 0x1000
_POSITION_CHARACTER = 1
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_EVENT_END_OF_LIST = 0
_EVENT_PHONEME = 7


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, kw_only=True, slots=True)
class EspeakSpeech:
    """Samples in [-1, 1) at `rate_hz`, and the start in seconds of every phoneme ("" is silence)."""

    samples: NDArray[np.float32]
    rate_hz: int
    phonemes: tuple[tuple[float, str], ...]


def speak(text: str, voice: str, *, words_per_minute: int, pitch: int, pitch_range: int = 50) -> EspeakSpeech:
    """Synthesise one text; `voice` as in `en-gb+f2`, `pitch` and its range from 0 to 99.

    Raises MissingProgramError without libespeak-ng, ValueError for an unknown voice.
    """
    library, rate_hz = _library()
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_PITCH_RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    _COLLECTED.clear()
    data = text.encode()
    library.espeak_Synth(data, len(data) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8 | _END_PAUSE, None, None)
    samples = np.frombuffer(b"".join(_COLLECTED.samples), dtype=np.int16).astype(np.float32) / 32_768.0
    return EspeakSpeech(samples=samples, rate_hz=rate_hz, phonemes=tuple(_COLLECTED.phonemes))


class _Collected:
    """The samples and phonemes that the callback of the library has received."""

    def __init__(self) -> None:
        self.samples: list[bytes] = []
        self.phonemes: list[tuple[float, str]] = []

    def clear(self) -> None:
        """Remove the data of the last text."""
        self.samples.clear()
        self.phonemes.clear()


_COLLECTED = _Collected()


def _collect(wave: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]") -> int:
    if wave and count > 0:
        _COLLECTED.samples.append(ctypes.string_at(wave, count * 2))
    index = 0
    while events[index].type != _EVENT_END_OF_LIST:
        event = events[index]
        if event.type == _EVENT_PHONEME:
            name = event.id.string.decode(errors="replace")
            _COLLECTED.phonemes.append((event.audio_position / 1000.0, name))
        index += 1
    return 0


# A module attribute, so that it is not garbage-collected while the library can still call it.
_CALLBACK = _Callback(_collect)


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    # The soname first: find_library needs a compiler or ldconfig, which a minimal machine may not have.
    for name in ("libespeak-ng.so.1", ctypes.util.find_library("espeak-ng")):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            rate_hz = library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _DO_NOT_EXIT)
            library.espeak_SetSynthCallback(_CALLBACK)
            return library, int(rate_hz)
    raise MissingProgramError("libespeak-ng")
