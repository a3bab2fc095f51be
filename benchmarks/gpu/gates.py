"""The step gate: how close every output of every engine came to its limit, by the manifest."""

from typing import Any

from benchmarks.gpu import engines
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import StepFailedError
from contract.manifest import PASSED, EngineRecord

REAL = "real sample"


def run(settings: Settings) -> dict[str, Any]:
    """Collect the gate of every engine; raise StepFailedError where one was not run on this GPU."""
    built = engines.built(settings.bundles, settings.onnx)
    found = {each.name: worst(each.record) for each in built if each.record}
    failures = [f"{each.name}: its outputs are beyond their limits" for each in built if not each.record]
    failures += [f"{name}: the gate was {gate['outcome']}" for name, gate in found.items() if gate["outcome"] != PASSED]
    values = {"engines": found}
    if failures:
        raise StepFailedError("gate", values, failures)
    return values


def worst(record: EngineRecord) -> dict[str, Any]:
    """Return of every output the case that came closest to its limit, over corners and real audio."""
    # A case of the FP16 graph on the CPU is not one of the engine.
    cases = [case for case in record.gate.cases if not case.name.startswith("FP16 graph")]
    outputs: dict[str, Any] = {}
    for case in cases:
        for difference in case.parity:
            share = difference.limit_ratio
            if difference.output not in outputs or share > outputs[difference.output]["share_of_limit"]:
                outputs[difference.output] = {
                    "measure": difference.measure,
                    "value": difference.value,
                    "limit": difference.limit,
                    "share_of_limit": share,
                    "case": case.name,
                }
    real = sum(case.name.startswith(REAL) for case in cases)
    return {
        "outcome": record.gate.outcome,
        "cases": len(cases),
        "real_audio_cases": real,
        "outputs": outputs,
    }
