"""Define a job, one engine to build: a graph, the profile of a mode, an architecture and a precision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import digest
from contract.arch import Arch
from contract.catalogue import BATCH, INT8, AxisRange, Family, Mode, Tensor
from contract.errors import GraphError
from contract.graph import GraphFile, GraphRecord, graph_name, samples_file, weights_beside
from contract.manifest import Profile, ShapeRange


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The input of a compiler and of the gate."""

    family: Family
    """With the tensors of the mode."""
    record: GraphRecord
    folder: Path
    """The exported model's folder."""
    mode: Mode
    arch: Arch
    precision: str
    instead: Path | None = None
    """The graph to compile instead of the exported one: quantised, or in an older opset."""

    @property
    def name(self) -> str:
        """Return the engine's name for messages: `body_standard batch`."""
        return f"{self.record.model} {self.mode.name}"

    @property
    def graph(self) -> Path:
        """Return the ONNX file to compile."""
        return self.instead or self.folder / self.graph_file(self.exported).file

    @property
    def data(self) -> Path | None:
        """Return the file with the weights of the ONNX file to compile; None where that holds them itself."""
        return weights_beside(self.graph)

    @property
    def graph_bytes(self) -> int:
        """Return the size of the graph to compile, with its weights."""
        return sum(path.stat().st_size for path in (self.graph, self.data) if path)

    @property
    def exported(self) -> str:
        """Return the precision of the exported graph that the engine is built from."""
        return "fp32" if self.precision == INT8 else self.precision

    @property
    def reference(self) -> Path:
        """Return the ONNX file in FP32 that the gate compares the engine with."""
        return self.folder / self.graph_file("fp32").file

    @property
    def samples(self) -> Path:
        """Return the file of real inputs; raise GraphError where export wrote none for the mode."""
        path = self.folder / samples_file(self.mode.name)
        if not path.is_file():
            cause = "the file with the real inputs of the gate is missing"
            raise GraphError(path, cause, f"Run `python -m export --model {self.record.model} --force`")
        return path

    def known_graph(self, precision: str) -> GraphFile | None:
        """Return the exported graph of the mode at a precision; None where export wrote none."""
        return self.record.graph(self.mode.variant, precision)

    def graph_file(self, precision: str) -> GraphFile:
        """Return the exported graph of the mode at a precision; raise GraphError where export wrote none."""
        found = self.known_graph(precision)
        if found is None:
            name = graph_name(self.mode.variant, precision)
            remedy = f"Run `python -m export --model {self.record.model}`, which exports every graph"
            raise GraphError(self.folder, f"it holds no {name} graph", remedy)
        return found

    def profile(self) -> Profile:
        """Return the smallest, optimal and largest shape of every input in the mode, with the batch axis."""
        return {tensor.name: self._shapes(tensor) for tensor in self.family.inputs}

    def key_parts(self, compiler: str, toolchain: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
        """Return everything that determines the engine; equal parts mean an equal engine."""
        return {
            # Two models may have equal graphs: an entry of the store is stored under its model's name.
            "model": self.record.model,
            "graph": self.graph_file(self.exported).digest,
            "reference": self.graph_file("fp32").digest,
            "arch": self.arch.value,
            "mode": self.mode.name,
            "compiler": compiler,
            "toolchain": toolchain,
            "options": options,
            "precision": self.precision,
            "profile": _lists(self.profile()),
            "tolerances": {tensor.name: repr(tensor.tolerance) for tensor in self.family.outputs},
            "figures": {tensor.name: list(tensor.figures) for tensor in self.family.outputs},
            "client": digest.of_value(self.record.client.to_table()),
        }

    def _shapes(self, tensor: Tensor) -> ShapeRange:
        axes = [self.mode.axis_ranges().get(str(axis)) or self._fixed(axis) for axis in (BATCH, *tensor.shape)]
        return ShapeRange(
            min=tuple(axis.min for axis in axes),
            opt=tuple(axis.opt for axis in axes),
            max=tuple(axis.max for axis in axes),
        )

    def _fixed(self, axis: int | str) -> AxisRange:
        size = axis if isinstance(axis, int) else self.record.dims[axis]
        return AxisRange(min=size, opt=size, max=size)


def _lists(profile: Profile) -> dict[str, dict[str, list[int]]]:
    # Lists, as JSON returns them: a key must not depend on whether its parts were read from a manifest.
    return {
        name: {"min": list(shapes.min), "opt": list(shapes.opt), "max": list(shapes.max)}
        for name, shapes in profile.items()
    }
