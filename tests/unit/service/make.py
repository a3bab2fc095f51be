"""Settings of services that tests start without a server."""

import dataclasses
from pathlib import Path
from typing import Any

from contract.catalogue import Catalogue, Family, read_catalogue
from service.jobs.database import Database
from service.jobs.records import Job, State, new_id
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


def stored(database: Database, **changed: Any) -> Job:
    """Store a job of the client `alice` and return it; its recording is not stored, and its key names one."""
    job_id = new_id()
    plain: dict[str, Any] = {
        "id": job_id, "client": "alice", "state": State.RUNNING, "created_us": database.now_us(),
        "config": {"type": "transcription"}, "data_name": "a.wav", "data_key": f"{job_id}/recording",
    }  # fmt: skip
    job = Job(**plain | changed)
    assert database.add(job, most_unfinished=1000)
    return job


def finished(database: Database, job: Job) -> None:
    """End a job that is the oldest one that waits."""
    claim = database.claim(30.0)
    assert claim is not None
    assert claim.job.id == job.id
    assert database.finish(claim, State.DONE, transcript_key=f"{job.id}/transcript")
