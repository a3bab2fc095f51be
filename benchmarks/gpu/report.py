"""The step report: all results as summary.json, plots as PNG files, and tables as report.md."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import plots, results
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.steps import STEPS
from contract import files

SUMMARY_FILE, REPORT_FILE = "summary.json", "report.md"
_MEBIBYTE = 1 << 20
Values = dict[str, Any]
Row = Sequence[object]


def run(settings: Settings) -> dict[str, Any]:
    """Write summary, plots and page; return the paths. Plots are left out where matplotlib is absent."""
    found = {name: results.load(settings.out, name) for name in STEPS if name != "report"}
    values = {name: each.values if each else {} for name, each in found.items()}
    drawn = results.attempt(lambda: {"files": plots.draw(values, settings.out / "plots")})
    states = {
        name: {
            "status": each.status if each else "not run",
            "elapsed_s": each.elapsed_s if each else None,
            "budget_s": STEPS[name].budget_s,
            "failure": f"{each.failure.kind}: {each.failure.sentence}" if each and each.failure else None,
        }
        for name, each in found.items()
    }
    summary = {"host": _host(values["detect"]), "steps": states, **_figures(values)}
    files.write(settings.out / SUMMARY_FILE, results.to_json(summary))
    files.write(settings.out / REPORT_FILE, page(states, values, drawn.get("files", [])))
    return {"summary": SUMMARY_FILE, "page": REPORT_FILE, "plots": drawn}


def page(states: Values, values: Values, drawn: Sequence[str]) -> str:
    """Return the report in Markdown: a section for each step that left measurements."""
    lines = ["# Proof on a GPU", "", *_facts(values["detect"]), "", "## Steps", ""]
    lines += table(("step", "status", "seconds", "of", "failure"), _state_rows(states))
    for title, section in _SECTIONS.items():
        step = section(values)
        if step:
            lines += ["", f"## {title}", "", *step]
    for path in drawn:
        lines += ["", f"![{Path(path).stem}](plots/{path})"]
    return "\n".join(lines) + "\n"


def table(head: Row, rows: Iterator[Row] | Sequence[Row]) -> list[str]:
    """Return the lines of a table in Markdown; no lines for no rows."""
    body = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return ["| " + " | ".join(map(cell, head)) + " |", "|" + "---|" * len(head), *body] if body else []


def cell(value: object) -> str:
    """Write a value of a table: three digits that count, `-` for what was not measured."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _host(detected: Values) -> Values:
    names = ("gpu", "tensorrt", "libraries", "python", "torch")
    return {name: detected.get(name) for name in names}


def _figures(values: Values) -> Values:
    latency, production = values["latency"], values["production"]
    return {
        "optimum": [row for row in _latency_rows(values) if row["is_optimum"]],
        "ratios": latency.get("ratios", {}),
        "times_floor": {row["case"]: row["times_floor"] for row in production.get("floors", {}).get("cases", [])},
        "peaks": production.get("peaks"),
        "hours_an_hour": {
            point: max((row["hours_an_hour_graph"] for row in each.get("cases", [])), default=None)
            for point, each in values["ceiling"].items()
        },
        "attention": {name: each.get("verdict") for name, each in values["layers"].get("engines", {}).items()},
    }


def _facts(detected: Values) -> list[str]:
    gpu, tensorrt = detected.get("gpu", {}), detected.get("tensorrt", {})
    if "name" not in gpu:
        return [f"No usable GPU: {gpu.get('failure', {}).get('sentence', 'the step detect has no result')}"]
    build = tensorrt.get("build", "unknown")
    torch = (detected.get("torch") or {}).get("torch") or "absent"
    return [
        f"{gpu['name']} ({gpu['arch']}), driver {gpu['driver']}; TensorRT {build} for platform "
        f"{tensorrt.get('platform', 'unknown')}; torch {torch}; Python {detected.get('python')}.",
        "",
        f"Clocks, temperature and power at the start: {detected.get('nvidia_smi', {}).get('clocks') or 'unknown'}.",
    ]


def _state_rows(states: Values) -> Iterator[Row]:
    for name, each in states.items():
        yield name, each["status"], each["elapsed_s"], each["budget_s"], each["failure"]


def _build(values: Values) -> list[str]:
    rows = [
        (
            name,
            each.get("build_s"),
            each["size_bytes"] / _MEBIBYTE if "size_bytes" in each else None,
            each["device_memory_bytes"] / _MEBIBYTE if each.get("device_memory_bytes") else None,
            each.get("gate") or each.get("failure", {}).get("sentence"),
        )
        for name, each in values["build"].get("engines", {}).items()
    ]
    return table(("engine", "build s", "size MiB", "context MiB", "gate"), rows)


def _gate(values: Values) -> list[str]:
    rows = [
        (name, output, each["measure"], each["value"], each["limit"], each["share_of_limit"], each["case"])
        for name, gate in values["gate"].get("engines", {}).items()
        for output, each in gate["outputs"].items()
    ]
    return table(("engine", "output", "measure", "worst", "limit", "share of limit", "case"), rows)


def _latency_rows(values: Values) -> list[Values]:
    torch = values["latency"].get("torch", {}).get("cases", [])
    times = {(row["model"], row["mode"], row["way"], str(row["sizes"])): row.get("median_ms") for row in torch}
    return [
        {
            "engine": name,
            **row,
            **{way: times.get((each["model"], each["mode"], way, str(row["sizes"]))) for way in ("eager", "compile")},
        }
        for name, each in values["latency"].get("engines", {}).items()
        for row in each.get("cases", ())
    ]


def _latency(values: Values) -> list[str]:
    head = ("engine", "case", "TensorRT ms", "p90", "queued ms", "eager ms", "compile ms", "hours an hour")
    keys = ("engine", "case", "median_ms", "p90_ms", "queued_ms", "eager", "compile", "hours_an_hour")
    ratios = [
        (name, way, found["ratio"], found["cases"])
        for name, each in values["latency"].get("ratios", {}).items()
        for way, found in each.items()
    ]
    lines = table(("engine", "against", "times as fast (median)", "cases"), ratios)
    return [*lines, "", *table(head, [tuple(row[key] for key in keys) for row in _latency_rows(values)])]


def _production(values: Values) -> list[str]:
    found = values["production"]
    peak, rows = found.get("peaks", {}), found.get("floors", {}).get("cases", [])
    lines = []
    if "operations_per_s" in peak:
        rate, bandwidth = peak["operations_per_s"] / 1e12, peak["bytes_per_s"] / 1e9
        lines = [f"Measured here: {rate:.1f} TFLOP/s in a product of matrices, {bandwidth:.0f} GB/s in a copy.", ""]
    keys = ("case", "median_ms", "compute_ms", "memory_ms", "times_floor")
    head = ("case", "TensorRT ms", "floor by operations ms", "floor by weights ms", "times the floor")
    return [*lines, *table(head, [tuple(row[key] for key in keys) for row in rows])]


def _ceiling(values: Values) -> list[str]:
    rows = [
        (point, row["case"], row["speaker_runs"], row["hours_an_hour"], row["hours_an_hour_graph"])
        for point, each in values["ceiling"].items()
        for row in each.get("cases", ())
    ]
    return table(("point", "case", "speaker runs", "hours an hour", "with a CUDA graph"), rows)


def _layers(values: Values) -> list[str]:
    keys = ("verdict", "attention_in_graph", "fused_attention", "opaque", "softmax_outside", "fp32_layers", "layers")
    rows = [(name, *(each.get(key) for key in keys)) for name, each in values["layers"].get("engines", {}).items()]
    head = ("engine", "attention", "in graph", "fused", "opaque", "softmax outside", "FP32 layers", "layers")
    lines = table(head, rows)
    found = values["layers"].get("softmax", {})
    if "speed_up_without_fp32" in found:
        breaks = "breaks" if found["fp32_breaks_fusion"] else "does not break"
        speed = f"{found['speed_up_without_fp32']:.2f} times as fast with its softmax in FP16"
        lines += ["", f"{found['engine']}: FP32 around softmax {breaks} the fusion; {speed}."]
    return lines


_SECTIONS: dict[str, Callable[[Values], list[str]]] = {
    "Engines": _build,
    "Gate: the worst of every output": _gate,
    "Latency": _latency,
    "Body of production size": _production,
    "Ceiling: body, head and speaker network": _ceiling,
    "Layers": _layers,
}
