"""The model card, rendered from the figures that the stages recorded."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

import torch

from contract import files
from export.checkpoints import reference
from training import reporting, voices
from training.errors import MissingDataError
from training.recipe import Recipe

TEMPLATE_PATH = Path(__file__).with_name("model_card.md")
HISTORY_PATH = Path(__file__).with_name("history.md")
# The figures that stages record, and the command that makes each.
STAGES = MappingProxyType(
    {
        "recogniser_standard": "standard",
        "recogniser_enhanced": "enhanced",
        "language": "language",
        "ngram_standard": "ngram",
        "ngram_enhanced": "ngram",
        "speakers_standard": "speakers",
        "speakers_enhanced": "speakers",
        "dialogue_standard": "dialogue",
        "dialogue_enhanced": "dialogue",
    }
)


def write(recipe: Recipe) -> None:
    """Write MODEL_CARD.md next to the weights. Raises MissingDataError where a stage has not run."""
    figures = reporting.read_figures(recipe)
    missing = [stage for stage in STAGES if stage not in figures]
    if missing:
        raise MissingDataError(f"the figures of {missing[0]} in {recipe.figures}", STAGES[missing[0]])
    if "machine" not in figures:
        reporting.record(recipe, "machine", machine())
        figures = reporting.read_figures(recipe)
    files.write(recipe.weights / "MODEL_CARD.md", render(recipe, figures))


def render(recipe: Recipe, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the card: its template filled with the figures and the numbers of the recipe."""
    values: dict[str, Any] = {
        f"{stage}_{name}": _text(name, each) for stage in figures for name, each in figures[stage].items()
    }
    values |= {
        "seed": recipe.seed,
        "variants": len(voices.VARIANTS),
        "accents": len(voices.ACCENTS),
        "held_out_variants": len(voices.HELD_OUT_VARIANTS),
        "evaluation_utterances": recipe.evaluation_utterances,
        "utterances": recipe.utterances,
        "library_utterances": recipe.library_utterances,
        "meetings_utterances": recipe.meetings_utterances,
        "history": " ".join(HISTORY_PATH.read_text(encoding="utf-8").split()),
        "batch_seconds": recipe.batch_frames // 100,
        "processes": recipe.processes,
    }
    for point in recipe.points:
        values |= {f"layers_{point.name}": point.body.layers, f"decoder_layers_{point.name}": point.decoder.layers}
        values[f"conditioned_{point.name}"] = ", ".join(map(str, point.body.conditioned))
        counts = {path.stem: parameters(path) for path in sorted((recipe.weights / point.name).glob("*.safetensors"))}
        values |= {f"parameters_{point.name}_{family}": _millions(count) for family, count in counts.items()}
        values[f"parameters_{point.name}"] = _millions(sum(counts.values()))
    return Template(TEMPLATE_PATH.read_text(encoding="utf-8")).substitute(values)


def parameters(path: Path) -> int:
    """Return the number of parameters of a network, including those that another file stores."""
    network, _ = reference.load(path)
    return sum(tensor.numel() for tensor in network.state_dict().values())


def machine() -> dict[str, Any]:
    """Return the processor, the number of cores and the version of torch."""
    return {"processor": _processor(), "cores": os.cpu_count(), "torch": torch.__version__.split("+")[0]}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _text(name: str, value: Any) -> str:
    if name.startswith(("wer_", "equal_error", "clustering", "right", "windows_right")):
        return f"{100 * value:.1f} %"
    return str(value)
