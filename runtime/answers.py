"""Asks a served model something whose answer is known whatever its weights are, and says what is wrong with it.

The question is made by the catalogue: two equal items (one of a stream, which it begins and ends), the same value or
token again and again, at the smallest size that clients send. The answer must have the contract's tensors, finite and
equal for all items, and hold what holds of every such network: log-probabilities that fall along a frame and whose sum
is a probability, distinct tokens, scores that are logarithms of probabilities, embeddings of unit length.

Triton takes and gives FP16 in binary only, never as JSON, so all tensors travel in its binary extension:
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_tensor_data.md
"""

import itertools
import json
import math
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.catalogue import Family, Mode, Tensor
from contract.synthetic_inputs import FIRST_WORD_TOKEN, shape

HEADER_LENGTH = "Inference-Header-Content-Length"
_FORMATS = {"FP16": "e", "FP32": "f", "INT32": "i"}
_ITEMS = 2
# Wide enough for FP16 on any GPU, narrow enough for a wrong engine to be seen.
_SLACK = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Array:
    """A tensor, flat, with the batch as the first axis of its shape."""

    type: str
    shape: tuple[int, ...]
    values: tuple[float, ...]

    def rows(self) -> list[tuple[float, ...]]:
        """Cut it along its last axis."""
        width = self.shape[-1] or 1
        return [self.values[start : start + width] for start in range(0, len(self.values), width)]

    def items(self) -> list[tuple[float, ...]]:
        """Cut it along the batch."""
        width = len(self.values) // self.shape[0]
        return [self.values[start : start + width] for start in range(0, len(self.values), width)]


Arrays = dict[str, Array]


def question(family: Family, metadata: Mapping[str, Any]) -> Arrays:
    """Make up the inputs of a model; sizes that depend on its weights are taken from what the server says of it."""
    mode = served_mode(family, metadata)
    sizes = {axis: (extent.buckets or (extent.min,))[0] for axis, extent in mode.axes.items()}
    sizes |= {axis: size for axis, size in _told_sizes(family, metadata).items() if size > 0}
    # A request of a stream holds one item.
    sizes["batch"] = 1 if mode.is_streaming else min(_ITEMS, mode.batch.max)
    return {tensor.name: _filled(tensor, sizes) for tensor in family.inputs}


def served_mode(family: Family, metadata: Mapping[str, Any]) -> Mode:
    """Tell by what a server says of a model in which mode it serves it: a mode's only size of an axis is told as such.

    Modes that differ in nothing a request shows are one as good as the other.
    """
    known = _told_sizes(family, metadata)
    modes = sorted(family.modes.values(), key=lambda mode: -len(mode.fixed()))
    return next(
        (mode for mode in modes if all(known.get(axis, size) == size for axis, size in mode.fixed().items())), modes[0]
    )


def _told_sizes(family: Family, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Read the size of each named axis from what a server says of a model; -1 for an open one."""
    told = {entry["name"]: entry["shape"] for entry in metadata["inputs"]}
    return {
        axis: size
        for tensor in family.inputs
        for axis, size in zip(tensor.shape, told[tensor.name][1:], strict=False)
        if isinstance(axis, str)
    }


def encode(question: Arrays, *, whole_stream: bool = False) -> tuple[bytes, dict[str, str]]:
    """Give the body of a request, in binary, and its headers; a whole stream begins and ends with it."""
    data = {name: struct.pack(f"<{len(it.values)}{_FORMATS[it.type]}", *it.values) for name, it in question.items()}
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": array.type,
            "parameters": {"binary_data_size": len(data[name])},
        }
        for name, array in question.items()
    ]
    # A number that no client is likely to have chosen: Triton's ids are any of 64 bits.
    stream = {"sequence_id": secrets.randbits(63) | 1, "sequence_start": True, "sequence_end": True}
    parameters = {"binary_data_output": True, **(stream if whole_stream else {})}
    head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *data.values()]), headers


def decode(body: bytes, header_length: int) -> Arrays:
    """Read the outputs of an answer; raise ValueError, KeyError or struct.error for what is none."""
    start, found = header_length, Arrays()
    for output in json.loads(body[:start])["outputs"]:
        size, kind = output["parameters"]["binary_data_size"], output["datatype"]
        count = math.prod(output["shape"])
        values = struct.unpack(f"<{count}{_FORMATS[kind]}", body[start : start + size])
        found[output["name"]] = Array(type=kind, shape=tuple(output["shape"]), values=values)
        start += size
    return found


def problem(family: Family, asked: Arrays, answer: Arrays) -> str | None:
    """Say what cannot be right about an answer; None where nothing is."""
    for tensor in family.outputs:
        if tensor.name not in answer:
            return f"{tensor.name} is missing"
        array = answer[tensor.name]
        wrong = next((text for fits, text in _contract(tensor, array, asked) if not fits), None)
        if wrong is not None:
            return f"{tensor.name} {wrong}"
    checks = (check(answer[name], _lengths(asked, answer)) for name, check in _CHECKS.items() if name in answer)
    return next((text for text in checks if text is not None), None)


def _filled(tensor: Tensor, sizes: dict[str, int]) -> Array:
    wanted = shape(tensor, sizes)
    # One number an item goes over the wire as [batch, 1]; see runtime.repository.
    wanted = wanted if len(wanted) > 1 else (*wanted, 1)
    return Array(type=tensor.type, shape=wanted, values=(_value(tensor, sizes),) * math.prod(wanted))


def _value(tensor: Tensor, sizes: dict[str, int]) -> float:
    if tensor.synthetic is None or tensor.synthetic.token_below is not None:
        return FIRST_WORD_TOKEN
    if tensor.synthetic.length_of is not None:
        return sizes[tensor.synthetic.length_of]
    mean, _ = tensor.synthetic.normal or (0.0, 1.0)
    return mean


def _contract(tensor: Tensor, array: Array, asked: Arrays) -> Iterator[tuple[bool, str]]:
    items = next(iter(asked.values())).shape[0]
    yield array.type == tensor.type, f"is {array.type}, not {tensor.type}"
    rank = 1 + (len(tensor.shape) or 1)
    fits = len(array.shape) == rank and array.shape[0] == items and all(size > 0 for size in array.shape)
    yield fits, f"has shape {list(array.shape)} for {items} items"
    yield all(math.isfinite(value) for value in array.values), "is not finite"
    if tensor.type != "INT32":
        first, *others = array.items()
        equal = all(_close(a, b) for other in others for a, b in zip(first, other, strict=True))
        yield equal, "differs between two equal items"


def _lengths(asked: Arrays, answer: Arrays) -> Array | None:
    return answer.get("encoder_lengths", asked.get("encoder_lengths"))


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= _SLACK * max(1.0, abs(first))


def _spoken(array: Array, lengths: Array | None) -> Iterator[Sequence[float]]:
    # Frames behind an item's length are padding: nothing is promised of them.
    frames = array.shape[1]
    ends = [frames] * array.shape[0] if lengths is None else [int(length) for length in lengths.values]
    for index, row in enumerate(array.rows()):
        if index % frames < ends[index // frames]:
            yield row


def _log_probs(array: Array, lengths: Array | None) -> str | None:
    for row in _spoken(array, lengths):
        if any(after > before for before, after in itertools.pairwise(row)):
            return "top_log_probs does not fall along a frame"
        if sum(math.exp(min(value, 1.0)) for value in row) > 1 + _SLACK:
            return "top_log_probs holds more than the whole probability"
    return None


def _tokens(array: Array, lengths: Array | None) -> str | None:
    for row in _spoken(array, lengths):
        if min(row) < 0 or len(set(row)) < len(row):
            return "top_tokens holds a token twice, or one below 0"
    return None


def _encoder_lengths(array: Array, _lengths: Array | None) -> str | None:
    return None if all(value > 0 for value in array.values) else "encoder_lengths says that nothing was heard"


def _encoder_out(array: Array, lengths: Array | None) -> str | None:
    if lengths is not None and max(lengths.values) > array.shape[1]:
        return f"encoder_lengths says {max(lengths.values)}, and encoder_out has {array.shape[1]} frames"
    return None


def _scores(array: Array, _lengths: Array | None) -> str | None:
    # All hypotheses are the same, and a score is the logarithm of a probability.
    if not all(_close(array.values[0], value) for value in array.values):
        return "scores differ between equal hypotheses"
    return "scores holds more than the whole probability" if max(array.values) > _SLACK else None


def _embedding(array: Array, _lengths: Array | None) -> str | None:
    norms = [math.hypot(*item) for item in array.items()]
    wrong = next((norm for norm in norms if abs(norm - 1) > _SLACK), None)
    return None if wrong is None else f"embedding has length {wrong:.3f}, not 1"


_CHECKS: dict[str, Callable[[Array, Array | None], str | None]] = {
    "encoder_lengths": _encoder_lengths,
    "encoder_out": _encoder_out,
    "top_log_probs": _log_probs,
    "top_tokens": _tokens,
    "scores": _scores,
    "embedding": _embedding,
}
