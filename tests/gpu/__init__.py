"""Tests on a real GPU with a real TensorRT: opt in with `-m gpu`."""
