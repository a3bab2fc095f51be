"""Rules for every test: the slim environment, opt-in markers, and the order of files for parallel workers."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "numpy")
OPT_IN = ("gpu", "container", "slow")
# The longest file first: a worker that met it last would keep the others waiting.
FIRST = ("tests/integration/test_pipeline.py", "tests/unit/benchmarks/test_gpu_run.py", "tests/integration/")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options by which the run in the full environment leaves out what passed in the slim one."""
    parser.addoption("--write-passed", type=Path, help="write the node ids of the tests that pass to this file")
    parser.addoption("--leave-out", type=Path, help="leave out the tests whose node ids are in this file")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a slim run in an environment that is not slim: it would prove nothing."""
    if os.environ.get("VOXWRIGHT_SLIM"):
        present = [name for name in HEAVY if importlib.util.find_spec(name)]
        if present:
            pytest.exit(f"VOXWRIGHT_SLIM is set, and this environment has {', '.join(present)}", returncode=2)
    target = config.getoption("--write-passed")
    if target and not hasattr(config, "workerinput"):
        config.pluginmanager.register(PassedTests(target))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the opt-in tests that no marker selects, leave out what passed before, and put long files first."""
    selected = str(config.getoption("-m"))
    for item in items:
        for marker in OPT_IN:
            if item.get_closest_marker(marker) and marker not in selected:
                item.add_marker(pytest.mark.skip(reason=f"opt in with -m {marker}"))
    source = config.getoption("--leave-out")
    if source:
        passed = set(source.read_text().splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]
    items.sort(key=lambda item: next((place for place, name in enumerate(FIRST) if item.nodeid.startswith(name)), 9))


class PassedTests:
    """A pytest plugin that writes the node ids of the tests that passed, at the end of the session."""

    def __init__(self, target: Path) -> None:
        self.target, self.passed = target, set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that passed."""
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text("".join(f"{name}\n" for name in sorted(self.passed)))
