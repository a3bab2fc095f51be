"""Tests of transcriber/wire.py against tritonclient's own messages."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from transcriber import wire
from transcriber.buckets import AudioBatch

INPUTS: dict[str, tuple[str, NDArray[Any]]] = {
    "audio": ("FP32", np.random.default_rng(1).normal(0, 0.1, (3, 32_000)).astype(np.float32)),
    "audio_lengths": ("INT32", np.array([[32_000], [7], [0]], dtype=np.int32)),
    "encoder_out": ("FP16", np.arange(60, dtype=np.float16).reshape(1, 5, 12)),
    "nothing": ("INT32", np.empty((1, 0), dtype=np.int32)),
}


def expected(**sequence: int) -> Any:
    """Return the message that tritonclient sends."""
    inputs = [InferInput(name, list(array.shape), kind) for name, (kind, array) in INPUTS.items()]
    for tensor, (_, array) in zip(inputs, INPUTS.values(), strict=True):
        tensor.set_data_from_numpy(array)
    stated = {"sequence_id": 0, "sequence_start": False, "sequence_end": False, **sequence}
    fixed = {"model_version": "", "request_id": "", "priority": 0, "timeout": None, "parameters": None}
    return _get_inference_request(
        model_name="model", inputs=inputs, outputs=[InferRequestedOutput("embedding")], **stated, **fixed
    )


@pytest.mark.parametrize(
    "sequence", [{}, {"sequence_id": 2**62 + 1, "sequence_start": True, "sequence_end": False}], ids=["alone", "stream"]
)
def test_message_is_that_of_tritonclient(sequence: dict[str, int]) -> None:
    inputs = [(name, kind, array) for name, (kind, array) in INPUTS.items()]
    found = service_pb2.ModelInferRequest.FromString(wire.message("model", inputs, ["embedding"], sequence))
    assert found == expected(**sequence)


def test_batch_of_audio_is_sent_as_the_array_that_it_stands_for() -> None:
    rows = [np.ones(2, np.float32), np.full(4, 0.5, np.float32)]
    array = np.array([[1, 1, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    found, expected = (
        wire.message("model", [("audio", "FP32", each)], ["embedding"], {})
        for each in (AudioBatch(items=rows, size=4), array)
    )
    assert found == expected


def test_reads_the_tensors_that_tritonclient_reads() -> None:
    response = service_pb2.ModelInferResponse()
    for name, (kind, array) in INPUTS.items():
        response.outputs.add(name=name, datatype=kind, shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    found, expected = wire.tensors(response), InferResult(response)
    assert list(found) == list(INPUTS)
    for name, array in found.items():
        assert array.dtype == INPUTS[name][1].dtype
        np.testing.assert_array_equal(array, expected.as_numpy(name), strict=True)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**14 - 1, 2**14, 2**28, 2**40])
def test_varint_has_seven_bits_a_byte(number: int) -> None:
    """As protobuf writes the value of an integer field, after one byte for its tag."""
    parameter = service_pb2.InferParameter(int64_param=number)
    assert wire.varint(number) == parameter.SerializeToString()[1:]
