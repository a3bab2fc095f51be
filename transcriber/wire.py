"""Make the messages of inference requests, in which a tensor is copied once.

tritonclient copies every tensor into an object of its own, into the message and into the serialised message. An hour of
audio is 0.8 GB of tensors, because windows of speakers overlap. Here protobuf makes the message without the tensors,
and they are appended in its format: a message that follows another one adds to its fields.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

METHOD = "/inference.GRPCInferenceService/ModelInfer"
_LENGTH_DELIMITED = 2
_FIELD = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_TAG = bytes([_FIELD << 3 | _LENGTH_DELIMITED])


def message(
    model: str,
    inputs: Sequence[tuple[str, str, NDArray[Any]]],
    outputs: Iterable[str],
    parameters: Mapping[str, int | bool],
) -> bytes:
    """Return a serialised ModelInferRequest; inputs are names, Triton's types, and contiguous arrays of those types."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, kind, array in inputs:
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in parameters.items():
        parameter = request.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        else:
            parameter.int64_param = value
    parts: list[Any] = [request.SerializeToString()]
    for _, _, array in inputs:
        parts += (_TAG, varint(array.nbytes), array.reshape(-1).view(np.uint8))
    return b"".join(parts)


def varint(number: int) -> bytes:
    """Return a number in protobuf's form: seven bits a byte, the lowest first, with a flag where more follow."""
    found = bytearray()
    while number > 0x7F:  # noqa: PLR2004
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
