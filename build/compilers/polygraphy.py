"""Compile ONNX graphs to engines with Polygraphy, for both TensorRT and TensorRT-RTX."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from build.job import Job
from contract.errors import CompileError
from contract.manifest import BoundTensor, Profile, ShapeRange

# Inputs and outputs.
Tensors = tuple[tuple[BoundTensor, ...], tuple[BoundTensor, ...]]

# The other types have equal names in TensorRT and in the catalogue.
_TYPES = {"HALF": "FP16", "FLOAT": "FP32"}
_ERROR_LINE = re.compile(r"^\[E\]\s*(.*)$")
_LONGEST_CAUSE = 400


def bind(flavour: str) -> None:
    """Bind Polygraphy to a TensorRT flavour, `tensorrt` or `tensorrt_rtx`.

    Polygraphy keeps the flavour that it was first imported with, so that a process compiles with one of them only.
    """
    rtx = flavour == "tensorrt_rtx"
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(rtx))
    from polygraphy import config  # noqa: PLC0415
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415

    config.USE_TENSORRT_RTX = rtx
    G_LOGGER.module_severity = G_LOGGER.ERROR


def compile_network(
    job: Job,
    make_config: Callable[[Any], Any],
    target: Path,
    *,
    strongly_typed: bool = False,
    prepare: Callable[[Any], None] = lambda _: None,
    timing: Path | None = None,
) -> Any:
    """Compile a graph with the profile of its mode and write the engine; return the parsed network.

    `make_config` takes the list of profiles and returns Polygraphy's loader of a builder configuration. `prepare` is
    called with the parsed network. TensorRT's timing cache is saved to the file `timing`. Raises CompileError with
    TensorRT's first error.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath  # noqa: PLC0415
    from polygraphy.exception import PolygraphyException  # noqa: PLC0415

    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            parsed = NetworkFromOnnxPath(str(job.graph), strongly_typed=strongly_typed)()
            _check_inputs(job, parsed[1])
            prepare(parsed[1])
            cache = None if timing is None else str(timing)
            config = make_config([_profile(job)])
            engine = EngineBytesFromNetwork(parsed, config=config, save_timing_cache=cache)()
    except PolygraphyException as error:
        cause = f"the compiler rejects the graph ({first_error(output.getvalue()) or error})"
        raise _refusal(job, cause, "Change the network so that it exports without that operator") from error
    target.write_bytes(bytes(engine))
    return parsed[1]


def network_tensors(network: Any) -> Tensors:
    """Return inputs and outputs of a parsed network."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(map(_bound, inputs)), tuple(map(_bound, outputs))


def engine_tensors(engine: Any, library: Any) -> Tensors:
    """Return inputs and outputs of a deserialised engine."""
    names = _names(engine)
    bound = {
        name: BoundTensor(
            name=name,
            type=_type(engine.get_tensor_dtype(name)),
            dims=tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    }
    inputs = [name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]
    return tuple(bound[name] for name in inputs), tuple(bound[name] for name in names if name not in inputs)


def engine_profile(engine: Any, library: Any) -> Profile:
    """Return the optimisation profile of a deserialised engine: shapes of every input."""
    inputs = [name for name in _names(engine) if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]

    def shapes(name: str) -> ShapeRange:
        least, optimum, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, 0))
        return ShapeRange(min=least, opt=optimum, max=most)

    return {name: shapes(name) for name in inputs}


def first_error(log: str) -> str:
    """Return the first error line of a log; the later ones are its consequences."""
    errors = [found.group(1).strip() for line in log.splitlines() if (found := _ERROR_LINE.match(line.strip()))]
    return errors[0][:_LONGEST_CAUSE].rstrip(".") if errors else ""


def _profile(job: Job) -> Any:
    from polygraphy.backend.trt import Profile as PolygraphyProfile  # noqa: PLC0415

    profile = PolygraphyProfile()
    for name, shapes in job.profile().items():
        profile.add(name, shapes.min, shapes.opt, shapes.max)
    return profile


def _check_inputs(job: Job, network: Any) -> None:
    # Polygraphy would invent shapes for an input without a profile, and TensorRT's error would name inner tensors.
    remedy = f"Correct the network or model.toml, then run `python -m export --model {job.record.model} --force`"
    profile = job.profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        found = tuple(tensor.shape)
        if tensor.name not in profile:
            cause = f"the graph has an input {tensor.name!r}, and the catalogue has no shapes for it"
            raise _refusal(job, cause, remedy)
        wanted = profile[tensor.name]
        fits = len(found) == len(wanted.min) and all(
            size in (-1, least, most) and (size == -1 or least == most)
            for size, least, most in zip(found, wanted.min, wanted.max, strict=True)
        )
        if not fits:
            sizes = f"{list(wanted.min)} to {list(wanted.max)}"
            cause = f"input {tensor.name!r} is {list(found)} in the graph, and the profile requires {sizes}"
            raise _refusal(job, cause, remedy)


def _refusal(job: Job, cause: str, remedy: str) -> CompileError:
    return CompileError(f"{job.name} for {job.arch.value}", cause, remedy)


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _bound(tensor: Any) -> BoundTensor:
    return BoundTensor(name=tensor.name, type=_type(tensor.dtype), dims=tuple(tensor.shape))


def _type(kind: Any) -> str:
    return _TYPES.get(str(kind.name), str(kind.name))
