"""Select the engines to serve: a pure function of the bundles, the catalogue and the target."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contract import compatibility
from contract.arch import Arch
from contract.catalogue import LM, OPTIONAL_ROLES, RESCORER, SPEAKER, Catalogue, Model, model_name
from contract.errors import NoEngineError
from contract.manifest import PASSED, EngineRecord
from contract.platform import Platform
from runtime.bundles import Bundle
from runtime.licence_file import Licence

Fit = tuple[bool, int]
"""How closely an engine fits, smallest first: (built for another architecture, index of its compatibility level)."""
_NO_RECOGNISER = "a CTC network that clients can call: the catalogue has none"
# What clients do without, by the role of the model.
_CONSEQUENCES = {
    RESCORER: "no rescoring by attention",
    LM: "no language model",
    SPEAKER: "speakers are not distinguished",
}


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

    def points(self, catalogue: Catalogue) -> tuple[str, ...]:
        """Return the requested operating point, or all of a catalogue that are licensed."""
        if self.operating_point is not None:
            return (self.operating_point,)
        return tuple(point for point in catalogue.operating_points if self.objection(point, None) is None)

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
class Absence:
    """Optional models, or those of a language, that the bundle of a served operating point does not list."""

    operating_point: str
    models: tuple[str, ...]
    consequence: str

    def __str__(self) -> str:
        return f"operating point {self.operating_point} is served without {', '.join(self.models)}: {self.consequence}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What is served and what is not; without an operating point where nothing can be served."""

    catalogue: Catalogue
    target: Target
    operating_points: tuple[str, ...]
    chosen: tuple[Choice, ...]
    ensembles: tuple[Model, ...]
    rejected: tuple[Rejection, ...]
    left_out: dict[str, tuple[str, ...]]
    """Incomplete operating points, each with its missing models."""
    languages: dict[str, tuple[str, ...]]
    """The languages that each served operating point recognises."""
    absent: tuple[Absence, ...]
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


def select(bundles: Sequence[Bundle], catalogue: Catalogue, target: Target) -> Selection:
    """Return a selection for each operating point that a bundle offers.

    Raise NoEngineError, with a reason for every engine found, when the requested point is incomplete, or when no point
    was requested and none is complete. Part of an operating point is never served.
    """
    selection = evaluate(bundles, catalogue, target)
    error = refusal(selection)
    if error is not None:
        raise error
    return selection


def evaluate(bundles: Sequence[Bundle], catalogue: Catalogue, target: Target) -> Selection:
    """Return the selection as `select` does, also where nothing can be served.

    A bundle offers an operating point when two conditions hold. Every engine that its manifest lists for the point and
    the mode may run here. At least one language has all engines that it requires. Optional models and whole languages
    that the manifest does not list are left out.

    All engines of an operating point come from one bundle, because only a bundle guarantees that its networks belong
    together. Of several bundles, the order of preference is: built for this architecture, then the narrower
    compatibility level, then more models, then the first bundle.
    """
    considered = _considered(catalogue, target)
    languages = {name: model.family.language for name, model in catalogue.models().items()}
    usable, rejected = _partition(bundles, considered, target, languages)
    offers = [
        {point: _offer(considered, bundle, found, point, target.mode) for point in considered.operating_points}
        for bundle, found in zip(bundles, usable, strict=True)
    ]
    wanted = target.points(catalogue)
    served = {point: _best([each[point] for each in offers], target) for point in wanted}
    complete = {point: offer for point, offer in served.items() if offer is not None}
    dropped = [
        Rejection(
            record=choice.record,
            bundle=choice.bundle.folder,
            reason=_rejection_reason(each[choice.model.operating_point], complete, target),
            runs_here=True,
        )
        for each, found in zip(offers, usable, strict=True)
        for choice in found.values()
        if complete.get(choice.model.operating_point) is not each[choice.model.operating_point]
    ]
    chosen = {choice.model.name: choice for offer in complete.values() for choice in offer.choices}
    return Selection(
        catalogue=catalogue,
        target=target,
        operating_points=tuple(complete),
        chosen=tuple(chosen[name] for name in sorted(chosen)),
        ensembles=tuple(model for offer in complete.values() for model in _ensembles(considered, offer)),
        rejected=(*rejected, *dropped),
        left_out={
            point: _missing(considered, [each[point] for each in offers], point)
            for point in wanted
            if point not in complete
        },
        languages={point: offer.languages for point, offer in complete.items()},
        absent=tuple(absence for offer in complete.values() for absence in _absences(considered, offer)),
        mode_is_known=bool(considered.families),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Offer:
    """What one bundle offers at an operating point."""

    operating_point: str
    bundle: Bundle
    listed: frozenset[str]
    """The models of the point in this mode that the manifest lists, usable or not."""
    choices: tuple[Choice, ...]
    """The usable ones of them."""
    missing: tuple[str, ...]
    """The models without a usable engine, for lack of which the bundle does not offer the point."""
    languages: tuple[str, ...]

    def fit(self, target: Target) -> Fit:
        """Return how closely the worst of the engines fits."""
        return max(_fit(choice, target) for choice in self.choices)


def _considered(catalogue: Catalogue, target: Target) -> Catalogue:
    """Return a catalogue with only what is licensed, in the mode of the target."""
    families = target.licence.limit(catalogue.families) if target.licence else catalogue.families
    in_mode = {name: each.in_mode(target.mode) for name, each in families.items() if target.mode in each.modes}
    return replace(catalogue, families=in_mode)


def _partition(
    bundles: Sequence[Bundle], catalogue: Catalogue, target: Target, languages: Mapping[str, str | None]
) -> tuple[list[Usable], list[Rejection]]:
    known, usable, rejected = catalogue.models(), list[Usable](), list[Rejection]()
    for bundle in bundles:
        found = Usable()
        for record in bundle.manifest.engines:
            reason = _mismatch(bundle, record, target, languages.get(record.model))
            if reason is None and (record.model not in known or known[record.model].family.is_ensemble):
                reason = "the catalogue has no such model"
            if reason is None:
                reason = _other_language(record, known[record.model].family.language, target)
            if reason is None and record.model in found:
                reason = "the bundle has another one"
            if reason is None:
                found[record.model] = Choice(model=known[record.model], record=record, bundle=bundle)
            else:
                rejected.append(Rejection(record=record, bundle=bundle.folder, reason=reason))
        usable.append(found)
    return usable, rejected


def _mismatch(bundle: Bundle, record: EngineRecord, target: Target, language: str | None) -> str | None:
    return next((reason for fits, reason in _rules(bundle, record, target, language) if not fits), None)


def _other_language(record: EngineRecord, language: str | None, target: Target) -> str | None:
    """Return why an engine may not serve the language that the catalogue states; None where it may.

    The manifest is signed and a catalogue is not: otherwise another catalogue would evade a licence for languages.
    """
    if record.languages is None:
        unstated = "its manifest does not state its language, which the licence limits: build the bundle again"
        return None if target.licence is None else unstated
    if record.languages == (() if language is None else (language,)):
        return None
    built_for = " and ".join(record.languages) or "every language"
    return f"it is built for {built_for}, and the catalogue states {language or 'every language'}"


def _rules(bundle: Bundle, record: EngineRecord, target: Target, language: str | None) -> Iterator[tuple[bool, str]]:
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
    forbidden = target.objection(record.operating_point, language)
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


def _offer(catalogue: Catalogue, bundle: Bundle, found: Usable, point: str, mode: str) -> _Offer:
    engines = {name: model for name, model in catalogue.models(point).items() if not model.family.is_ensemble}
    listed = {record.model for record in bundle.manifest.engines if record.mode == mode} & engines.keys()
    required = _required(catalogue, point)
    languages = [language for language in required if language in {engines[name].family.language for name in listed}]
    needed = listed.union(*(required[language] for language in languages))
    missing = tuple(sorted(name for name in needed if name not in found))
    return _Offer(
        operating_point=point,
        bundle=bundle,
        listed=frozenset(listed),
        choices=tuple(choice for name, choice in found.items() if name in listed),
        missing=missing if languages else (*missing, *_nearest(required, found)),
        languages=tuple(languages),
    )


def _required(catalogue: Catalogue, point: str) -> dict[str, tuple[str, ...]]:
    """Return the engines that each language of an operating point requires."""
    found = {language: catalogue.recogniser(language, point) for language in catalogue.languages()}
    return {
        language: tuple(sorted(model_name(step, point) for step in family.steps or (family.name,)))
        for language, family in found.items()
        if family is not None
    }


def _nearest(required: Mapping[str, tuple[str, ...]], found: Collection[str]) -> tuple[str, ...]:
    """Return what is missing for the language that lacks the fewest engines."""
    missing = [tuple(name for name in names if name not in found) for names in required.values()]
    return min(missing, key=len, default=(_NO_RECOGNISER,))


def _missing(catalogue: Catalogue, offers: Iterable[_Offer], point: str) -> tuple[str, ...]:
    nearest = _nearest(_required(catalogue, point), ())
    return min((offer.missing for offer in offers), key=len, default=nearest)


def _best(offers: Sequence[_Offer], target: Target) -> _Offer | None:
    complete = [offer for offer in offers if not offer.missing]
    # min returns the first of equals.
    return min(complete, key=lambda offer: (offer.fit(target), -len(offer.choices)), default=None)


def _fit(choice: Choice, target: Target) -> Fit:
    levels = compatibility.LEVELS
    place = levels.index(choice.level) if choice.level in levels else len(levels)
    return choice.bundle.manifest.arch is not target.arch, place


def _ensembles(catalogue: Catalogue, offer: _Offer) -> list[Model]:
    served = {choice.model.family.name for choice in offer.choices}
    return [
        model
        for model in catalogue.models(offer.operating_point).values()
        if model.family.is_ensemble
        and model.family.language in offer.languages
        and served.issuperset(model.family.steps)
    ]


def _absences(catalogue: Catalogue, offer: _Offer) -> Iterator[Absence]:
    point = offer.operating_point
    for language, names in _required(catalogue, point).items():
        if language not in offer.languages:
            lacking = tuple(name for name in names if name not in offer.listed)
            yield Absence(operating_point=point, models=lacking, consequence=f"language {language} is not served")
    for name, model in catalogue.models(point).items():
        family = model.family
        if family.role in OPTIONAL_ROLES and family.language in (None, *offer.languages) and name not in offer.listed:
            of = f" for {family.language}" if family.language else ""
            consequence = f"{_CONSEQUENCES[family.role]}{of}"
            yield Absence(operating_point=point, models=(name,), consequence=consequence)


def _rejection_reason(offer: _Offer, complete: Mapping[str, _Offer], target: Target) -> str:
    point = offer.operating_point
    if target.operating_point not in (None, point):
        return f"operating point {target.operating_point} was requested"
    if offer.missing:
        return f"operating point {point} lacks {', '.join(offer.missing)}"
    other = complete[point]
    better = "comes first"
    if other.fit(target) < offer.fit(target):
        better = "fits this GPU more closely"
    elif len(other.choices) > len(offer.choices):
        better = "has more models"
    return f"operating point {point} is served from {other.bundle.folder}, which {better}"
