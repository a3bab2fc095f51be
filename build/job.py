"""One engine to be made: a graph, the profile of a mode, an architecture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import digest
from contract.arch import Arch
from contract.catalogue import INT8, Extent, Family, Mode, Tensor
from contract.graph import GraphRecord
from contract.manifest import BoundTensor

# The inputs and the outputs of an engine, as its compiler reads them back.
Tensors = tuple[tuple[BoundTensor, ...], tuple[BoundTensor, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a compiler and the gate work on."""

    family: Family
    record: GraphRecord
    folder: Path
    """The exported model's folder."""
    mode: Mode
    arch: Arch
    precision: str
    quantised: Path | None = None
    """The INT8 graph while it is being compiled: build makes it, of the graph in FP32."""

    @property
    def name(self) -> str:
        """Name the engine for people: `body_standard batch`."""
        return f"{self.record.model} {self.mode.name}"

    @property
    def graph(self) -> Path:
        """Give the ONNX file to compile."""
        return self.quantised or self.folder / self.record.graphs[self.exported].file

    @property
    def exported(self) -> str:
        """Name the precision of the exported graph that the engine is made of."""
        return "fp32" if self.precision == INT8 else self.precision

    @property
    def reference(self) -> Path:
        """Give the ONNX file in FP32 that the engine is held against."""
        return self.folder / self.record.graphs["fp32"].file

    def profile(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Give the least, optimal and largest shape of every input, the batch included."""
        return {tensor.name: self._shapes(tensor) for tensor in self.family.inputs}

    def key_parts(self, compiler: str, toolchain: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
        """List all that decides the engine; the same parts, the same engine."""
        return {
            "graph": self.record.graphs[self.exported].sha256,
            "reference": self.record.graphs["fp32"].sha256,
            "arch": self.arch.value,
            "mode": self.mode.name,
            "compiler": compiler,
            "toolchain": toolchain,
            "options": options,
            "precision": self.precision,
            "profile": {name: [list(shape) for shape in shapes] for name, shapes in self.profile().items()},
            "tolerances": {tensor.name: repr(tensor.tolerance) for tensor in self.family.outputs},
            "figures": {tensor.name: list(tensor.figures) for tensor in self.family.outputs},
            "parameters": digest.of_value(self.record.parameters),
        }

    def _shapes(self, tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        axes = ("batch", *tensor.shape)
        least = tuple(self._extent(axis).min for axis in axes)
        optimum = tuple(self._extent(axis).opt for axis in axes)
        most = tuple(self._extent(axis).max for axis in axes)
        return least, optimum, most

    def _extent(self, axis: int | str) -> Extent:
        if axis == "batch":
            return self.mode.batch
        if isinstance(axis, str) and axis in self.mode.axes:
            return self.mode.axes[axis]
        size = axis if isinstance(axis, int) else self.record.dims[axis]
        return Extent(min=size, opt=size, max=size)
