"""Build and run the images. Takes minutes and gigabytes, so it is opt-in: pytest -m container."""

import subprocess
import sys

import pytest

from contract.platform import platforms
from images.nvidia_stub import PLATFORMS, no_driver_sentence
from tests.unit.images.dockerfile import ROOT


@pytest.mark.container
def test_images_serve_and_transcribe() -> None:
    """The exit code of ci/images is 0 when every check passes; its output shows the progress."""
    done = subprocess.run([ROOT / "ci" / "images"], check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0


@pytest.mark.container
@pytest.mark.parametrize("platform", PLATFORMS)
def test_gpu_image_from_stub_stops_without_driver_and_starts_with_one(platform: str) -> None:
    """Without NVIDIA's images and without a GPU: what runs here is the Dockerfile, gather.py and runtime."""
    command = [sys.executable, "-m", "images", "runtime", "--stub-nvidia", "--platform", platform]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert any(line.startswith("ci/images: STUB: ") for line in lines)
    assert any(line.startswith("ci/images: the container ended with exit code 40: ") for line in lines)
    assert no_driver_sentence(platforms()[platform]) in done.stdout
    assert "ci/images:   argument --strict-readiness=true" in lines
    assert "ci/images:   stub tritonserver: the tensorrt backend and all its libraries were loaded" in lines
    assert any(line.startswith(f"runtime ({platform}, from a STUB of NVIDIA's image): ") for line in lines)
