"""Measures of difference, on NumPy arrays; skipped where NumPy is not installed."""

import math
from typing import Any

import pytest

from contract.catalogue import MEASURES, Tensor, Tolerance
from contract.differences import Difference, closest, compare, compare_all, distance, worst


def tensor(measure: str) -> Tensor:
    return Tensor(name="y", type="FP32", shape=(), tolerance=Tolerance(measure=measure, fp32=0.1, fp16=0.5))


@pytest.fixture
def array() -> Any:
    return pytest.importorskip("numpy").array


@pytest.mark.parametrize("measure", MEASURES)
def test_equal_arrays_are_within_every_limit(array: Any, measure: str) -> None:
    values = array([[0.6, 0.8], [1.0, 0.0]])
    found = compare(tensor(measure), values, values, "fp32")
    assert found.value == pytest.approx(0.0)
    assert found.within_limit


@pytest.mark.parametrize(
    ("measure", "actual", "expected", "value"),
    [
        ("absolute", [[1.0, 2.0]], [[1.5, 4.0]], 2.0),
        ("relative", [[3.0, 0.0]], [[0.0, 4.0]], 1.25),
        ("relative", [[1.0]], [[0.0]], math.inf),
        ("cosine", [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], 1.0),
        ("differing", [1, 2, 3, 4], [1, 2, 3, 5], 0.25),
        ("first_differing", [[1, 2], [3, 4]], [[1, 9], [9, 4]], 0.5),
    ],
)
def test_measures(array: Any, measure: str, actual: Any, expected: Any, value: float) -> None:
    found = compare(tensor(measure), array(actual), array(expected), "fp16")
    assert found == Difference(output="y", measure=measure, value=value, limit=0.5)


@pytest.mark.parametrize("measure", ["absolute", "relative", "cosine"])
def test_nan_is_never_within_a_limit(array: Any, measure: str) -> None:
    assert not compare(tensor(measure), array([[1.0, math.nan]]), array([[1.0, 2.0]]), "fp16").within_limit


def test_another_shape_is_never_within_a_limit(array: Any) -> None:
    found = compare(tensor("absolute"), array([1.0]), array([1.0, 1.0]), "fp32")
    assert found.value == math.inf
    assert not found.within_limit


def test_rejects_input(array: Any) -> None:
    with pytest.raises(ValueError, match=r"^y has no tolerance$"):
        compare(Tensor(name="y", type="FP32", shape=()), array([1.0]), array([1.0]), "fp32")


def test_text() -> None:
    found = Difference(output="y", measure="relative", value=0.25, limit=0.1)
    assert str(found) == "y differs by 2.5e-01 (relative, allowed 1e-01)"
    assert not found.within_limit


def difference(output: str, value: float, limit: float = 1.0) -> Difference:
    return Difference(output=output, measure="absolute", value=value, limit=limit)


def test_worst_keeps_one_for_each_output() -> None:
    found = worst([difference("y", 0.1), difference("z", 0.3), difference("y", 0.2), difference("y", 0.0)])
    assert found == (difference("y", 0.2), difference("z", 0.3))


def test_worst_keeps_nan() -> None:
    for values in ([0.1, math.nan, math.inf], [math.nan, math.inf, 0.1]):
        (found,) = worst(difference("y", value) for value in values)
        assert math.isnan(found.value)


def test_closest_has_the_largest_limit_ratio() -> None:
    assert closest([difference("y", 0.5, 10.0), difference("z", 0.1, 0.2)]) == difference("z", 0.1, 0.2)
    assert closest([]) is None


@pytest.mark.parametrize(
    ("actual", "value"),
    [
        ([[3.0, 1.0], [1.0, 2.0]], 0.0),
        ([[1.0, 3.0], [1.0, 2.0]], 0.5),
        # Of two equal scores either one is the highest.
        ([[2.0, 2.0], [2.0, 2.0]], 0.0),
        ([[math.nan, 1.0], [1.0, 2.0]], 0.5),
    ],
)
def test_best_differing(array: Any, actual: list[list[float]], value: float) -> None:
    assert distance("best_differing", array(actual), array([[5.0, 4.0], [-2.0, -1.0]])) == value


SCORES = Tensor(
    name="scores", type="FP32", shape=(2,), tolerance=Tolerance(measure="absolute", fp32=1e-3, fp16=0.1)
)  # fmt: skip
LIST = Tensor(
    name="list",
    type="INT32",
    shape=(2,),
    tolerance=Tolerance(measure="first_differing", fp32=0.0, fp16=0.02, ties="scores"),
)


@pytest.mark.parametrize(
    ("first", "precision", "value"),
    [
        # The second element of the first row is 0.05 behind, that of the second row 0.5.
        ([[8, 7], [5, 6]], "fp16", 0.0),
        ([[8, 7], [5, 6]], "fp32", 0.5),
        ([[7, 8], [6, 5]], "fp16", 0.5),
        # The reference does not list the element.
        ([[9, 7], [5, 6]], "fp16", 0.5),
        ([[9, 7], [9, 6]], "fp16", 1.0),
    ],
)
def test_ties_do_not_count(array: Any, first: list[list[int]], precision: str, value: float) -> None:
    scores = array([[-0.5, -0.55], [-0.1, -0.6]])
    actual, expected = {"scores": scores, "list": array(first)}, {"scores": scores, "list": array([[7, 8], [5, 6]])}
    found = compare_all((SCORES, LIST), actual, expected, precision)
    assert [each.output for each in found] == ["scores", "list"]
    assert (found[0].value, found[1].value) == (0.0, value)


def test_another_shape_is_no_tie(array: Any) -> None:
    expected = {"scores": array([[-0.5, -0.55]]), "list": array([[7, 8]])}
    found = compare_all((LIST, SCORES), {**expected, "list": array([[7]])}, expected, "fp16")
    assert (found[0].value, found[1].value) == (math.inf, 0.0)


def test_limit_ratio() -> None:
    assert difference("y", 0.5, 0.25).limit_ratio == 2.0
    assert difference("y", 0.0, 0.0).limit_ratio == 0.0
    assert difference("y", 1e-9, 0.0).limit_ratio == difference("y", math.nan).limit_ratio == math.inf
