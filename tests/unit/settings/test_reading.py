"""The rules that an input is read by: what a directory recorded, and what it did not."""

import pytest

from batchrun.core.settings.reading import NOW, RULES, Reading, recorded_reading


@pytest.mark.parametrize(
    ("reading", "kind", "quoting"),
    [
        (NOW, "csv", "csv"),
        (NOW, "tsv", "none"),
        (NOW, "jsonl", None),
        (Reading(quoting="csv"), "tsv", "csv"),
        (Reading(quoting="none"), "csv", "none"),
        (Reading(rules=1), "tsv", "csv"),
        (Reading(rules=1), "csv", "csv"),
        (Reading(rules=1, quoting="none"), "tsv", "none"),
    ],
)
def test_the_quoting_of_a_format(reading, kind, quoting):
    """What was given counts, else what the format had by these rules."""
    assert reading.of(kind).quoting == quoting
    assert reading.of(kind).of(kind) == reading.of(kind)


@pytest.mark.parametrize("recorded", [{}, {"input.quoting": None}, {"input.reading_rules": "?"}])
def test_a_directory_that_recorded_nothing_has_the_first_rules(recorded):
    """Such a directory was begun before there were others."""
    assert recorded_reading(recorded) == Reading(rules=1)
    assert not recorded_reading(recorded).nan_is_null


def test_what_is_recorded_comes_back():
    """The rules of a run are those that it recorded."""
    for kind in ("csv", "tsv", "jsonl", "parquet"):
        assert recorded_reading(NOW.of(kind).public()) == NOW.of(kind)
    assert NOW.nan_is_null and NOW.rules == RULES
