"""Optional tables of a parsed file."""

import pytest

from contract.errors import CheckpointError
from contract.fields import Fields


@pytest.mark.parametrize("table", [{}, {"a": None}])
def test_error_in_an_absent_table_names_the_source_and_the_path(table: dict[str, object]) -> None:
    below = Fields(table, source="train.yaml", error=CheckpointError, remedy="Copy it").optional_table("a")
    assert below.names() == []
    with pytest.raises(CheckpointError, match=r"^train\.yaml: a\.b: this field is missing\. Copy it\.$"):
        below.integer("b")


@pytest.mark.parametrize(
    ("table", "held", "has"), [({}, False, False), ({"a": None}, True, False), ({"a": 0}, True, True)]
)
def test_distinguishes_null_from_an_absent_field(table: dict[str, object], held: bool, has: bool) -> None:
    fields = Fields(table, source="a.json", error=CheckpointError, remedy="Copy it")
    assert (fields.holds("a"), fields.has("a")) == (held, has)


def test_optional_table_that_is_present_is_a_table() -> None:
    table = Fields({"a": {"b": 3}, "c": 4}, source="train.yaml", error=CheckpointError, remedy="Copy it")
    assert table.optional_table("a").integer("b") == 3
    with pytest.raises(CheckpointError, match="c: expected a table, found an integer"):
        table.optional_table("c")
