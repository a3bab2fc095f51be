"""Offline room: ONNX graphs become engine bundles, one an architecture."""
