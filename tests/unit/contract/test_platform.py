"""The platforms' table."""

import re

import pytest

from contract import platform as module
from contract.errors import CatalogueError, SettingError
from contract.platform import platform, platforms


def test_names_with_the_default_first() -> None:
    assert list(platforms()) == ["26.08", "23.12", "embedded", "compile-check"]


def test_a_platform() -> None:
    found = platform("26.08")
    assert (found.name, found.triton, found.tensorrt, found.backend) == ("26.08", "2.72.0", "11.2.1.2", "tensorrt")
    assert platform("embedded").cuda is None
    assert platform("compile-check").backend is None


@pytest.mark.parametrize("found", platforms().values(), ids=lambda found: found.name)
def test_every_platform_is_whole(found: module.Platform) -> None:
    assert found.title
    assert found.purpose
    assert (found.cuda is None) == (found.tensorrt is None) == (found.driver is None)
    assert found.backend in (None, "tensorrt", "onnxruntime")
    assert all(re.fullmatch(r"[\d.]+", text) for text in filter(None, (found.triton, found.cuda, found.tensorrt)))


def test_an_unknown_platform() -> None:
    message = "platform 'latest': it is not known. Choose one of 26.08, 23.12, embedded, compile-check."
    with pytest.raises(SettingError, match=f"^{re.escape(message)}$"):
        platform("latest")


def test_a_wrong_table(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "platforms.toml"  # type: ignore[operator]
    file.write_text('[platforms.new]\ntitle = "t"\npurpose = "p"\npython = 3.12\ndata_centre_drivers = []\n')
    monkeypatch.setattr(module, "_FILE", file)
    platforms.cache_clear()
    try:
        with pytest.raises(
            CatalogueError, match=r"^platforms\.toml: platforms\.new\.python: a text is wanted, not a number"
        ):
            platforms()
    finally:
        platforms.cache_clear()
