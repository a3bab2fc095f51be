"""Test protobuf text for exact output; tests/integration/test_config.py reads it back with Triton's own schema."""

import pytest

from runtime import pbtxt


def test_message() -> None:
    message = {
        "name": "body",
        "input": [{"name": "x", "data_type": "TYPE_FP16", "dims": [-1, 80]}, {"name": "y", "reshape": {"shape": []}}],
        "dynamic_batching": {"preserve_ordering": True, "preferred_batch_size": [4, 8]},
        "ratio": 0.5,
    }
    assert pbtxt.render(message) == (
        'name: "body"\n'
        'input {\n  name: "x"\n  data_type: TYPE_FP16\n  dims: [-1, 80]\n}\n'
        'input {\n  name: "y"\n  reshape {\n    shape: []\n  }\n}\n'
        "dynamic_batching {\n  preserve_ordering: true\n  preferred_batch_size: [4, 8]\n}\n"
        "ratio: 0.5\n"
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('a "hi"', r'"a \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("line\nbreak\r\ttab", r'"line\nbreak\r\ttab"'),
        ("nul\0, bell\a, delete\x7f", r'"nul\000, bell\007, delete\177"'),
        ("▁größe 日本", '"▁größe 日本"'),
        ("'", '"\'"'),
    ],
)
def test_strings(text: str, written: str) -> None:
    assert pbtxt.quoted(text) == written


def test_rejects_unsupported_value() -> None:
    with pytest.raises(TypeError, match=r"^count: NoneType cannot be written to a model configuration$"):
        pbtxt.render({"count": None})
