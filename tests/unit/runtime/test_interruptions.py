"""Kill starts at any moment, and run two at once: a repository is complete or absent."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contract.manifest import load
from tests.unit.runtime import synthetic

ROOT = Path(__file__).parents[3]
KILLS = 20
CONTENT = os.urandom(1 << 20)


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    names = synthetic.engine_models()
    made = synthetic.manifest(*(synthetic.record(model, content=CONTENT) for model in names.values()))
    synthetic.write(tmp_path / "engines" / "embedded" / "cpu", made, lambda _: CONTENT)
    return tmp_path / "engines"


def start(engines: Path, repository: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runtime", "--platform", "embedded", "--assemble-only"]
    command += ["--engines", str(engines), "--repository", str(repository)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def check_complete(repository: Path, engines: Path) -> None:
    """Check that every model has its configuration and every engine all of its bytes."""
    assert sorted(path.name for path in repository.iterdir()) == sorted(synthetic.CATALOGUE.models())
    assert all((path / "config.pbtxt").stat().st_size for path in repository.iterdir())
    served = sorted(repository.glob("*/1/model.onnx"))
    assert len(served) == len(load(engines / "embedded" / "cpu").engines)
    assert all(path.read_bytes() == CONTENT for path in served)


def test_killed_start_leaves_a_complete_repository(engines: Path, tmp_path: Path) -> None:
    repository = tmp_path / "served" / "repository"
    began = time.monotonic()
    assert start(engines, repository).wait() == 0
    whole_run = time.monotonic() - began
    source = random.Random(5)
    for _ in range(KILLS):
        child = start(engines, repository)
        time.sleep(source.uniform(0.2, 1.05) * whole_run)
        child.send_signal(signal.SIGKILL)
        child.wait()
        check_complete(repository, engines)
    # The next start removes what killed starts left, once it is older than the begin of any running start.
    for left in repository.parent.glob(".repository.*"):
        os.utime(left, (0, 0))
    assert start(engines, repository).wait() == 0
    assert sorted(path.name for path in repository.parent.iterdir()) == ["repository", "repository.lock"]


def test_killed_first_start_leaves_no_repository_or_a_complete_one(engines: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    assert start(engines, tmp_path / "first").wait() == 0
    whole_run = time.monotonic() - began
    for share in (0.5, 0.7, 0.8, 0.9, 0.95):
        repository = tmp_path / f"{share}"
        child = start(engines, repository)
        time.sleep(share * whole_run)
        child.send_signal(signal.SIGKILL)
        child.wait()
        if repository.exists():
            check_complete(repository, engines)


def test_two_starts_at_once(engines: Path, tmp_path: Path) -> None:
    """One of two starts with the same repository may be refused, so that none serves what the other one verified."""
    repository = tmp_path / "served" / "repository"
    for _ in range(3):
        children = [start(engines, repository) for _ in range(2)]
        logs = [child.communicate()[1].decode() for child in children]
        codes = [child.returncode for child in children]
        assert sorted(codes) in ([0, 0], [0, 10]), logs
        for code, log in zip(codes, logs, strict=True):
            refusal = f"--repository {repository}: another server uses it. Stop that server, or name another folder."
            assert (refusal in log) == (code == 10)
        check_complete(repository, engines)
        assert sorted(path.name for path in repository.parent.iterdir()) == ["repository", "repository.lock"]
