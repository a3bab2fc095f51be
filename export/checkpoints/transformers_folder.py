"""Read the files of a folder that transformers' save_pretrained wrote."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from contract import digest
from contract.errors import CheckpointError
from contract.fields import Fields
from export.checkpoints import plain_files, settings
from export.checkpoints.weights import DAMAGED, read_pickle, read_safetensors

CONFIG_FILE = "config.json"
_SAFETENSORS, _PICKLE = "model.safetensors", "pytorch_model.bin"
_PREPROCESSOR_FILE, _PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
# Where a processor keeps the settings of its feature extractor, by precedence.
_NESTED = ("feature_extractor", "audio_processor")
# The fields of feature extractors that change the features.
_FEATURES = (
    "feature_extractor_type",
    "sampling_rate",
    "do_normalize",
    "feature_size",
    "num_mel_bins",
    "stride",
    "hop_length",
    "win_length",
    "n_fft",
    "preemphasis",
)
_LARGEST_JSON_BYTES = 64 << 20


class Folder:
    """A folder of transformers; it notes which files were read, for the digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._used: set[str] = set()

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the names and contents of the files that were read."""
        return digest.of_value({name: digest.of_file(self.path / name) for name in sorted(self._used)})

    def has(self, name: str) -> bool:
        """Return whether the folder holds a file."""
        return (self.path / name).is_file()

    def json(self, name: str) -> Any:
        """Return the value of a JSON file; raise CheckpointError for a missing or damaged one."""
        path = self.path / name
        self._used.add(name)
        try:
            return settings.parse_json(plain_files.read(path, _LARGEST_JSON_BYTES).decode())
        except FileNotFoundError as error:
            raise CheckpointError(path, "the file is missing", DAMAGED) from error
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(path, f"it is not JSON ({error})", DAMAGED) from error

    def fields(self, name: str) -> Fields:
        """Return the fields of a JSON file."""
        return settings.fields(self.json(name), self.path / name)

    def optional_fields(self, name: str) -> Fields:
        """Return the fields of a JSON file; none if there is no such file."""
        return self.fields(name) if self.has(name) else settings.fields({}, self.path / name)

    def feature_extractor(self) -> Fields:
        """Return the settings of the feature extractor: of the processor's file, as transformers does, or of its own.

        Raises CheckpointError if the two differ in a field that changes the features: one of them is out of date.
        """
        processor = self.optional_fields(_PROCESSOR_FILE)
        nested = next((processor.table(key) for key in _NESTED if processor.has(key)), None)
        own = self.fields(_PREPROCESSOR_FILE) if self.has(_PREPROCESSOR_FILE) else None
        if nested is not None and own is not None:
            self._reject_difference(nested, own)
        found = nested or own
        if found is not None:
            return found
        cause = f"it holds neither {_PREPROCESSOR_FILE} nor a feature extractor in {_PROCESSOR_FILE}"
        raise CheckpointError(self.path, cause, "Save the processor of the network there too")

    def tensors(self) -> dict[str, Tensor]:
        """Return all weights: of one file or of several with an index, safetensors before pickles."""
        for name, read in ((_SAFETENSORS, read_safetensors), (_PICKLE, read_pickle)):
            parts = [name] if self.has(name) else self._parts(f"{name}.index.json")
            if parts:
                self._used.update(parts)
                return {key: value for part in parts for key, value in read(self.path / part).items()}
        cause = f"it holds neither {_SAFETENSORS} nor {_PICKLE}, nor an index of one"
        raise CheckpointError(self.path, cause, DAMAGED)

    def _reject_difference(self, nested: Fields, own: Fields) -> None:
        for key in _FEATURES:
            if nested.holds(key) and own.holds(key) and nested.raw(key) != own.raw(key):
                cause = f"its {key} is {nested.raw(key)!r}, and that of {_PREPROCESSOR_FILE} is {own.raw(key)!r}"
                raise CheckpointError(self.path / _PROCESSOR_FILE, cause, "Remove the file that is out of date")

    def _parts(self, index: str) -> list[str]:
        if not self.has(index):
            return []
        table = self.fields(index).table("weight_map")
        parts = sorted({table.text(key) for key in table.names()})
        for part in parts:
            if Path(part).name != part:
                raise table.error("", f"{part!r} leads out of the folder")
        self._reject_missing(parts)
        return parts

    def _reject_missing(self, parts: Iterable[str]) -> None:
        for part in parts:
            if not self.has(part):
                raise CheckpointError(self.path / part, "the file is missing", DAMAGED)
