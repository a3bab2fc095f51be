"""The table of platforms."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract import platform as module
from contract.errors import CatalogueError, SettingError
from contract.platform import Version, parse_version, platform, platforms, requirements


def test_default_comes_first() -> None:
    assert list(platforms()) == ["26.08", "23.12", "embedded", "compile-check"]


def test_platform() -> None:
    found = platform("26.08")
    assert (found.name, found.triton, found.tensorrt, found.backend) == ("26.08", "2.72.0", "11.2.1.2", "tensorrt")
    assert platform("embedded").cuda is None
    assert platform("compile-check").backend is None


@pytest.mark.parametrize("found", platforms().values(), ids=lambda found: found.name)
def test_every_platform_is_complete(found: module.Platform) -> None:
    assert found.title
    assert found.purpose
    assert (found.cuda is None) == (found.tensorrt is None) == (found.driver is None)
    assert found.backend in (None, "tensorrt", "onnxruntime")
    assert all(re.fullmatch(r"[\d.]+", text) for text in filter(None, (found.triton, found.cuda, found.tensorrt)))


def test_rejects_unknown_platform() -> None:
    message = "platform 'latest': it is not known. Choose one of 26.08, 23.12, embedded, compile-check."
    with pytest.raises(SettingError, match=f"^{re.escape(message)}$"):
        platform("latest")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the path of another platforms.toml, which the test writes."""
    file = tmp_path / "platforms.toml"
    monkeypatch.setattr(module, "_FILE", file)
    platforms.cache_clear()
    requirements.cache_clear()
    yield file
    platforms.cache_clear()
    requirements.cache_clear()


NEW = '[platforms.new]\ntitle = "t"\npurpose = "p"\npython = "3.12"\ndata_centre_drivers = []\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NEW.replace('"3.12"', "3.12"), "platforms.new.python: expected a string, found a number"),
        (NEW + 'driver = "580"', "platforms.new.driver: expected a table, found a string"),
        (
            NEW + 'driver = { version = "R580", cuda = "13.0" }',
            "platforms.new.driver.version: 'R580' is not a version: expected numbers separated by dots",
        ),
        (
            NEW.replace("[]", '[{ version = "535.86+", cuda = "12.2" }]'),
            "platforms.new.data_centre_drivers[0].version: '535.86+' is not a version: "
            "expected numbers separated by dots",
        ),
        ("[gpus]", "gpus: this field is unknown"),
    ],
)
def test_rejects_wrong_table(table: Path, text: str, message: str) -> None:
    table.write_text(text)
    with pytest.raises(CatalogueError, match=f"^{re.escape(f'platforms.toml: {message}. Correct the file.')}$"):
        platforms()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("580.65.06", (580, 65, 6)),
        ("535.104", (535, 104)),
        ("580", (580,)),
        (" 470.57.02-beta", (470, 57, 2)),
        ("R580", None),
        ("", None),
    ],
)
def test_version(text: str, numbers: Version | None) -> None:
    assert parse_version(text) == numbers


# Each driver in the kernel, the CUDA version of the library in use, and the platforms that admit them: on a data-centre
# GPU, and on any other GPU.
OWN = {470: (11, 4), 510: (11, 6), 525: (12, 0), 530: (12, 1), 535: (12, 2), 545: (12, 3), 570: (12, 8), 580: (13, 0)}
DRIVERS = [
    ("470.42.01", (12, 3), [], []),
    # Only CUDA's compatibility library makes branch 470 run a CUDA 12.
    ("470.57", (11, 4), [], []),
    ("470.57", (12, 3), ["23.12"], []),
    ("470.256.02", (11, 4), [], []),
    ("470.256.02", (12, 0), ["23.12"], []),
    ("470.256.02", (12, 3), ["23.12"], []),
    ("510.85.02", (12, 3), [], []),
    ("525.60.13", OWN[525], [], []),
    ("525.85.05", OWN[525], ["23.12"], []),
    ("525.85.05", (12, 3), ["23.12"], []),
    ("525.147.05", OWN[525], ["23.12"], []),
    ("530.30.02", OWN[530], [], []),
    ("535.54.03", OWN[535], [], []),
    ("535.85", OWN[535], [], []),
    ("535.86.01", OWN[535], ["23.12"], []),
    # Compared as text, this would be earlier than 535.86.
    ("535.104.05", OWN[535], ["23.12"], []),
    # A library of CUDA 13 does not make an old driver run a platform that lists no branch.
    ("535.104.05", (13, 0), ["23.12"], []),
    # A branch admits its own versions only.
    ("544.99", OWN[545], [], []),
    ("545", OWN[545], ["23.12"], ["23.12"]),
    ("545.23.06", OWN[545], ["23.12"], ["23.12"]),
    ("570.211.01", OWN[570], ["23.12"], ["23.12"]),
    ("579.99", OWN[570], ["23.12"], ["23.12"]),
    ("580", OWN[580], ["26.08", "23.12"], ["26.08", "23.12"]),
    ("580.65.06", OWN[580], ["26.08", "23.12"], ["26.08", "23.12"]),
    ("1000.1", (20, 0), ["26.08", "23.12"], ["26.08", "23.12"]),
]


@pytest.mark.parametrize(
    ("text", "cuda", "data_centre", "other"), DRIVERS, ids=[f"{text}-{cuda[0]}.{cuda[1]}" for text, cuda, *_ in DRIVERS]
)
def test_drivers(text: str, cuda: Version, data_centre: list[str], other: list[str]) -> None:
    numbers = parse_version(text)
    assert numbers is not None
    for expected, kind in ((data_centre, True), (other, False)):
        admitted = [
            name
            for name, found in platforms().items()
            if found.cuda and found.admits_driver(numbers, cuda, data_centre=kind)
        ]
        assert admitted == expected


@pytest.mark.parametrize(
    ("cuda", "data_centre", "other"),
    [
        ((11, 3), [], []),
        # Branch 470 without CUDA's compatibility library.
        ((11, 4), [], []),
        ((11, 8), [], []),
        ((12, 0), ["23.12"], []),
        ((12, 1), [], []),
        ((12, 2), ["23.12"], []),
        ((12, 3), ["23.12"], ["23.12"]),
        ((12, 9), ["23.12"], ["23.12"]),
        ((13, 0), ["26.08", "23.12"], ["26.08", "23.12"]),
        ((13, 10), ["26.08", "23.12"], ["26.08", "23.12"]),
    ],
)
def test_drivers_of_known_cuda_version(cuda: Version, data_centre: list[str], other: list[str]) -> None:
    for expected, kind in ((data_centre, True), (other, False)):
        found = [name for name, each in platforms().items() if each.cuda and each.admits_cuda(cuda, data_centre=kind)]
        assert found == expected


def test_platform_without_cuda_admits_every_driver() -> None:
    assert platform("embedded").admits_driver((1,), (1, 0), data_centre=False)
    assert platform("embedded").admits_cuda((1, 0), data_centre=False)
    assert platform("embedded").supported_drivers(data_centre=True) == "any"


def test_first_cuda() -> None:
    assert [found.first_cuda for found in platforms().values()] == [(13, 0), (12, 0), (), ()]


def test_supported_drivers() -> None:
    legacy = platform("23.12")
    assert legacy.supported_drivers(data_centre=False) == "545 or later"
    assert legacy.supported_drivers(data_centre=True) == (
        "545 or later, or 470.57 or later of branch 470 with CUDA's compatibility library, "
        "or 525.85 or later of branch 525, or 535.86 or later of branch 535"
    )
    assert platform("26.08").supported_drivers(data_centre=True) == "580 or later"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("Tesla T4", True),
        ("Tesla V100-SXM2-16GB", True),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", True),
        ("NVIDIA A10", True),
        ("NVIDIA A10G", True),
        ("NVIDIA L4", True),
        ("NVIDIA L40S", True),
        ("NVIDIA H100 80GB HBM3", True),
        ("NVIDIA GH200 480GB", True),
        ("NVIDIA A40-8Q", True),
        ("NVIDIA GeForce RTX 3080", False),
        ("NVIDIA RTX A4000", False),
        ("NVIDIA T400", False),
        ("Quadro RTX 6000", False),
        ("NVIDIA TITAN V", False),
    ],
)
def test_data_centre_gpus(name: str, *, is_one: bool) -> None:
    assert requirements().is_data_centre(name) is is_one


def test_memory_requirements() -> None:
    needed = requirements()
    # The bytes that CUDA reports for a T4 with its latest drivers, and for cards of 12 and 8 GB.
    t4, others = 15_642_329_088, (12_622_168_064, 8_360_755_200)
    assert max(others) < needed.gpu_memory.min_bytes < t4
    assert needed.gpu_memory.nominal_gb == 16
    assert (needed.host_memory.nominal_gb, needed.host_memory.min_bytes) == (24, 22 << 30)
