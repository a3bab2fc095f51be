"""One engine to be made: a graph, the profiles of a mode, an architecture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract import digest
from contract.arch import Arch
from contract.catalogue import BATCH, INT8, Extent, Family, Mode, Tensor
from contract.errors import GraphError
from contract.graph import GraphFile, GraphRecord, graph_name, samples_file
from contract.manifest import Profile, Shapes


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a compiler and the gate work on."""

    family: Family
    """As it is in the mode."""
    record: GraphRecord
    folder: Path
    """The exported model's folder."""
    mode: Mode
    arch: Arch
    precision: str
    instead: Path | None = None
    """The graph to compile in place of the exported one: quantised, or in an older opset."""

    @property
    def name(self) -> str:
        """Name the engine for people: `body_standard batch`."""
        return f"{self.record.model} {self.mode.name}"

    @property
    def graph(self) -> Path:
        """Give the ONNX file to compile."""
        return self.instead or self.folder / self.graph_file(self.exported).file

    @property
    def exported(self) -> str:
        """Name the precision of the exported graph that the engine is made of."""
        return "fp32" if self.precision == INT8 else self.precision

    @property
    def reference(self) -> Path:
        """Give the ONNX file in FP32 that the engine is held against."""
        return self.folder / self.graph_file("fp32").file

    @property
    def samples(self) -> Path:
        """Give the file of real inputs; raise GraphError where export, or an older one, left none of the mode."""
        path = self.folder / samples_file(self.mode.name)
        if not path.is_file():
            cause = "export left no real inputs there, which the engine is judged by"
            raise GraphError(path, cause, f"Run `python -m export --model {self.record.model} --force`")
        return path

    def known_graph(self, precision: str) -> GraphFile | None:
        """Find the exported graph of the mode at a precision; None where export did not make it."""
        return self.record.graph(self.mode.variant, precision)

    def graph_file(self, precision: str) -> GraphFile:
        """Give the exported graph of the mode at a precision; raise GraphError where export did not make it."""
        found = self.known_graph(precision)
        if found is None:
            name = graph_name(self.mode.variant, precision)
            remedy = f"Run `python -m export --model {self.record.model}`, which makes every graph"
            raise GraphError(self.folder, f"it holds no {name} graph", remedy)
        return found

    def profiles(self) -> tuple[Profile, ...]:
        """Give the least, optimal and largest shape of every input, the batch included, in each profile of the mode."""
        return tuple(
            {tensor.name: self._shapes(tensor, profile) for tensor in self.family.inputs} for profile in (self.mode,)
        )

    def key_parts(self, compiler: str, toolchain: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
        """List all that decides the engine; the same parts, the same engine."""
        return {
            "graph": self.graph_file(self.exported).sha256,
            "reference": self.graph_file("fp32").sha256,
            "arch": self.arch.value,
            "mode": self.mode.name,
            "compiler": compiler,
            "toolchain": toolchain,
            "options": options,
            "precision": self.precision,
            "profiles": [_lists(profile) for profile in self.profiles()],
            "tolerances": {tensor.name: repr(tensor.tolerance) for tensor in self.family.outputs},
            "figures": {tensor.name: list(tensor.figures) for tensor in self.family.outputs},
            "parameters": digest.of_value(self.record.parameters),
        }

    def _shapes(self, tensor: Tensor, profile: Mode) -> Shapes:
        axes = [profile.extents().get(str(axis)) or self._fixed(axis) for axis in (BATCH, *tensor.shape)]
        return Shapes(
            min=tuple(axis.min for axis in axes),
            opt=tuple(axis.opt for axis in axes),
            max=tuple(axis.max for axis in axes),
        )

    def _fixed(self, axis: int | str) -> Extent:
        size = axis if isinstance(axis, int) else self.record.dims[axis]
        return Extent(min=size, opt=size, max=size)


def _lists(profile: Profile) -> dict[str, dict[str, list[int]]]:
    # As JSON gives them back: a key must not depend on whether its parts were read from a manifest.
    return {
        name: {"min": list(shapes.min), "opt": list(shapes.opt), "max": list(shapes.max)}
        for name, shapes in profile.items()
    }
