"""The most that a request can cost."""

import pytest

from batchrun.core.worst_case import IMAGE_TOKENS_MAX, MARGIN_TOKENS, worst_case
from batchrun.errors import RowError

TEXT = {"role": "user", "content": "Hello"}


def _body(**fields):
    return {"model": "m", "messages": [TEXT], "max_tokens": 10} | fields


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, 10),
        ({"max_completion_tokens": 7}, 7),
        ({"n": 3}, 30),
        ({"n": 2, "best_of": 5}, 50),
        ({"n": 0}, 10),
        ({"n": None}, 10),
    ],
    ids=str,
)
def test_the_answer_is_bounded_by_its_limit_and_the_choices(fields, output):
    """Of two limits the one that is counted is the one that servers obey."""
    found = worst_case(_body(**fields), 100)
    assert found.output_tokens == output
    assert found.input_tokens == 100 + MARGIN_TOKENS
    assert found.tokens == 100 + MARGIN_TOKENS + output


def test_an_image_has_a_bound_of_its_own():
    """It is charged by its pixels: a short URL may name a large one."""
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "http://i"}}]
    found = worst_case(_body(messages=[{"role": "user", "content": parts * 2}]), 100)
    assert found.input_tokens == 100 + MARGIN_TOKENS + 2 * IMAGE_TOKENS_MAX


@pytest.mark.parametrize("limit", [None, 0, -1, "10", 1.5])
def test_without_a_limit_there_is_no_bound(limit):
    """And the message says what to set."""
    with pytest.raises(RowError, match="max_completion_tokens=N"):
        worst_case(_body(max_tokens=limit), 100)


@pytest.mark.parametrize("kind", ["input_audio", "file", "video_url"])
def test_what_cannot_be_bounded_is_refused(kind):
    """Audio and files are charged by what is in them, not by their bytes."""
    messages = [TEXT, {"role": "user", "content": [{"type": kind}]}]
    with pytest.raises(RowError, match=rf"messages\[1\] has a part of type '{kind}'"):
        worst_case(_body(messages=messages), 100)


def test_the_tier_asked_for_goes_along():
    """It may have a price of its own."""
    assert worst_case(_body(service_tier="priority"), 1).tier == "priority"
    assert worst_case(_body(service_tier=None), 1).tier is None
