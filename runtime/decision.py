"""The whole decision of a start: what was seen, what is wrong with it, what would be served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from contract.arch import Arch
from contract.catalogue import Family, catalogue
from contract.errors import SignatureError, VoxwrightError
from contract.platform import Platform, platforms
from contract.signature import Verdict
from contract.verification import signature_refusal
from runtime import bundles, gpu, host, preflight, selection
from runtime.budget import Budget, estimate
from runtime.bundles import Bundle
from runtime.gpu import Sighting
from runtime.host import Host
from runtime.preflight import Finding
from runtime.selection import Selection, Target
from runtime.settings import Settings

NOT_LOOKED_FOR = "not looked for, since a platform of the CPU was asked for"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What `python -m runtime` acts on and `python -m runtime.doctor` prints."""

    sighting: Sighting
    host: Host
    platform: Platform
    target: Target | None
    """None where the GPUs leave it open for which architecture engines are wanted."""
    bundles: tuple[Bundle, ...]
    unreadable: VoxwrightError | None
    """Why the bundles could not be read."""
    selection: Selection | None
    unsigned: SignatureError | None
    """Why nothing can be served, where signatures alone stand in the way."""
    budget: Budget | None
    findings: tuple[Finding, ...]
    """What stops the start."""
    warnings: tuple[Finding, ...]

    @property
    def refusals(self) -> tuple[VoxwrightError, ...]:
        """Give what stops the start, in the order of its steps: the machine, the bundles, the engines in them."""
        made = (
            preflight.refusal(self.findings, self.platform),
            self.unreadable,
            self.unsigned or (selection.refusal(self.selection) if self.selection else None),
        )
        return tuple(refusal for refusal in made if refusal is not None)

    def agreed(self) -> Selection:
        """Give what will be served; raise the first refusal where there is one."""
        for refusal in self.refusals:
            raise refusal
        assert self.selection is not None  # noqa: S101 - no target without a finding, no selection without a refusal
        return self.selection


def observe(chosen: Settings, environment: Mapping[str, str]) -> Decision:
    """Look at this machine and its bundles, and decide; raise GpuError for a driver that does not start."""
    on_cpu = chosen.platform is not None and chosen.platform.cuda is None
    # A platform of the CPU needs no driver: a broken one must not stop it.
    sighting = Sighting(absence=NOT_LOOKED_FOR) if on_cpu else gpu.detect(environment)
    found: tuple[Bundle, ...] = ()
    unreadable = None
    try:
        found = bundles.find(chosen.engines, chosen.trusted_keys)
    except VoxwrightError as error:
        unreadable = error
    return decide(chosen, sighting, host.describe(), found, catalogue(), unreadable)


def decide(
    chosen: Settings,
    sighting: Sighting,
    host: Host,
    found: Sequence[Bundle],
    families: Mapping[str, Family],
    unreadable: VoxwrightError | None = None,
) -> Decision:
    """Decide, as a pure function of what was asked for and what was seen."""
    platform = chosen.platform or default_platform(on_gpu=bool(sighting.gpus or sighting.out_of_reach))
    target = aim(chosen, sighting, platform)
    considered = selection.consider(found, families, target) if target and unreadable is None else None
    budget = estimate(considered) if considered and considered.chosen else None
    findings = preflight.examine(sighting, platform)
    if budget is not None and len(sighting.gpus) == 1:
        findings += preflight.examine_budget(budget, sighting.gpus[0])
    return Decision(
        sighting=sighting,
        host=host,
        platform=platform,
        target=target,
        bundles=tuple(found),
        unreadable=unreadable,
        selection=considered,
        unsigned=_unsigned(found, families, considered) if considered else None,
        budget=budget,
        findings=tuple(findings),
        warnings=tuple(preflight.advise(sighting, platform, host, considered)),
    )


def aim(chosen: Settings, sighting: Sighting, platform: Platform) -> Target | None:
    """Settle for which architecture engines are wanted: that of the one GPU, or the CPU where the platform is its."""
    capabilities = [found.capability for found in sighting.gpus]
    arch = next((known for known in Arch if known.capability and [known.capability] == capabilities), None)
    if platform.cuda is None:
        arch = Arch.CPU
    if arch is None:
        return None
    return Target(arch=arch, platform=platform, mode=chosen.mode, operating_point=chosen.operating_point)


def default_platform(*, on_gpu: bool) -> Platform:
    """Give the first platform that serves on a GPU, or on the CPU."""
    return next(found for found in platforms().values() if found.backend and (found.cuda is not None) == on_gpu)


def _unsigned(found: Sequence[Bundle], families: Mapping[str, Family], considered: Selection) -> SignatureError | None:
    # Rebuilding would be the wrong advice for engines that only lack a signature.
    if considered.operating_points:
        return None
    as_if = {bundle.folder: replace(bundle, verdict=Verdict.NOT_ASKED) for bundle in found}
    wanted = {
        choice.bundle.folder for choice in selection.consider([*as_if.values()], families, considered.target).chosen
    }
    refusals = (signature_refusal(bundle.folder, bundle.verdict) for bundle in found if bundle.folder in wanted)
    return next((refusal for refusal in refusals if refusal is not None), None)
