"""What an export was asked for, decided before anything heavy is imported."""

from dataclasses import dataclass
from pathlib import Path

from contract.catalogue import Family, Model, models
from contract.errors import SettingError

# The keys of export.checkpoints.SOURCES, which takes torch to import.
WEIGHTS = ("reference", "random", "production")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The models to export, and how."""

    families: dict[str, Family]
    models: tuple[Model, ...]
    precisions: tuple[str, ...]
    weights: str
    out: Path
    named: bool
    """Whether the models were asked for by name or point: then one without weights is an error, otherwise a remark."""
    force: bool = False

    def graphs(self, model: Model) -> int:
        """Count the graphs that are made of a model."""
        return len(model.family.variants()) * len(self.precisions)


def plan(
    families: dict[str, Family],
    names: tuple[str, ...],
    operating_point: str | None,
    precisions: tuple[str, ...],
    weights: str,
    out: Path,
    *,
    force: bool = False,
) -> Plan:
    """Choose models by name and point; raise SettingError for a name that is unknown or has no network of its own."""
    known = models(families, operating_point)
    for name in names:
        _check(name, known)
    chosen = [model for model in known.values() if not model.family.is_ensemble and (not names or model.name in names)]
    return Plan(
        families=families,
        models=tuple(chosen),
        precisions=tuple(precisions),
        weights=weights,
        out=out,
        named=bool(names or operating_point),
        force=force,
    )


def _check(name: str, known: dict[str, Model]) -> None:
    exportable = ", ".join(model.name for model in known.values() if not model.family.is_ensemble)
    if name not in known:
        raise SettingError(f"--model {name}", "the catalogue has no such model", f"Choose from {exportable}")
    if known[name].family.is_ensemble:
        steps = " and ".join(known[name].family.steps)
        raise SettingError(
            f"--model {name}", f"it has no network: the server composes it of {steps}", f"Choose from {exportable}"
        )
