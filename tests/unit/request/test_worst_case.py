"""The most that a request can cost."""

import json

import pytest

from batchrun.core.request.worst_case import (
    CACHE_WRITE_TIMES,
    IMAGE_TOKENS_MAX,
    MARGIN_TOKENS,
    worst_case,
)
from batchrun.errors import RowError

TEXT = {"role": "user", "content": "Hello"}
WIRE = b"x" * 100


def _body(**fields):
    return {"model": "m", "messages": [TEXT], "max_tokens": 10} | fields


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, 10),
        ({"max_completion_tokens": 7}, 10),
        ({"max_completion_tokens": 70}, 70),
        ({"max_tokens": None, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 10.0}, 10),
        ({"n_predict": 99}, 99),
        ({"n": 3}, 30),
        ({"n": 3.0}, 30),
        ({"n": 2, "best_of": 5}, 50),
        ({"n": 0}, 10),
        ({"n": None}, 10),
        ({"thinking_budget": 500, "n": 2}, 1020),
        ({"thinking": {"type": "enabled", "budget_tokens": 30}}, 40),
        ({"reasoning": {"max_tokens": 30, "effort": None}}, 40),
        ({"thinking": {"type": "enabled"}, "reasoning": None}, 10),
        ({"prediction": {"type": "content", "content": "abc"}}, 110),
    ],
    ids=str,
)
def test_the_answer_is_bounded_by_its_limits_and_the_choices(fields, output):
    """Of two limits the larger counts: some servers obey the one, some the other."""
    found = worst_case(_body(**fields), WIRE)
    assert found.output_tokens == output
    assert found.input_tokens == 100 + MARGIN_TOKENS
    assert found.tokens == 100 + MARGIN_TOKENS + output


@pytest.mark.parametrize(
    ("fields", "raised_to", "output"),
    [({}, 50, 50), ({}, 5, 10), ({"n": 3}, 50, 150), ({"thinking_budget": 7}, 50, 57)],
    ids=str,
)
def test_a_limit_that_may_be_raised_counts_as_raised(fields, raised_to, output):
    """The bound is that of the highest limit that a try may have; a lower one changes nothing."""
    assert worst_case(_body(**fields), WIRE, raised_to=raised_to).output_tokens == output


def test_an_image_has_a_bound_of_its_own():
    """It is charged by its pixels: a short URL may name a large one."""
    parts = [
        {"type": "text", "text": "x"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    found = worst_case(_body(messages=[{"role": "user", "content": parts * 2}]), WIRE)
    assert found.input_tokens == 100 + MARGIN_TOKENS + 2 * IMAGE_TOKENS_MAX


@pytest.mark.parametrize("text", ["\ufdfa", "\U0001d160", "\ufb2c", "\u0958"])
def test_text_that_grows_in_a_normal_form_is_counted_as_it_grew(text):
    """A tokenizer may see eighteen letters where the row has one character."""
    wire = json.dumps(_body(messages=[TEXT | {"content": text * 50}]), ensure_ascii=False).encode()
    grown = {"\ufdfa": 33, "\U0001d160": 12, "\ufb2c": 6, "\u0958": 6}[text]
    more = 50 * (grown - len(text.encode()))
    assert worst_case(_body(), wire).input_tokens == len(wire) + more + MARGIN_TOKENS


def test_writing_into_a_cache_costs_more_than_reading():
    """Up to twice the price of the input."""
    plain = worst_case(_body(), WIRE).input_tokens
    marked = worst_case(_body(), WIRE[:-15] + b'"cache_control"')
    assert marked.input_tokens == CACHE_WRITE_TIMES * plain


@pytest.mark.parametrize(
    "limits", [{"max_tokens": limit} for limit in (None, 0, -1)] + [{"max_completion_tokens": -1}]
)
def test_without_a_limit_there_is_no_bound(limits):
    """And the message says what to set. A limit below 1 is none to many a server."""
    with pytest.raises(RowError, match="--max-tokens N"):
        worst_case(_body(**limits), WIRE)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": "10"},
        {"max_tokens": 1.5},
        {"max_completion_tokens": "9000"},
        {"n": "5"},
        {"n": True},
        {"best_of": [2]},
        {"thinking_budget": "x"},
    ],
    ids=str,
)
def test_numbers_that_servers_may_read_otherwise_are_refused(fields):
    """Some take "5" for 5: it would be five answers where one was counted."""
    with pytest.raises(RowError, match="no whole number"):
        worst_case(_body(**fields), WIRE)


@pytest.mark.parametrize(
    "fields",
    [
        {"web_search_options": {}},
        {"plugins": [{"id": "web"}]},
        {"enable_search": True},
        {"models": ["dear"]},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "x"}},
        {"tools": [{"type": "web_search"}]},
        {"messages": [TEXT | {"audio": {"id": "a"}}]},
        {"chat_template": "{{ x }}"},
    ],
    ids=str,
)
def test_what_adds_to_the_cost_out_of_sight_is_refused(fields):
    """The server puts in what it finds, or another model answers."""
    with pytest.raises(RowError, match="cannot be bounded"):
        worst_case(_body(**fields), WIRE)


@pytest.mark.parametrize(
    "fields",
    [
        {"enable_search": False},
        {"plugins": []},
        {"web_search_options": None},
        {"modalities": ["text"]},
        {"tools": [{"type": "function", "function": {"name": "f"}}, {"type": "custom"}]},
        {"tools": None, "models": None},
    ],
    ids=str,
)
def test_what_adds_nothing_is_let_pass(fields):
    """Named is not used."""
    assert worst_case(_body(**fields), WIRE).tokens == 110 + MARGIN_TOKENS


@pytest.mark.parametrize("kind", ["input_audio", "file", "video_url"])
def test_what_cannot_be_bounded_is_refused(kind):
    """Audio and files are charged by what is in them, not by their bytes."""
    messages = [TEXT, {"role": "user", "content": [{"type": kind}]}]
    with pytest.raises(RowError, match=rf"messages\[1\] has a part of type '{kind}'"):
        worst_case(_body(messages=messages), WIRE)


def test_a_document_is_no_image():
    """Though it comes as one."""
    part = {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AAAA"}}
    with pytest.raises(RowError, match="an image that is none"):
        worst_case(_body(messages=[{"role": "user", "content": [part]}]), WIRE)


def test_the_tier_asked_for_goes_along():
    """It may have a price of its own."""
    assert worst_case(_body(service_tier="Priority"), b"").tier == "priority"
    assert worst_case(_body(service_tier=None), b"").tier is None
