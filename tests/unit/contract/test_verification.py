"""Verification: manifests that contradict themselves, and files that disappear or fail while they are read."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from contract import digest, verification
from contract.errors import BundleError
from contract.manifest import MANIFEST_FILE, BundleFile, BundleManifest
from tests.unit.contract.test_records import BUNDLE, ENGINE

REMEDY = "Build the bundle again with `python -m build.engines`, or copy it again from an intact source"
WEIGHTS = "body_standard/batch/model.onnx.data"


def _bundle(folder: Path, *data: str) -> BundleManifest:
    """Write a bundle of one engine, with further files of its weights."""
    for name in (ENGINE.file, *data):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    listed = tuple(
        BundleFile(file=name, sha256=digest.of_file(folder / name), size_bytes=len(name))
        for name in (ENGINE.file, *data)
    )
    engine = replace(ENGINE, sha256=listed[0].sha256, size_bytes=listed[0].size_bytes, data=listed[1:], files=())
    made = replace(BUNDLE, engines=(engine,), files=(), signature=None)
    (folder / MANIFEST_FILE).write_text(made.to_json())
    return made


def _never(path: Path) -> str:
    raise AssertionError(f"{path} was read")


def _refusal(folder: Path, manifest: BundleManifest, read: verification.Reader = _never) -> str:
    with pytest.raises(BundleError) as error:
        verification.check(folder, manifest, read)
    return str(error.value)


def test_whole_bundle_passes(tmp_path: Path) -> None:
    verification.check(tmp_path, _bundle(tmp_path, WEIGHTS))


def test_rejects_two_files_of_an_engine_with_the_same_name(tmp_path: Path) -> None:
    """A server has both in one folder. No file is read, because the reader of a server places it there."""
    made = _bundle(tmp_path, "other/model.onnx")
    cause = "another file of the engine body_standard batch has the same name"
    assert _refusal(tmp_path, made) == f"{tmp_path}/other/model.onnx: {cause}. {REMEDY}."


def test_rejects_file_that_is_listed_twice(tmp_path: Path) -> None:
    """Its two records may differ, and only one of them would be compared with the file."""
    made = _bundle(tmp_path)
    again = replace(made.engines[0], model="body_enhanced", sha256="00" * 32)
    twice = replace(made, engines=(*made.engines, again))
    assert _refusal(tmp_path, twice) == f"{tmp_path}/{ENGINE.file}: the manifest lists it twice. {REMEDY}."


def test_rejects_file_that_disappears_while_it_is_read(tmp_path: Path) -> None:
    def read(path: Path) -> str:
        path.unlink(missing_ok=True)
        return digest.of_file(path)

    cause = "it was removed while it was read"
    assert _refusal(tmp_path, _bundle(tmp_path), read) == f"{tmp_path}/{ENGINE.file}: {cause}. {REMEDY}."


def test_rejects_file_on_a_failing_disk(tmp_path: Path) -> None:
    def read(_: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    cause = "it cannot be read (Input/output error)"
    assert _refusal(tmp_path, _bundle(tmp_path), read) == f"{tmp_path}/{ENGINE.file}: {cause}. {REMEDY}."


def test_full_disk_of_a_reader_is_no_defect_of_the_bundle(tmp_path: Path) -> None:
    def read(_: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        verification.check(tmp_path, _bundle(tmp_path), read)
