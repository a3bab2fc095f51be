"""Requests to the real server with the real client: arrays in, arrays out."""

from typing import Any

import numpy as np
from tritonclient import grpc as triton

Arrays = dict[str, np.ndarray[Any, Any]]


def tensors(arrays: Arrays) -> list[triton.InferInput]:
    types = {"float16": "FP16", "float32": "FP32", "int32": "INT32"}
    made = [triton.InferInput(name, array.shape, types[str(array.dtype)]) for name, array in arrays.items()]
    for tensor, array in zip(made, arrays.values(), strict=True):
        tensor.set_data_from_numpy(array)
    return made


def infer(client: triton.InferenceServerClient, model: str, arrays: Arrays, *outputs: str) -> Any:
    wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
    return client.infer(model, tensors(arrays), outputs=wanted)
