"""Decide what a start serves: GPU detection, preflight findings, bundles, selection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from contract.arch import Arch
from contract.errors import NoEngineError, SignatureError, VoxwrightError
from contract.platform import Platform, platforms
from contract.signature import Verdict
from contract.verification import signature_error
from runtime import bundles, flags, gpu, host, licence, preflight, selection
from runtime.budget import Budget, estimate
from runtime.bundles import Bundle, NoBundle
from runtime.gpu import GpuDetection
from runtime.host import Host
from runtime.licence import Licensing
from runtime.preflight import Finding
from runtime.selection import Selection, Target
from runtime.settings import Settings

DETECTION_SKIPPED = "not detected, because a CPU platform is selected"
_UNLICENSED = Licensing()


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What `python -m runtime` acts on and `python -m runtime.doctor` prints."""

    licensing: Licensing
    detection: GpuDetection
    host: Host
    platform: Platform
    target: Target | None
    """None where the visible GPUs do not determine one architecture."""
    bundles: tuple[Bundle, ...]
    unreadable: VoxwrightError | None
    """Why the bundles could not be read."""
    no_bundle: NoEngineError | None
    """Why no bundle was found; None where there is one, or where reading them failed."""
    selection: Selection | None
    unsigned: SignatureError | None
    """The signature error, where nothing but signatures prevents serving."""
    budget: Budget | None
    findings: tuple[Finding, ...]
    """Findings that stop the start."""
    warnings: tuple[Finding, ...]

    @property
    def refusals(self) -> tuple[VoxwrightError, ...]:
        """Return the errors that stop the start, in the order of its steps: licence, machine, bundles, engines."""
        no_engine = selection.refusal(self.selection) if self.selection else None
        errors = (
            self.licensing.refusal,
            preflight.refusal(self.findings, self.platform),
            self.unreadable,
            self.unsigned or self.no_bundle or no_engine,
        )
        return tuple(error for error in errors if error is not None)

    def selection_or_raise(self) -> Selection:
        """Return the selection; raise the first error where there is one."""
        for refusal in self.refusals:
            raise refusal
        assert self.selection is not None  # noqa: S101 - no target without a finding, no selection without a refusal
        return self.selection


def observe(chosen: Settings, environment: Mapping[str, str]) -> Decision:
    """Inspect this machine and its bundles, and decide; raise GpuError for a driver that does not start."""
    licensing = licence.evaluate(chosen.licence, chosen.vendor_key, chosen.operating_point, chosen.catalogue)
    on_cpu = chosen.platform is not None and chosen.platform.cuda is None
    # A CPU platform needs no driver. A broken driver must not stop it.
    detection = GpuDetection(reason=DETECTION_SKIPPED) if on_cpu else gpu.detect(environment)
    found: tuple[Bundle, ...] = ()
    unreadable = no_bundle = None
    try:
        found = bundles.find(chosen.engines, chosen.trusted_keys)
        no_bundle = None if found else bundles.explain_absence(chosen.engines)
    except VoxwrightError as error:
        unreadable = error
    return decide(chosen, detection, host.describe(), found, unreadable, licensing, no_bundle)


def decide(
    chosen: Settings,
    detection: GpuDetection,
    host: Host,
    found: Sequence[Bundle],
    unreadable: VoxwrightError | None = None,
    licensing: Licensing = _UNLICENSED,
    no_bundle: NoBundle | None = None,
) -> Decision:
    """Return the decision, as a pure function of the settings and of what was detected and read."""
    platform = chosen.platform or default_platform(on_gpu=bool(detection.gpus or detection.inaccessible))
    target = resolve_target(chosen, detection, platform, licensing)
    considered = selection.evaluate(found, chosen.catalogue, target) if target and unreadable is None else None
    budget = estimate(considered, flags.pool_sizes(chosen.triton_flags)) if considered and considered.chosen else None
    findings = preflight.examine(detection, platform)
    if budget is not None and considered is not None and len(detection.gpus) == 1:
        findings += preflight.examine_budget(budget, detection.gpus[0], considered.operating_points)
    return Decision(
        licensing=licensing,
        detection=detection,
        host=host,
        platform=platform,
        target=target,
        bundles=tuple(found),
        unreadable=unreadable,
        no_bundle=no_bundle.error(selection.build_command(target)) if no_bundle else None,
        selection=considered,
        unsigned=_unsigned(found, considered) if considered else None,
        budget=budget,
        findings=tuple(findings),
        warnings=(
            *licensing.warnings,
            *preflight.warnings(detection, platform, host, considered),
            *(preflight.pool_warnings(budget) if budget is not None else ()),
        ),
    )


def resolve_target(
    chosen: Settings, detection: GpuDetection, platform: Platform, licensing: Licensing
) -> Target | None:
    """Return the target: the architecture of the one visible GPU, or the CPU on a CPU platform; None without either."""
    capabilities = [found.capability for found in detection.gpus]
    arch = next((known for known in Arch if known.capability and [known.capability] == capabilities), None)
    if platform.cuda is None:
        arch = Arch.CPU
    if arch is None:
        return None
    return Target(
        arch=arch,
        platform=platform,
        mode=chosen.mode,
        operating_point=chosen.operating_point,
        licence=licensing.licence,
    )


def default_platform(*, on_gpu: bool) -> Platform:
    """Return the first platform that serves on a GPU, or the first that serves on the CPU."""
    return next(found for found in platforms().values() if found.backend and (found.cuda is not None) == on_gpu)


def _unsigned(found: Sequence[Bundle], considered: Selection) -> SignatureError | None:
    # Rebuilding would be the wrong remedy for engines that only lack a signature.
    if considered.operating_points:
        return None
    as_if = {bundle.folder: replace(bundle, verdict=Verdict.NOT_CHECKED) for bundle in found}
    signed = selection.evaluate([*as_if.values()], considered.catalogue, considered.target)
    wanted = {choice.bundle.folder for choice in signed.chosen}
    refusals = (signature_error(bundle.folder, bundle.verdict) for bundle in found if bundle.folder in wanted)
    return next((refusal for refusal in refusals if refusal is not None), None)
