"""Fixtures of the transcriber's tests: a scripted server in this process, and a recording."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contract.catalogue import read_catalogue
from tests.unit.transcriber.server import Script, serving
from tests.unit.transcriber.sounds import burst, silence, wav
from transcriber.connection import Connection
from transcriber.triton_recogniser import TritonRecogniser, connect


@pytest.fixture
def script() -> Script:
    """What the server answers."""
    return Script()


@pytest.fixture
def connection(script: Script) -> Iterator[Connection]:
    """A connection to the server."""
    with serving(script) as port:
        yield Connection(f"127.0.0.1:{port}", retry_timeout_s=2.0)


@pytest.fixture
def recogniser(connection: Connection) -> TritonRecogniser:
    """A recogniser on the server."""
    return connect(connection, read_catalogue(), "en", None)


@pytest.fixture
def attributes(tmp_path: Path) -> None:
    """Skip a test where the file system keeps no attributes."""
    try:
        os.setxattr(tmp_path, "user.voxwright.test", b"")
    except OSError as error:
        pytest.skip(f"{tmp_path}: {error.strerror}")


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Loud, soft, loud: three segments of about 2.4 s."""
    parts = [silence(1), burst(2, level=0.9), silence(1), burst(2, level=0.04), silence(1), burst(2, level=0.9)]
    return wav(tmp_path / "talk.wav", np.concatenate([*parts, silence(1)]))
