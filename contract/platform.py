"""The platforms engines are built for, and what a machine must have to serve on one, read from platforms.toml."""

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
"""A version's numbers: compared as numbers, never as text, so that 535.104 comes after 535.86."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverRule:
    """A driver version that a platform runs with, and the CUDA version that this driver's branch brings."""

    version: Version
    cuda: Version
    text: str
    """The version as it is written: 525.85.05 has a zero that its numbers lose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """A Triton release with what it carries; None where it carries no such part."""

    name: str
    title: str
    purpose: str
    triton: str | None
    cuda: str | None
    tensorrt: str | None
    python: str
    backend: str | None
    driver: DriverRule | None
    """The first driver of any branch."""
    data_centre_drivers: tuple[DriverRule, ...]
    """On data-centre GPUs only: the first driver of an older branch that will do as well."""

    def admits_driver(self, version: Version, *, data_centre: bool) -> bool:
        """Say whether a driver runs this platform on such a GPU; a listed branch admits its own versions only."""
        if self.driver is None or version >= self.driver.version:
            return True
        branches = self.data_centre_drivers if data_centre else ()
        return any(version[0] == rule.version[0] and version >= rule.version for rule in branches)

    def admits_cuda(self, version: Version, *, data_centre: bool) -> bool:
        """Say the same of a driver that only tells the newest CUDA version it runs.

        A branch that is listed from some version on is given the benefit of the doubt.
        """
        if self.driver is None or version >= self.driver.cuda:
            return True
        return data_centre and any(version == rule.cuda for rule in self.data_centre_drivers)

    def wanted_drivers(self, *, data_centre: bool) -> str:
        """Say which drivers run this platform on such a GPU: `545 or later, or 535.86 or later of branch 535`."""
        branches = self.data_centre_drivers if data_centre else ()
        older = (f"{rule.text} or later of branch {rule.version[0]}" for rule in branches)
        return ", or ".join([f"{self.driver.text} or later" if self.driver else "any", *older])


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """An amount of memory as it is sold, and what a machine that has it reports at the least."""

    nominal_gb: int
    least_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """What a machine that serves on a GPU must have, whatever the platform."""

    gpu_memory: Memory
    host_memory: Memory
    gpu_reserve_bytes: int
    """What the CUDA context and the server take on the GPU beside the engines."""
    data_centre_gpus: frozenset[str]

    def is_data_centre(self, gpu_name: str) -> bool:
        """Say whether a GPU, by the name its driver gives it, is one for the data centre."""
        return not self.data_centre_gpus.isdisjoint(re.findall(r"[A-Za-z0-9]+", gpu_name))


def version(text: str) -> Version | None:
    """Read the numbers a version begins with: 580.65.06 is (580, 65, 6); None where there are none."""
    match = re.match(r"\d+(?:\.\d+)*", text.strip())
    return tuple(int(number) for number in match[0].split(".")) if match else None


def dotted(numbers: Version) -> str:
    """Write a version: (13, 0) is 13.0."""
    return ".".join(str(number) for number in numbers)


@cache
def platforms() -> dict[str, Platform]:
    """Read every platform, by name, the default one for GPUs first."""
    fields = _fields().table("platforms")
    return {name: _platform(name, fields.table(name)) for name in fields.names()}


@cache
def requirements() -> Requirements:
    """Read what is asked of a machine that serves on a GPU."""
    fields = _fields().table("machine")
    fields.reject_unknown("gpu_memory", "host_memory", "gpu_reserve_gib", "data_centre_gpus")
    return Requirements(
        gpu_memory=_memory(fields.table("gpu_memory")),
        host_memory=_memory(fields.table("host_memory")),
        gpu_reserve_bytes=round(fields.number("gpu_reserve_gib") * _GIBIBYTE),
        data_centre_gpus=frozenset(fields.items("data_centre_gpus", str)),
    )


def platform(name: str) -> Platform:
    """Find a platform; raise SettingError that lists the known ones."""
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
    numbers = version(text)
    if numbers is None or not re.fullmatch(r"[\d.]+", text):
        raise fields.error(key, f"{text!r} is no version: numbers with dots between them are wanted")
    return numbers


def _memory(fields: Fields) -> Memory:
    fields.reject_unknown("nominal_gb", "least_gib")
    return Memory(nominal_gb=fields.integer("nominal_gb"), least_bytes=round(fields.number("least_gib") * _GIBIBYTE))
