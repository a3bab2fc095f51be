"""Decides which engines are served: a pure function of what there is and what was asked for."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.arch import Arch
from contract.catalogue import OPERATING_POINTS, Family, Model, models
from contract.errors import NoEngineError
from contract.manifest import PASSED, BundleManifest, EngineRecord
from contract.platform import Platform
from runtime.bundles import Bundle


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What engines are wanted for."""

    arch: Arch
    platform: Platform
    mode: str
    operating_point: str | None
    """None wants every operating point that is complete."""

    def __str__(self) -> str:
        return f"arch {self.arch.value} on platform {self.platform.name}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """An engine that will be served, and the bundle it is in."""

    model: Model
    record: EngineRecord
    bundle: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """An engine that will not be served, and why."""

    engine: str
    bundle: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The whole decision."""

    target: Target
    operating_points: tuple[str, ...]
    chosen: tuple[Choice, ...]
    ensembles: tuple[Model, ...]
    rejected: tuple[Rejection, ...]
    left_out: dict[str, tuple[str, ...]]
    """Operating points that were not asked for by name and are incomplete, with the models they lack."""

    def models(self) -> tuple[str, ...]:
        """Name everything the server will report READY."""
        return tuple(sorted([choice.model.name for choice in self.chosen] + [model.name for model in self.ensembles]))


def select(bundles: Sequence[Bundle], families: Mapping[str, Family], target: Target) -> Selection:
    """Choose one engine a model for each operating point that is complete.

    Raise NoEngineError, with the reason for every engine there is, when the point that was asked for is incomplete, or
    when none was asked for and none is complete. Half an operating point is never served.
    """
    usable, rejected = _sift(bundles, dict(families), target)
    wanted = (target.operating_point,) if target.operating_point else OPERATING_POINTS
    missing = {point: _missing(dict(families), point, usable) for point in wanted}
    complete = tuple(point for point, names in missing.items() if not names)
    incomplete = {point: names for point, names in missing.items() if names}
    if not complete:
        raise _refusal(
            target, incomplete, rejected, known_mode=any(target.mode in each.modes for each in families.values())
        )
    served = {choice.model.name: choice for choice in usable.values() if choice.model.operating_point in complete}
    dropped = [_drop(choice, target, incomplete) for name, choice in usable.items() if name not in served]
    return Selection(
        target=target,
        operating_points=complete,
        chosen=tuple(served[name] for name in sorted(served)),
        ensembles=tuple(model for point in complete for model in _ensembles(dict(families), point)),
        rejected=(*rejected, *dropped),
        left_out=incomplete,
    )


def explain(rejected: Iterable[Rejection]) -> str:
    """Say in one line why engines were rejected, those with the same reason together."""
    together: dict[tuple[Path, str], list[str]] = {}
    for rejection in rejected:
        together.setdefault((rejection.bundle, rejection.reason), []).append(rejection.engine)
    return "; ".join(f"{bundle} ({', '.join(names)}): {reason}" for (bundle, reason), names in together.items())


def _sift(
    bundles: Sequence[Bundle], families: dict[str, Family], target: Target
) -> tuple[dict[str, Choice], list[Rejection]]:
    known, usable, rejected = models(families), dict[str, Choice](), list[Rejection]()
    for path, manifest in bundles:
        for record in manifest.engines:
            reason = _unfit(manifest, record, target)
            if reason is None and (record.model not in known or known[record.model].family.is_ensemble):
                reason = "the catalogue has no such model"
            if reason is None and record.model in usable:
                reason = f"{usable[record.model].bundle} has one already"
            if reason is None:
                usable[record.model] = Choice(model=known[record.model], record=record, bundle=path)
            else:
                rejected.append(Rejection(engine=f"{record.model}/{record.mode}", bundle=path, reason=reason))
    return usable, rejected


def _unfit(manifest: BundleManifest, record: EngineRecord, target: Target) -> str | None:
    return next((reason for fits, reason in _rules(manifest, record, target) if not fits), None)


def _rules(manifest: BundleManifest, record: EngineRecord, target: Target) -> Iterator[tuple[bool, str]]:
    platform, built_with = target.platform, manifest.toolchain.get("tensorrt", "an unknown version")
    yield record.compiler != "tensorrt_rtx", "Triton has no backend for TensorRT-RTX engines"
    yield manifest.platform == platform.name, f"it is built for platform {manifest.platform}, not for {platform.name}"
    yield manifest.arch is target.arch, f"it is built for {manifest.arch.value}, not for {target.arch.value}"
    yield record.compiler == platform.backend, f"{platform.backend} serves no engine of {record.compiler}"
    # Plans carry no promise across builds: the very same one, down to the last number.
    yield (
        record.compiler != "tensorrt" or built_with == platform.tensorrt,
        f"it is built with TensorRT {built_with}, and platform {platform.name} has {platform.tensorrt}",
    )
    yield record.mode == target.mode, f"it is built for {record.mode}, not for {target.mode}"
    yield record.gate.outcome == PASSED, f"its accuracy was not checked: {record.gate.reason or record.gate.outcome}"


def _missing(families: dict[str, Family], point: str, usable: Mapping[str, Choice]) -> tuple[str, ...]:
    wanted = models(families, point)
    if not wanted:
        return ("every model: the catalogue has none",)
    return tuple(name for name, model in wanted.items() if not model.family.is_ensemble and name not in usable)


def _ensembles(families: dict[str, Family], point: str) -> list[Model]:
    return [model for model in models(families, point).values() if model.family.is_ensemble]


def _drop(choice: Choice, target: Target, incomplete: Mapping[str, tuple[str, ...]]) -> Rejection:
    point = choice.model.operating_point
    reason = (
        f"operating point {point} lacks {', '.join(incomplete[point])}"
        if point in incomplete
        else f"operating point {target.operating_point} was asked for"
    )
    return Rejection(engine=f"{choice.record.model}/{choice.record.mode}", bundle=choice.bundle, reason=reason)


def _refusal(
    target: Target, incomplete: Mapping[str, tuple[str, ...]], rejected: Sequence[Rejection], *, known_mode: bool
) -> NoEngineError:
    lacks = "; ".join(f"{point} lacks {', '.join(names)}" for point, names in incomplete.items())
    reasons = f". Not used: {explain(rejected)}" if rejected else ""
    arch, platform = target.arch.value, target.platform.name
    build = f"Build them with `python -m build.engines --arch {arch} --platform {platform}`"
    no_mode = f"No model of the catalogue has a {target.mode} mode: serve the batch mode, with SM_BATCH_MODE=true"
    return NoEngineError(f"{target.mode} engines for {target}", f"{lacks}{reasons}", build if known_mode else no_mode)
