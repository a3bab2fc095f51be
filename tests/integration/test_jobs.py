"""Batch jobs with the published clients, unchanged, against the real server with the reference networks."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from jsonschema import Draft202012Validator
from speechmatics import batch
from speechmatics.batch import (
    AsyncClient,
    FormatType,
    JobConfig,
    JobStatus,
    JobType,
    TranscriptionConfig,
)
from speechmatics.batch._models import TrackingConfig

from demo.scores import score
from service.jobs.database import Database
from service.jobs.records import Claim, Job, State, new_id
from tests.integration import services
from tests.integration.reference import ROOT
from tests.integration.services import Service, submit
from tests.integration.serving import Running

pytestmark = pytest.mark.integration
DIALOGUE = ROOT / "demo" / "dialogue.flac"
REFERENCE = json.loads((ROOT / "demo" / "dialogue.json").read_text())
SCHEMA = Draft202012Validator(json.loads((ROOT / "transcriber" / "json-v2.schema.json").read_text()))
SPEAKERS = TranscriptionConfig(language="en", diarization="speaker")
FIRST_WORDS = "hello sarah good to have you back"
COMMAND_S = 120


@pytest.fixture(scope="module")
def service(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with services.started(folder, f"--endpoint=127.0.0.1:{server.grpc}") as running:
        yield running


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the first three seconds of the dialogue."""
    path = tmp_path_factory.mktemp("audio") / "short.wav"
    samples, rate = soundfile.read(DIALOGUE, frames=3 * 16_000)
    soundfile.write(path, samples, rate)
    return path


async def with_client(service: Service, work: Any) -> Any:
    async with AsyncClient(api_key="none", url=service.api) as client:
        return await work(client)


def test_client_transcribes_in_every_format(service: Service) -> None:
    async def work(client: AsyncClient) -> Any:
        job = await client.submit_job(str(DIALOGUE), transcription_config=SPEAKERS)
        found = await client.wait_for_completion(job.id)
        texts = [await client.get_transcript(job.id, format_type=each) for each in (FormatType.TXT, FormatType.SRT)]
        return job, found, *texts, await client.get_job_info(job.id)

    job, found, text, subtitles, shown = asyncio.run(with_client(service, work))
    assert isinstance(found, batch.Transcript)
    assert (found.job.id, found.job.data_name, found.job.duration) == (job.id, "dialogue.flac", 69.015)
    assert found.metadata.type == "transcription"
    assert {best.language for each in found.results for best in each.alternatives or ()} == {"en"}
    assert FIRST_WORDS in found.transcript_text
    assert text.startswith(f"SPEAKER: S1\n{FIRST_WORDS}")
    assert "\nSPEAKER: S2\n" in text
    assert subtitles.startswith("1\n00:00:00,")
    assert (shown.status, shown.duration) == (JobStatus.DONE, 69.015)
    assert shown.config.transcription_config.diarization == "speaker"


def test_words_are_those_of_the_reference(service: Service, tmp_path: Path) -> None:
    """The transcript of the service is as good as that of the command line."""
    with service.client() as client:
        config = {"language": "en", "model": "enhanced", "diarization": "speaker"}
        job = submit(client, DIALOGUE, "dialogue.flac", transcription_config=config).json()["id"]
        document = client.get(f"/v2/jobs/{job}/transcript?wait=60").json()
    assert [error.message for error in SCHEMA.iter_errors(document)] == []
    assert score(document, REFERENCE).word_error_rate <= 0.05


def test_client_lists_and_deletes(service: Service, short: Path) -> None:
    async def work(client: AsyncClient) -> Any:
        config = JobConfig(
            type=JobType.TRANSCRIPTION,
            transcription_config=TranscriptionConfig(language="en", additional_vocab=[{"content": "Voxwright"}]),
            tracking=TrackingConfig(title="first", tags=["a"]),
        )
        first = await client.submit_job(str(short), config=config)
        await client.wait_for_completion(first.id)
        second = await client.submit_job(str(short))
        await client.wait_for_completion(second.id)
        shown = await client.get_job_info(first.id)
        before = [job.id for job in await client.list_jobs(limit=2)]
        older = [job.id for job in await client.list_jobs(created_before=shown.created_at)]
        await client.delete_job(first.id)
        after = [job.id for job in await client.list_jobs()]
        with pytest.raises(batch.JobError):
            await client.get_job_info(first.id)
        with pytest.raises(batch.JobError):
            await client.delete_job(first.id)
        return first, second, shown, before, older, after

    first, second, shown, before, older, after = asyncio.run(with_client(service, work))
    assert before == [second.id, first.id]
    assert first.id not in older
    assert second.id not in older
    assert first.id not in after
    assert second.id in after
    assert shown.config.tracking.title == "first"


def test_client_waits_within_the_submission(service: Service, short: Path) -> None:
    async def work(client: AsyncClient) -> Any:
        return await client.submit_job(str(short), wait=60)

    job = asyncio.run(with_client(service, work))
    assert job.status == JobStatus.DONE
    assert job.transcript.transcript_text.startswith("hello sarah")


def test_client_reports_rejected_recordings(service: Service, tmp_path: Path) -> None:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"no sound at all" * 100)

    async def work(client: AsyncClient) -> Any:
        job = await client.submit_job(str(path))
        with pytest.raises(batch.JobError, match="rejected"):
            await client.wait_for_completion(job.id)
        return await client.get_job_info(job.id)

    shown = asyncio.run(with_client(service, work))
    assert shown.status == JobStatus.REJECTED
    assert [error.message for error in shown.errors] == [
        "it cannot be decoded as a recording: another kind of file, or a damaged or incomplete one"
    ]


def test_synchronous_client(service: Service, short: Path) -> None:
    with batch.Client(api_key="none", url=service.api) as client:
        found = client.transcribe(str(short), format_type=FormatType.TXT)
    assert isinstance(found, str)
    assert found.startswith("hello sarah")


def old(service: Service, folder: Path, *arguments: str) -> str:
    """Run the old command line with an empty home folder, and return what it prints."""
    command = [f"{Path(sys.executable).parent}/speechmatics", "batch", *arguments, "--url", service.api]
    environment = services.environment_without_home(folder)
    done = subprocess.run(
        [*command, "--auth-token", "none"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_old_command_line(service: Service, short: Path, tmp_path: Path) -> None:
    printed = old(service, tmp_path, "transcribe", str(short), "--output-format", "json-v2")
    document = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert [error.message for error in SCHEMA.iter_errors(document)] == []
    text = old(service, tmp_path, "transcribe", str(short), "--output-format", "txt", "--diarization", "speaker")
    assert "SPEAKER: S1\nhello sarah" in text
    assert "-->" in old(service, tmp_path, "transcribe", str(short), "--output-format", "srt")
    job = document["job"]["id"]
    assert job in old(service, tmp_path, "list-jobs")
    assert '"done"' in old(service, tmp_path, "job-status", "--job-id", job).replace("'", '"')
    assert "hello sarah" in old(service, tmp_path, "get-results", "--job-id", job, "--output-format", "txt")
    assert f"Job {job} deleted" in old(service, tmp_path, "delete", "--job-id", job)
    assert "successfully, job ID: " in old(service, tmp_path, "submit", str(short))


def test_old_command_line_does_not_wait_its_fifteen_seconds(service: Service, short: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    old(service, tmp_path, "transcribe", str(short))
    assert time.monotonic() - started < 14, "the status was not held back until the job ended"


def test_clients_read_a_job_with_progress(service: Service, tmp_path: Path) -> None:
    """The row is that of a job which another service holds, so it stays as it is while clients look."""
    database = Database(f"sqlite:///{service.folder}/jobs.sqlite")
    made = Job(
        id=new_id(), client="", state=State.RUNNING, created_us=database.now_us(), data_name="a.wav", data_key="x",
        config={"type": "transcription", "transcription_config": {"language": "en"}},
    )  # fmt: skip
    held: list[Claim] = []
    with service.client() as client:
        while not held:
            assert database.find(made.id) or database.add(made, most_unfinished=9)
            claim = database.claim(600)
            held += [claim] if claim is not None and claim.job.id == made.id else []
            assert held or claim is None
            # The service tried it first, found no recording and gave it back for a while.
            time.sleep(0 if held else 0.2)
        try:
            assert "progress" not in client.get(f"/v2/jobs/{made.id}?wait=0").json()["job"]
            database.note_progress(held[0], 1 / 3)
            assert client.get(f"/v2/jobs/{made.id}?wait=0").json()["job"]["progress"] == 0.333

            async def work(client: AsyncClient) -> Any:
                return await client.get_job_info(made.id), await client.list_jobs()

            shown, listed = asyncio.run(with_client(service, work))
            assert (shown.id, shown.status) == (made.id, JobStatus.RUNNING)
            assert made.id in [job.id for job in listed]
            assert "running" in old(service, tmp_path, "job-status", "--job-id", made.id)
            assert made.id in old(service, tmp_path, "list-jobs")
        finally:
            assert client.delete(f"/v2/jobs/{made.id}?force=true").is_success
            database.close()


def test_job_without_language_has_the_usual_one(service: Service, short: Path) -> None:
    with service.client() as client:
        job = submit(client, short, transcription_config={}).json()["id"]
        document = client.get(f"/v2/jobs/{job}/transcript?wait=60").json()
        assert document["metadata"]["transcription_config"]["language"] == "en"
        assert client.get(f"/v2/jobs/{job}").json()["job"]["config"]["transcription_config"] == {"language": "en"}


def test_npm_client(service: Service, short: Path, npm_clients: Path) -> None:
    command = ["node", "batch.mjs", service.url, str(short)]
    done = subprocess.run(command, cwd=npm_clients, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["text"].startswith("SPEAKER: S1\nhello sarah")
    assert [error.message for error in SCHEMA.iter_errors(found["json"])] == []
    assert found["json"]["job"]["id"] in found["listed"]
    assert (found["deleted"]["id"], found["deleted"]["status"]) == (found["json"]["job"]["id"], "deleted")
    assert "Job not found" in found["missing"], "the client knows the name of the error"


def test_recording_before_the_configuration(service: Service, short: Path) -> None:
    """The client in JavaScript sends the parts in this order, and no type that helps."""
    config = ("config", (None, json.dumps({"type": "transcription", "transcription_config": {"language": "en"}})))
    data = ("data_file", ("short.wav", short.read_bytes(), "application/octet-stream"))
    with service.client() as client:
        job = client.post("/v2/jobs/", files=[data, config])
        assert job.status_code == 201
        assert client.get(f"/v2/jobs/{job.json()['id']}/transcript?wait=60&format=txt").text.startswith("hello sarah")


def test_subtitles_have_the_requested_shape(service: Service) -> None:
    with service.client() as client:
        shape = {"srt_overrides": {"max_line_length": 20, "max_lines": 1}}
        job = submit(client, DIALOGUE, output_config=shape).json()["id"]
        lines = client.get(f"/v2/jobs/{job}/transcript?wait=60&format=srt").text.splitlines()
        vtt = client.get(f"/v2/jobs/{job}/transcript?format=vtt")
    assert max(map(len, lines)) <= 30
    assert vtt.headers["content-type"].startswith("text/vtt")
    assert vtt.text.startswith("WEBVTT\n")


def test_channels(service: Service, tmp_path: Path) -> None:
    samples, rate = soundfile.read(DIALOGUE, frames=12 * 16_000)
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, [[left, 0.0] for left in samples], rate)
    config = {"language": "en", "diarization": "channel", "channel_diarization_labels": ["agent", "caller"]}
    with service.client() as client:
        job = submit(client, stereo, transcription_config=config).json()["id"]
        document = client.get(f"/v2/jobs/{job}/transcript?wait=60").json()
        text = client.get(f"/v2/jobs/{job}/transcript?format=txt").text
    assert [error.message for error in SCHEMA.iter_errors(document)] == []
    assert {result["channel"] for result in document["results"]} == {"agent"}
    assert text.startswith("SPEAKER: agent\nhello sarah")


def test_command_line_writes_what_the_schema_describes(server: Running, tmp_path: Path) -> None:
    target = tmp_path / "dialogue.json"
    command = [sys.executable, "-m", "transcriber", str(DIALOGUE), "--endpoint", f"127.0.0.1:{server.grpc}"]
    subprocess.run([*command, "--output", str(target)], cwd=ROOT, check=True, capture_output=True)
    document = json.loads(target.read_text())
    assert [error.message for error in SCHEMA.iter_errors(document)] == []
    assert document["job"]["data_name"] == "dialogue.flac"
    found = batch.Transcript.from_dict(document)
    assert FIRST_WORDS in found.transcript_text
