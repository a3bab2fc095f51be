"""The architectures that each compatibility level admits, written out because nothing follows from the numbers."""

from itertools import product

import pytest

from contract.arch import Arch
from contract.compatibility import LEVELS, admits, level

AMPERE_AND_LATER = {"sm80", "sm86", "sm89", "sm90"}


@pytest.mark.parametrize("compatibility", [*LEVELS, "hopper-plus", ""])
def test_admits(compatibility: str) -> None:
    for built, target in product(Arch, Arch):
        both_ampere = {built.value, target.value} <= AMPERE_AND_LATER
        expected = built is target or (compatibility == "ampere-plus" and both_ampere)
        assert admits(compatibility, built, target) is expected, (compatibility, built, target)


def test_turing_and_the_cpu_admit_only_themselves() -> None:
    for other in Arch:
        for alone in (Arch.SM75, Arch.CPU):
            assert admits("ampere-plus", alone, other) is (alone is other)
            assert admits("ampere-plus", other, alone) is (alone is other)


@pytest.mark.parametrize(
    ("key_parts", "expected"),
    [
        ({"options": {"compatibility": "ampere-plus", "tf32": False}}, "ampere-plus"),
        ({"options": {"compatibility": "same-capability"}}, "same-capability"),
        ({"options": {"tf32": False}}, "none"),
        ({"options": "fast"}, "none"),
        ({}, "none"),
    ],
)
def test_level(key_parts: dict[str, object], expected: str) -> None:
    assert level(key_parts) == expected
