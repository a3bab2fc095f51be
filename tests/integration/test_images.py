"""The images themselves: built, started, asked, stopped. Minutes and gigabytes, hence opt-in: pytest -m container."""

import subprocess

import pytest

from tests.unit.images.dockerfile import ROOT


@pytest.mark.container
def test_the_images_serve_and_transcribe() -> None:
    """What ci/images prints is what there is to see; its exit code says whether all of it held."""
    done = subprocess.run([ROOT / "ci" / "images"], check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
