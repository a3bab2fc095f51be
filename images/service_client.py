"""Call the service as an application does, within the service's container, and print the transcript.

python3 service_client.py MODE RECORDING KEYS
MODE is job, openai or session; KEYS is the service's file of keys. Only packages of the image are used.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from websockets.sync.client import connect

READY_S, WAIT_S = 120, 120
_ADDRESS = "127.0.0.1:8080"
_FRAME_BYTES = 16_384


def main(mode: str, recording: Path, key: str) -> None:
    """Wait until the service is ready, transcribe a recording, and print the text."""
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=f"http://{_ADDRESS}", timeout=WAIT_S, headers=headers) as client:
        wait_ready(client)
        refused = client.get("/v2/jobs", headers={"Authorization": "Bearer other"}).status_code
        if refused != 401:  # noqa: PLR2004
            sys.exit(f"a wrong key was answered with {refused}")
        print(MODES[mode](client, recording, key))


def wait_ready(client: httpx.Client) -> None:
    """Wait for /ready; exit with its problems on timeout."""
    end, reason = time.monotonic() + READY_S, ""
    while time.monotonic() < end:
        try:
            answer = client.get("/ready")
        except httpx.TransportError as error:
            reason = str(error)
        else:
            if answer.is_success:
                return
            reason = answer.text
        time.sleep(0.2)
    sys.exit(f"the service is not ready: {reason}")


def job(client: httpx.Client, recording: Path, _: str) -> str:
    """Submit a batch job, wait for its end, and return the transcript."""
    config = json.dumps({"type": "transcription", "transcription_config": {"language": "en"}})
    files = {"data_file": (recording.name, recording.read_bytes())}
    submitted = client.post("/v2/jobs", data={"config": config}, files=files).raise_for_status().json()
    path, end = f"/v2/jobs/{submitted['id']}", time.monotonic() + WAIT_S
    while (status := client.get(path, params={"wait": 20}).raise_for_status().json()["job"])["status"] == "running":
        if time.monotonic() > end:
            break
    if status["status"] != "done":
        sys.exit(f"the job did not end: {status}")
    return client.get(f"{path}/transcript", params={"format": "txt"}).raise_for_status().text


def openai(client: httpx.Client, recording: Path, _: str) -> str:
    """Return the transcript of OpenAI's endpoint."""
    form = {"model": "whisper-1", "response_format": "text"}
    files = {"file": (recording.name, recording.read_bytes())}
    return client.post("/v1/audio/transcriptions", data=form, files=files).raise_for_status().text


def session(_: httpx.Client, recording: Path, key: str) -> str:
    """Send a recording through a real-time session, and return its final words."""
    text, audio = "", recording.read_bytes()
    headers = {"Authorization": f"Bearer {key}"}
    with connect(f"ws://{_ADDRESS}/v2", additional_headers=headers, open_timeout=WAIT_S) as socket:
        config = {"audio_format": {"type": "file"}, "transcription_config": {"language": "en"}}
        socket.send(json.dumps({"message": "StartRecognition", **config}))
        _expect(socket.recv(WAIT_S), "RecognitionStarted")
        frames = [audio[start : start + _FRAME_BYTES] for start in range(0, len(audio), _FRAME_BYTES)]
        for frame in frames:
            socket.send(frame)
        socket.send(json.dumps({"message": "EndOfStream", "last_seq_no": len(frames)}))
        while (message := json.loads(socket.recv(WAIT_S)))["message"] != "EndOfTranscript":
            if message["message"] == "Error":
                sys.exit(f"the session failed: {message}")
            if message["message"] == "AddTranscript":
                text += message["metadata"]["transcript"]
    return text


def _expect(received: str | bytes, name: str) -> None:
    message = json.loads(received)
    if message["message"] != name:
        sys.exit(f"expected {name}: {message}")


MODES: dict[str, Callable[[httpx.Client, Path, str], str]] = {"job": job, "openai": openai, "session": session}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).read_text().split()[1])
