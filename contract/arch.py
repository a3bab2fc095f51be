"""List the architectures that engines are built for, and map a GPU's compute capability to one of them."""

from enum import Enum

from contract.errors import GpuError, SettingError

ComputeCapability = tuple[int, int]


class Arch(Enum):
    """An architecture; the value is its name on command lines, in paths and in manifests.

    Do not compare the numbers of two architectures: they do not determine whether a plan for sm80 runs on sm86.
    """

    CPU = "cpu"
    SM75 = "sm75"
    SM80 = "sm80"
    SM86 = "sm86"
    SM89 = "sm89"
    SM90 = "sm90"

    @classmethod
    def parse(cls, text: str) -> "Arch":
        """Return the architecture of a name, in any case; raise SettingError that lists the known ones."""
        for arch in cls:
            if arch.value == text.strip().lower():
                return arch
        known = ", ".join(arch.value for arch in cls)
        raise SettingError(f"architecture {text!r}", "Voxwright does not build for it", f"Choose one of {known}")

    @classmethod
    def from_capability(cls, capability: ComputeCapability, gpu_name: str) -> "Arch":
        """Return the architecture of a GPU; raise GpuError for a GPU that no engine can be built for."""
        for arch, known in _CAPABILITIES.items():
            if known == capability:
                return arch
        text = f"{capability[0]}.{capability[1]}"
        supported = ", ".join(f"{major}.{minor}" for major, minor in _CAPABILITIES.values())
        raise GpuError(
            f"GPU {gpu_name}",
            f"its compute capability {text} is not supported",
            f"Use a GPU of compute capability {supported}, or the CPU platform",
        )

    @property
    def capability(self) -> ComputeCapability | None:
        """Return (major, minor); None for the CPU."""
        return _CAPABILITIES.get(self)

    @property
    def example_gpus(self) -> str:
        """Return examples of its GPUs, for help texts and error messages."""
        return _GPUS[self]


_CAPABILITIES = {
    Arch.SM75: (7, 5),
    Arch.SM80: (8, 0),
    Arch.SM86: (8, 6),
    Arch.SM89: (8, 9),
    Arch.SM90: (9, 0),
}
_GPUS = {
    Arch.CPU: "any x86-64",
    Arch.SM75: "T4, RTX 20",
    Arch.SM80: "A100, A30",
    Arch.SM86: "A10, A40, RTX 30",
    Arch.SM89: "L4, L40S, RTX 40",
    Arch.SM90: "H100, H200",
}
