"""Make the messages of inference requests, in which a tensor is copied once, and read the tensors of responses.

tritonclient copies every tensor into an object of its own, into the message and into the serialised message. An hour of
audio is 0.5 GB of tensors: both the recogniser and the speaker network take it. Here protobuf makes the message without
them, and they are appended in its format: a message that follows another one adds to its fields.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from transcriber.buckets import AudioBatch

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_LENGTH_DELIMITED = 2
_FIELD = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_TAG = bytes([_FIELD << 3 | _LENGTH_DELIMITED])


def message(
    model: str,
    inputs: Sequence[tuple[str, str, NDArray[Any] | AudioBatch]],
    outputs: Iterable[str],
    parameters: Mapping[str, int | bool],
) -> bytes:
    """Return a serialised ModelInferRequest; inputs are names, Triton's types, and contiguous arrays of those types."""
    parts: list[Any] = [_addressed(model, tuple(outputs)), _parameters(parameters)]
    parts += [_described(name, kind, array.shape) for name, kind, array in inputs]
    for _, _, array in inputs:
        parts += (_TAG, varint(array.nbytes))
        parts += array.parts() if isinstance(array, AudioBatch) else (array,)
    return b"".join(parts)


def tensors(response: Any) -> dict[str, NDArray[Any]]:
    """Return the tensors of a ModelInferResponse by their names."""
    return {
        output.name: np.frombuffer(content, dtype=triton_to_np_dtype(output.datatype)).reshape(tuple(output.shape))
        for output, content in zip(response.outputs, response.raw_output_contents, strict=False)
    }


def varint(number: int) -> bytes:
    """Return a number in protobuf's form: seven bits a byte, the lowest first, with a flag where more follow."""
    found = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


@functools.lru_cache(maxsize=64)
def _addressed(model: str, outputs: tuple[str, ...]) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name in outputs:
        request.outputs.add(name=name)
    return bytes(request.SerializeToString())


@functools.lru_cache(maxsize=1024)
def _described(name: str, kind: str, shape: tuple[int, ...]) -> bytes:
    request = service_pb2.ModelInferRequest()
    request.inputs.add(name=name, datatype=kind, shape=shape)
    return bytes(request.SerializeToString())


def _parameters(parameters: Mapping[str, int | bool]) -> bytes:
    if not parameters:
        return b""
    request = service_pb2.ModelInferRequest()
    for name, value in parameters.items():
        parameter = request.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        else:
            parameter.int64_param = value
    return bytes(request.SerializeToString())
