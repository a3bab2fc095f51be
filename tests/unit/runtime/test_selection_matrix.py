"""Compare the selection of every combination of properties with a second, independent form of the rules."""

import dataclasses
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from contract.arch import Arch
from contract.manifest import EngineRecord, Gate
from contract.platform import platform
from contract.signature import Verdict
from runtime.bundles import Bundle
from runtime.selection import Target, evaluate
from tests.unit.runtime import synthetic

GPUS = ("sm75", "sm80", "sm86", "sm89", "sm90")
PLATFORMS = {"26.08": "11.2.1.2", "23.12": "8.6.1.6", "embedded": None, "compile-check": None}
TENSORRT = ("11.2.1.2", "11.2.1.20", "8.6.1.6", None)
# Which GPUs an engine of each level runs on, by what it was built on: written out, pair by pair.
AMPERE = {"sm80", "sm86", "sm89", "sm90"}
RUNS_ON = {
    "ampere-plus": {"cpu": {"cpu"}, "sm75": {"sm75"}, "sm80": AMPERE, "sm86": AMPERE, "sm89": AMPERE, "sm90": AMPERE},
    **{each: {name: {name} for name in ("cpu", *GPUS)} for each in ("none", "same-capability", "hopper-plus", None)},
}
# A part of the reason that each broken rule is known by.
REASONS = {
    "signature": ("not signed", "not trusted", "does not match its manifest"),
    "rtx": ("Triton has no backend",),
    "platform": ("built for platform",),
    "arch": ("not for sm", "not for cpu", "does not admit"),
    "tensorrt": ("built with TensorRT",),
    "mode": ("not for batch", "not for realtime"),
    "gate": ("accuracy was not checked",),
    "point": ("was requested",),
}
GATES = {
    "passed": Gate(outcome="passed", reason="", parity=()),
    "not run": Gate(outcome="not run", reason="", parity=()),
}
# One family of two points, as if the speaker network were a CTC network that takes audio. Other families would only
# repeat its combinations.
FAMILY = dataclasses.replace(synthetic.FAMILIES["diar"], role="ctc", language="en")
CATALOGUE = synthetic.catalogue_of(FAMILY)
POINTS = ("standard", "enhanced")


def broken(
    built_for: str,
    built: str,
    tensorrt: str | None,
    level: str | None,
    verdict: Verdict,
    gate: str,
    mode: str,
    target: Target,
    point: str,
) -> set[str]:
    """Name the rules that an engine breaks."""
    rtx, on_gpu = built_for == "compile-check", target.platform.name in ("26.08", "23.12")
    rules = {
        "signature": verdict.name not in ("NOT_CHECKED", "TRUSTED"),
        "rtx": rtx,
        "platform": built_for != target.platform.name,
        "arch": target.arch.value not in RUNS_ON[level][built],
        "tensorrt": built_for in ("26.08", "23.12") and on_gpu and tensorrt != PLATFORMS[target.platform.name],
        "mode": mode != target.mode,
        "gate": gate != "passed",
        "point": target.operating_point not in (None, point),
    }
    return {name for name, is_broken in rules.items() if is_broken}


@cache
def record(point: str, mode: str, level: str | None, compiler: str, gate: str) -> EngineRecord:
    made = synthetic.record(synthetic.engine_models()[f"diar_{point}"], compiler=compiler)
    options = {} if level is None else {"compatibility": level}
    return dataclasses.replace(
        made, mode=mode, gate=GATES[gate], key_parts={"options": options}, languages=(FAMILY.language or "",)
    )


def targets() -> list[Target]:
    places = [("26.08", arch) for arch in GPUS] + [("23.12", "sm75"), ("embedded", "cpu")]
    return [
        Target(arch=Arch(arch), platform=platform(name), mode=mode, operating_point=point)
        for (name, arch), mode, point in product(places, ("batch", "realtime"), (None, "standard"))
    ]


def describe(target: Target) -> str:
    return f"{target.platform.name}-{target.arch.value}-{target.mode}-{target.operating_point}"


@pytest.mark.parametrize("target", targets(), ids=describe)
def test_serves_an_engine_exactly_if_it_breaks_no_rule(target: Target) -> None:
    seen: Counter[str] = Counter()
    for built_for, built, tensorrt, level, verdict, gate, mode in product(
        PLATFORMS, ("cpu", *GPUS), TENSORRT, RUNS_ON, Verdict, GATES, ("batch", "realtime")
    ):
        # On its own platform an engine has its own compiler, and the CPU has neither TensorRT nor levels to vary.
        if (built == "cpu") != (built_for == "embedded") or (built == "cpu" and (tensorrt or level)):
            continue
        # Three deviations at once test nothing that two do not test.
        if (verdict is not Verdict.NOT_CHECKED) + (gate != "passed") + (mode != target.mode) > 2:
            continue
        compiler = {"embedded": "onnxruntime", "compile-check": "tensorrt_rtx"}.get(built_for, "tensorrt")
        records = tuple(record(point, mode, level, compiler, gate) for point in POINTS)
        manifest = synthetic.manifest(*records, arch=Arch(built), platform_name=built_for)
        manifest = dataclasses.replace(manifest, toolchain={"tensorrt": tensorrt} if tensorrt else {})
        found = evaluate([Bundle(folder=Path("b"), manifest=manifest, verdict=verdict)], CATALOGUE, target)
        served = {choice.record.operating_point for choice in found.chosen}
        reasons = {it.record.operating_point: it.reason for it in found.rejected}
        assert served | set(reasons) == set(POINTS)
        assert not served & set(reasons)
        for point in POINTS:
            rules = broken(built_for, built, tensorrt, level, verdict, gate, mode, target, point)
            case = (built_for, built, tensorrt, level, verdict, gate, mode, point, rules)
            assert (point in served) is not bool(rules), case
            if rules:
                texts = [text for rule in rules for text in REASONS[rule]]
                assert any(text in reasons[point] for text in texts), (reasons[point], *case)
            seen["served" if not rules else min(rules)] += 1
    # The matrix has both outcomes, and the rule that stops an engine varies.
    assert seen["served"] > 0
    assert len(seen) > 2


def test_turing_is_never_admitted_by_a_level() -> None:
    turing = Target(arch=Arch.SM75, platform=platform("26.08"), mode="batch", operating_point=None)
    for built, level in product(AMPERE, RUNS_ON):
        records = tuple(record(point, "batch", level, "tensorrt", "passed") for point in POINTS)
        manifest = synthetic.manifest(*records, arch=Arch(built), platform_name="26.08")
        found = evaluate([Bundle(folder=Path("b"), manifest=manifest)], CATALOGUE, turing)
        assert found.chosen == ()
        assert {it.reason for it in found.rejected} == {
            f"it is built for {built}, not for sm75"
            if level in (None, "none")
            else f"it is built for {built}, and its compatibility {level} does not admit sm75"
        }
