"""The path that both TensorRT flavours share: ONNX to engine through Polygraphy."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from build.job import Job
from contract.errors import CompileError
from contract.manifest import BoundTensor, Profile, Shapes

# Inputs and outputs.
Tensors = tuple[tuple[BoundTensor, ...], tuple[BoundTensor, ...]]

# The others are called the same there and here.
_TYPES = {"HALF": "FP16", "FLOAT": "FP32"}
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


def compile_network(
    job: Job,
    make_config: Callable[[Any], Any],
    target: Path,
    *,
    strongly_typed: bool = False,
    prepare: Callable[[Any], None] = lambda _: None,
    timing: Path | None = None,
) -> Any:
    """Compile a graph with the profiles of its mode and write the engine; give the parsed network.

    `make_config` takes the list of profiles and gives Polygraphy's loader of a builder configuration; `prepare` is
    called with the parsed network; `timing` is a file that TensorRT's timing cache is saved to. Raises CompileError
    with what TensorRT said.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath  # noqa: PLC0415
    from polygraphy.exception import PolygraphyException  # noqa: PLC0415

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            parsed = NetworkFromOnnxPath(str(job.graph), strongly_typed=strongly_typed)()
            _check_inputs(job, parsed[1])
            prepare(parsed[1])
            cache = None if timing is None else str(timing)
            config = make_config(_profiles(job))
            engine = EngineBytesFromNetwork(parsed, config=config, save_timing_cache=cache)()
    except PolygraphyException as error:
        cause = f"the compiler refuses the graph ({first_error(said.getvalue()) or error})"
        raise _refusal(job, cause, "Change the network so that it exports without that operation") from error
    target.write_bytes(bytes(engine))
    return parsed[1]


def network_tensors(network: Any) -> Tensors:
    """Read inputs and outputs from a parsed network."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return tuple(map(_bound, inputs)), tuple(map(_bound, outputs))


def engine_tensors(engine: Any, library: Any) -> Tensors:
    """Read inputs and outputs back from a deserialised engine."""
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


def engine_profiles(engine: Any, library: Any) -> tuple[Profile, ...]:
    """Read the optimisation profiles back from a deserialised engine, in its own order."""
    inputs = [name for name in _names(engine) if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]

    def shapes(name: str, index: int) -> Shapes:
        least, optimum, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, index))
        return Shapes(min=least, opt=optimum, max=most)

    return tuple({name: shapes(name, index) for name in inputs} for index in range(engine.num_optimization_profiles))


def first_error(log: str) -> str:
    """Find the first error line of a log: the ones after it are its consequences."""
    errors = [found.group(1).strip() for line in log.splitlines() if (found := _ERROR_LINE.match(line.strip()))]
    return errors[0][:_LONGEST_CAUSE].rstrip(".") if errors else ""


def _profiles(job: Job) -> list[Any]:
    from polygraphy.backend.trt import Profile as Shaped  # noqa: PLC0415

    made = []
    for profile in job.profiles():
        shaped = Shaped()
        for name, shapes in profile.items():
            shaped.add(name, shapes.min, shapes.opt, shapes.max)
        made.append(shaped)
    return made


def _check_inputs(job: Job, network: Any) -> None:
    # Polygraphy would guess the shapes of an input that no profile names, and TensorRT would speak of tensors inside.
    remedy = f"Make export and catalogue agree, then run `python -m export --model {job.record.model} --force`"
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        found = tuple(tensor.shape)
        for profile in job.profiles():
            if tensor.name not in profile:
                cause = f"the graph has an input {tensor.name!r}, and the catalogue gives no shapes for it"
                raise _refusal(job, cause, remedy)
            wanted = profile[tensor.name]
            fits = len(found) == len(wanted.min) and all(
                size in (-1, least, most) and (size == -1 or least == most)
                for size, least, most in zip(found, wanted.min, wanted.max, strict=True)
            )
            if not fits:
                sizes = f"{list(wanted.min)} to {list(wanted.max)}"
                cause = f"input {tensor.name!r} is {list(found)} in the graph, and the profile wants {sizes}"
                raise _refusal(job, cause, remedy)


def _refusal(job: Job, cause: str, remedy: str) -> CompileError:
    return CompileError(f"{job.name} for {job.arch.value}", cause, remedy)


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _bound(tensor: Any) -> BoundTensor:
    return BoundTensor(name=tensor.name, type=_type(tensor.dtype), dims=tuple(tensor.shape))


def _type(kind: Any) -> str:
    return _TYPES.get(str(kind.name), str(kind.name))
