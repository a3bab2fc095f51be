"""Maps keys of weights in files of earlier releases to the keys that the networks use now.

The reference weights and the checkpoints of earlier trainings keep their old keys; whatever reads weights applies this
map. New files are written with the new keys.
"""

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

# By a part of a key: `conditioning.0.<part>.weight`. The values are attributes of SelfConditioning.
RENAMED_PARTS: Mapping[str, str] = MappingProxyType({"guess": "ctc_head", "tell": "project"})  # words: spoken


def current_key(key: str) -> str:
    """Return the key that the networks use for a key of this or of an earlier release."""
    return ".".join(RENAMED_PARTS.get(part, part) for part in key.split("."))


def with_current_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the keys that the networks use."""
    return {current_key(key): tensor for key, tensor in tensors.items()}
