"""Notices of several processes become one list."""

from batchrun.core.fleet.notices import KEPT_MAX, all_told, merged


def test_what_all_tell_is_said_once():
    """In the order in which it was told first."""
    assert merged({"a": ["x", "y"], "b": ["y", "x"], "c": ["x"]}) == ["x", "y"]


def test_what_one_of_several_tells_names_it():
    """It may be about that machine; of a single worker no name is needed."""
    assert merged({"a": ["x"], "b": ["x", "disk is nearly full"]}) == [
        "x",
        "b: disk is nearly full",
    ]
    assert merged({"a": ["x", "x"], "b": []}) == ["a: x"]
    assert merged({"a": ["x", "x"]}) == ["x"]
    assert merged({}) == []


def test_the_list_is_bounded():
    """However many notices there are."""
    assert len(merged({"a": [str(n) for n in range(2 * KEPT_MAX)]})) == KEPT_MAX


def test_notices_of_earlier_sessions_stay():
    """Each text once."""
    assert all_told(["a", "b"], ["b", "c", "c"]) == ["a", "b", "c"]
