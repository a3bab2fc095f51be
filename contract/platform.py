"""The platforms engines are built for, read from platforms.toml."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from contract.errors import CatalogueError, SettingError
from contract.fields import Fields

_FILE = Path(__file__).with_name("platforms.toml")


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
    driver: str | None
    data_centre_drivers: tuple[str, ...]


@cache
def platforms() -> dict[str, Platform]:
    """Read every platform, by name, the default one for GPUs first."""
    table = tomllib.loads(_FILE.read_text())
    fields = Fields(table, source=_FILE.name, error=CatalogueError, remedy="Correct the file").table("platforms")
    return {name: _platform(name, fields.table(name)) for name in fields.names()}


def platform(name: str) -> Platform:
    """Find a platform; raise SettingError that lists the known ones."""
    if name not in platforms():
        known = ", ".join(platforms())
        raise SettingError(f"platform {name!r}", "it is not known", f"Choose one of {known}")
    return platforms()[name]


def _platform(name: str, fields: Fields) -> Platform:
    fields.only("title", "purpose", "triton", "cuda", "tensorrt", "python", "backend", "driver", "data_centre_drivers")

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
        driver=optional("driver"),
        data_centre_drivers=fields.items("data_centre_drivers", str),
    )
