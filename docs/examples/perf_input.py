"""Write the requests of NVIDIA's perf_analyzer from a recording: python perf_input.py recording.flac requests.json."""

import base64
import json
import sys
from pathlib import Path

import soundfile

RATE, SECONDS = 16_000, 8
samples, found_rate = soundfile.read(sys.argv[1], dtype="float32", always_2d=True)
if found_rate != RATE:
    sys.exit(f"the network needs {RATE} Hz, and the recording has {found_rate}")
size = SECONDS * RATE
pieces = [samples[start : start + size].mean(axis=1) for start in range(0, len(samples) - size + 1, size)]
requests = [
    {
        "audio": {"content": {"b64": base64.b64encode(piece.astype("<f4").tobytes()).decode()}, "shape": [size]},
        "audio_lengths": {"content": [size], "shape": [1]},
    }
    for piece in pieces
]
Path(sys.argv[2]).write_text(json.dumps({"data": requests}))
print(f"{len(requests)} requests of {SECONDS} s in {sys.argv[2]}")
