"""When `make serve` builds engines."""

from pathlib import Path

from demo import serve


def _engine(folder: Path, bundle: str, mode: str) -> None:
    (folder / bundle / "body_standard" / mode).mkdir(parents=True)
    (folder / bundle / "manifest.json").write_text("{}")


def test_engines_of_both_modes_are_needed(tmp_path: Path) -> None:
    """`make demo` builds the engines for recordings only."""
    assert not serve.has_engines(tmp_path)
    _engine(tmp_path, "embedded/cpu", "batch")
    assert not serve.has_engines(tmp_path)
    _engine(tmp_path, "26.08/sm86", "realtime")
    assert not serve.has_engines(tmp_path)
    _engine(tmp_path, "embedded/cpu", "realtime")
    assert serve.has_engines(tmp_path)


def test_half_written_bundle_does_not_count(tmp_path: Path) -> None:
    for mode in ("batch", "realtime"):
        (tmp_path / "embedded/cpu/body_standard" / mode).mkdir(parents=True)
    assert not serve.has_engines(tmp_path)
