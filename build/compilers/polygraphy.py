"""The path that both TensorRT flavours share: ONNX to engine through Polygraphy."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from build.job import Job, Tensors
from contract.errors import CompileError
from contract.manifest import BoundTensor

_TYPES = {"HALF": "FP16", "FLOAT": "FP32", "INT32": "INT32", "BOOL": "BOOL", "INT64": "INT64"}
_ERROR_LINE = re.compile(r"^\[E\]\s*(.*)$")
_LONGEST_CAUSE = 400


def bind(flavour: str) -> None:
    """Bind Polygraphy to a TensorRT flavour, `tensorrt` or `tensorrt_rtx`.

    Polygraphy keeps the one it was first imported with, so a process compiles with one of them only.
    """
    rtx = flavour == "tensorrt_rtx"
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(rtx))
    from polygraphy import config  # noqa: PLC0415
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415

    config.USE_TENSORRT_RTX = rtx
    G_LOGGER.module_severity = G_LOGGER.ERROR


def compile_network(job: Job, make_config: Callable[[Any], Any], target: Path) -> Any:
    """Compile a graph with a profile and write the engine; give the parsed network.

    `make_config` takes the list of profiles and gives Polygraphy's loader of a builder configuration. Raises
    CompileError with what TensorRT said.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath, Profile  # noqa: PLC0415
    from polygraphy.exception import PolygraphyException  # noqa: PLC0415

    profile = Profile()
    for name, shapes in job.profile().items():
        profile.add(name, *shapes)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            parsed = NetworkFromOnnxPath(str(job.graph))()
            engine = EngineBytesFromNetwork(parsed, config=make_config([profile]))()
    except PolygraphyException as error:
        subject = f"{job.name} for {job.arch.value}"
        cause = f"the compiler refuses the graph ({first_error(said.getvalue()) or error})"
        raise CompileError(subject, cause, "Change the network so that it exports without that operation") from error
    target.write_bytes(bytes(engine))
    return parsed[1]


def network_tensors(network: Any) -> Tensors:
    """Read inputs and outputs from a parsed network."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(map(_bound, inputs)), tuple(map(_bound, outputs))


def engine_tensors(engine: Any, library: Any) -> Tensors:
    """Read inputs and outputs back from a deserialised engine."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    kinds = {name: engine.get_tensor_mode(name) == library.TensorIOMode.INPUT for name in names}
    bound = {
        name: BoundTensor(
            name=name,
            type=_TYPES[engine.get_tensor_dtype(name).name],
            dims=tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    }
    inputs = tuple(bound[name] for name in names if kinds[name])
    return inputs, tuple(bound[name] for name in names if not kinds[name])


def first_error(log: str) -> str:
    """Find the first error line of a log: the ones after it are its consequences."""
    errors = [found.group(1).strip() for line in log.splitlines() if (found := _ERROR_LINE.match(line.strip()))]
    return errors[0][:_LONGEST_CAUSE].rstrip(".") if errors else ""


def _bound(tensor: Any) -> BoundTensor:
    return BoundTensor(name=tensor.name, type=_TYPES[tensor.dtype.name], dims=tuple(tensor.shape))
