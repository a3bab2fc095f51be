"""The arithmetic of a graph: floating-point operations at given sizes, and the bytes of its weights."""

import math
from pathlib import Path
from typing import Any

from benchmarks.gpu.device import Arrays

_PRODUCTS = ("MatMul", "Gemm", "Conv")
_PREFIX = "shape_of_"


def operations(graph: Path, feed: Arrays) -> int:
    """Count the operations of all matrix products and convolutions for one input; a multiply-add counts as two.

    The shapes inside a graph depend on those of its inputs: it is run once on the CPU, with the shapes as outputs.
    """
    import onnx  # noqa: PLC0415 - `--help` works without it
    import onnxruntime  # noqa: PLC0415

    model = onnx.load(graph)
    products = [node for node in model.graph.node if node.op_type in _PRODUCTS]
    wanted = dict.fromkeys(name for node in products for name in (*node.input[:2], node.output[0]))
    del model.graph.output[:]
    for name in wanted:
        model.graph.node.append(onnx.helper.make_node("Shape", [name], [_PREFIX + name]))
        model.graph.output.append(onnx.helper.make_tensor_value_info(_PREFIX + name, onnx.TensorProto.INT64, [None]))
    if not wanted:
        return 0
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # Outputs that only shapes were wanted of leave some inputs unused.
    used = {each.name for each in session.get_inputs()}
    found = session.run(None, {name: array for name, array in feed.items() if name in used})
    shapes = {name: tuple(map(int, shape)) for name, shape in zip(wanted, found, strict=True)}
    return sum(_operations(node, [shapes[name] for name in (*node.input[:2], node.output[0])]) for node in products)


def weight_bytes(graph: Path) -> int:
    """Return the size of a graph's constant tensors, which every run reads once."""
    import onnx  # noqa: PLC0415

    model = onnx.load(graph)
    return sum(len(onnx.numpy_helper.to_array(weight).tobytes()) for weight in model.graph.initializer)


def _operations(node: Any, shapes: list[tuple[int, ...]]) -> int:
    first, second, output = shapes
    if node.op_type == "Conv":
        summed = math.prod(second[1:])
    elif node.op_type == "Gemm":
        is_transposed = any(each.name == "transA" and each.i for each in node.attribute)
        summed = first[0 if is_transposed else 1]
    else:
        summed = first[-1]
    return 2 * math.prod(output) * summed
