"""The step ceiling: body, head and speaker network behind each other on the device, with and without a CUDA graph."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import ceil
from typing import Any

from benchmarks.gpu import cuda, engines, latency, results, timing
from benchmarks.gpu.cases import Case, cases, feeds
from benchmarks.gpu.device import Device
from benchmarks.gpu.engines import Built
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import StepFailedError
from contract.catalogue import BATCH, BATCH_MODE
from contract.errors import BundleError

# By what they read: the body and the speaker network read audio, the head reads what the body writes.
_BODY_OUTPUT = "encoder_out"


def run(settings: Settings) -> dict[str, Any]:
    """Measure every operating point; raise StepFailedError where one failed."""
    built = [each for each in engines.built(settings.bundles, settings.onnx) if each.mode.name == BATCH_MODE]
    found: dict[str, Any] = {}
    with cuda.opened() as device:
        latency.spin_up(device, settings.seconds_per_case)
        for point in dict.fromkeys(each.model.rpartition("_")[2] for each in built):
            mine = [each for each in built if each.model.endswith(f"_{point}")]
            found[point] = results.attempt(lambda: measure(device, mine, settings))  # noqa: B023 - called at once
    failures = results.failures(found)
    if failures:
        raise StepFailedError("ceiling", found, failures)
    return found


def measure(device: Device, built: list[Built], settings: Settings) -> dict[str, Any]:
    """Measure one operating point at the largest batch of every bucket of its body."""
    parts = chain(built)
    largest = parts[0].mode.batch.max
    chosen = [case for case in cases(parts[0].mode) if case.sizes[BATCH] == largest]
    with ExitStack() as stack:
        loaded = [stack.enter_context(device.load(part.plan)) for part in parts]
        rows = [_case(device, parts, loaded, case, settings.seconds_per_case) for case in chosen]
    return {"models": [part.model for part in parts], "cases": rows}


def chain(built: list[Built]) -> list[Built]:
    """Return body, head and speaker network; raise BundleError where one was not built."""
    body = [each for each in built if _BODY_OUTPUT in {tensor.name for tensor in each.family.outputs}]
    heads = [each for each in built if "top_log_probs" in {tensor.name for tensor in each.family.outputs}]
    speakers = [each for each in built if "embedding" in {tensor.name for tensor in each.family.outputs}]
    for what, found in (("body", body), ("head", heads), ("speaker network", speakers)):
        if not found:
            raise BundleError("the bundle", f"it holds no {what} in the mode {BATCH_MODE}", "Run the step build again")
    return [body[0], heads[0], speakers[0]]


def speaker_runs(body: Case, speaker: Built) -> tuple[Case, int]:
    """Return the case of the speaker network and how often it runs for the audio of a batch of the body.

    It reads items of its largest bucket, side by side, in its largest batch.
    """
    largest = max(cases(speaker.mode), key=lambda case: case.audio_s or 0.0)
    return largest, max(1, ceil((body.audio_s or 0.0) / (largest.audio_s or 1.0)))


def _case(device: Device, parts: list[Built], loaded: list[Any], case: Case, seconds: float) -> dict[str, Any]:
    body, _, speaker = parts
    windows, runs = speaker_runs(case, speaker)
    with ExitStack() as stack:
        bound = stack.enter_context(loaded[0].bind(feeds(body.family, body.dims, case)))
        head = stack.enter_context(loaded[1].bind([{}], after=bound.buffers))
        voices = stack.enter_context(loaded[2].bind(feeds(speaker.family, speaker.dims, windows)))

        def enqueue(number: int) -> None:
            bound.enqueue(number)
            head.enqueue(0)
            for index in range(runs):
                voices.enqueue((number + index) % voices.count)

        plain = timing.measure(device, enqueue, bound.count, seconds)
        captured = [stack.enter_context(device.captured(call)) for call in _calls(enqueue, bound.count)]
        graph = timing.measure(device, lambda number: captured[number](), len(captured), seconds)
    return {
        "case": case.name,
        "audio_s": case.audio_s,
        "speaker_case": windows.name,
        "speaker_runs": runs,
        "plain": plain.to_dict(),
        "graph": graph.to_dict(),
        "hours_an_hour": case.hours_an_hour(plain.queued_ms),
        "hours_an_hour_graph": case.hours_an_hour(graph.queued_ms),
    }


def _calls(enqueue: Callable[[int], None], count: int) -> Iterator[Callable[[], None]]:
    for number in range(count):
        yield lambda number=number: enqueue(number)  # type: ignore[misc]
