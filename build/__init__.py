"""Build engine bundles from ONNX graphs offline, one bundle for each architecture."""
