"""Read the YAML of a checkpoint: plain values, no objects, and nothing that grows when it is read."""

from typing import Any

import yaml

from contract.errors import CheckpointError
from contract.fields import Fields
from export.checkpoints import settings
from export.checkpoints.weights import DAMAGED

# A configuration has some kilobytes; reading a megabyte of nested YAML takes gigabytes.
LARGEST_BYTES = 256 << 10
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """A loader without merge keys: each can double a table, so that a few lines would fill the memory."""

    def flatten_mapping(self, node: Any) -> None:
        """Raise an error for a table with a merge key."""
        for key, _ in node.value:
            if key.tag == _MERGE:
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", key.start_mark)
        super().flatten_mapping(node)

    def construct_scalar(self, node: Any) -> Any:
        """Return a scalar; raise an error for text that UTF-8 cannot hold."""
        text = super().construct_scalar(node)
        if any(0xD800 <= ord(each) < 0xE000 for each in text):  # noqa: PLR2004 - the surrogates
            raise yaml.constructor.ConstructorError(None, None, "text with half of a surrogate pair", node.start_mark)
        return text


def read(data: bytes | str, source: object) -> Fields:
    """Return the fields of a YAML text; raise CheckpointError for a damaged, hostile or very long one."""
    if len(data) > LARGEST_BYTES:
        raise CheckpointError(source, f"it has more than {LARGEST_BYTES >> 10} KiB", DAMAGED)
    try:
        value: Any = yaml.load(data, _Loader)  # noqa: S506 - a safe loader with one restriction more
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise CheckpointError(source, f"it is not plain YAML ({problem})", DAMAGED) from error
    return settings.fields(value, source)
