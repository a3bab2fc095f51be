"""What a stored configuration of a job requests of the recogniser."""

import json

from service.jobs import config
from service.recognition import Diarization, Wanted
from transcriber.phrases import Phrase


def test_wanted() -> None:
    transcription = {
        "language": "en",
        "operating_point": "standard",
        "diarization": "speaker",
        "speaker_diarization_config": {"max_speakers": 3, "speaker_sensitivity": 0.5},
        "additional_vocab": ["GPU", {"content": "Voxwright", "sounds_like": ["vox  right"]}, "GPU"],
    }
    read = config.read(json.dumps({"type": "transcription", "transcription_config": transcription}).encode())
    assert config.wanted(read.document()) == Wanted(
        language="en",
        operating_point="standard",
        diarization=Diarization.SPEAKER,
        vocabulary=(Phrase(content="GPU"), Phrase(content="Voxwright", sounds_like=("vox right",))),
        most_speakers=3,
    )


def test_defaults() -> None:
    read = config.read(json.dumps({"type": "transcription", "transcription_config": {"language": "en"}}).encode())
    assert config.wanted(read.document()) == Wanted(language="en")
