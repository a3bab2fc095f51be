"""Offline room: trained torch networks become ONNX graphs that keep every transcript."""
