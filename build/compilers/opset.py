"""Writes a graph in an older ONNX opset, for a parser that reads no newer one.

Of what changed between 17 and 18, these occur in what export makes: Split states how many parts it makes (before, its
outputs did), reductions take their axes as an input (before, as an attribute), and Pad may be told axes (before, it was
told of all). onnx.version_converter (1.22) has no way down for Split and Pad, and leaves an attribute of ReduceL2
behind that no checker accepts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

_FROM = 18
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known of a graph's values: constants as arrays, and the sizes of the others' axes, 0 where they vary."""

    constants: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]


def lower(source: Path, target: Path, opset: int) -> None:
    """Write a graph with the same meaning in an older opset.

    Raises ValueError, with a clause, where an operator is one that the older opset has no way to write, or none that is
    known here.
    """
    import onnx  # noqa: PLC0415 - only the legacy platform needs it
    from onnx import numpy_helper  # noqa: PLC0415

    model: Any = onnx.load(source)
    (stated,) = [each for each in model.opset_import if not each.domain]
    known = Known(
        constants={each.name: numpy_helper.to_array(each) for each in model.graph.initializer},
        shapes=_shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph),
    )
    for node in model.graph.node:
        since = onnx.defs.get_schema(node.op_type, stated.version, node.domain).since_version
        if since <= opset:
            continue
        way = _WAYS.get(node.op_type)
        if way is None or since != _FROM or opset != _FROM - 1:
            raise ValueError(f"its {node.op_type} is not written in opset {opset}")
        way(node, known)
    stated.version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    _forget_unused(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"it is not valid in opset {opset} ({reason})") from error
    onnx.save(model, target)


def _split(node: Any, known: Known) -> None:
    if len(node.input) > 1 and node.input[1]:
        return
    # Without sizes the older operator makes parts of one size, and the newer one a smaller last one where it has to.
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    sizes = {known.shapes[name][axis] if name in known.shapes else 0 for name in node.output}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"its Split makes parts of unlike or unknown size ({node.name or node.output[0]})")
    _drop(node, "num_outputs")


def _reduce(node: Any, known: Known) -> None:
    import onnx  # noqa: PLC0415

    axes = node.input[1] if len(node.input) > 1 else ""
    if axes and axes not in known.constants:
        raise ValueError(f"the axes of its {node.op_type} are known at run time only")
    noop = any(each.name == "noop_with_empty_axes" and each.i for each in node.attribute)
    if noop and (not axes or not known.constants[axes].size):
        raise ValueError(f"its {node.op_type} reduces nothing")
    _drop(node, "noop_with_empty_axes")
    if axes:
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute("axes", known.constants[axes].tolist()))


def _pad(node: Any, _: Known) -> None:
    if len(node.input) > 3 and node.input[3]:  # noqa: PLR2004 - data, pads, value, axes
        raise ValueError("its Pad is told axes")


def _shapes(graph: Any) -> dict[str, list[int]]:
    return {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*graph.value_info, *graph.output)
    }


def _drop(node: Any, name: str) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _forget_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


_WAYS: Mapping[str, Callable[[Any, Known], None]] = MappingProxyType(
    {"Split": _split, "Pad": _pad, **{f"Reduce{name}": _reduce for name in _REDUCTIONS}}
)
