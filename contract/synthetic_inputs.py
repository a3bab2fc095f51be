"""Generate inputs for a model by the rules of the catalogue, at the corners of its profiles.

The random generator is a parameter (NumPy's), so that this package does not import NumPy.
"""

from typing import Any

from contract.catalogue import Family, Mode, Tensor

DTYPES = {"FP16": "float16", "FP32": "float32", "INT32": "int32"}


def corners(mode: Mode) -> list[dict[str, int]]:
    """Return the sizes at which an engine is checked: every axis at its minimum, at its optimum and at its maximum."""
    found = [
        {axis: getattr(extent, bound) for axis, extent in mode.axis_ranges().items()} for bound in ("min", "opt", "max")
    ]
    return [sizes for index, sizes in enumerate(found) if sizes not in found[:index]]


def shape(tensor: Tensor, sizes: dict[str, int]) -> tuple[int, ...]:
    """Return a tensor's shape with its batch; `sizes` has the size of every axis by name."""
    return (sizes["batch"], *(axis if isinstance(axis, int) else sizes[axis] for axis in tensor.shape))


def make_inputs(family: Family, sizes: dict[str, int], generator: Any) -> dict[str, Any]:
    """Return every input of a family by name, drawn from a NumPy Generator.

    Of the lengths in a batch, the first is that of the whole axis; each other one is at least half of it.
    """
    return {tensor.name: _values(tensor, sizes, generator) for tensor in family.inputs}


def _values(tensor: Tensor, sizes: dict[str, int], generator: Any) -> Any:
    dims, dtype, rule = shape(tensor, sizes), DTYPES[tensor.type], tensor.synthetic
    if rule is None:
        raise ValueError(f"{tensor.name} has no rule for synthetic values")
    if rule.length_of is not None:
        longest = sizes[rule.length_of]
        lengths = generator.integers(max(1, longest // 2), longest + 1, dims)
        lengths[0] = longest
        return lengths.astype(dtype)
    if rule.constant is not None:
        return generator.integers(rule.constant, rule.constant + 1, dims).astype(dtype)
    if rule.token_below is not None:
        return generator.integers(0, sizes[rule.token_below], dims).astype(dtype)
    mean, deviation = rule.normal or (0.0, 1.0)
    return generator.normal(mean, deviation, dims).astype(dtype)
