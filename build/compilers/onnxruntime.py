"""ONNX Runtime: optimises a graph offline for any x86-64, for the embedded server and Triton's onnxruntime backend."""

import errno
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from build import preflight
from build.compilers import Compiled
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.errors import CompileError, CompilerUnavailableError
from contract.manifest import BoundTensor
from contract.platform import Platform

NAME = "onnxruntime"
FILE = "model.onnx"
PLATFORM = "embedded"
RUNS_HERE = True
# The highest level would also choose layouts for this very processor; this one is right on every x86-64.
_LEVEL = "ORT_ENABLE_EXTENDED"
QUANTISED = ("MatMul", "Gemm")
AS_WRITTEN = "ORT_DISABLE_ALL"
_QUIET = 3
_REMEDY = "Run `python -m export --force` again, and report the graph if it stays"
_TYPES = {"tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(int32)": "INT32"}


def check(arch: Arch, platform: Platform, wanted: Options) -> None:
    """Refuse architectures other than the CPU, platforms whose server has no such backend, and TensorRT's choices."""
    if arch is not Arch.CPU:
        raise CompilerUnavailableError(
            f"--compiler {NAME}", f"it makes engines for the CPU, not for {arch.value}", "Leave --compiler out"
        )
    if platform.backend != NAME:
        raise CompilerUnavailableError(
            f"--platform {platform.name}",
            "its server runs no CPU engines",
            f"Use --platform {PLATFORM}",
        )
    wanted.refuse_unless_default(NAME)


def precision() -> str:
    """CPUs compute in FP32."""
    return "fp32"


def toolchain() -> dict[str, str]:
    """Name the library that decides an engine."""
    onnxruntime = _library()

    return {"onnxruntime": onnxruntime.__version__}


def host() -> dict[str, str]:
    """Name the processor."""
    return {"processor": preflight.processor()}


def prepare(wanted: Options) -> None:
    """Nothing is needed."""


def options(wanted: Options) -> dict[str, Any]:  # noqa: ARG001 - the protocol's form
    """Give the optimisation level."""
    return {"graph_optimization_level": _LEVEL}


def compile(job: Job, target: Path, wanted: Options) -> Compiled:  # noqa: A001, ARG001 - the protocol's verb and form
    """Write the optimised graph and read its tensors back from it."""
    onnxruntime = _library()

    session_options = onnxruntime.SessionOptions()
    session_options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVEL)
    session_options.optimized_model_filepath = str(target)
    session_options.log_severity_level = _QUIET
    try:
        onnxruntime.InferenceSession(job.graph, session_options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # Its exceptions share no base but Exception, and it takes a full disk for a bad graph.
        if shutil.disk_usage(target.parent).free < job.graph.stat().st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
        raise CompileError(job.name, f"ONNX Runtime refuses the graph ({_one_line(error)})", _REMEDY) from error
    made = session(target)
    return Compiled(inputs=tuple(map(_bound, made.get_inputs())), outputs=tuple(map(_bound, made.get_outputs())))


def run(engine: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run an optimised graph on several inputs; outputs by name."""
    return list(stream(engine, inputs))


def stream(engine: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run an optimised graph on inputs that may depend on the outputs before them."""
    opened = session(engine)
    yield from (run_session(opened, feed) for feed in inputs)


def run_as_written(graph: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a graph node by node as export wrote it: the reference that the gate holds every engine against."""
    return list(stream_as_written(graph, inputs))


def stream_as_written(graph: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run a graph as export wrote it on inputs that may depend on the outputs before them."""
    opened = session(graph, AS_WRITTEN)
    yield from (run_session(opened, feed) for feed in inputs)


def quantise(
    graph: Path, target: Path, nodes: list[str], inputs: list[dict[str, Any]], *, symmetric: bool, seven_bits: bool
) -> None:
    """Write a graph in FP32 with some of its products in INT8 between quantise and dequantise nodes.

    Weights are held by channel; activations by their range on the inputs, `symmetric` around zero in signed
    bytes or in unsigned ones with a zero point.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415

    # It advises by way of warnings, about steps that are not wanted here.
    logging.disable(logging.WARNING)
    try:
        quantize_static(
            graph,
            target,
            _Calibration(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=seven_bits,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "MatMulConstBOnly": True},
        )
    finally:
        logging.disable(logging.NOTSET)


class _Calibration:
    """Hands inputs out one by one: onnxruntime.quantization.CalibrationDataReader by its form."""

    def __init__(self, inputs: list[dict[str, Any]]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        """Give the next inputs, None after the last."""
        return next(self._left, None)


def run_session(opened: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run an open graph; outputs by name."""
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, inputs), strict=True))


def session(model: Path | bytes, level: str = "ORT_ENABLE_ALL") -> Any:
    """Open a graph on the CPU at an optimisation level of ONNX Runtime."""
    onnxruntime = _library()

    session_options = onnxruntime.SessionOptions()
    session_options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session_options.log_severity_level = _QUIET
    return onnxruntime.InferenceSession(model, session_options, providers=["CPUExecutionProvider"])


def _bound(value: Any) -> BoundTensor:
    dims = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    return BoundTensor(name=value.name, type=_TYPES[value.type], dims=dims)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _library() -> Any:
    # Otherwise it keeps events in the home folder and tells its maker of them; whoever wants that has set the variable.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: PLC0415

    return onnxruntime
