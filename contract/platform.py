"""Read platforms.toml: the platforms that engines are built for, and what a machine needs to serve on one."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from contract.errors import CatalogueError, SettingError
from contract.fields import Fields

_FILE = Path(__file__).with_name("platforms.toml")
_GIBIBYTE = 1 << 30

Version: TypeAlias = tuple[int, ...]
"""The numbers of a version. They compare as numbers, so that 535.104 is later than 535.86."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverRule:
    """The first driver version that a platform runs with, and the CUDA version of this driver's branch."""

    version: Version
    cuda: Version
    text: str
    """The version as it is written: the numbers of 525.85.05 lose a zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """A Triton release and the libraries in it; None for a library that it does not contain."""

    name: str
    title: str
    purpose: str
    triton: str | None
    cuda: str | None
    tensorrt: str | None
    python: str
    backend: str | None
    driver: DriverRule | None
    """The first driver that is admitted on every GPU, whatever its branch."""
    data_centre_drivers: tuple[DriverRule, ...]
    """On data-centre GPUs only: the first admitted driver of each older branch."""

    @property
    def first_cuda(self) -> Version:
        """The first CUDA version that a driver library must support: the platform's major version, 12.0 for 12.3.

        CUDA's minor version compatibility starts there. () where the platform has no CUDA.
        """
        numbers = parse_version(self.cuda) if self.cuda else None
        return (numbers[0], 0) if numbers else ()

    def admits_driver(self, version: Version, cuda: Version, *, data_centre: bool) -> bool:
        """Return whether a driver runs this platform on such a GPU.

        `version` is that of the driver in the kernel, `cuda` the newest CUDA version of the driver library in use. With
        CUDA's compatibility library `cuda` is newer than the branch of `version`. A listed branch admits only its own
        versions, and only with a library of the platform's CUDA major version.
        """
        if self.driver is None or version >= self.driver.version:
            return True
        branches = self.data_centre_drivers if data_centre and cuda >= self.first_cuda else ()
        return any(version[0] == rule.version[0] and version >= rule.version for rule in branches)

    def admits_cuda(self, cuda: Version, *, data_centre: bool) -> bool:
        """Return the same for a driver of which only the newest supported CUDA version is known.

        A branch that is listed from some version on is admitted, although its version may be an earlier one.
        """
        if self.driver is None or cuda >= self.driver.cuda:
            return True
        branches = self.data_centre_drivers if data_centre and cuda >= self.first_cuda else ()
        return any(cuda == rule.cuda for rule in branches)

    def supported_drivers(self, *, data_centre: bool) -> str:
        """Return which drivers run this platform on such a GPU: `545 or later, or 535.86 or later of branch 535`."""
        branches = self.data_centre_drivers if data_centre else ()
        library = " with CUDA's compatibility library"
        older = (
            f"{rule.text} or later of branch {rule.version[0]}{library if rule.cuda < self.first_cuda else ''}"
            for rule in branches
        )
        return ", or ".join([f"{self.driver.text} or later" if self.driver else "any", *older])


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """An amount of memory as it is sold, and the least that a machine with this amount reports."""

    nominal_gb: int
    min_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a machine needs to serve on a GPU, on every platform."""

    gpu_memory: Memory
    host_memory: Memory
    gpu_reserve_bytes: int
    """What the CUDA context and the server take on the GPU in addition to the engines."""
    data_centre_gpus: frozenset[str]

    def is_data_centre(self, gpu_name: str) -> bool:
        """Return whether a GPU, by the name that its driver reports, is one for the data centre."""
        return not self.data_centre_gpus.isdisjoint(re.findall(r"[A-Za-z0-9]+", gpu_name))


def parse_version(text: str) -> Version | None:
    """Return the numbers that a version begins with: (580, 65, 6) for 580.65.06; None where there are none."""
    match = re.match(r"\d+(?:\.\d+)*", text.strip())
    return tuple(int(number) for number in match[0].split(".")) if match else None


def format_version(numbers: Version) -> str:
    """Return a version as text: 13.0 for (13, 0)."""
    return ".".join(str(number) for number in numbers)


@cache
def platforms() -> dict[str, Platform]:
    """Return every platform by name, the default for GPUs first."""
    fields = _fields().table("platforms")
    return {name: _platform(name, fields.table(name)) for name in fields.names()}


@cache
def requirements() -> Requirements:
    """Return what a machine needs to serve on a GPU."""
    fields = _fields().table("machine")
    fields.reject_unknown("gpu_memory", "host_memory", "gpu_reserve_gib", "data_centre_gpus")
    return Requirements(
        gpu_memory=_memory(fields.table("gpu_memory")),
        host_memory=_memory(fields.table("host_memory")),
        gpu_reserve_bytes=round(fields.number("gpu_reserve_gib") * _GIBIBYTE),
        data_centre_gpus=frozenset(fields.items("data_centre_gpus", str)),
    )


def platform(name: str) -> Platform:
    """Return a platform by its name; raise SettingError that lists the known ones."""
    if name not in platforms():
        known = ", ".join(platforms())
        raise SettingError(f"platform {name!r}", "it is not known", f"Choose one of {known}")
    return platforms()[name]


def _fields() -> Fields:
    table = tomllib.loads(_FILE.read_text())
    fields = Fields(table, source=_FILE.name, error=CatalogueError, remedy="Correct the file")
    fields.reject_unknown("platforms", "machine")
    return fields


def _platform(name: str, fields: Fields) -> Platform:
    fields.reject_unknown(
        "title", "purpose", "triton", "cuda", "tensorrt", "python", "backend", "driver", "data_centre_drivers"
    )

    def optional(key: str) -> str | None:
        return fields.text(key) if fields.has(key) else None

    return Platform(
        name=name,
        title=fields.text("title"),
        purpose=fields.text("purpose"),
        triton=optional("triton"),
        cuda=optional("cuda"),
        tensorrt=optional("tensorrt"),
        python=fields.text("python"),
        backend=optional("backend"),
        driver=_driver_rule(fields.table("driver")) if fields.has("driver") else None,
        data_centre_drivers=tuple(_driver_rule(table) for table in fields.tables("data_centre_drivers")),
    )


def _driver_rule(fields: Fields) -> DriverRule:
    fields.reject_unknown("version", "cuda")
    return DriverRule(version=_version(fields, "version"), cuda=_version(fields, "cuda"), text=fields.text("version"))


def _version(fields: Fields, key: str) -> Version:
    text = fields.text(key)
    numbers = parse_version(text)
    if numbers is None or not re.fullmatch(r"[\d.]+", text):
        raise fields.error(key, f"{text!r} is not a version: expected numbers separated by dots")
    return numbers


def _memory(fields: Fields) -> Memory:
    fields.reject_unknown("nominal_gb", "least_gib")
    return Memory(nominal_gb=fields.integer("nominal_gb"), min_bytes=round(fields.number("least_gib") * _GIBIBYTE))
