"""Build and run the images. Takes minutes and gigabytes, so it is opt-in: pytest -m container."""

import subprocess

import pytest

from tests.unit.images.dockerfile import ROOT


@pytest.mark.container
def test_images_serve_and_transcribe() -> None:
    """The exit code of ci/images is 0 when every check passes; its output shows the progress."""
    done = subprocess.run([ROOT / "ci" / "images"], check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
