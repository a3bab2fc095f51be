"""Run an ONNX graph as a torch network, so that an imported graph is the reference of itself."""

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

_ERRORS_ONLY = 3


class GraphNetwork(nn.Module):
    """An ONNX graph as a network; it has no weights that torch knows, and keeps its types.

    `folder` holds the files with the weights of a graph that is too large for one file.
    """

    def __init__(self, graph: onnx.ModelProto, dims: dict[str, int], folder: Path | None = None) -> None:
        super().__init__()
        self.graph, self.dims, self.folder = graph, dims, folder
        self._session: Any = None

    def __deepcopy__(self, _memo: dict[int, Any]) -> "GraphNetwork":
        """Return the network itself: nothing in it changes."""
        return self

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the graph as written, in ONNX Runtime."""
        session = self._opened()
        names = [each.name for each in session.get_inputs()]
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(array)) for array in session.run(None, arrays))

    def _opened(self) -> Any:
        if self._session is None:
            os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
            import onnxruntime  # noqa: PLC0415

            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = _ERRORS_ONLY
            self._session = session(self.graph, self.folder, options)
        return self._session


def session(model: onnx.ModelProto, folder: Path | None, options: Any) -> Any:
    """Open a graph in ONNX Runtime on the CPU; `folder` holds the weights that are not in the message."""
    import onnxruntime  # noqa: PLC0415

    with contextlib.ExitStack() as stack:
        if folder is not None:
            names = sorted({entry.value for each in model.graph.initializer for entry in _locations(each)})
            contents = [stack.enter_context(_mapped(folder / name)) for name in names]
            options.add_external_initializers_from_files_in_memory(names, contents, list(map(len, contents)))
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _locations(tensor: onnx.TensorProto) -> Iterator[onnx.StringStringEntryProto]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from (entry for entry in tensor.external_data if entry.key == "location")


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content
