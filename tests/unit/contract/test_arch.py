"""Architectures: names, compute capabilities and errors."""

import re

import pytest

from contract.arch import Arch
from contract.errors import GpuError, SettingError


@pytest.mark.parametrize(
    ("capability", "arch"),
    [((7, 5), Arch.SM75), ((8, 0), Arch.SM80), ((8, 6), Arch.SM86), ((8, 9), Arch.SM89), ((9, 0), Arch.SM90)],
)
def test_from_capability(capability: tuple[int, int], arch: Arch) -> None:
    assert Arch.from_capability(capability, "GPU") is arch
    assert arch.capability == capability


@pytest.mark.parametrize("capability", [(7, 0), (7, 2), (6, 1), (8, 7), (10, 0), (12, 0), (0, 0)])
def test_rejects_unsupported_capability(capability: tuple[int, int]) -> None:
    text = f"{capability[0]}.{capability[1]}"
    message = (
        f"GPU Tesla X: its compute capability {text} is not supported. "
        "Use a GPU of compute capability 7.5, 8.0, 8.6, 8.9, 9.0, or the CPU platform."
    )
    with pytest.raises(GpuError, match=f"^{re.escape(message)}$"):
        Arch.from_capability(capability, "Tesla X")


@pytest.mark.parametrize("text", ["sm86", "SM86", " sm86 "])
def test_parse(text: str) -> None:
    assert Arch.parse(text) is Arch.SM86


@pytest.mark.parametrize("arch", Arch)
def test_parse_reads_every_name(arch: Arch) -> None:
    assert Arch.parse(arch.value) is arch
    assert arch.example_gpus


@pytest.mark.parametrize("text", ["sm70", "86", "gpu", "", "sm 86"])
def test_rejects_unknown_name(text: str) -> None:
    with pytest.raises(SettingError) as error:
        Arch.parse(text)
    assert str(error.value) == (
        f"architecture {text!r}: Voxwright does not build for it. Choose one of cpu, sm75, sm80, sm86, sm89, sm90."
    )


def test_cpu_has_no_capability() -> None:
    assert Arch.CPU.capability is None
