"""A row's fields become a request body."""

import hashlib
import json
import math

import pytest

from batchrun.core.request.body import asking, build, split, with_raised_limit
from batchrun.errors import RowError
from batchrun.records import Row

MESSAGES = [{"role": "user", "content": "hi"}]
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}


def _row(body, **more):
    return Row(0, None, body, **more)


def _build(body, defaults=None, body_bytes_max=10_000):
    given = {"model": "m"} if defaults is None else defaults
    return build(_row(body), given, body_bytes_max=body_bytes_max)


def _sent(body, defaults=None):
    return json.loads(_build(body, defaults).body)


def test_a_batch_line_gives_its_body_and_carries_the_rest():
    """The envelope of a Batch line is not carried, a column beside it is, and the body is whole."""
    parts = split(LINE | {"body": {"model": "m", "messages": MESSAGES}, "note": 7})
    assert parts.custom_id == "a"
    assert parts.body == {"model": "m", "messages": MESSAGES}
    assert parts.carried == {"note": 7}
    assert parts.problem is None


def test_a_chat_body_is_parted_into_parameters_and_data():
    """Known parameters are sent, any other key is data, and the custom_id is neither."""
    parts = split(
        {"messages": MESSAGES, "temperature": 0, "top_k": 3, "custom_id": "a", "ticket": "T-1"}
    )
    assert parts.body == {"messages": MESSAGES, "temperature": 0, "top_k": 3}
    assert parts.carried == {"ticket": "T-1"}
    assert parts.custom_id == "a"


def test_a_row_with_messages_and_body_is_a_chat_body():
    """A column called body beside messages is data."""
    parts = split({"messages": MESSAGES, "body": "a novel"})
    assert parts.body == {"messages": MESSAGES}
    assert parts.carried == {"body": "a novel"}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": MESSAGES, "extra_body": {"unheard_of": 1}},
        LINE | {"body": {"messages": MESSAGES, "extra_body": {"unheard_of": 1}}},
    ],
)
def test_extra_body_is_merged_into_the_top_level(fields):
    """What stands under extra_body is sent beside the other parameters, never as extra_body."""
    assert split(fields).body == {"messages": MESSAGES, "unheard_of": 1}


def test_a_null_extra_body_is_none():
    """A table's empty extra_body cell changes nothing."""
    assert split({"messages": MESSAGES, "extra_body": None}).body == {"messages": MESSAGES}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("a", "a"),
        ("", ""),
        (7, "7"),
        (1.5, "1.5"),
        (None, None),
        (10**30, str(10**30)),
        (True, "true"),
        ([1, "a"], '[1,"a"]'),
    ],
)
def test_a_custom_id_is_text(given, text):
    """Numbers, and whatever else stands there, become their JSON text."""
    assert split({"messages": MESSAGES, "custom_id": given}).custom_id == text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "neither"),
        ({"prompt": "hi"}, "neither"),
        ({"messages": MESSAGES, "extra_body": 1}, "extra_body"),
        (LINE | {"body": None}, "`body`"),
        (LINE | {"body": "x"}, "`body`"),
        (LINE | {"body": {"extra_body": []}}, "extra_body"),
        (LINE | {"method": "GET", "body": {"messages": MESSAGES}}, "GET"),
        (LINE | {"method": 1, "body": {"messages": MESSAGES}}, "method"),
        (LINE | {"url": "/v1/embeddings", "body": {}}, "/v1/embeddings"),
        (LINE | {"url": {}, "body": {}}, "url"),
    ],
)
def test_what_is_no_row_has_a_problem_and_no_body(fields, words):
    """A row of neither kind, or a broken one, comes back with a sentence that names the key."""
    parts = split(fields)
    assert parts.body is None
    assert words in parts.problem


@pytest.mark.parametrize("url", [None, "/v1/chat/completions", "https://x.y/v1/chat/completions/"])
def test_batch_lines_may_write_their_url_as_they_like(url):
    """A path, a full URL and none at all name the same endpoint."""
    assert split(LINE | {"url": url, "body": {"messages": MESSAGES}}).problem is None


def test_a_batch_line_that_is_broken_is_still_carried():
    """A bad row keeps its name and its data, so that its error row can be matched."""
    parts = split({"custom_id": 9, "body": 1, "note": "n"})
    assert (parts.custom_id, parts.carried) == ("9", {"note": "n"})


def test_the_row_wins_over_the_defaults():
    """Defaults fill in what a row leaves out, and nothing else."""
    sent = _sent({"messages": MESSAGES, "top_p": None}, {"model": "m", "top_p": 1, "seed": 2})
    assert sent == {"messages": MESSAGES, "model": "m", "top_p": None, "seed": 2}


def test_how_replies_travel_is_not_the_rows_to_say():
    """Stream and stream_options are dropped, from rows and from defaults."""
    sent = _sent(
        {"messages": MESSAGES, "stream": True, "stream_options": {}},
        {"model": "m", "stream": True},
    )
    assert sent == {"messages": MESSAGES, "model": "m"}


@pytest.mark.parametrize(
    ("row", "defaults", "options"),
    [
        ({}, {}, {"include_usage": True}),
        ({"stream": False}, {}, {"include_usage": True}),
        ({"stream_options": {}}, {}, {"include_usage": True}),
        ({"stream_options": {"x": 1}}, {}, {"include_usage": True, "x": 1}),
        ({"stream_options": {"include_usage": False}}, {}, {"include_usage": False}),
        ({}, {"stream_options": {"x": 1}}, {"include_usage": True, "x": 1}),
        ({}, {"stream_options": None}, None),
        ({"stream_options": {"x": 1}}, {"stream_options": None}, {"include_usage": True, "x": 1}),
    ],
)
def test_a_stream_is_asked_for_with_its_usage(row, defaults, options):
    """Streaming asks for usage too, unless the options say otherwise or are left out by null."""
    fields = {"messages": MESSAGES} | row
    parts = split(fields)
    request = build(
        Row(0, None, parts.body), {"model": "m"} | defaults, body_bytes_max=1000, stream=True
    )
    sent = json.loads(request.body)
    assert sent["stream"] is True
    assert sent.get("stream_options") == options
    assert ("stream_options" in sent) is (options is not None)


def test_stream_options_of_another_kind_are_a_row_error():
    """What cannot be options is told before anything is sent."""
    row = Row(0, None, {"messages": MESSAGES, "stream_options": [1]})
    with pytest.raises(RowError, match="stream_options"):
        build(row, {"model": "m"}, body_bytes_max=1000, stream=True)


def test_the_defaults_are_not_changed():
    """Building a row's body leaves the shared defaults and the row as they were."""
    defaults, body = {"model": "m", "stream": True}, {"messages": MESSAGES, "stream": False}
    _build(body, defaults)
    assert defaults == {"model": "m", "stream": True}
    assert body == {"messages": MESSAGES, "stream": False}


@pytest.mark.parametrize(
    ("limits", "most", "raised", "more"),
    [
        ({"max_tokens": 10}, 100, {"max_tokens": 20}, 10),
        ({"max_tokens": 10}, 15, {"max_tokens": 15}, 5),
        ({"max_completion_tokens": 10, "n": 3}, 100, {"max_completion_tokens": 20}, 30),
        (
            {"max_tokens": 10, "max_completion_tokens": 60},
            100,
            {"max_tokens": 20, "max_completion_tokens": 100},
            40,
        ),
        ({"n_predict": 10}, 100, {"n_predict": 20}, 10),
        ({"n_predict": -1, "max_tokens": 10}, 100, {"max_tokens": 20}, 10),
        ({"max_tokens": 10}, 10, {}, 0),
        ({"max_tokens": 10}, 1, {}, 0),
        ({"max_tokens": None}, 10, {}, 0),
        ({"max_tokens": "10"}, 100, {}, 0),
        ({"max_tokens": True}, 100, {}, 0),
        ({}, 100, {}, 0),
    ],
    ids=str,
)
def test_a_raised_limit_changes_nothing_else(limits, most, raised, more):
    """Twice as many tokens, at most so many, under each name; the estimate of tokens follows, and
    the hash stays. What cannot be raised is the same request.
    """
    body = {"messages": MESSAGES, "metadata": {"z": 1, "a": 2}} | limits
    request = _build(body)
    again = with_raised_limit(request, most)
    assert json.loads(again.body) == json.loads(request.body) | raised
    assert (again.hash, again.tokens) == (request.hash, request.tokens + more)
    assert raised or again is request
    assert b'{"z":1,"a":2}' in again.body


def test_another_model_changes_nothing_else():
    """The body with another model, and the hash of the original."""
    request = _build({"messages": MESSAGES, "seed": 1})
    other = asking(request, "other")
    assert json.loads(other.body) == json.loads(request.body) | {"model": "other"}
    assert (other.model, other.hash) == ("other", request.hash)


def test_the_hash_is_that_of_the_body_sent():
    """The request hash is the SHA-256 of the bytes on the wire."""
    request = _build({"messages": MESSAGES})
    assert request.hash == hashlib.sha256(request.body).hexdigest()
    assert b" " not in request.body.replace(b'"hi"', b"")


def test_the_hash_does_not_depend_on_the_order_of_keys():
    """Two rows that differ in the order of their top-level keys are the same request."""
    one = _build({"messages": MESSAGES, "seed": 1, "top_p": 1})
    assert _build({"top_p": 1, "seed": 1, "messages": MESSAGES}).hash == one.hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2, "a": 1}}),
        ({"stop": ["a", "b"]}, {"stop": ["b", "a"]}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"seed": None}, {}),
    ],
)
def test_the_hash_sees_what_a_model_can_see(one, other):
    """Below the top level order is kept, and with it the hash: it can change an answer."""
    assert _build({"messages": MESSAGES} | one).hash != _build({"messages": MESSAGES} | other).hash


def test_a_message_rides_through_untouched():
    """Unknown roles, parts and keys of messages are sent as they came, in their order."""
    messages = [
        {"role": "wizard", "zeta": 1, "alpha": {"b": 1, "a": 2}},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "hologram"}]},
    ]
    text = json.dumps(messages, separators=(",", ":"))
    assert f'"messages":{text}'.encode() in _build({"messages": messages}).body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [*MESSAGES, None]}, "messages[1]"),
        ({"messages": [{"content": "x"}]}, "role"),
        ({"messages": [{"role": "", "content": "x"}]}, "role"),
        ({"messages": [{"role": 1, "content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "system", "content": None}]}, "content"),
        ({"messages": [{"role": "developer"}]}, "content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"),
        ({"messages": MESSAGES, "model": None}, "model"),
        ({"messages": MESSAGES, "model": ""}, "model"),
        ({"messages": MESSAGES, "model": 4}, "model"),
        ({"messages": MESSAGES, "top_p": math.nan}, "top_p"),
        ({"messages": MESSAGES, "top_p": math.inf}, "top_p"),
        ({"messages": MESSAGES, "metadata": {"a": [-math.inf]}}, "metadata"),
        ({"messages": MESSAGES, "seed": 2**63}, "seed"),
        ({"messages": MESSAGES, "seed": -(2**63) - 1}, "seed"),
        ({"messages": MESSAGES, "logit_bias": {"1": 2**64}}, "logit_bias"),
        ({"messages": MESSAGES, "user": "\ud800"}, "surrogate"),
        ({"messages": [{"role": "user", "content": "\udfff"}]}, "surrogate"),
        ({"messages": MESSAGES, "metadata": {"\ud800": 1}}, "surrogate"),
        ({"messages": MESSAGES, "user": object()}, "JSON"),
        ({"messages": [{"role": "user", "content": "x" * 10_000}]}, "bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused(body, words):
    """A row that is certain to fail is an error that names what is wrong, and is never sent."""
    with pytest.raises(RowError, match=r"^.+$") as caught:
        _build(body)
    assert words in str(caught.value)


def test_without_any_model_the_message_says_how_to_set_one():
    """A missing model points at the flag."""
    with pytest.raises(RowError, match="--model"):
        _build({"messages": MESSAGES}, {})


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), 0, True])
def test_integers_of_64_bits_are_sent_exactly(seed):
    """The edges of 64 bits go through unrounded."""
    assert _sent({"messages": MESSAGES, "seed": seed})["seed"] == seed


@pytest.mark.parametrize("depth", [100, 500, 960, 990, 5000])
def test_a_deeply_nested_body_is_sent_or_refused(depth):
    """Nesting of any depth ends in a request or in an error of the row, nothing else."""
    nested = []
    for _ in range(depth):
        nested = [nested]
    try:
        request = _build({"messages": MESSAGES, "metadata": nested}, body_bytes_max=10**6)
    except RowError as error:
        assert "nest" in str(error) or "JSON" in str(error)  # noqa: PT017 - one of two good ends
    else:
        assert request.body.count(b"[") >= depth


def test_a_row_that_was_bad_already_stays_bad():
    """The reader's own problem is the error, word for word."""
    with pytest.raises(RowError, match=r"^a\.jsonl line 3: not JSON$"):
        build(_row(None, problem="a.jsonl line 3: not JSON"), {"model": "m"}, body_bytes_max=9)


def test_the_request_remembers_its_row():
    """Number, name and model of the row are those of the request, and tokens are estimated."""
    request = build(
        Row(4711, "id", {"messages": MESSAGES, "model": "x"}), {"model": "m"}, body_bytes_max=999
    )
    assert (request.row, request.custom_id, request.model) == (4711, "id", "x")
    assert request.tokens > 0
