"""The container images in which TensorRT engines are built."""

from contract.platform import Platform, parse_version

# NVIDIA's image of an older release has a Python in which this package does not run.
_OLDEST_PYTHON = (3, 11)


def image(place: Platform) -> str:
    """Return the image in which engines for a GPU platform are built.

    For each Triton container, NVIDIA publishes a TensorRT container of the same number with TensorRT's Python package.
    Triton's own container lacks that package. build.engines rejects an image with another TensorRT version.
    """
    return f"nvcr.io/nvidia/tensorrt:{place.name}-py3"


def described(place: Platform) -> str:
    """Return the image as a phrase: NVIDIA's, or an image of the user's own where NVIDIA's Python is too old."""
    if (parse_version(place.python) or ()) >= _OLDEST_PYTHON:
        return f"NVIDIA's image {image(place)}, or in the image target `builder`"
    return f"an image of your own with TensorRT {place.tensorrt} and Python 3.11"
