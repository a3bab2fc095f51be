"""Read files of checkpoints that others made: regular files only, and no more of them than is expected."""

import stat
from pathlib import Path

from contract.errors import CheckpointError

_REMEDY = "Copy or download the checkpoint again"


def read(path: Path, most_bytes: int) -> bytes:
    """Return the content of a file; raise CheckpointError for a device, a pipe or a file of more bytes.

    The size that a file states is not enough: that of a device, to which a link may lead, is 0. A file that is missing
    or cannot be read raises the system's own error.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(path, "it is not a regular file", _REMEDY)
    with path.open("rb") as file:
        found = file.read(most_bytes + 1)
    if len(found) > most_bytes:
        raise CheckpointError(path, f"it has more than {most_bytes} bytes", _REMEDY)
    return found
