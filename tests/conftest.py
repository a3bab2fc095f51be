"""What holds for every test."""

import importlib.util
import os

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a slim run in an environment that is not: it would prove nothing."""
    if os.environ.get("VOXWRIGHT_SLIM"):
        present = [name for name in HEAVY if importlib.util.find_spec(name)]
        if present:
            pytest.exit(f"VOXWRIGHT_SLIM is set, and this environment has {', '.join(present)}", returncode=2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the opt-in tests out unless they are asked for by marker."""
    asked = str(config.getoption("-m"))
    for item in items:
        for marker in ("gpu", "container"):
            if item.get_closest_marker(marker) and marker not in asked:
                item.add_marker(pytest.mark.skip(reason=f"opt in with -m {marker}"))
