"""Selects what to export, before anything slow is imported."""

from dataclasses import dataclass, field
from pathlib import Path

from contract.catalogue import Catalogue, Model
from contract.errors import SettingError

# The keys of export.checkpoints.SOURCES, which cannot be imported without torch.
WEIGHTS = ("reference", "random", "production")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The models to export, and how."""

    catalogue: Catalogue
    models: tuple[Model, ...]
    precisions: tuple[str, ...]
    weights: str
    out: Path
    named: bool
    """Whether the user named models or a point. A model without weights is then an error, otherwise it is skipped."""
    force: bool = False
    recordings: dict[str, Path] = field(default_factory=dict)
    """Folders of recordings with texts, by language."""
    fp16_is_optional: bool = False
    """Whether a graph that differs too much in FP16 is left out. GPUs then compute the network in FP32."""

    def graphs(self, model: Model) -> int:
        """Return the number of graphs that are exported from a model."""
        return len(model.family.variants()) * len(self.precisions)


def plan(
    catalogue: Catalogue,
    names: tuple[str, ...],
    operating_point: str | None,
    precisions: tuple[str, ...],
    weights: str,
    out: Path,
    *,
    force: bool = False,
) -> Plan:
    """Select models by name and operating point.

    Raises SettingError for a name that the catalogue does not have, that is of another operating point, or that has no
    network of its own.
    """
    for name in names:
        _check(name, catalogue, operating_point)
    known = catalogue.models(operating_point)
    selected = [model for model in known.values() if _is_exportable(model) and (not names or model.name in names)]
    return Plan(
        catalogue=catalogue,
        models=tuple(selected),
        precisions=tuple(precisions),
        weights=weights,
        out=out,
        named=bool(names or operating_point),
        force=force,
    )


def _is_exportable(model: Model) -> bool:
    return not model.family.is_ensemble


def _check(name: str, catalogue: Catalogue, operating_point: str | None) -> None:
    setting = f"--model {name}"
    exportable = [each.name for each in catalogue.models(operating_point).values() if _is_exportable(each)]
    choose = f"Choose from {', '.join(exportable)}"
    model = catalogue.models().get(name)
    if model is None:
        raise SettingError(setting, *_unknown(name, catalogue, choose))
    if model.family.is_ensemble:
        steps = " and ".join(model.family.steps)
        raise SettingError(setting, f"it has no network: the server composes it of {steps}", choose)
    if operating_point not in (None, model.operating_point):
        cause = f"it is a model of {model.operating_point}, and --operating-point selects {operating_point} only"
        siblings = [each for each in model.family.model_names() if each in exportable]
        remedy = "Leave out --operating-point" + "".join(f", or use --model {sibling}" for sibling in siblings)
        raise SettingError(setting, cause, remedy)


def _unknown(name: str, catalogue: Catalogue, choose: str) -> tuple[str, str]:
    """Return cause and remedy for a name that the catalogue does not have."""
    prefix, _, point = name.rpartition("_")
    families = catalogue.families
    family = families.get(name) or families.get(prefix if point in catalogue.operating_points else "")
    if family is None or family.is_ensemble:
        return "the catalogue has no such model", choose
    options = " or ".join(f"--model {model}" for model in family.model_names())
    if name == family.name:
        return "it is a family of models, not a model", f"Use {options}"
    return f"the catalogue has no {point} model of {prefix}", f"Use {options}"
