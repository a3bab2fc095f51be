"""Graphs of small networks, traced at most once in a test session."""

import shutil
from pathlib import Path

from export.job import Job
from export.tracing import trace
from tests.unit.export import small


class TracedGraphs:
    """Traces small networks on demand into a folder; the tests of a session share the files and do not change them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, family: str, precision: str = "fp32") -> Path:
        """Return the ONNX file of a family's small network for whole recordings."""
        return self._traced(small.job(family, precision))

    def copy(self, job: Job, path: Path) -> None:
        """Write a graph as export.tracing.trace does; the job's network must be that of small.network."""
        shutil.copyfile(self._traced(job), path)

    def _traced(self, job: Job) -> Path:
        path = self._folder / f"{job.family.name}-{job.name}.onnx"
        if not path.is_file():
            partial = path.with_suffix(".partial")
            trace(job, partial)
            partial.rename(path)
        return path
