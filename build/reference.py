"""Run ONNX graphs with ONNX Runtime on the CPU: as written (the gate's reference), or optimised."""

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from contract.graph import SMALLEST_DATA_BYTES, data_file

AS_WRITTEN = "ORT_DISABLE_ALL"
_ERRORS_ONLY = 3
_EXTERNAL = "session.optimized_model_external_initializers"


def run_as_written(graph: Path, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a graph node by node as export wrote it, on several inputs; return the outputs by name."""
    return list(stream_as_written(graph, inputs))


def stream_as_written(graph: Path, inputs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run a graph as export wrote it on inputs that may depend on earlier outputs."""
    opened = session(graph, AS_WRITTEN)
    yield from (run_session(opened, feed) for feed in inputs)


def run_session(opened: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run an open graph; return the outputs by name."""
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, inputs), strict=True))


def session(
    model: Path | bytes,
    level: str = "ORT_ENABLE_ALL",
    optimised: Path | None = None,
    *,
    data: Path | None = None,
    separate: bool = False,
) -> Any:
    """Open a graph on the CPU at an optimisation level of ONNX Runtime.

    `data` is the file with the weights of a graph that is given as bytes. `optimised` receives the optimised graph, and
    if `separate`, a file beside it receives the weights.
    """
    onnxruntime = library()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = _ERRORS_ONLY
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if optimised is not None and separate:
        options.add_session_config_entry(f"{_EXTERNAL}_file_name", data_file(optimised.name))
        options.add_session_config_entry(f"{_EXTERNAL}_min_size_in_bytes", str(SMALLEST_DATA_BYTES))
    with contextlib.ExitStack() as stack:
        if data is not None:
            # A graph as bytes has no folder in which ONNX Runtime could find the file.
            content = stack.enter_context(_mapped(data))
            options.add_external_initializers_from_files_in_memory([data.name], [content], [len(content)])
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


def library() -> Any:
    """Import ONNX Runtime with its telemetry off, unless the environment sets ORT_DISABLE_TELEMETRY itself."""
    # With telemetry on, it stores events in the home folder and sends them to its vendor.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime  # noqa: PLC0415

    return onnxruntime
