"""Make a request with a known answer for any model of the catalogue, and validate the response.

The catalogue defines the request: two equal items (one item for a stream, which it begins and ends), at the smallest
size that clients send. Numbers are noise by the catalogue's rules for synthetic inputs, the same in every request,
because a network that normalises a recording cannot take a constant one. Every token is token 0, because every
vocabulary has it. The response must have the contract's tensors, finite and equal for all items. It must also have the
properties that every such network has, whatever its weights are: log-probabilities that fall along a frame and sum to
at most 1 as probabilities, distinct tokens, scores that are logarithms of probabilities, embeddings of unit length.

Triton sends and receives FP16 in binary only, never as JSON, so all tensors use its binary extension:
https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_tensor_data.md
"""

import itertools
import json
import math
import random
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.catalogue import ENCODER_FRAMES, Family, Mode, Tensor
from contract.synthetic_inputs import shape

LENGTHS = "encoder_lengths"
HEADER_LENGTH = "Inference-Header-Content-Length"
_FORMATS = {"FP16": "e", "FP32": "f", "INT32": "i"}
_ITEMS = 2
# Large enough for FP16 on any GPU, small enough to detect a wrong engine.
_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Array:
    """A tensor as flat values; the first axis of its shape is the batch."""

    type: str
    shape: tuple[int, ...]
    values: tuple[float, ...]

    def rows(self) -> list[tuple[float, ...]]:
        """Return the rows along the last axis."""
        width = self.shape[-1] or 1
        return [self.values[start : start + width] for start in range(0, len(self.values), width)]

    def items(self) -> list[tuple[float, ...]]:
        """Return the flat values of each batch item."""
        width = len(self.values) // self.shape[0]
        return [self.values[start : start + width] for start in range(0, len(self.values), width)]


Arrays = dict[str, Array]


def make_request(family: Family, metadata: Mapping[str, Any]) -> Arrays:
    """Return inputs for a model; sizes that depend on its weights come from the server's model metadata."""
    mode = served_mode(family, metadata)
    sizes = {axis: (extent.buckets or (extent.min,))[0] for axis, extent in mode.axes.items()}
    sizes |= {axis: size for axis, size in _reported_sizes(family, metadata).items() if size > 0}
    # A request of a stream has one item.
    sizes["batch"] = 1 if mode.is_streaming else min(_ITEMS, mode.batch.max)
    return {tensor.name: _filled(tensor, sizes) for tensor in family.inputs}


def served_mode(family: Family, metadata: Mapping[str, Any]) -> Mode:
    """Return the mode in which a server serves a model, by the fixed sizes in the shapes of its metadata.

    If the metadata fits several modes, one of them is returned: the same request is valid in all of them.
    """
    known = _reported_sizes(family, metadata)
    modes = sorted(family.modes.values(), key=lambda mode: -len(mode.fixed_axes()))
    return next(
        (mode for mode in modes if all(known.get(axis, size) == size for axis, size in mode.fixed_axes().items())),
        modes[0],
    )


def _reported_sizes(family: Family, metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the size of each named axis in a server's model metadata; -1 for a dynamic axis."""
    shapes = {entry["name"]: entry["shape"] for entry in metadata["inputs"]}
    return {
        axis: size
        for tensor in family.inputs
        for axis, size in zip(tensor.shape, shapes[tensor.name][1:], strict=False)
        if isinstance(axis, str)
    }


def encode(request: Arrays, *, whole_stream: bool = False) -> tuple[bytes, dict[str, str]]:
    """Return the binary body and the headers of a request; with `whole_stream` it begins and ends a stream."""
    data = {name: struct.pack(f"<{len(it.values)}{_FORMATS[it.type]}", *it.values) for name, it in request.items()}
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": array.type,
            "parameters": {"binary_data_size": len(data[name])},
        }
        for name, array in request.items()
    ]
    # A random id that no client is likely to use: Triton's ids have 64 bits.
    stream = {"sequence_id": secrets.randbits(63) | 1, "sequence_start": True, "sequence_end": True}
    parameters = {"binary_data_output": True, **(stream if whole_stream else {})}
    head = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
    return b"".join([head, *data.values()]), headers


def decode(body: bytes, header_length: int) -> Arrays:
    """Return the outputs in a response body; raise ValueError, KeyError or struct.error for a malformed body."""
    start, found = header_length, Arrays()
    for output in json.loads(body[:start])["outputs"]:
        size, kind = output["parameters"]["binary_data_size"], output["datatype"]
        count = math.prod(output["shape"])
        values = struct.unpack(f"<{count}{_FORMATS[kind]}", body[start : start + size])
        found[output["name"]] = Array(type=kind, shape=tuple(output["shape"]), values=values)
        start += size
    return found


def validate_response(family: Family, request: Arrays, response: Arrays) -> str | None:
    """Return what is wrong with a response; None where nothing is."""
    for tensor in family.outputs:
        if tensor.name not in response:
            return f"{tensor.name} is missing"
        array = response[tensor.name]
        wrong = next((text for fits, text in _contract_checks(tensor, array, request) if not fits), None)
        if wrong is not None:
            return f"{tensor.name} {wrong}"
    lengths = _lengths(request, response)
    checks = (check(response[name], lengths) for name, check in _CHECKS.items() if name in response)
    return _too_long(family, response, lengths) or next((text for text in checks if text is not None), None)


def _filled(tensor: Tensor, sizes: dict[str, int]) -> Array:
    wanted = shape(tensor, sizes)
    # One number per item is sent as [batch, 1]; see runtime.repository.
    wanted = wanted if len(wanted) > 1 else (*wanted, 1)
    items, *rest = wanted
    return Array(type=tensor.type, shape=wanted, values=_item(tensor, sizes, math.prod(rest)) * items)


def _item(tensor: Tensor, sizes: dict[str, int], count: int) -> tuple[float, ...]:
    rule = tensor.synthetic
    if rule is None or rule.token_below is not None:
        return (0,) * count
    if rule.length_of is not None:
        return (sizes[rule.length_of],) * count
    if rule.normal is None:
        return (rule.constant or 0,) * count
    noise = random.Random(tensor.name)  # noqa: S311 - the same numbers each time, not secret ones
    return tuple(noise.gauss(*rule.normal) for _ in range(count))


def _contract_checks(tensor: Tensor, array: Array, request: Arrays) -> Iterator[tuple[bool, str]]:
    items = next(iter(request.values())).shape[0]
    yield array.type == tensor.type, f"is {array.type}, not {tensor.type}"
    rank = 1 + (len(tensor.shape) or 1)
    fits = len(array.shape) == rank and array.shape[0] == items and all(size > 0 for size in array.shape)
    yield fits, f"has shape {list(array.shape)} for {items} items"
    yield all(math.isfinite(value) for value in array.values), "is not finite"
    if tensor.type != "INT32":
        first, *others = array.items()
        equal = all(_close(a, b) for other in others for a, b in zip(first, other, strict=True))
        yield equal, "differs between two equal items"


def _lengths(request: Arrays, response: Arrays) -> Array | None:
    return response.get(LENGTHS, request.get(LENGTHS))


def _close(first: float, second: float) -> bool:
    return abs(first - second) <= _TOLERANCE * max(1.0, abs(first))


def _valid_frames(array: Array, lengths: Array | None) -> Iterator[Sequence[float]]:
    # Frames after an item's length are padding, with undefined values.
    frames = array.shape[1]
    ends = [frames] * array.shape[0] if lengths is None else [int(length) for length in lengths.values]
    for index, row in enumerate(array.rows()):
        if index % frames < ends[index // frames]:
            yield row


def _log_probs(array: Array, lengths: Array | None) -> str | None:
    for row in _valid_frames(array, lengths):
        if any(after > before for before, after in itertools.pairwise(row)):
            return "top_log_probs is not in descending order along a frame"
        if sum(math.exp(min(value, 1.0)) for value in row) > 1 + _TOLERANCE:
            return "top_log_probs sums to a probability above 1"
    return None


def _tokens(array: Array, lengths: Array | None) -> str | None:
    for row in _valid_frames(array, lengths):
        if min(row) < 0 or len(set(row)) < len(row):
            return "top_tokens contains a token twice, or a token below 0"
    return None


def _encoder_lengths(array: Array, _lengths: Array | None) -> str | None:
    return None if all(value > 0 for value in array.values) else "encoder_lengths is 0 or less"


def _too_long(family: Family, response: Arrays, lengths: Array | None) -> str | None:
    longest = max(lengths.values) if lengths is not None else 0
    for tensor in family.outputs:
        if ENCODER_FRAMES in tensor.shape:
            frames = response[tensor.name].shape[1 + tensor.shape.index(ENCODER_FRAMES)]
            if longest > frames:
                return f"{LENGTHS} is {longest}, but {tensor.name} has {frames} frames"
    return None


def _scores(array: Array, _lengths: Array | None) -> str | None:
    # All hypotheses are equal, and a score is the logarithm of a probability.
    if not all(_close(array.values[0], value) for value in array.values):
        return "scores differ between equal hypotheses"
    return "scores has a probability above 1" if max(array.values) > _TOLERANCE else None


def _embedding(array: Array, _lengths: Array | None) -> str | None:
    # An item is an embedding, or has one for each window.
    norms = [math.hypot(*row) for row in array.rows()]
    wrong = next((norm for norm in norms if abs(norm - 1) > _TOLERANCE), None)
    return None if wrong is None else f"embedding has norm {wrong:.3f}, not 1"


_CHECKS: dict[str, Callable[[Array, Array | None], str | None]] = {
    LENGTHS: _encoder_lengths,
    "top_log_probs": _log_probs,
    "top_tokens": _tokens,
    "scores": _scores,
    "embedding": _embedding,
}
