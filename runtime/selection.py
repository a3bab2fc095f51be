"""Select the engines to serve: a pure function of the bundles, the catalogue and the target."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract import compatibility
from contract.arch import Arch
from contract.catalogue import OPERATING_POINTS, Family, Model, language_of, models
from contract.errors import NoEngineError
from contract.manifest import PASSED, EngineRecord
from contract.platform import Platform
from runtime.bundles import Bundle
from runtime.licence_file import Licence

Fit = tuple[bool, int]
"""How closely an engine fits, smallest first: (built for another architecture, index of its compatibility level)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What engines must be built for."""

    arch: Arch
    platform: Platform
    mode: str
    operating_point: str | None
    """None selects every operating point that is complete."""
    licence: Licence | None = None
    """The licence that limits what is served; None where no licence is needed."""

    @property
    def points(self) -> tuple[str, ...]:
        """Return the requested operating point, or all that are licensed."""
        if self.operating_point is not None:
            return (self.operating_point,)
        return tuple(point for point in OPERATING_POINTS if self.objection(point, None) is None)

    def objection(self, operating_point: str, language: str | None) -> str | None:
        """Return why the licence forbids a model; None where it does not."""
        return self.licence.objection(operating_point, language) if self.licence else None

    def __str__(self) -> str:
        return f"arch {self.arch.value} on platform {self.platform.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An engine that will be served, and the bundle it is in."""

    model: Model
    record: EngineRecord
    bundle: Bundle

    @property
    def level(self) -> str:
        """Return the engine's hardware-compatibility level."""
        return compatibility.level(self.record.key_parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """An engine that will not be served, and why."""

    record: EngineRecord
    bundle: Path
    reason: str
    runs_here: bool = False
    """Whether the engine itself may run here, so that only its operating point or its bundle excludes it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is served and what is not; without an operating point where nothing can be served."""

    target: Target
    operating_points: tuple[str, ...]
    chosen: tuple[Choice, ...]
    ensembles: tuple[Model, ...]
    rejected: tuple[Rejection, ...]
    left_out: dict[str, tuple[str, ...]]
    """Incomplete operating points, each with its missing models."""
    mode_is_known: bool
    """Whether any model of the catalogue has the mode."""

    def models(self) -> tuple[str, ...]:
        """Return the names of all models that the server will report READY."""
        return tuple(sorted([choice.model.name for choice in self.chosen] + [model.name for model in self.ensembles]))

    def precisions(self) -> dict[str, tuple[str, ...]]:
        """Return the models of the chosen engines by the precision that their record states, both sorted by name."""
        found: dict[str, list[str]] = {}
        for choice in self.chosen:
            found.setdefault(choice.record.precision, []).append(choice.model.name)
        return {precision: tuple(sorted(names)) for precision, names in sorted(found.items())}

    def compatible(self) -> tuple[Choice, ...]:
        """Return the chosen engines that were built for another architecture and run here by their level."""
        return tuple(choice for choice in self.chosen if choice.bundle.manifest.arch is not self.target.arch)


def select(bundles: Sequence[Bundle], families: Mapping[str, Family], target: Target) -> Selection:
    """Return a selection with one engine per model for each operating point that is complete.

    Raise NoEngineError, with a reason for every engine found, when the requested point is incomplete, or when no point
    was requested and none is complete. Part of an operating point is never served.
    """
    selection = evaluate(bundles, families, target)
    error = refusal(selection)
    if error is not None:
        raise error
    return selection


def evaluate(bundles: Sequence[Bundle], families: Mapping[str, Family], target: Target) -> Selection:
    """Return the selection as `select` does, also where nothing can be served.

    All engines of an operating point come from one bundle, because only a bundle guarantees that its networks belong
    together. Of several complete bundles, the order of preference is: built for this architecture, then the narrower
    compatibility level, then the first bundle.
    """
    families = target.licence.limit(families) if target.licence else families
    families = {name: family.in_mode(target.mode) for name, family in families.items() if target.mode in family.modes}
    usable, rejected = _partition(bundles, families, target)
    wanted = target.points
    needed = {point: _needed(families, point) for point in OPERATING_POINTS}
    served = {point: _best(usable, needed[point], target) for point in wanted}
    complete = {point: found for point, found in served.items() if found is not None}
    dropped = [
        Rejection(
            record=choice.record,
            bundle=choice.bundle.folder,
            reason=_rejection_reason(choice, bundle, needed, complete, target),
            runs_here=True,
        )
        for bundle in usable
        for name, choice in bundle.items()
        if complete.get(choice.model.operating_point) is not bundle
    ]
    chosen = {name: complete[point][name] for point in complete for name in needed[point]}
    return Selection(
        target=target,
        operating_points=tuple(complete),
        chosen=tuple(chosen[name] for name in sorted(chosen)),
        ensembles=tuple(model for point in complete for model in _ensembles(families, point)),
        rejected=(*rejected, *dropped),
        left_out={point: _missing(usable, needed[point]) for point in wanted if point not in complete},
        mode_is_known=bool(families),
    )


def refusal(selection: Selection) -> NoEngineError | None:
    """Return the error where nothing can be served; None where something can."""
    if selection.operating_points:
        return None
    target = selection.target
    lacks = "; ".join(f"{point} lacks {', '.join(names)}" for point, names in selection.left_out.items())
    unused = [it for it in selection.rejected if not it.runs_here] + _scattered(selection)
    reasons = f". Not used: {explain(unused)}" if unused else ""
    build = f"Build them with `{build_command(target)}`"
    no_mode = f"No model of the catalogue has a {target.mode} mode: serve the batch mode, with SM_BATCH_MODE=true"
    remedy = build if selection.mode_is_known else no_mode
    return NoEngineError(f"{target.mode} engines for {target}", f"{lacks}{reasons}", remedy)


def build_command(target: Target | None) -> str:
    """Return the command that builds engines for a target; without options where the target is unknown."""
    if target is None:
        return "python -m build.engines"
    return f"python -m build.engines --arch {target.arch.value} --platform {target.platform.name}"


def explain(rejected: Iterable[Rejection]) -> str:
    """Return in one line why engines were rejected, grouped by reason."""
    together: dict[tuple[Path, str], list[str]] = {}
    for it in rejected:
        together.setdefault((it.bundle, it.reason), []).append(f"{it.record.model}/{it.record.mode}")
    return "; ".join(f"{bundle} ({', '.join(names)}): {reason}" for (bundle, reason), names in together.items())


Usable = dict[str, Choice]
"""The engines of one bundle that may run here, by model name."""


def _partition(
    bundles: Sequence[Bundle], families: Mapping[str, Family], target: Target
) -> tuple[list[Usable], list[Rejection]]:
    known, usable, rejected = models(dict(families)), list[Usable](), list[Rejection]()
    for bundle in bundles:
        found = Usable()
        for record in bundle.manifest.engines:
            reason = _mismatch(bundle, record, target)
            if reason is None and (record.model not in known or known[record.model].family.is_ensemble):
                reason = "the catalogue has no such model"
            if reason is None and record.model in found:
                reason = "the bundle has another one"
            if reason is None:
                found[record.model] = Choice(model=known[record.model], record=record, bundle=bundle)
            else:
                rejected.append(Rejection(record=record, bundle=bundle.folder, reason=reason))
        usable.append(found)
    return usable, rejected


def _mismatch(bundle: Bundle, record: EngineRecord, target: Target) -> str | None:
    return next((reason for fits, reason in _rules(bundle, record, target) if not fits), None)


def _rules(bundle: Bundle, record: EngineRecord, target: Target) -> Iterator[tuple[bool, str]]:
    platform, manifest = target.platform, bundle.manifest
    built_with = manifest.toolchain.get("tensorrt", "an unknown version")
    # Checked first: without a trusted signature nothing else in the manifest counts.
    yield bundle.verdict.is_acceptable, bundle.verdict.value
    yield record.compiler != "tensorrt_rtx", "Triton has no backend for TensorRT-RTX engines"
    yield manifest.platform == platform.name, f"it is built for platform {manifest.platform}, not for {platform.name}"
    level = compatibility.level(record.key_parts)
    yield compatibility.admits(level, manifest.arch, target.arch), _other_arch(manifest.arch, target.arch, level)
    yield record.compiler == platform.backend, f"{platform.backend} serves no engine of {record.compiler}"
    # TensorRT plans are not portable between builds of TensorRT: all four numbers must be equal.
    yield (
        record.compiler != "tensorrt" or built_with == platform.tensorrt,
        f"it is built with TensorRT {built_with}, but platform {platform.name} has {platform.tensorrt}",
    )
    yield record.mode == target.mode, f"it is built for {record.mode}, not for {target.mode}"
    yield record.gate.outcome == PASSED, f"its accuracy was not checked: {record.gate.reason or record.gate.outcome}"
    forbidden = target.objection(record.operating_point, language_of(record.family))
    yield forbidden is None, forbidden or ""


def _scattered(selection: Selection) -> list[Rejection]:
    # Where one bundle has a part of a point, the missing models are enough. Where several have parts, each is listed.
    wanted = selection.left_out
    parts = [it for it in selection.rejected if it.runs_here and it.record.operating_point in wanted]
    return parts if len({it.bundle for it in parts}) > 1 else []


def _other_arch(built: Arch, wanted: Arch, level: str) -> str:
    if level == compatibility.NONE:
        return f"it is built for {built.value}, not for {wanted.value}"
    return f"it is built for {built.value}, and its compatibility {level} does not admit {wanted.value}"


def _needed(families: Mapping[str, Family], point: str) -> tuple[str, ...]:
    return tuple(name for name, model in models(dict(families), point).items() if not model.family.is_ensemble)


def _best(usable: Sequence[Usable], needed: Sequence[str], target: Target) -> Usable | None:
    complete = [found for found in usable if needed and all(name in found for name in needed)]
    # min returns the first of equals.
    return min(complete, key=lambda found: max(_fit(found[name], target) for name in needed), default=None)


def _fit(choice: Choice, target: Target) -> Fit:
    levels = compatibility.LEVELS
    place = levels.index(choice.level) if choice.level in levels else len(levels)
    return choice.bundle.manifest.arch is not target.arch, place


def _missing(usable: Sequence[Usable], needed: Sequence[str]) -> tuple[str, ...]:
    if not needed:
        return ("every model: the catalogue has none",)
    missing = [tuple(name for name in needed if name not in found) for found in ({}, *usable)]
    return min(missing, key=len)


def _ensembles(families: Mapping[str, Family], point: str) -> list[Model]:
    return [model for model in models(dict(families), point).values() if model.family.is_ensemble]


def _rejection_reason(
    choice: Choice,
    bundle: Usable,
    needed: Mapping[str, tuple[str, ...]],
    complete: Mapping[str, Usable],
    target: Target,
) -> str:
    point = choice.model.operating_point
    if target.operating_point not in (None, point):
        return f"operating point {target.operating_point} was requested"
    missing = [name for name in needed[point] if name not in bundle]
    if missing:
        return f"operating point {point} lacks {', '.join(missing)}"
    other = complete[point]
    theirs, ours = (max(_fit(found[name], target) for name in needed[point]) for found in (other, bundle))
    better = "fits this GPU more closely" if theirs < ours else "comes first"
    return f"operating point {point} is served from {other[needed[point][0]].bundle.folder}, which {better}"
