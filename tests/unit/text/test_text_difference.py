"""Where two texts differ, told in two short lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.core.settings.differences import differences
from batchrun.core.text.text_difference import ROOM, place_of, texts_apart


def test_a_few_words_of_context():
    """Both begin at a word before the difference; what is cut off is marked."""
    head = "one two three four five six seven eight nine ten "
    was, now = texts_apart(head + "red car " * 20, head + "blue car " * 20)
    assert was.startswith('..."') and was.endswith('"...')
    assert " red" not in was[:4] and "nine ten red car" in was and "nine ten blue car" in now
    assert was[: was.index("red")] == now[: now.index("blue")]


@pytest.mark.parametrize(
    ("before", "now", "place"),
    [
        ("abc", "abd", "character 3"),
        ("abc", "abcd", "character 4"),
        ("", "x", "character 1"),
        ("a\nb\nc", "a\nb\nd", "line 3, character 1"),
        ("a", "a\nb", "line 1, character 2"),
    ],
)
def test_the_place_is_named(before, now, place):
    """By character, and by line where there are several."""
    assert place_of(before, now) == place


@given(st.text(max_size=400), st.text(max_size=400), st.text(max_size=200))
def test_every_pair_fits_and_shows_the_difference(head, one, other):
    """Two lines that fit, printable, and different wherever the texts are."""
    before, now = head + one, head + other
    was, is_ = texts_apart(before, now)
    assert max(len(was), len(is_)) <= ROOM + 8
    assert (was + is_).isprintable()
    assert (was != is_) is (before != now)


@given(st.text(max_size=300), st.characters(), st.characters(), st.text(max_size=300))
def test_one_changed_character_is_seen(head, one, other, tail):
    """Invisible ones too: they are escaped."""
    if one != other:
        was, now = texts_apart(head + one + tail, head + other + tail)
        assert was != now


def test_a_text_deep_in_messages_is_compared_there():
    """One changed message of several is found, and named by its place."""
    messages = [{"role": "system", "content": "be brief " * 20}, {"role": "user", "content": "x"}]
    other = [{"role": "system", "content": "be brief " * 19 + "be long "}, messages[1]]
    (found,) = differences({"request.messages": messages}, {"request.messages": other})
    assert str(found).startswith("request.messages[0].content differs from character ")
    assert "be long" in str(found)
    assert max(map(len, str(found).splitlines())) <= 80


def test_short_values_stay_side_by_side():
    """What fits beside each other needs no second line; control characters are escaped."""
    (found,) = differences({"request.model": "a"}, {"request.model": "b\x1b\u202e"})
    assert str(found) == 'request.model: was "a", is "b\\u001b\\u202e"'
