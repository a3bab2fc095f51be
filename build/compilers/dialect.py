"""Handle the differences between TensorRT 8.6, 10 and 11: each function checks what the library offers."""

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

# The Python module of TensorRT 8.6 omits the build number; of 8.6.1 NVIDIA released one build.
_BUILDS = {"8.6.1": "8.6.1.6"}
# The largest ONNX opset that a parser reads, from NVIDIA's support matrices and the parser's operators.md. For other
# versions the parser itself accepts or rejects the graph.
_LARGEST_OPSETS = {"8": 17, "11": 25}
_LEVELS = {NONE: "NONE", SAME_CAPABILITY: "SAME_COMPUTE_CAPABILITY", AMPERE_PLUS: "AMPERE_PLUS"}
# Layers without a precision of their own: constants, shapes and conversions.
_WITHOUT_PRECISION = ("CONSTANT", "SHAPE", "CAST", "IDENTITY")


def build_number(library: Any) -> str:
    """Return the exact build, such as 8.6.1.6: a plan loads in no other build."""
    version = str(library.__version__)
    return _BUILDS.get(version, version)


def supports_strong_typing(library: Any) -> bool:
    """Return whether the library can build strongly typed networks, which compute in the types of their graph.

    TensorRT 8.6 cannot: there FP16 is a builder flag for the whole network, and `pin_fp32_layers` sets the layers that
    the graph computes in FP32 back to FP32.
    """
    return hasattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def precision_arguments(library: Any) -> dict[str, Any]:
    """Return Polygraphy's configuration arguments that make an engine compute in the types of its graph."""
    return {} if supports_strong_typing(library) else {"fp16": True, "precision_constraints": "obey"}


def tactic_arguments(library: Any) -> dict[str, Any]:
    """Return Polygraphy's arguments that keep a plan from needing cuBLAS or cuDNN, as later versions never do."""
    if supports_strong_typing(library):
        return {}
    sources = library.TacticSource
    return {"tactic_sources": [sources.EDGE_MASK_CONVOLUTIONS, sources.JIT_CONVOLUTIONS]}


def pin_fp32_layers(library: Any, network: Any) -> None:
    """Set every layer that the graph computes in FP32 to FP32, in a library without strong typing."""
    if supports_strong_typing(library):
        return
    for layer in fp32_layers(library, network):
        layer.precision = library.DataType.FLOAT
        for index in range(layer.num_outputs):
            if layer.get_output(index).dtype == library.DataType.FLOAT:
                layer.set_output_type(index, library.DataType.FLOAT)


def fp32_layers(library: Any, network: Any) -> Iterator[Any]:
    """List the layers with an FP32 input or output, the FP32 islands of an FP16 graph."""
    without = [getattr(library.LayerType, name) for name in _WITHOUT_PRECISION if hasattr(library.LayerType, name)]
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors = [layer.get_input(number) for number in range(layer.num_inputs)]
        tensors += [layer.get_output(number) for number in range(layer.num_outputs)]
        # An optional input that is absent is None.
        types = {tensor.dtype for tensor in tensors if tensor is not None}
        if layer.type not in without and library.DataType.FLOAT in types:
            yield layer


def pin_formats(library: Any, network: Any) -> None:
    """Allow only the linear format, that of Triton's buffers, for every input and output of a network."""
    mask = 1 << int(library.TensorFormat.LINEAR)
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in tensors:
        tensor.allowed_formats = mask


def compatibility_arguments(library: Any, options: Options, arch: Arch) -> dict[str, Any]:
    """Return Polygraphy's arguments for other GPUs; raise SettingError for an unsupported one."""
    check_arch(options, arch)
    level = _LEVELS[options.compatibility]
    known = getattr(library, "HardwareCompatibilityLevel", None)
    if options.compatibility != NONE and not hasattr(known, level):
        has = ", ".join(name for name, member in _LEVELS.items() if hasattr(known, member)) or NONE
        cause = f"TensorRT {build_number(library)} does not support this level"
        raise SettingError(f"--compatibility {options.compatibility}", cause, f"Use one of: {has}")
    return {} if options.compatibility == NONE else {"hardware_compatibility_level": getattr(known, level)}


def check_arch(options: Options, arch: Arch) -> None:
    """Raise SettingError for a compatibility level that an architecture does not support in any TensorRT."""
    if options.compatibility == AMPERE_PLUS and arch is Arch.SM75:
        raise SettingError(
            f"--compatibility {AMPERE_PLUS}",
            f"{arch.value} is Turing, and such an engine needs Ampere or later",
            f"Use --compatibility {NONE}, or build on another architecture",
        )


@contextlib.contextmanager
def with_supported_opset(library: Any, job: Job) -> Iterator[Job]:
    """Yield a job whose graph has an ONNX opset that the library's parser supports; convert the graph if needed.

    An older parser does not always reject what it does not support: where attributes became inputs, it silently uses
    default values. Raises CompileError for a graph that cannot be written in the older opset.
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
            remedy = "Export the network without that operator, or build for a platform with a newer TensorRT"
            raise CompileError(f"{job.name} for {job.arch.value}", cause, remedy) from error
        yield replace(job, instead=older)


def device_memory_bytes(engine: Any) -> int:
    """Return the device memory of an execution context at the largest shapes of its profile, in bytes."""
    # From 10.1 on the old attribute is deprecated; 11 removed it.
    name = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
    return int(getattr(engine, name))
