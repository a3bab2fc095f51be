"""Transcribe the first seconds of a recording over HTTP: python client_http.py recording.flac [URL]."""

import json
import sys
from itertools import groupby
from urllib.request import Request, urlopen

import numpy as np
import soundfile

MODEL, SECONDS = "ensemble_en_enhanced", 8
URL = f"{sys.argv[2] if len(sys.argv) > 2 else 'http://localhost:8000'}/v2/models/{MODEL}"
with urlopen(f"{URL}/config") as response:
    spec = json.loads(json.load(response)["parameters"]["client"]["string_value"])
tokens, rate = spec["tokens"], spec["audio"]["sample_rate_hz"]

samples, found_rate = soundfile.read(sys.argv[1], frames=SECONDS * rate, dtype="float32", always_2d=True)
if found_rate != rate:
    sys.exit(f"the network needs {rate} Hz, and the recording has {found_rate}")
audio = np.zeros((1, SECONDS * rate), dtype="<f4")  # one of the sizes that the server takes
audio[0, : len(samples)] = samples.mean(axis=1)
lengths = np.array([[len(samples)]], dtype="<i4")

# Audio as binary data behind the JSON; without `binary_data_output` the answer is JSON.
size = {"parameters": {"binary_data_size": audio.nbytes}}
inputs = [
    {"name": "audio", "shape": audio.shape, "datatype": "FP32", **size},
    {"name": "audio_lengths", "shape": [1, 1], "datatype": "INT32", "data": lengths.tolist()},
]
outputs = [{"name": "top_tokens"}, {"name": "encoder_lengths"}]
head = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
headers = {"Inference-Header-Content-Length": str(len(head))}
with urlopen(Request(f"{URL}/infer", head + audio.tobytes(), headers)) as response:
    answer = {each["name"]: np.reshape(each["data"], each["shape"]) for each in json.load(response)["outputs"]}

frames = answer["encoder_lengths"][0, 0]
best = answer["top_tokens"][0, :frames, 0].tolist()  # the most probable token of each frame
dropped = {tokens["blank"], *tokens["unspoken"]}
pieces = [tokens["pieces"][token] for token, _ in groupby(best) if token not in dropped]
if tokens["style"] == "delimiter":
    words = "".join(pieces).split(tokens["delimiter"])
else:
    words = pieces if tokens["style"] == "characters" else "".join(pieces).split("\u2581")
print(tokens["word_separator"].join(word for word in words if word))
