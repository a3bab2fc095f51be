"""Settings of services that tests start without a server."""

import dataclasses
from pathlib import Path
from typing import Any

from contract.catalogue import Catalogue, Family, read_catalogue
from service.keys import ApiKeys, read
from service.settings import Settings

KEY = "0123456789abcdef0123"


def keys(folder: Path) -> ApiKeys:
    """Return the keys of a file with one client, `alice`, whose key is KEY."""
    path = folder / "keys"
    path.write_text(f"# clients\n\nalice {KEY}\n")
    return read(path)


def catalogue_of(*languages: str) -> Catalogue:
    """Return the reference catalogue with other languages: each has the English networks."""
    known = read_catalogue()
    families: dict[str, Family] = {}
    for name, family in known.families.items():
        if family.language is None:
            families[name] = family
        else:
            families |= {f"{name}_{each}": dataclasses.replace(family, language=each) for each in languages}
    return dataclasses.replace(known, families=families)


def settings(folder: Path, **changed: Any) -> Settings:
    """Return settings that store everything below a folder and name a server that does not exist."""
    plain: dict[str, Any] = {
        "endpoint": "127.0.0.1:9",
        "realtime_endpoint": None,
        "catalogue": read_catalogue(),
        "database": f"sqlite:///{folder}/jobs.sqlite",
        "storage": str(folder / "files"),
    }
    return Settings(**plain | changed)
