"""What this GPU reaches: the rate of a large FP16 product of matrices and the bandwidth of a copy, both measured."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu import engines, timing
from benchmarks.gpu.device import Device
from benchmarks.gpu.settings import Settings

# Beyond the caches of every GPU.
_COPY_BYTES = 1 << 30
# As long as so many cases.
_CASES = 3


def measure(device: Device, settings: Settings) -> dict[str, Any]:
    """Measure both, the product with matrices of `peak_size` x `peak_size`."""
    size, seconds = settings.peak_size, _CASES * settings.seconds_per_case
    plan = matmul_plan(settings.out / "production", size)
    generator = np.random.default_rng(3)
    feeds = [
        {name: generator.normal(size=(size, size)).astype(np.float16) for name in ("left", "right")} for _ in range(2)
    ]
    with device.load(plan) as engine, engine.bind(feeds) as work:
        product = timing.measure(device, work.enqueue, work.count, seconds)
    copied = min(_COPY_BYTES, 16 * size * size)
    with device.copying(copied) as copy:
        moved = timing.measure(device, lambda _: copy(), 1, seconds)
    return {
        "matmul_size": size,
        "operations_per_s": 2 * size**3 / (product.least_ms * 1e-3),
        "copied_bytes": copied,
        # A copy reads and writes.
        "bytes_per_s": 2 * copied / (moved.least_ms * 1e-3),
    }


def matmul_plan(folder: Path, size: int) -> Path:
    """Build the plan of the product of two FP16 matrices, unless it is there."""
    import onnx  # noqa: PLC0415 - `--help` works without it

    plan, graph = folder / f"matmul-{size}.plan", folder / f"matmul-{size}.onnx"
    if not plan.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        sizes = f"float16[{size}, {size}]"
        head = '<ir_version: 8, opset_import: ["" : 17]>'
        onnx.save(onnx.parser.parse_model(f"{head} g ({sizes} left, {sizes} right) => ({sizes} product) "
                                          "{ product = MatMul (left, right) }"), graph)  # fmt: skip
        engines.build_plain(graph, plan)
    return plan
