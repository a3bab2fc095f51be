"""Hours of audio an hour and sessions in real time, beside the networks alone and sherpa-onnx."""
