"""The service with TLS: published clients, unchanged, over https and wss, with an authority that the test makes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import Authority
from tests.integration import services
from tests.integration.services import Service
from tests.integration.serving import ROOT, Running

pytestmark = pytest.mark.integration
DIALOGUE = ROOT / "demo" / "dialogue.flac"
KEY = "0123456789abcdef0123"
FIRST_WORDS = "hello sarah good to have you back"
COMMAND_S = 300

JOBS = """
import asyncio, sys
from speechmatics.batch import AsyncClient, FormatType, TranscriptionConfig

async def main():
    async with AsyncClient(api_key=sys.argv[2], url=f"https://{sys.argv[1]}/v2") as client:
        config = TranscriptionConfig(language="en")
        print(await client.transcribe(sys.argv[3], transcription_config=config, format_type=FormatType.TXT))

asyncio.run(main())
"""
SESSION = """
import asyncio, sys
from speechmatics.rt import AsyncClient, ServerMessageType, TranscriptionConfig

async def main():
    async with AsyncClient(api_key=sys.argv[2], url=f"wss://{sys.argv[1]}/v2") as client:
        client.on(ServerMessageType.ADD_TRANSCRIPT, lambda message: print(message["metadata"]["transcript"], end=""))
        client.on(ServerMessageType.END_OF_TRANSCRIPT, lambda message: print("END"))
        with open(sys.argv[3], "rb") as file:
            await client.transcribe(file, transcription_config=TranscriptionConfig(language="en"))

asyncio.run(main())
"""
OPENAI = """
import sys
from openai import OpenAI

client = OpenAI(base_url=f"https://{sys.argv[1]}/v1", api_key=sys.argv[2], max_retries=0)
with open(sys.argv[3], "rb") as file:
    print(client.audio.transcriptions.create(file=file, model="whisper-1").text)
"""


@pytest.fixture(scope="module")
def service(server: Running, streams: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(f"alice {KEY}\n")
    authority = Authority(folder, "authority")
    pair = authority.issue("service", "localhost", "127.0.0.1")
    options = (
        f"--endpoint=127.0.0.1:{server.grpc}", f"--realtime-endpoint=127.0.0.1:{streams.grpc}",
        f"--tls-certificate={pair.certificate}", f"--tls-key={pair.key}", f"--api-keys={folder / 'keys'}",
        "--host=0.0.0.0",
    )  # fmt: skip
    with services.started(folder, *options, ca=authority.file) as running:
        yield running


def run(service: Service, folder: Path, *command: str, trusts: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a client, whose libraries read the authority from OpenSSL's own variable."""
    variables = services.environment_without_home(folder)
    if trusts:
        variables["SSL_CERT_FILE"] = str(service.ca)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=COMMAND_S, check=False)


def script(service: Service, folder: Path, text: str, *, trusts: bool = True) -> subprocess.CompletedProcess[str]:
    address = f"127.0.0.1:{service.port}"
    return run(service, folder, sys.executable, "-c", text, address, KEY, str(DIALOGUE), trusts=trusts)


@pytest.mark.parametrize("text", [JOBS, SESSION, OPENAI], ids=["batch", "rt", "openai"])
def test_https_clients_transcribe(service: Service, tmp_path: Path, text: str) -> None:
    done = script(service, tmp_path, text)
    assert done.returncode == 0, done.stderr
    assert FIRST_WORDS in done.stdout
    assert done.stdout.endswith("END\n") == (text is SESSION)


@pytest.mark.parametrize("text", [JOBS, SESSION, OPENAI], ids=["batch", "rt", "openai"])
def test_https_clients_that_do_not_know_the_authority_send_nothing(service: Service, tmp_path: Path, text: str) -> None:
    done = script(service, tmp_path, text, trusts=False)
    assert FIRST_WORDS not in done.stdout
    assert done.returncode != 0


def test_https_command_line_streams(service: Service, tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("speechmatics"))
    address = f"wss://127.0.0.1:{service.port}/v2"
    options = ["--url", address, "--auth-token", KEY, "--lang", "en"]
    done = run(service, tmp_path, program, "rt", "transcribe", str(DIALOGUE), *options)
    assert done.returncode == 0, done.stderr
    assert FIRST_WORDS in " ".join(done.stdout.split())


def test_https_probe_of_the_image_answers(service: Service, tmp_path: Path) -> None:
    """The image's health check trusts the certificate of its own container, which is for the public name."""
    variables = {
        **services.environment_without_home(tmp_path),
        "VOXWRIGHT_SERVICE_PORT": str(service.port),
        "VOXWRIGHT_SERVICE_TLS_CERTIFICATE": "set",
    }
    command = [sys.executable, "-m", "service.probe"]
    assert subprocess.run(command, cwd=ROOT, env=variables, timeout=COMMAND_S, check=False).returncode == 0


def test_https_port_refuses_plain_http(service: Service) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{service.port}/live")
    with service.client() as client:
        assert client.get("/live").status_code == 200
        assert client.get("/v2/jobs").status_code == 401
        listed = client.get("/v2/jobs", headers={"Authorization": f"Bearer {KEY}"})
        assert json.loads(listed.text)["jobs"] is not None
