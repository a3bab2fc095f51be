"""Where TensorRT 8.6, 10 and 11 differ: each function looks at what the library has, and no other module does."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from build.compilers import opset
from build.job import Job
from build.options import Options
from contract.arch import Arch
from contract.compatibility import AMPERE_PLUS, NONE, SAME_CAPABILITY
from contract.errors import CompileError, SettingError

# The Python module of TensorRT 8.6 leaves the number of its build out; of 8.6.1 NVIDIA released one build.
_BUILDS = {"8.6.1": "8.6.1.6"}
# The largest ONNX opset that a parser reads, by NVIDIA's support matrices and the parser's operators.md. Where none
# stands here the parser speaks for itself.
_LARGEST_OPSETS = {"8": 17, "11": 25}
_LEVELS = {NONE: "NONE", SAME_CAPABILITY: "SAME_COMPUTE_CAPABILITY", AMPERE_PLUS: "AMPERE_PLUS"}
# Layers that have no precision of their own: they hold values, give shapes or convert.
_WITHOUT_PRECISION = ("CONSTANT", "SHAPE", "CAST", "IDENTITY")


def build_number(library: Any) -> str:
    """Give the exact build, such as 8.6.1.6: a plan loads in no other one."""
    version = str(library.__version__)
    return _BUILDS.get(version, version)


def keeps_types(library: Any) -> bool:
    """Say whether a network can be made to compute in the types that its graph states.

    TensorRT 8.6 cannot: there FP16 is a permission that the builder gives itself, and `pin` takes it back where the
    graph says FP32.
    """
    return hasattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def precision_arguments(library: Any) -> dict[str, Any]:
    """Give Polygraphy's arguments of a configuration that make an engine compute in the types of its graph."""
    return {} if keeps_types(library) else {"fp16": True, "precision_constraints": "obey"}


def pin(library: Any, network: Any) -> None:
    """Hold every layer that computes in FP32 to it, in a library that does not keep types by itself."""
    if keeps_types(library):
        return
    for layer in fp32_layers(library, network):
        layer.precision = library.DataType.FLOAT
        for index in range(layer.num_outputs):
            if layer.get_output(index).dtype == library.DataType.FLOAT:
                layer.set_output_type(index, library.DataType.FLOAT)


def fp32_layers(library: Any, network: Any) -> Iterator[Any]:
    """List the layers that compute in FP32 by the types of what they take and give: the islands of an FP16 graph."""
    without = [getattr(library.LayerType, name) for name in _WITHOUT_PRECISION if hasattr(library.LayerType, name)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors = [layer.get_input(number) for number in range(layer.num_inputs)]
        tensors += [layer.get_output(number) for number in range(layer.num_outputs)]
        # An input that is optional and not given is None.
        types = {tensor.dtype for tensor in tensors if tensor is not None}
        if layer.type not in without and library.DataType.FLOAT in types:
            yield layer


def compatibility_arguments(library: Any, options: Options, arch: Arch) -> dict[str, Any]:
    """Give Polygraphy's arguments for what other GPUs and TensorRT builds an engine is for; raise SettingError."""
    check_arch(options, arch)
    level = _LEVELS[options.compatibility]
    known = getattr(library, "HardwareCompatibilityLevel", None)
    if options.compatibility != NONE and not hasattr(known, level):
        has = ", ".join(name for name, member in _LEVELS.items() if hasattr(known, member)) or NONE
        cause = f"TensorRT {build_number(library)} has no such level"
        raise SettingError(f"--compatibility {options.compatibility}", cause, f"Use one that it has: {has}")
    if options.version_compatible and not hasattr(library.BuilderFlag, "VERSION_COMPATIBLE"):
        cause = f"TensorRT {build_number(library)} makes no such engines"
        raise SettingError("--version-compatible", cause, "Leave it out")
    hardware = {} if options.compatibility == NONE else {"hardware_compatibility_level": getattr(known, level)}
    return {**hardware, **({"version_compatible": True} if options.version_compatible else {})}


def check_arch(options: Options, arch: Arch) -> None:
    """Refuse a compatibility level that an architecture cannot be built for, whatever the library."""
    if options.compatibility == AMPERE_PLUS and arch is Arch.SM75:
        raise SettingError(
            f"--compatibility {AMPERE_PLUS}",
            f"{arch.value} is Turing, and such an engine is built on Ampere or later for Ampere and later",
            f"Use --compatibility {NONE}, or build on another architecture",
        )


@contextlib.contextmanager
def readable(library: Any, job: Job) -> Iterator[Job]:
    """Give a job whose graph the library's ONNX parser was made for: of an older opset where it has to be.

    An older parser does not always say what it does not know: of an operator whose attributes became inputs it sees
    defaults. Raises CompileError for a graph that cannot be written in the older opset.
    """
    version = build_number(library)
    largest = _LARGEST_OPSETS.get(version.partition(".")[0])
    if largest is None or job.record.opset <= largest:
        yield job
        return
    with tempfile.TemporaryDirectory() as folder:
        older = Path(folder) / job.graph.name
        try:
            opset.lower(job.graph, older, largest)
        except ValueError as error:
            cause = (
                f"the graph has ONNX opset {job.record.opset}, the parser of TensorRT {version} reads up to {largest}, "
                f"and {error}"
            )
            remedy = "Change the network so that it exports without it, or build for a platform whose TensorRT reads it"
            raise CompileError(f"{job.name} for {job.arch.value}", cause, remedy) from error
        yield replace(job, instead=older)


def device_memory_bytes(engine: Any) -> int:
    """Give what an execution context takes on the device, at the largest shapes of the hungriest profile."""
    # From 10.1 on the old attribute is deprecated, and 11 has it no more.
    name = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
    return int(getattr(engine, name))
