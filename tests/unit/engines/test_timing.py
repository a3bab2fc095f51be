"""Timing caches: their owner, their content, and the lock that lets one build measure at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from build.compilers.timing import Owner, TimingCache, cache
from contract.errors import CompilerUnavailableError

ROOT = Path(__file__).parents[3]
OWNER = Owner(tensorrt="11.2.1.2", gpu="NVIDIA RTX A6000")
REMEDY = "Remove the file: the next build measures the timings again."


@pytest.fixture
def timings(tmp_path: Path) -> TimingCache:
    made = cache(tmp_path, OWNER)
    made.save(b"first\nlines")
    return made


def test_file_is_named_after_owner(timings: TimingCache) -> None:
    assert timings.path.name == "11.2.1.2-nvidia-rtx-a6000.cache"


def test_cache_is_empty_before_first_build(tmp_path: Path) -> None:
    empty = cache(tmp_path / "absent", OWNER)
    assert (empty.identity(), empty.content()) == (None, b"")
    empty.begin()
    identity = empty.identity()
    assert (len(identity or ""), empty.content()) == (64, b"")
    empty.begin()
    assert empty.identity() == identity


def test_grown_cache_keeps_its_identity(timings: TimingCache, tmp_path: Path) -> None:
    identity = timings.identity()
    timings.save(b"first\nlines\nand more")
    assert (timings.identity(), timings.content()) == (identity, b"first\nlines\nand more")
    other = cache(tmp_path / "other", OWNER)
    other.save(b"first\nlines\nand more")
    assert other.identity() != identity


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        (
            b"RTX A6000",
            b"A40",
            "it is the timing cache of TensorRT 11.2.1.2 on NVIDIA A40, "
            "and this build is for TensorRT 11.2.1.2 on NVIDIA RTX A6000",
        ),
        (
            b"11.2.1.2",
            b"8.6.1.6",
            "it is the timing cache of TensorRT 8.6.1.6 on NVIDIA RTX A6000, "
            "and this build is for TensorRT 11.2.1.2 on NVIDIA RTX A6000",
        ),
        (b"lines", b"lime", "the timing cache is damaged"),
        (b"owner", b"wonder", "its first line does not name the owner of the timing cache"),
        (b"{", b"\xff", "its first line does not name the owner of the timing cache"),
        (b"gpu", b"cpu", "its first line does not name the owner of the timing cache"),
    ],
)
def test_rejects_cache_of_another_owner(timings: TimingCache, old: bytes, new: bytes, cause: str) -> None:
    timings.path.write_bytes(timings.path.read_bytes().replace(old, new, 1))
    for look in (timings.identity, timings.content, lambda: timings.save(b"")):
        with pytest.raises(CompilerUnavailableError) as refusal:
            look()
        assert str(refusal.value) == f"{timings.path}: {cause}. {REMEDY}"


def test_second_build_waits(timings: TimingCache) -> None:
    script = (
        "import sys; from pathlib import Path; from build.compilers.timing import Owner, cache\n"
        f"with cache(Path(sys.argv[1]), {OWNER!r}).held(): print('measuring')"
    )
    command = [sys.executable, "-c", script, str(timings.path.parent)]
    with timings.held():
        other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=2)
    assert other.communicate(timeout=60)[0] == "measuring\n"
