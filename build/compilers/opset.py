"""Convert a graph to an older ONNX opset, for a parser that supports no newer one.

Of the changes between opsets 17 and 18, exported graphs contain these. Split states its number of parts (in 17, the
number of outputs states it). Reductions take their axes as an input (in 17, as an attribute). Pad may take axes (in 17,
it always pads all). onnx.version_converter (1.22) cannot convert Split and Pad down, and leaves an attribute on
ReduceL2 that the checker rejects.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contract.graph import weights_beside

_FROM = 18
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The known values of a graph: constants as arrays, and the axis sizes of other tensors, 0 where they vary."""

    constants: Mapping[str, Any]
    shapes: Mapping[str, Sequence[int]]


def lower(source: Path, target: Path, opset: int) -> None:
    """Write an equivalent graph in an older opset.

    Raises ValueError, with a clause for an error sentence, for an operator that has no equivalent in the older opset or
    whose conversion is not implemented here.
    """
    import onnx  # noqa: PLC0415 - only the legacy platform needs it
    from onnx import external_data_helper, numpy_helper  # noqa: PLC0415

    # Weights in a file of their own stay there: constants that a conversion needs are small.
    model: Any = onnx.load(source, load_external_data=False)
    weights = weights_beside(source)
    (stated,) = [each for each in model.opset_import if not each.domain]
    known = Known(
        constants={
            each.name: numpy_helper.to_array(each)
            for each in model.graph.initializer
            if not external_data_helper.uses_external_data(each)
        },
        shapes=_shapes(onnx.shape_inference.infer_shapes(model, data_prop=True).graph),
    )
    for node in model.graph.node:
        since = onnx.defs.get_schema(node.op_type, stated.version, node.domain).since_version
        if since <= opset:
            continue
        convert = _CONVERSIONS.get(node.op_type)
        if convert is None or since != _FROM or opset != _FROM - 1:
            raise ValueError(f"its {node.op_type} cannot be converted to opset {opset}")
        convert(node, known)
    stated.version = opset
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    _remove_unused_weights(model.graph)
    if weights is not None:
        # Not a link: the checker refuses data with several links.
        shutil.copyfile(weights, target.with_name(weights.name))
    onnx.save(model, target)
    try:
        onnx.checker.check_model(target, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"it is not valid in opset {opset} ({reason})") from error


def _split(node: Any, known: Known) -> None:
    if len(node.input) > 1 and node.input[1]:
        return
    # Without sizes the older operator makes parts of equal size; the newer one may make the last part smaller.
    axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
    sizes = {known.shapes[name][axis] if name in known.shapes else 0 for name in node.output}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(f"its Split makes parts of different or unknown size ({node.name or node.output[0]})")
    _drop(node, "num_outputs")


def _reduce(node: Any, known: Known) -> None:
    import onnx  # noqa: PLC0415

    axes = node.input[1] if len(node.input) > 1 else ""
    if axes and axes not in known.constants:
        raise ValueError(f"the axes of its {node.op_type} are known only at run time")
    noop = any(each.name == "noop_with_empty_axes" and each.i for each in node.attribute)
    if noop and (not axes or not known.constants[axes].size):
        raise ValueError(f"its {node.op_type} reduces nothing")
    _drop(node, "noop_with_empty_axes")
    if axes:
        del node.input[1:]
        node.attribute.append(onnx.helper.make_attribute("axes", known.constants[axes].tolist()))


def _pad(node: Any, _: Known) -> None:
    if len(node.input) > 3 and node.input[3]:  # noqa: PLR2004 - data, pads, value, axes
        raise ValueError("its Pad has axes")


def _shapes(graph: Any) -> dict[str, list[int]]:
    return {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*graph.value_info, *graph.output)
    }


def _drop(node: Any, name: str) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _remove_unused_weights(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


_CONVERSIONS: Mapping[str, Callable[[Any, Known], None]] = MappingProxyType(
    {"Split": _split, "Pad": _pad, **{f"Reduce{name}": _reduce for name in _REDUCTIONS}}
)
