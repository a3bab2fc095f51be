"""python -m benchmarks: serving against ONNX Runtime in this process, INT8 against FP32, a start against a read."""

import json
import platform
from pathlib import Path

from benchmarks import quantised, serving, startup
from benchmarks.measuring import show
from contract import files
from contract.errors import guard

RESULTS = Path("dist/benchmarks/results.json")


def main() -> None:
    """Run the command line."""
    guard(run)


def run() -> None:
    """Measure, print a table, and write the figures."""
    found = [*serving.measure(), *quantised.measure(), *startup.measure()]
    for comparison in found:
        show(comparison)
    record = {"machine": platform.processor() or platform.machine(), "comparisons": [each.to_dict() for each in found]}
    files.write(RESULTS, json.dumps(record, indent=2) + "\n")
    print(f"\n{RESULTS}")


if __name__ == "__main__":
    main()
