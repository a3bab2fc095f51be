"""Test the request with a known answer, and that every wrong response is rejected."""

import dataclasses
import json
import math
import statistics
import struct
from typing import Any

import pytest

from runtime import answers
from runtime.answers import Array, Arrays
from tests.unit.runtime import synthetic

FAMILIES = synthetic.FAMILIES
ENCODER_SIZE, FRAMES, TOP = 3, 4, 2


def metadata(family: str) -> dict[str, Any]:
    """Return a server's metadata of a model's inputs; only the encoder's size is fixed."""
    known = {"encoder_size": ENCODER_SIZE}
    return {
        "inputs": [
            {"name": tensor.name, "shape": [-1, *([known.get(str(axis), -1) for axis in tensor.shape] or [1])]}
            for tensor in FAMILIES[family].inputs
        ]
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_makes_a_request_for_every_model_of_the_catalogue(family: str) -> None:
    request = answers.make_request(FAMILIES[family], metadata(family))
    assert list(request) == [tensor.name for tensor in FAMILIES[family].inputs]
    for array in request.values():
        assert len(array.values) == math.prod(array.shape)
        assert array.shape[0] == 2
        first, second = array.items()
        assert first == second


def test_request_for_the_ensemble() -> None:
    request = answers.make_request(FAMILIES["ensemble_en"], metadata("ensemble_en"))
    assert {name: (array.type, array.shape) for name, array in request.items()} == {
        "audio": ("FP32", (2, 32000)),
        "audio_lengths": ("INT32", (2, 1)),
    }
    assert list(request["audio_lengths"].values) == [32000, 32000]
    # Noise as loud as the catalogue states, and the same each time.
    audio = request["audio"].values
    assert statistics.fmean(audio) == pytest.approx(0.0, abs=0.0002)
    assert statistics.pstdev(audio) == pytest.approx(0.003, abs=0.0002)
    assert answers.make_request(FAMILIES["ensemble_en"], metadata("ensemble_en")) == request


def test_request_for_the_decoder() -> None:
    request = answers.make_request(FAMILIES["decoder"], metadata("decoder"))
    assert {name: (array.type, array.shape, array.values[0]) for name, array in request.items()} == {
        "encoder_out": ("FP16", (2, 48, ENCODER_SIZE), request["encoder_out"].values[0]),
        "encoder_lengths": ("INT32", (2, 1), 48),
        "hypotheses": ("INT32", (2, 4, 16), 0),
        "hypothesis_lengths": ("INT32", (2, 4), 16),
    }


def test_binary_tensors() -> None:
    request = {
        "x": Array(type="FP16", shape=(1, 2), values=(1.5, -2.0)),
        "n": Array(type="INT32", shape=(1, 1), values=(-7,)),
    }
    body, headers = answers.encode(request)
    length = int(headers["Inference-Header-Content-Length"])
    assert json.loads(body[:length]) == {
        "inputs": [
            {"name": "x", "shape": [1, 2], "datatype": "FP16", "parameters": {"binary_data_size": 4}},
            {"name": "n", "shape": [1, 1], "datatype": "INT32", "parameters": {"binary_data_size": 4}},
        ],
        "parameters": {"binary_data_output": True},
    }
    assert body[length:] == b"\x00\x3e\x00\xc0\xf9\xff\xff\xff"
    body_of_response = {"outputs": json.loads(body[:length])["inputs"]}
    head = json.dumps(body_of_response).encode()
    assert answers.decode(head + body[length:], len(head)) == request


@pytest.mark.parametrize("cut", [1, 4, 30])
def test_rejects_truncated_response(cut: int) -> None:
    outputs = [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]
    head = json.dumps({"outputs": outputs}).encode()
    with pytest.raises((ValueError, struct.error)):
        answers.decode((head + bytes(8))[:-cut], len(head))


def floats(shape: tuple[int, ...], *values: float) -> Array:
    return Array(type="FP32", shape=shape, values=values * (math.prod(shape) // len(values)))


def half(shape: tuple[int, ...], *values: float) -> Array:
    return dataclasses.replace(floats(shape, *values), type="FP16")


def integers(shape: tuple[int, ...], *values: int) -> Array:
    return dataclasses.replace(floats(shape, *values), type="INT32")


RIGHT: dict[str, Arrays] = {
    "ensemble_en": {
        "top_log_probs": floats((2, FRAMES, TOP), math.log(0.7), math.log(0.3)),
        "top_tokens": integers((2, FRAMES, TOP), 5, 0),
        "encoder_out": half((2, FRAMES, ENCODER_SIZE), 0.5),
        "encoder_lengths": integers((2, 1), FRAMES),
    },
    "decoder": {"scores": floats((2, 16), -20.0)},
    "diar": {"embedding": floats((2, 1, 4), 0.5)},
}


def problem(family: str, **changes: Array) -> str | None:
    request = answers.make_request(FAMILIES[family], metadata(family))
    return answers.validate_response(FAMILIES[family], request, {**RIGHT[family], **changes})


@pytest.mark.parametrize("family", RIGHT)
def test_accepts_correct_response(family: str) -> None:
    assert problem(family) is None


NAN, HALF = float("nan"), math.log(0.5)
PADDED = (*(math.log(0.7), math.log(0.3)) * (FRAMES - 1), 5.0, 6.0)


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("diar", {"embedding": half((2, 1, 4), 0.5)}, "embedding is FP16, not FP32"),
        ("diar", {"embedding": floats((1, 1, 4), 0.5)}, "embedding has shape [1, 1, 4] for 2 items"),
        ("diar", {"embedding": floats((2, 4), 0.5)}, "embedding has shape [2, 4] for 2 items"),
        ("decoder", {"scores": Array(type="FP32", shape=(2, 0), values=())}, "scores has shape [2, 0] for 2 items"),
        ("diar", {"embedding": floats((2, 1, 4), 0.5, NAN)}, "embedding is not finite"),
        ("diar", {"embedding": floats((2, 1, 4), 1.0)}, "embedding has norm 2.000, not 1"),
        ("diar", {"embedding": floats((2, 1, 4), 0.0)}, "embedding has norm 0.000, not 1"),
        (
            "diar",
            {"embedding": floats((2, 1, 4), 1, 0, 0, 0, 0, 1, 0, 0)},
            "embedding differs between two equal items",
        ),
        ("decoder", {"scores": floats((2, 16), 0.5)}, "scores has a probability above 1"),
        ("decoder", {"scores": floats((2, 16), -20.0, -9.0)}, "scores differ between equal hypotheses"),
        ("decoder", {"scores": floats((2, 16), float("-inf"))}, "scores is not finite"),
        (
            "ensemble_en",
            {"top_log_probs": floats((2, FRAMES, TOP), math.log(0.3), math.log(0.7))},
            "top_log_probs is not in descending order along a frame",
        ),
        (
            "ensemble_en",
            {"top_log_probs": floats((2, FRAMES, TOP), HALF + 0.2, HALF)},
            "top_log_probs sums to a probability above 1",
        ),
        (
            "ensemble_en",
            {"top_log_probs": floats((2, FRAMES, TOP), 5e8, 4e8)},
            "top_log_probs sums to a probability above 1",
        ),
        ("ensemble_en", {"top_tokens": integers((2, FRAMES, TOP), 5, 5)}, "top_tokens contains a token twice, or a"),
        ("ensemble_en", {"top_tokens": integers((2, FRAMES, TOP), 5, -1)}, "top_tokens contains a token twice, or a"),
        ("ensemble_en", {"encoder_lengths": integers((2, 1), 0)}, "encoder_lengths is 0 or less"),
        (
            "ensemble_en",
            {"encoder_lengths": integers((2, 1), FRAMES + 1)},
            f"encoder_lengths is {FRAMES + 1}, but top_log_probs has {FRAMES} frames",
        ),
    ],
)
def test_rejects_wrong_response(family: str, changes: Arrays, expected: str) -> None:
    assert str(problem(family, **changes)).startswith(expected)


def test_rejects_missing_output() -> None:
    request = answers.make_request(FAMILIES["diar"], metadata("diar"))
    assert answers.validate_response(FAMILIES["diar"], request, {}) == "embedding is missing"


def test_ignores_padding() -> None:
    short = integers((2, 1), FRAMES - 1)
    wild = {
        "top_log_probs": floats((2, FRAMES, TOP), *PADDED),
        "top_tokens": integers((2, FRAMES, TOP), *[1, 2] * 3, 9, 9),
    }
    assert problem("ensemble_en", encoder_lengths=short, **wild) is None
    assert problem("ensemble_en", **wild) is not None


def test_validates_network_that_takes_audio_by_itself() -> None:
    """It has no encoder output, and its blank is the last token."""
    family = synthetic.head_alone().families["ctc"]
    sizes = {"inputs": [{"name": "audio", "shape": [-1, -1]}, {"name": "audio_lengths", "shape": [-1, 1]}]}
    request = answers.make_request(family, sizes)
    right = {name: array for name, array in RIGHT["ensemble_en"].items() if name != "encoder_out"}
    right["top_tokens"] = integers((2, FRAMES, TOP), 1024, 0)
    assert answers.validate_response(family, request, right) is None
    assert answers.validate_response(family, request, {**right, "encoder_lengths": integers((2, 1), 9)}) == (
        "encoder_lengths is 9, but top_log_probs has 4 frames"
    )


def test_validates_all_frames_without_lengths() -> None:
    ctc = synthetic.head_alone().families["ctc"]
    family = dataclasses.replace(ctc, outputs=ctc.outputs[:2])
    request = {"audio": floats((2, 8), 0.5)}
    right = {name: RIGHT["ensemble_en"][name] for name in ("top_log_probs", "top_tokens")}
    assert answers.validate_response(family, request, right) is None
    wild = {**right, "top_log_probs": floats((2, FRAMES, TOP), *PADDED)}
    assert answers.validate_response(family, request, wild) == "top_log_probs is not in descending order along a frame"


def test_request_of_a_stream_has_one_item() -> None:
    body = FAMILIES["body"].in_mode("realtime")
    shapes = {
        tensor.name: [-1, *(axis if isinstance(axis, int) else -1 for axis in tensor.shape)] for tensor in body.inputs
    }
    shapes |= {"audio": [-1, 5840], "audio_lengths": [-1, 1]}
    request = answers.make_request(
        FAMILIES["body"], {"inputs": [{"name": name, "shape": shape} for name, shape in shapes.items()]}
    )
    assert {name: array.shape for name, array in request.items()} == {"audio": (1, 5840), "audio_lengths": (1, 1)}
