"""Generated inputs and the corners of a profile."""

import pytest

from contract import synthetic_inputs
from contract.catalogue import AxisRange, Mode, read_catalogue


def test_corners() -> None:
    mode = read_catalogue().families["diar"].modes["batch"]
    assert synthetic_inputs.corners(mode) == [
        {"batch": 1, "samples": 8000, "windows": 1},
        {"batch": 8, "samples": 96000, "windows": 8},
        {"batch": 16, "samples": 320000, "windows": 27},
    ]


def test_merges_equal_corners() -> None:
    fixed = AxisRange(min=4, opt=4, max=4)
    assert synthetic_inputs.corners(Mode(name="batch", batch=fixed, axes={})) == [{"batch": 4}]


def test_inputs() -> None:
    numpy = pytest.importorskip("numpy")
    sizes = {
        "batch": 3, "encoder_frames": 49, "encoder_size": 8, "hypothesis_count": 2, "hypothesis_tokens": 16,
        "vocabulary": 20,
    }  # fmt: skip
    made = synthetic_inputs.make_inputs(read_catalogue().families["decoder"], sizes, numpy.random.default_rng(0))
    assert {name: (values.shape, str(values.dtype)) for name, values in made.items()} == {
        "encoder_out": ((3, 49, 8), "float16"),
        "encoder_lengths": ((3,), "int32"),
        "hypotheses": ((3, 2, 16), "int32"),
        "hypothesis_lengths": ((3, 2), "int32"),
    }
    assert made["encoder_lengths"][0] == 49
    assert made["encoder_lengths"].min() >= 24
    assert 0 <= made["hypotheses"].min() <= made["hypotheses"].max() < 20
