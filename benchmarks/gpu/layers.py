"""The step layers: what the engine inspector shows of attention, softmax and FP32 in every engine."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu import engines, results
from benchmarks.gpu.detection import arch_of
from benchmarks.gpu.engines import Built
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import StepFailedError
from build.job import Job
from contract.catalogue import BATCH_MODE

# Kernels of fused attention by their names in TensorRT 8.6, 10 and 11.
_FUSED = re.compile(r"_mha|fmha|mha_v\d|_gemm_mha|flash|fused.?attention", re.IGNORECASE)
_OPAQUE = re.compile(r"ForeignNode|Myelin", re.IGNORECASE)
_SOFTMAX = re.compile(r"softmax", re.IGNORECASE)
_CAST = re.compile(r"\bcast\b|reformat|__mye.*cast", re.IGNORECASE)
_EXAMPLES = 3


def run(settings: Settings) -> dict[str, Any]:
    """Look at every engine, and at what FP32 around softmax costs; raise StepFailedError where a part failed."""
    graphs = {job.name: job for job in engines.jobs(settings.onnx, arch_of(settings), settings.models)}
    built = engines.built(settings.bundles, settings.onnx)
    found = {
        each.name: results.attempt(lambda: look(each.plan.with_name(engines.LAYERS), graphs[each.job_name].graph))  # noqa: B023
        for each in built
    }
    attention = [each for each in built if found[each.name].get("attention_in_graph") and each.mode.name == BATCH_MODE]
    values: dict[str, Any] = {"engines": found}
    if attention:
        # The body with the most layers stands for the others.
        chosen = max(attention, key=lambda each: int(found[each.name]["attention_in_graph"]))
        values["softmax"] = results.attempt(lambda: _softmax(settings, chosen, graphs[chosen.job_name]))
    failures = results.failures({**found, "softmax": values.get("softmax", {})})
    if failures:
        raise StepFailedError("layers", values, failures)
    return values


def _softmax(settings: Settings, built: Built, job: Job) -> dict[str, Any]:
    from benchmarks.gpu import cuda, softmax  # noqa: PLC0415 - softmax imports this module

    place = engines.platform_of(settings.platform, accept_tensorrt=settings.accept_tensorrt)
    target = engines.target_of(settings.bundles, job.arch, place)
    with cuda.opened() as device:
        return softmax.compare(device, built, job, target, settings)


def look(path: Path, graph: Path | None) -> dict[str, Any]:
    """Count layers by kind in an inspector's output, and compare fused attention with the softmaxes of the graph."""
    listed = json.loads(path.read_text(encoding="utf-8")).get("Layers", [])
    texts = [(name_of(layer), text_of(layer), layer) for layer in listed]
    fused = [name for name, text, _ in texts if _FUSED.search(text)]
    opaque = [name for name, text, _ in texts if _OPAQUE.search(text)]
    softmax = [name for name, text, _ in texts if _SOFTMAX.search(text) and not _FUSED.search(text)]
    expected = attention_count(graph) if graph else None
    return {
        "layers": len(listed),
        "kinds": dict(Counter(kind_of(layer) for _, _, layer in texts).most_common()),
        "fused_attention": len(fused),
        "opaque": len(opaque),
        "softmax_outside": len(softmax),
        "casts": sum(bool(_CAST.search(name)) for name, _, _ in texts),
        "fp32_layers": sum(is_fp32(layer) for _, _, layer in texts),
        "attention_in_graph": expected,
        "verdict": verdict(expected, len(fused), len(opaque), len(softmax)),
        "examples": {"fused": fused[:_EXAMPLES], "opaque": opaque[:_EXAMPLES], "softmax": softmax[:_EXAMPLES]},
    }


def verdict(expected: int | None, fused: int, opaque: int, softmax: int) -> str:
    """Return in words whether attention is fused: `no attention`, `fused`, `partly fused`, `hidden` or `not fused`.

    A ForeignNode of TensorRT 8.6 is a whole subgraph: what is inside, the inspector does not show.
    """
    if expected == 0:
        return "no attention"
    if expected is not None and fused >= expected:
        return "fused"
    if fused:
        return "partly fused"
    return "hidden in an opaque layer" if opaque and not softmax else "not fused"


def attention_count(graph: Path) -> int:
    """Count the softmaxes of a graph that are attention."""
    import onnx  # noqa: PLC0415 - `--help` works without it

    return len(attention_softmaxes(onnx.load(graph, load_external_data=False).graph.node))


def attention_softmaxes(nodes: Iterable[Any]) -> list[Any]:
    """List the softmaxes whose result goes into a product of matrices, over casts and selections."""
    listed = list(nodes)
    readers: dict[str, list[Any]] = {}
    for node in listed:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return [node for node in listed if node.op_type == "Softmax" and _reaches_product(node, readers)]


def name_of(layer: Any) -> str:
    """Return a layer's name; with less verbosity an inspector lists names only."""
    return str(layer.get("Name", "")) if isinstance(layer, dict) else str(layer)


def text_of(layer: Any) -> str:
    """Return what names the kernels of a layer: its own name, type and tactic."""
    if not isinstance(layer, dict):
        return str(layer)
    return " ".join(str(layer.get(key, "")) for key in ("Name", "LayerType", "ParameterType", "TacticName"))


def kind_of(layer: Any) -> str:
    """Return a layer's type."""
    return str(layer.get("LayerType", "unknown")) if isinstance(layer, dict) else "unknown"


def is_fp32(layer: Any) -> bool:
    """Whether a layer writes a floating-point tensor of 32 bits."""
    if not isinstance(layer, dict):
        return False
    return any(re.search(r"FP32|Float\b|float32", str(kind)) for kind in _formats(layer))


def _formats(layer: dict[str, Any]) -> Iterator[Any]:
    for output in layer.get("Outputs", ()):
        if isinstance(output, dict):
            yield output.get("Format/Datatype", output.get("Datatype", ""))


def _reaches_product(node: Any, readers: dict[str, list[Any]]) -> bool:
    following = [reader for name in node.output for reader in readers.get(name, ())]
    return any(
        reader.op_type == "MatMul"
        or (reader.op_type in ("Cast", "Where", "Mul", "Identity") and _reaches_product(reader, readers))
        for reader in following
    )
