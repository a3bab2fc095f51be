"""Transcribe the first seconds of a recording over gRPC: python client_grpc.py recording.flac [host:port]."""

import json
import sys
from itertools import groupby

import numpy as np
import soundfile
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

MODEL, SECONDS = "ensemble_en_enhanced", 8
server = InferenceServerClient(sys.argv[2] if len(sys.argv) > 2 else "localhost:8001")
spec = json.loads(server.get_model_config(MODEL).config.parameters["client"].string_value)
tokens, rate = spec["tokens"], spec["audio"]["sample_rate_hz"]

samples, found_rate = soundfile.read(sys.argv[1], frames=SECONDS * rate, dtype="float32", always_2d=True)
if found_rate != rate:
    sys.exit(f"the network needs {rate} Hz, and the recording has {found_rate}")
audio = np.zeros((1, SECONDS * rate), dtype=np.float32)  # one of the sizes that the server takes
audio[0, : len(samples)] = samples.mean(axis=1)
lengths = np.array([[len(samples)]], dtype=np.int32)

inputs = [InferInput("audio", list(audio.shape), "FP32"), InferInput("audio_lengths", [1, 1], "INT32")]
inputs[0].set_data_from_numpy(audio)
inputs[1].set_data_from_numpy(lengths)
outputs = [InferRequestedOutput(name) for name in ("top_tokens", "encoder_lengths")]
result = server.infer(MODEL, inputs, outputs=outputs)

frames = result.as_numpy("encoder_lengths")[0, 0]
best = result.as_numpy("top_tokens")[0, :frames, 0].tolist()  # the most probable token of each frame
dropped = {tokens["blank"], *tokens["unspoken"]}
pieces = [tokens["pieces"][token] for token, _ in groupby(best) if token not in dropped]
if tokens["style"] == "delimiter":
    words = "".join(pieces).split(tokens["delimiter"])
else:
    words = pieces if tokens["style"] == "characters" else "".join(pieces).split("\u2581")
print(tokens["word_separator"].join(word for word in words if word))
