"""Whether FP32 around softmax costs the fused attention: the same body with that softmax in FP16, built and timed.

The graphs compute scores and softmax of attention in FP32 (`Cast`, `Where`, `Softmax`, `Cast`). The variant differs in
these types alone; it is never served, since FP16 scores are less exact.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu import engines, latency, layers, results
from benchmarks.gpu.cases import cases
from benchmarks.gpu.device import Device
from benchmarks.gpu.engines import Built
from benchmarks.gpu.settings import Settings
from build.bundle import Target
from build.job import Job
from contract.errors import GraphError

# The least of FP16 is -65504; the graphs mask with -1e9.
_MASKED = -6.0e4
# What may stand between the cast and the softmax.
_BETWEEN = ("Where", "Add", "Mul")


def compare(device: Device, built: Built, job: Job, target: Target, settings: Settings) -> dict[str, Any]:
    """Build the variant and time the optimum of both; return layers and medians of both."""
    folder = settings.out / "layers" / built.name
    folder.mkdir(parents=True, exist_ok=True)
    changed = write_half(job.graph, folder / "fp16-softmax.onnx")
    made = results.kept(
        folder / "build.json",
        lambda: engines.compile_plan(target, replace(job, instead=folder / "fp16-softmax.onnx"), folder),
    )
    case = next(each for each in cases(built.mode) if each.is_optimum)
    rows = {}
    for name, plan in (("fp32", built.plan), ("fp16", folder / engines.PLAN)):
        with device.load(plan) as engine:
            timed = latency.measure_case(device, engine, built, case, settings.seconds_per_case)
        rows[name] = {**timed, "layers": layers.look(plan.with_name(engines.LAYERS), job.graph)}
    return {
        "engine": built.name,
        "softmaxes": changed,
        "build": made,
        **rows,
        "speed_up_without_fp32": rows["fp32"]["median_ms"] / rows["fp16"]["median_ms"],
        "fp32_breaks_fusion": rows["fp16"]["layers"]["fused_attention"] > rows["fp32"]["layers"]["fused_attention"],
    }


def write_half(graph: Path, target: Path) -> int:
    """Write a graph whose attention has its softmax in FP16; return how many. Raises GraphError where there is none."""
    import onnx  # noqa: PLC0415 - `--help` works without it

    model = onnx.load(graph)
    producers = {name: node for node in model.graph.node for name in node.output}
    found = layers.attention_softmaxes(model.graph.node)
    if not found:
        raise GraphError(graph, "it holds no attention", "Choose the graph of a body")
    narrowed = {name for number, node in enumerate(found) for name in _narrow(model, node, producers, number)}
    for value in model.graph.value_info:
        if value.name in narrowed:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, target)
    return len(found)


def _narrow(model: Any, softmax: Any, producers: dict[str, Any], number: int) -> list[str]:
    """Change the types from the cast before a softmax on; return the tensors that are FP16 from then on."""
    narrowed, node = [softmax.output[0]], producers.get(softmax.input[0])
    while node is not None and node.op_type in _BETWEEN:
        narrowed.append(node.output[0])
        sources = [producers.get(name) for name in node.input]
        place = next((index for index, each in enumerate(sources) if _is_widening(each)), len(node.input) - 1)
        for index, name in enumerate(node.input):
            if index != place and not (node.op_type == "Where" and index == 0):
                node.input[index] = _constant(model, name, producers, f"narrow_{number}_{index}")
        node = sources[place]
    if node is None or not _is_widening(node):
        raise GraphError("the graph", f"{softmax.name} has no cast to FP32 before it", "Look at the graph in Netron")
    _set_type(node)
    return [*narrowed, node.output[0]]


def _is_widening(node: Any) -> bool:
    return node is not None and node.op_type == "Cast" and any(each.i == 1 for each in node.attribute)


def _set_type(cast: Any) -> None:
    import onnx  # noqa: PLC0415

    next(each for each in cast.attribute if each.name == "to").i = onnx.TensorProto.FLOAT16


def _constant(model: Any, name: str, producers: dict[str, Any], fresh: str) -> str:
    """Add a constant of FP16 in place of one of FP32, or a cast where it is computed."""
    import numpy as np  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    known = next((each for each in model.graph.initializer if each.name == name), None)
    source = producers.get(name)
    if known is None and source is not None and source.op_type == "Constant":
        known = source.attribute[0].t
    if known is not None:
        values = np.clip(onnx.numpy_helper.to_array(known), _MASKED, -_MASKED).astype(np.float16)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, fresh))
        return fresh
    cast = onnx.helper.make_node("Cast", [name], [fresh], to=onnx.TensorProto.FLOAT16)
    position = list(model.graph.node).index(source) + 1 if source is not None else 0
    model.graph.node.insert(position, cast)
    return fresh
