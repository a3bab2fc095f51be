"""Run an ONNX graph as a torch network, so that an imported graph is the reference of itself."""

import os
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

_ERRORS_ONLY = 3


class GraphNetwork(nn.Module):
    """An ONNX graph as a network; it has no weights that torch knows, and keeps its types."""

    def __init__(self, graph: onnx.ModelProto, dims: dict[str, int]) -> None:
        super().__init__()
        self.graph, self.dims = graph, dims
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
            content = self.graph.SerializeToString()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return self._session
