"""The torch networks that the engines were exported from, timed in FP16 with their real weights: eager and compiled.

    python -m benchmarks.gpu.torch_networks CASES.json RESULTS.jsonl --seconds 300

The only module of the proof that imports torch: it runs in the interpreter that has it. Each result is a line, so that
a killed run goes on where it was.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contract import synthetic_inputs
from contract.catalogue import Family, read_catalogue
from export.checkpoints import SOURCES
from export.tracing import Boundary

WAYS = ("eager", "compile")
_SEED, _DISTINCT_INPUTS, _WARM_UP, _LEAST_ROUNDS, _MOST_ROUNDS = 23, 4, 5, 8, 200

Run = Callable[..., Any]


def main() -> None:
    """Run the command line; argparse, since an interpreter with torch may lack click."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wanted", type=Path, help="the cases to time")
    parser.add_argument("target", type=Path, help="the file that results are appended to")
    parser.add_argument("--seconds", type=float, default=300.0, help="no case begins after that")
    parser.add_argument("--per-case", type=float, default=0.3, help="seconds of one measurement")
    parser.add_argument("--device", default="cuda", help="a torch device; cpu only for a trial")
    chosen = parser.parse_args()
    table = json.loads(chosen.wanted.read_text(encoding="utf-8"))
    end = time.monotonic() + chosen.seconds
    measure_all(table, chosen.target, end, chosen.per_case, torch.device(chosen.device))


def measure_all(table: dict[str, Any], target: Path, end: float, per_case: float, device: torch.device) -> None:
    """Time every case that has no result yet: eager ones first, since each compilation takes long."""
    done = _done(target)
    with target.open("a", encoding="utf-8") as file:
        for way, model, mode, rows in _groups(table["cases"]):
            left = [row for row in rows if (way, model, mode, str(row["sizes"])) not in done]
            if not left or time.monotonic() > end:
                continue
            for result in measure(table["weights"], way, model, mode, left, end, per_case, device):
                file.write(json.dumps(result) + "\n")
                file.flush()


def measure(
    weights: str,
    way: str,
    model: str,
    mode: str,
    rows: list[dict[str, Any]],
    end: float,
    per_case: float,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Time the cases of one network in one mode; a case that fails is a result with the error."""
    module, family, dims = network(weights, model, mode)
    # inductor makes kernels for these very shapes: the best that it can do.
    run: Run = torch.compile(module.to(device), dynamic=False) if way == "compile" else module.to(device)
    for row in rows:
        if time.monotonic() > end:
            return
        base = {"model": model, "mode": mode, "way": way, "sizes": row["sizes"]}
        try:
            yield {**base, **_time(run, _feeds(family, {**dims, **row["sizes"]}, device), per_case, device)}
        except Exception as error:
            yield {**base, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}


def network(weights: str, model: str, mode: str) -> tuple[torch.nn.Module, Family, dict[str, int]]:
    """Return a network in FP16 as it is exported, its family in the mode, and its sizes."""
    known = read_catalogue().models()[model]
    checkpoint: Any = SOURCES[weights](known)
    family = known.family.in_mode(mode)
    chosen = checkpoint.network.streaming() if family.modes[mode].is_streaming else checkpoint.network
    return Boundary(chosen, family, "fp16"), family, {**checkpoint.dims, **family.modes[mode].fixed_axes()}


def _groups(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, list[dict[str, Any]]]]:
    places = dict.fromkeys((row["model"], row["mode"]) for row in rows)
    for way in WAYS:
        for model, mode in places:
            mine = [row for row in rows if (row["model"], row["mode"]) == (model, mode)]
            yield way, model, mode, [row for row in mine if way == "eager" or row["compile"]]


def _done(target: Path) -> set[tuple[str, str, str, str]]:
    lines = target.read_text(encoding="utf-8").splitlines() if target.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {(row["way"], row["model"], row["mode"], str(row["sizes"])) for row in rows}


def _feeds(family: Family, sizes: dict[str, int], device: torch.device) -> list[tuple[Any, ...]]:
    generator = np.random.default_rng(_SEED)
    made = [synthetic_inputs.make_inputs(family, sizes, generator) for _ in range(_DISTINCT_INPUTS)]
    return [tuple(torch.from_numpy(feed[tensor.name]).to(device) for tensor in family.inputs) for feed in made]


def _time(run: Run, feeds: list[tuple[Any, ...]], seconds: float, device: torch.device) -> dict[str, Any]:
    def once(index: int) -> float:
        return _elapsed_ms(lambda: run(*feeds[index % len(feeds)]), device)

    with torch.inference_mode():
        started = time.monotonic()
        last = [once(index) for index in range(_WARM_UP)][-1]
        warm_up_s = time.monotonic() - started
        rounds = min(max(int(1000 * seconds / max(last, 1e-3)), _LEAST_ROUNDS), _MOST_ROUNDS)
        found = sorted(once(index) for index in range(rounds))
    return {
        "median_ms": round(statistics.median(found), 5),
        "least_ms": round(found[0], 5),
        "rounds": rounds,
        "warm_up_s": round(warm_up_s, 2),
    }


def _elapsed_ms(work: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return (time.perf_counter() - started) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


if __name__ == "__main__":
    main()
