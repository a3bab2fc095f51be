"""Results in json-v2 that two runs of the transcriber can be compared by."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def comparable(paths: Iterable[Path], folder: Path) -> dict[str, Any]:
    """Return results by their places in a folder, without what differs from run to run: id and times of the job."""
    found = {str(path.relative_to(folder)): json.loads(path.read_bytes()) for path in paths}
    for document in found.values():
        del document["job"], document["metadata"]["created_at"]
    return found
