"""Import a CTC network from a folder that transformers' save_pretrained wrote."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from contract.errors import CheckpointError
from export.checkpoints import parakeet, w2v_bert, wav2vec2
from export.checkpoints.imported import Imported
from export.checkpoints.transformers_folder import CONFIG_FILE, Folder

KINDS: Mapping[str, Callable[[Folder], Imported]] = MappingProxyType(
    {
        parakeet.MODEL_TYPE: parakeet.read,
        **dict.fromkeys(wav2vec2.MODEL_TYPES, wav2vec2.read),
        w2v_bert.MODEL_TYPE: w2v_bert.read,
    }
)
"""The importers by `model_type`."""


def recognises(path: Path) -> bool:
    """Return whether a folder holds a configuration with a model_type, or one that is damaged."""
    try:
        return Folder(path).fields(CONFIG_FILE).has("model_type")
    except CheckpointError:
        return (path / CONFIG_FILE).is_file()


def read(path: Path) -> Imported:
    """Return the network of a folder; raise CheckpointError for a damaged, hostile or unsupported one."""
    folder = Folder(path)
    table = folder.fields(CONFIG_FILE)
    kind = table.text("model_type")
    if kind not in KINDS:
        raise table.error("model_type", f"{kind} is not supported: the supported ones are {', '.join(KINDS)}")
    names = table.items("architectures", str) if table.has("architectures") else ()
    if names and not any(name.endswith("ForCTC") for name in names):
        raise table.error("architectures", f"{names[0]} has no CTC head")
    return KINDS[kind](folder)
