"""What OpenAI's endpoint answers where a transcript is whole, but not all that was requested was done."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from starlette.datastructures import UploadFile

from contract.errors import SettingError
from service import core
from service.openai.form import Granularity, ResponseFormat, TranscriptionRequest
from service.openai.routes import Work
from service.recognition import Transcriber, Wanted
from tests.unit.service.make import settings
from transcriber.pipeline import TranscriptionResult
from transcriber.transcript import Transcript

CAUSE = "no tokens of the model spell 'naïve 123'; 1 phrase is not used"


class Done:
    """A transcriber whose result has a keyword that is not used."""

    def transcribe(self, *_: object, **__: object) -> TranscriptionResult:
        transcript = Transcript(
            source="a.wav", duration_s=1.0, language="en", operating_point="standard", turns=(), losses=()
        )
        error = SettingError("additional_vocab", CAUSE, "Write the phrases as the model writes words")
        return TranscriptionResult(transcript=transcript, notes=(), errors=(error,))


def test_keywords_that_are_not_used_are_a_warning(tmp_path: Path) -> None:
    query = TranscriptionRequest(
        file=cast("UploadFile", None),
        wanted=Wanted(language="en"),
        format=ResponseFormat.JSON,
        granularities=frozenset({Granularity.SEGMENT}),
        is_streamed=False,
    )
    transcriber = cast("Transcriber", Done())
    with ThreadPoolExecutor(1) as threads:
        work = Work(core.make(settings(tmp_path)), transcriber, query, tmp_path / "a.wav", threads)
        answer = asyncio.run(work.whole())
    assert (answer.status_code, json.loads(bytes(answer.body))["warnings"]) == (200, [CAUSE])
    assert json.loads(answer.headers["X-Voxwright-Warnings"]) == [CAUSE]
