"""Exports trained torch networks to ONNX graphs that give the same transcripts; runs offline."""
