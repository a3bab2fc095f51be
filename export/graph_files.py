"""Write a graph as one ONNX file or, where that would be too large for its format, as two: nodes and weights.

The weights are written tensor by tensor from where they are, so that no second copy of them is in memory.
"""

import copy
from pathlib import Path

import onnx
import onnx_ir

from contract import graph
from contract.graph import SMALLEST_DATA_BYTES, data_file


def message(model: onnx_ir.Model, path: Path, *, separate: bool = False) -> onnx.ModelProto:
    """Return a graph as the message of an ONNX file.

    The weights of a large graph, or if `separate`, are then in the file beside `path`.
    """
    weights = (value.const_value for each in model.graphs() for value in each.initializers.values())
    if separate or sum(weight.nbytes for weight in weights if weight is not None) >= graph.LARGEST_FILE_BYTES:
        onnx_ir.external_data.unload_from_model(
            model, path.parent, data_file(path.name), size_threshold_bytes=SMALLEST_DATA_BYTES
        )
    return onnx_ir.to_proto(model)


def copied(model: onnx.ModelProto, folder: Path | None, path: Path) -> onnx.ModelProto:
    """Return a copy of a message for another file, `path`; `folder` holds weights that are not in the message."""
    if folder is None and model.ByteSize() < graph.LARGEST_FILE_BYTES:
        return copy.deepcopy(model)
    whole = onnx_ir.from_proto(model)
    if folder is not None:
        for each in whole.graphs():
            onnx_ir.external_data.set_base_dir(each, folder)
    return message(whole, path, separate=folder is not None)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the message of a graph and check the graph; raise the checker's error for an invalid one."""
    onnx.save(model, path)
    # By its path: the checker then finds the weights beside it.
    onnx.checker.check_model(path, full_check=True)
