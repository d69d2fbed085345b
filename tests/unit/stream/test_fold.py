"""A stream folded into the plain reply that it stands for, whatever a server makes of it."""

import json

import pytest

from batchrun.core.reply import completion as reading
from batchrun.core.reply import error_body
from batchrun.core.stream import fold as streams
from batchrun.core.stream.fast_chunk import is_chunks
from batchrun.core.stream.fold import Stream, fold
from batchrun.records import ToolCall, Usage

HEAD = {"id": "c-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "m-2"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
DONE = b"data: [DONE]\n\n"


def _event(value):
    return b"data: %b\n\n" % (value if isinstance(value, bytes) else json.dumps(value).encode())


def _choice(delta=None, finish=None, index=0, **more):
    return {"index": index, "delta": delta or {}, "finish_reason": finish} | more


def _chunk(delta=None, finish=None, index=0, more=None, **top):
    return HEAD | {"choices": [_choice(delta, finish, index, **(more or {}))]} | top


ROLE = _chunk({"role": "assistant", "content": ""})
STOP = _chunk(finish="stop")


def _say(text, **more):
    return _chunk({"content": text}, **more)


def _fold(*values, done=True):
    data = b"".join(v if isinstance(v, bytes) else _event(v) for v in values)
    return fold(data + (DONE if done else b""))


def _read(*values, done=True):
    stream = _fold(*values, done=done)
    assert stream.problem() is None
    return reading.completion(reading.parse(stream.body()))


def _first(*deltas):
    return _read(*(_chunk(delta) for delta in deltas), STOP).first


def test_a_stream_as_the_specification_has_it():
    """Role, text, finish reason and usage make a plain completion with every field in its place."""
    head = {"system_fingerprint": "fp", "service_tier": "default", "usage": None}
    found = _read(
        *(chunk | head for chunk in (ROLE, _say("Hel"), _say("lo "), _say("you"), STOP)),
        HEAD | head | {"choices": [], "usage": USAGE},
    )
    assert (found.response_id, found.created_s, found.model) == ("c-1", 1_700_000_000, "m-2")
    assert (found.system_fingerprint, found.service_tier) == ("fp", "default")
    assert (found.first.content, found.first.finish_reason) == ("Hello you", "stop")
    assert found.usage == Usage(3, 4, 7)
    assert found.choices is None


@pytest.mark.parametrize("text", ["plain", 'quo"te', "back\\slash", "line\nend", "é€😀", "\u2028"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_every_text_is_exact(text, ascii_only):
    """Escapes, quotes and line ends in the text are those that were sent."""
    data = b"".join(
        _event(json.dumps(_say(f"{n}{text}"), ensure_ascii=ascii_only).encode()) for n in range(9)
    )
    expected = "".join(f"{n}{text}" for n in range(9))
    assert _read(ROLE, data, STOP).first.content == expected


def test_chunks_that_are_nearly_like_the_one_before():
    """What looks like the chunks before and is not is read for what it says."""
    texts = [_say(text) for text in "abc"]
    found = _read(
        *texts,
        _say("d", more={"logprobs": {"content": [{"token": "d"}]}}),
        *texts,
        _chunk({"content": "e", "refusal": "no"}),
        *texts,
        _say("f", index=1),
        *texts,
        _say("g", finish="length"),
        _chunk(finish="stop", index=1),
    )
    first, second = found.choices
    assert first.content == "abcdabceabcabcg"
    assert (first.refusal, first.finish_reason, second.content) == ("no", "length", "f")
    assert first.logprobs == '{"content":[{"token":"d"}]}'


def test_chunks_that_say_more_than_their_text():
    """A chunk like an earlier one is news again where another came between."""
    one, two = {"total_tokens": 1}, {"total_tokens": 2}
    pieces = [_say(t, usage=one) for t in "abc"] + [_say("d", usage=two), _chunk(usage=two)]
    pieces = [_event(piece) for piece in pieces]
    for behind, total in ((pieces[:2], 1), (pieces[3:], 2)):
        for split in (True, False):
            stream = Stream()
            given = pieces + behind
            for piece in given if split else [b"".join(given)]:
                stream.feed(piece)
            assert json.loads(stream.body())["usage"]["total_tokens"] == total


def test_a_line_more_in_a_chunk_like_the_one_before():
    """The second line of an event is not skipped because the first looks as usual."""
    like = [_event(_say(text)) for text in "abc"]
    stream = fold(b"".join(like).rstrip(b"\n") + b"\ndata: [DONE]\n\n" + like[0])
    assert stream.done
    assert reading.completion(reading.parse(stream.body())).first.content == "abc"


def test_a_backslash_before_the_closing_quote():
    """An event that ends within its text is damage, and not one text with the next."""
    like = json.dumps(_say("@")).encode()
    for half, rest in ((b"c\\", b"n"), (b"\\u12", b"34"), (b"\\u", b"1234")):
        torn = [_event(like.replace(b"@", text)) for text in (b"a", b"b", half, rest, b"d")]
        for fed in (b"".join(torn), b"".join(torn[:3])):
            stream = Stream()
            stream.feed(fed)
            assert stream.problem() == "an event of the stream cannot be read"
            stream = Stream()
            for event in torn:
                stream.feed(event)
            assert stream.problem() == "an event of the stream cannot be read"


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        pytest.param([ROLE, _say("a"), STOP, DONE], None, id="finish and done"),
        pytest.param([ROLE, _say("a"), STOP], None, id="finish, no done"),
        pytest.param([ROLE, _say("a"), DONE], None, id="done, no finish"),
        pytest.param([ROLE, DONE], None, id="done, no text"),
        pytest.param([ROLE, STOP], None, id="finish, no text"),
        pytest.param([ROLE, _say("a")], "in the middle", id="neither"),
        pytest.param([ROLE], "before an answer", id="neither, no text"),
        pytest.param([], "before an answer", id="nothing"),
        pytest.param([b": keep-alive\n\n"], "before an answer", id="comments only"),
        pytest.param([_say("a", finish="")], "in the middle", id="empty finish reason"),
        *(
            pytest.param([_say("a", finish=n), _say("b", finish=n)], "in the middle", id=f"{n!r}")
            for n in ("null", "None", " NULL ", "nil", "undefined", "FINISH_REASON_UNSPECIFIED")
        ),
        pytest.param(
            [_say("a", finish="null", index=1), STOP], "in the middle", id="null in one of two"
        ),
        pytest.param([_say("a", finish="null"), DONE], None, id="null and done"),
        pytest.param([_say("a", finish="null"), STOP], None, id="null, then a reason"),
        pytest.param([STOP, _say("a", finish="null")], None, id="a reason, then null"),
        pytest.param(
            [_say("a", finish="stop"), _say("b", index=1)], "in the middle", id="one of two"
        ),
        pytest.param([_say("a"), b'data: {"id":\n\n', STOP, DONE], "cannot be read", id="damage"),
        pytest.param([_say("a"), STOP, b'data: {"usa'], None, id="torn behind the finish"),
        pytest.param([_say("a"), b'data: {"usa'], "in the middle", id="torn"),
        pytest.param([_say("a"), _event({"error": {"code": 500}})], None, id="an error decides"),
    ],
)
def test_which_ends_are_complete(events, problem):
    """A finish reason or ``[DONE]`` makes an answer whole, a good end of the connection not."""
    stream = _fold(*events, done=False)
    found = stream.problem()
    assert found is None if problem is None else problem in found


def test_nothing_counts_behind_done():
    """What a server sends behind the announced end is no part of the answer, wherever it is cut."""
    late = [_event(_say("c")), _event({"error": "late"}), b"data: {\n\n"]
    raw = b"".join([_event(_say("a")), _event(_say("b")), DONE, *late])
    for size in (1, 7, len(raw)):
        stream = Stream()
        for at in range(0, len(raw), size):
            stream.feed(raw[at : at + size])
        stream.end()
        assert stream.problem() is None
        found = reading.completion(reading.parse(stream.body()))
        assert found.first.content == "ab"


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (5, "5"),
        (1.5, "1.5"),
        (False, "false"),
        ({"a": 1}, '{"a":1}'),
        ({"text": "a"}, "a"),
        ({"text": "a", "mood": "good"}, '{"text":"a","mood":"good"}'),
        ({}, ""),
        ([], ""),
        (["a", "b"], "ab"),
    ],
)
def test_content_that_is_no_text(content, read):
    """It is kept as that of a plain reply is, and joined with what comes as text."""
    assert _first({"content": "x"}, {"content": content}).content == "x" + read
    plain = {"choices": [{"message": {"content": content}}]}
    assert reading.completion(plain).first.content == read


@pytest.mark.parametrize("nothing", ["null", "None", "", None])
def test_the_last_reason_that_is_one_is_kept(nothing):
    """Null as text, in every chunk and behind the reason, is no reason."""
    pieces = [_say(c, finish=nothing) for c in "abc"]
    found = _read(*pieces, _chunk(finish="length"), _chunk(finish=nothing)).first
    assert (found.content, found.finish_reason) == ("abc", "length")
    assert _read(*pieces).first.finish_reason is None


@pytest.mark.parametrize(("given", "kept"), [(5, "5"), (["stop"], '["stop"]'), (False, None)])
def test_a_finish_reason_that_is_no_text(given, kept):
    """It is kept as JSON, and the answer is whole."""
    assert _read(_say("a", finish=given)).first.finish_reason == kept


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": {"index": 0, "delta": {"content": "b"}}},
        {"choices": [{"index": 0, "delta": "b"}]},
        {"choices": [{"index": 0, "delta": ["b"]}]},
        {"choices": [{"index": 0, "message": "b"}]},
        {"choices": [{"index": 0, "text": "b"}]},
    ],
)
def test_what_the_model_said_is_never_passed_over(chunk):
    """Where it stands in a place that cannot be read, the answer is not whole."""
    stream = _fold(_say("a"), chunk, STOP)
    assert stream.problem() == "an event of the stream cannot be read"
    assert '"b"' in stream.remark()


@pytest.mark.parametrize(
    "event",
    [b"upstream  timed out\n", b"data: upstream timed out\n\n", b"upstream\ttimed out"],
)
def test_what_a_server_said_beside_an_answer(event):
    """Its words are there for the message; the text of an answer that was torn is not."""
    assert _fold(_say("a"), event, done=False).remark() == "upstream timed out"
    assert _fold(_say("a"), b'data: {"choi', done=False).remark() == ""


def test_done_alone_is_no_completion():
    """A stream of nothing but its end has no choices, and the judge sees that."""
    stream = _fold()
    assert stream.problem() is None
    assert reading.completion(reading.parse(stream.body())) is None


@pytest.mark.parametrize(
    "ending",
    [
        b"data: [DONE]",
        b"data: [DONE]\n",
        b"data:[DONE]\n\n",
        b'data: "[DONE]"\n\n',
        b"data:  [DONE] ",
    ],
)
def test_forms_of_done(ending):
    """With a space or none, quoted, and not ended by a blank line."""
    assert _fold(_say("a"), ending, done=False).done


def test_the_last_event_may_lack_its_blank_line():
    """The finish reason is not lost with it."""
    data = _event(_say("a")) + _event(STOP).rstrip(b"\n")
    assert fold(data).problem() is None


@pytest.mark.parametrize(
    "junk",
    [
        b"\xef\xbb\xbf",
        b": keep-alive\n\n",
        b": OPENROUTER PROCESSING\n\n",
        b"\n\n\n",
        b"id: 7\n\n",
        b"retry: 3000\n\n",
        b"data: \n\n",
        b"data: ping\n\n",
        b'event: ping\ndata: {"type":"ping"}\n\n',
        b'event: sglext_ids\ndata: {"ids":[1]}\n\n',
        b"data: null\n\n",
        b"data: 5\n\n",
        b"\0\0\n\n",
        b'data: {"message":"still working"}\n\n',
        b'data: {"choices":[],"x":%b}\n\n' % (b"9" * 5000),
        b"data: []\n\n",
        b"data: {}\n\n",
        b"x-unknown: field\n\n",
        b'data: {"choices":null}\n\n',
        b'data: {"choices":[null,7]}\n\n',
        b'data: {"choices":[{"index":0,"delta":null}]}\n\n',
        b'data: {"choices":[{"index":0}]}\n\n',
        b'data: {"error":null}\n\n',
        b'data: {"object":"","id":"","choices":[],"prompt_filter_results":[{}]}\n\n',
        b'data: {"choices":[{"index":0,"finish_reason":null,"content_filter_offsets":{}}]}\n\n',
    ],
)
def test_what_is_no_chunk_changes_nothing(junk):
    """Comments, pings, preludes and trailers may stand before, between and behind the chunks."""
    found = _read(junk, ROLE, _say("a"), junk, _say("b"), STOP, junk, done=False)
    assert (found.first.content, found.first.finish_reason) == ("ab", "stop")
    assert (found.response_id, found.model, found.choices) == ("c-1", "m-2", None)


def test_blank_lines_that_were_forgotten():
    """Data lines that together are no JSON are read each by itself."""
    data = b"".join(_event(value).replace(b"\n\n", b"\n") for value in (ROLE, _say("a"), STOP))
    assert _read(data + b"data: [DONE]\n", done=False).first.content == "a"


def test_data_over_several_lines():
    """The lines of one event are one JSON text."""
    data = b"".join(
        b"data: %b\n" % line for line in json.dumps(_say("a"), indent=1).encode().split(b"\n")
    )
    assert _read(ROLE, data + b"\n", STOP).first.content == "a"


def test_lines_without_field_names():
    """Chunks given line by line as bare JSON are chunks."""
    data = b"\n".join(json.dumps(value).encode() for value in (ROLE, _say("a"), STOP))
    assert is_chunks(data)
    assert reading.completion(reading.parse(fold(data).body())).first.content == "a"


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices":[{"message":{"content":"hi"}}]}',
        b'{"choices":[{"message":{"content":"hi"},"delta":{}}]}',
        b'{"error":"x","delta":1}',
        b'{"choices":[{"delta":5}]}',
        b'{"choices":[],"delta":{}}',
        b'{"delta',
        b'["delta"]',
    ],
)
def test_what_is_not_chunks(body):
    """A plain reply is not taken for chunks because a word stands in it."""
    assert not is_chunks(body)


def test_messages_in_place_of_deltas():
    """Some servers name a chunk's delta ``message``."""
    chunks = [HEAD | {"choices": [{"index": 0, "message": {"content": c}}]} for c in "ab"]
    assert _read(*chunks, STOP).first.content == "ab"


def test_a_whole_completion_as_an_event():
    """A plain reply in an event is the answer; behind chunks it takes their place."""
    message = {"role": "assistant", "content": "whole", "refusal": None}
    whole = HEAD | {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    for before in ([], [ROLE, _say("who"), _say("le")]):
        found = _read(*before, whole)
        assert (found.first.content, found.usage.total_tokens) == ("whole", 7)


def _message(message, *, index=0, finish=None, completion=False, **more):
    choice = {"index": index, "message": {"role": "assistant"} | message, "finish_reason": finish}
    name = "chat.completion" if completion else "chat.completion.chunk"
    return HEAD | {"object": name, "choices": [choice | more]}


CALLS = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}]
FRAGMENTS = [
    {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
]
TOLD = {
    "text": ([{"content": c} for c in ("al", "pha", " beta")], {"content": "alpha beta"}),
    "reasoning": (
        [{"reasoning_content": "h"}, {"reasoning_content": "m"}, {"content": "a"}],
        {"reasoning_content": "hm", "content": "a"},
    ),
    "reasoning by its other name": (
        [{"reasoning": "h"}, {"reasoning": "m"}, {"content": "a"}],
        {"reasoning": "hm", "content": "a"},
    ),
    "refusal": ([{"refusal": "I "}, {"refusal": "won't"}], {"refusal": "I won't"}),
    "calls": (FRAGMENTS, {"content": None, "tool_calls": CALLS}),
    "the older call": (
        [
            {"function_call": {"name": "f", "arguments": "{"}},
            {"function_call": {"arguments": "}"}},
        ],
        {"function_call": {"name": "f", "arguments": "{}"}},
    ),
    "sound": (
        [{"audio": {"id": "s", "data": "AA"}}, {"audio": {"data": "BB", "transcript": "hi"}}],
        {"audio": {"id": "s", "data": "AABB", "transcript": "hi", "expires_at": 5}},
    ),
    "parts": (
        [{"content": [{"type": "text", "text": t}]} for t in "abc"],
        {"content": [{"type": "text", "text": "abc"}]},
    ),
    "text, then parts": (
        [{"content": t} for t in "abc"],
        {"content": [{"type": "text", "text": "abc"}]},
    ),
    "annotations": (
        [{"content": "a", "annotations": [1]}, {"annotations": [2]}],
        {"content": "a", "annotations": [1, 2]},
    ),
}


@pytest.mark.parametrize("completion", [True, False])
@pytest.mark.parametrize("place", ["behind", "beside the last", "beside nothing", "beside null"])
@pytest.mark.parametrize("told", TOLD)
def test_a_message_that_repeats_the_answer_counts_once(told, place, completion):
    """Whatever the model said, and wherever the message stands that says it again."""
    deltas, message = TOLD[told]
    chunks = [_chunk({"role": "assistant"} | delta) for delta in deltas]
    last = _message(message, finish="stop", completion=completion)
    if place == "beside the last":
        last["choices"][0]["delta"] = chunks.pop()["choices"][0]["delta"]
    elif place != "behind":
        last["choices"][0]["delta"] = {} if place == "beside nothing" else None
    stream = _fold(*chunks, last)
    body = json.loads(stream.body())
    plain = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    read = reading.completion(body)
    assert read.first == reading.completion(plain).first
    assert "contradicting" not in body["choices"][0]
    assert body["choices"][0]["message"].get("audio") == message.get("audio")
    assert stream.problem() is None


@pytest.mark.parametrize("told", TOLD)
def test_one_whole_message_is_an_answer(told):
    """A stream of nothing but a message is that message, however often it comes."""
    message = TOLD[told][1]
    plain = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    expected = reading.completion(plain).first
    for times in (1, 2, 6):
        assert _read(*[_message(message)] * times, STOP).first == expected
        assert _read(ROLE, *[_message(message, completion=True)] * times, STOP).first == expected


@pytest.mark.parametrize("count", [1, 2, 3, 9, 40])
@pytest.mark.parametrize("beside", ["pieces", "nothing", "no delta", "the piece before"])
def test_growing_messages_count_once(count, beside):
    """The answer so far in every chunk (Perplexity), with its pieces beside it or without."""
    words = [f"word {n}, " for n in range(count)]
    chunks = []
    for n, word in enumerate(words):
        chunk = _message({"content": "".join(words[: n + 1])})
        if beside != "no delta":
            piece = {"pieces": word, "nothing": "", "the piece before": words[n - 1] if n else ""}
            chunk["choices"][0]["delta"] = {"role": "assistant", "content": piece[beside]}
        chunks.append(chunk)
    text = "".join(words)
    for end in ([], [_message({"content": ""})], [_message({})], [_message({"content": text})]):
        assert _read(*chunks, *end, STOP).first.content == text


@pytest.mark.parametrize(
    "pieces", [["a", "b"], ["ha", "ha", "!"], ["1", "10", "2"], ["a", "ab", "b", "c", "d" * 30]]
)
def test_pieces_that_are_called_messages(pieces):
    """They are joined as deltas are; a last message that says them all again is not."""
    text = "".join(pieces)
    for completion in (True, False):
        chunks = [_message({"content": p}, completion=completion) for p in pieces]
        assert _read(*chunks, STOP).first.content == text
        again = _message({"content": text}, finish="stop", completion=completion)
        assert _read(*chunks, again).first.content == text
    assert _read(*chunks, _message({"content": text + "!"}), STOP).first.content == text + "!"


def test_calls_that_come_in_messages():
    """A message for each call, or a message for the text and one for a call: none is lost."""
    calls = [
        {"id": key, "type": "function", "function": {"name": key * 2, "arguments": "{}"}}
        for key in "ab"
    ]
    found = _read(*(_message({"tool_calls": [call]}) for call in calls), STOP).first
    assert [call.name for call in found.tool_calls] == ["aa", "bb"]
    found = _read(_message({"content": "Looking."}), _message({"tool_calls": calls}), STOP).first
    assert (found.content, len(found.tool_calls)) == ("Looking.", 2)
    found = _read(_say("Looking."), _message({"tool_calls": calls}), STOP).first
    assert (found.content, len(found.tool_calls)) == ("Looking.", 2)


@pytest.mark.parametrize(
    ("deltas", "message", "completion", "content", "left"),
    [
        pytest.param("alpha", "alpha beta", False, "alpha beta", None, id="deltas were lost"),
        pytest.param("alpha beta", "alpha", False, "alpha beta", None, id="a shorter message"),
        pytest.param("alpha\n", "alpha", True, "alpha\n", None, id="white space cut off"),
        pytest.param("alpha", "", True, "alpha", None, id="an empty message"),
        pytest.param("alpha", None, True, "alpha", None, id="a message of null"),
        pytest.param("alpha", "beta", False, "alpha", "beta", id="contradicting"),
        pytest.param("alpha", "beta", True, "beta", "alpha", id="contradicting, a completion"),
    ],
)
def test_a_message_that_says_something_else(deltas, message, completion, content, left):
    """The longer of two that agree counts. Of two that do not, the deltas, unless the message is
    called a completion; the other one is in the raw reply.
    """
    stream = _fold(
        *map(_say, deltas), _message({"content": message}, finish="stop", completion=completion)
    )
    value = json.loads(stream.body())
    assert reading.completion(value).first.content == content
    assert value["choices"][0].get("contradicting") == (left and {"content": left})


def test_messages_of_several_choices():
    """Each choice has a message of its own, one after the other or in one chunk."""
    pieces = [_say(t, index=n) for t in ("al", "pha") for n in (1, 0)]
    ends = [_message({"content": "alpha"}, index=n, finish="stop") for n in (0, 1)]
    together = ends[0] | {"choices": [end["choices"][0] for end in ends]}
    for last in (ends, [together]):
        found = _read(*pieces, *last)
        assert [choice.content for choice in found.choices] == ["alpha", "alpha"]


def test_log_probabilities_that_are_repeated():
    """Those of the whole answer, beside its message, count once."""
    tokens = [{"token": c, "logprob": -0.5} for c in "ab"]
    pieces = [_say(t["token"], more={"logprobs": {"content": [t]}}) for t in tokens]
    last = _message({"content": "ab"}, finish="stop", logprobs={"content": tokens})
    assert json.loads(_read(*pieces, last).first.logprobs) == {"content": tokens}


def test_a_message_is_a_beginning():
    """The model has begun with its first message that says anything."""
    stream = Stream()
    stream.feed(_event(_message({"content": ""})))
    assert not stream.begun
    stream.feed(_event(_message({"content": "a"})))
    assert stream.begun


def test_the_first_that_is_said_of_the_answer_counts():
    """Ids and times that change from chunk to chunk, and empty ones, do no harm."""
    azure = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
    odd = [_say("a") | {"id": f"c-{n}", "created": 1_700_000_000 + n} for n in range(1, 4)]
    found = _read(azure, *odd, STOP | {"service_tier": "flex", "system_fingerprint": "late"})
    assert (found.response_id, found.created_s, found.model) == ("c-1", 1_700_000_001, "m-2")
    assert (found.service_tier, found.system_fingerprint) == ("flex", "late")


@pytest.mark.parametrize(
    "where",
    [
        pytest.param([{"usage": USAGE}], id="with the finish reason"),
        pytest.param([{"usage": {"total_tokens": 1}}, {"usage": USAGE}], id="cumulative"),
        pytest.param([{"usage": USAGE}, {"usage": None}], id="null behind it"),
        pytest.param([{"usage": USAGE}, {"usage": {}}], id="empty behind it"),
        pytest.param([{"x_groq": {"id": "r", "usage": USAGE}}], id="Groq"),
        pytest.param([{"choices": [_choice(usage=USAGE)]}], id="Moonshot"),
        pytest.param([{"choices": [], "usage": USAGE}], id="OpenAI"),
        pytest.param([{"choices": None, "usage": USAGE}], id="without choices"),
    ],
)
def test_the_last_usage_counts(where):
    """Wherever usage stands, the last that says anything is it; nothing is added up."""
    found = _read(ROLE, _say("a"), *(STOP | top for top in where), STOP)
    assert found.usage == Usage(3, 4, 7)


def test_choices_come_in_any_order():
    """Interleaved choices are told apart by index, and the lowest is the first."""
    deltas = [(1, "x"), (0, "a"), ("2", "p"), (1, "y"), (0, "b"), (2, "q")]
    chunks = [_say(text, index=index) for index, text in deltas]
    ends = [_chunk(finish="stop", index=index) for index in range(3)]
    found = _read(*chunks, *ends)
    assert [(c.index, c.content) for c in found.choices] == [(0, "ab"), (1, "xy"), (2, "pq")]
    assert found.first.content == "ab"


def test_several_choices_in_one_chunk_without_indexes():
    """Choices without an index are told apart by their place."""
    chunk = HEAD | {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "x"}}]}
    found = _read(chunk, chunk)
    assert [(c.index, c.content) for c in found.choices] == [(0, "aa"), (1, "xx")]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_by_both_names(name):
    """Reasoning deltas are joined; null on the content chunks says nothing."""
    other = {"reasoning_content": None, "reasoning": None}
    found = _first({"role": "assistant", "content": ""}, {name: "think"}, {name: " on"},
                   other | {"content": "a"}, other | {"content": "b"})  # fmt: skip
    assert (found.reasoning, found.content) == ("think on", "ab")


def test_a_refusal():
    """Refusal deltas are joined, and the content is null as in a plain reply."""
    found = _first(
        {"role": "assistant", "content": "", "refusal": None},
        {"refusal": "I "},
        {"refusal": "won't"},
    )
    assert (found.refusal, found.content) == ("I won't", None)


@pytest.mark.parametrize(
    ("deltas", "content"),
    [
        pytest.param([{"role": "assistant", "content": ""}], "", id="an empty answer"),
        pytest.param([{"role": "assistant", "content": None}], None, id="null"),
        pytest.param([{"role": "assistant"}], None, id="never"),
        pytest.param([{"content": ""}], "", id="empty without a role"),
        pytest.param(
            [{"role": "assistant", "content": ""}, {"tool_calls": [{"index": 0, "id": "a"}]}],
            None,
            id="the opening chunk of a tool call",
        ),
        pytest.param(
            [{"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}], "", id="Ollama"
        ),
    ],
)
def test_empty_content_and_none(deltas, content):
    """The empty content that opens a message does not make null content empty."""
    assert _first(*deltas).content == content


@pytest.mark.parametrize("content", [[{"a": 3}], [1, 2], {"a": {"b": []}}, [[]], [None]])
def test_json_as_content(content):
    """JSON where text should stand is what it is in a plain reply."""
    plain = {"choices": [{"message": {"content": content}}]}
    assert _first({"content": content}).content == reading.completion(plain).first.content


@pytest.mark.parametrize(
    "empty",
    [
        {"tool_calls": [{}]},
        {"tool_calls": [None]},
        {"tool_calls": {}},
        {"tool_calls": [{"index": 0, "id": "", "function": {"name": "", "arguments": ""}}]},
        {"function_call": {"name": "", "arguments": ""}},
        {"function_call": {}},
        {"refusal": ""},
        {"audio": {}},
        {"audio": {"id": "", "data": ""}},
        {"annotations": []},
        {"reasoning_content": ""},
    ],
)
def test_empty_containers_say_nothing(empty):
    """Empty calls, sound and lists in every chunk, or without any text, are no answer."""
    found = _first(*({"content": c} | empty for c in "abc"))
    assert (found.content, found.tool_calls, found.refusal) == ("abc", None, None)
    silent = _first({"role": "assistant", "content": ""}, empty)
    assert (silent.content, silent.tool_calls, silent.refusal) == ("", None, None)


def test_an_emptied_name_does_not_erase_the_name():
    """The older protocol's name, said again as nothing, stays."""
    pieces = ['{"x"', ":1}"]
    found = _first(
        {"function_call": {"name": "f", "arguments": ""}},
        *({"function_call": {"name": "", "arguments": piece}} for piece in pieces),
    )
    assert found.tool_calls == (ToolCall(None, None, "f", '{"x":1}'),)


def test_tool_calls_end_in_their_columns():
    """Fragments, and arguments given as an object, are the calls of a plain reply."""
    found = _first(
        {"role": "assistant", "content": None},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {"tool_calls": {"index": "1", "id": "b", "function": {"name": "g", "arguments": {"y": 2}}}},
    )
    assert found.tool_calls == (
        ToolCall("a", "function", "f", '{"x":1}'),
        ToolCall("b", None, "g", '{"y":2}'),
    )


def test_content_in_parts():
    """Parts and plain text may alternate; the text is all of it, in order."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    stream = _fold(
        *(
            _chunk({"content": c})
            for c in ("a", [thought], [{"type": "text", "text": "b"}], "c", "d")
        ),
        STOP,
    )
    value = json.loads(stream.body())
    assert value["choices"][0]["message"]["content"] == [
        {"type": "text", "text": "a"}, thought, {"type": "text", "text": "bcd"},
    ]  # fmt: skip
    assert reading.completion(value).first.content == "abcd"


def test_logprobs_are_joined():
    """Each chunk's lists go on with those before; null stays null."""
    chunks = [
        _say(c, more={"logprobs": {"content": [{"token": c, "logprob": -0.5}], "refusal": None}})
        for c in "ab"
    ]
    found = _read(ROLE, *chunks, STOP)
    assert json.loads(found.first.logprobs) == {
        "content": [{"token": c, "logprob": -0.5} for c in "ab"],
        "refusal": None,
    }
    assert found.choices == (found.first,)


def test_a_surrogate_pair_in_two_chunks():
    """Halves that two chunks bring are one character; a lone half is replaced."""
    halves = [
        b'{"choices":[{"index":0,"delta":{"content":"%b"}}]}' % h for h in (b"\\ud83d", b"\\ude00")
    ]
    assert _read(*map(_event, halves), STOP).first.content == "😀"
    assert _read(_event(halves[0]), _say("x"), STOP).first.content == "\ufffdx"


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        (b'"a\xff"', "a\ufffd"),
        (b'"a\x01"', "a\x01"),
        (b'"a\\u0000"', "a\x00"),
        (b'"a","content":"b"', "b"),
    ],
)
def test_json_that_strict_parsers_refuse(raw, content):
    """Invalid UTF-8, control characters, NUL and doubled keys are read as in a plain reply."""
    event = _event(b'{"choices":[{"index":0,"delta":{"content":%b}}]}' % raw)
    assert _read(event, event, event, STOP).first.content == content * 3


def test_numbers_that_json_cannot_hold():
    """NaN and integers beyond 64 bits come through where a plain reply brings them."""
    logprobs = b'{"content":[{"logprob":NaN,"bytes":[99999999999999999999999]}]}'
    event = b'{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":%b}]}' % logprobs
    plain = b'{"choices":[{"index":0,"message":{"content":"a"},"logprobs":%b}]}' % logprobs
    expected = reading.completion(reading.parse(plain)).first.logprobs
    assert _read(_event(event)).first.logprobs == expected


def test_absurd_nesting_is_not_the_end():
    """A field of a thousand levels costs its value and not the answer."""
    deep = b'{"choices":[{"index":0,"delta":{"content":"a"},"x":%b%b}]}' % (b"[" * 400, b"]" * 400)
    assert _read(_event(deep), STOP).first.content == "a"
    deeper = deep.replace(b"[[", b"[" * 4000).replace(b"]]", b"]" * 4000)
    assert "cannot be read" in _fold(_say("a"), _event(deeper), STOP).problem()


ERRORS = {
    "an object": (b'data: {"error":{"message":"no","code":503}}\n\n', "503", "no"),
    "text": (b'data: {"error":"no"}\n\n', None, "no"),
    "flat": (b'data: {"object":"error","message":"no","code":503}\n\n', "503", "no"),
    "flat, of a type": (b'data: {"message":"no","type":"server_error"}\n\n', None, "no"),
    "named": (b'event: error\ndata: {"message":"no","code":503}\n\n', "503", "no"),
    "named, text": (b"event: error\ndata: no\n\n", None, "no"),
    "a field": (b'error: {"message":"no","code":503}\n\n', "503", "no"),
    "bare JSON": (b'{"error":{"message":"no","code":503}}\n', "503", "no"),
    "bare JSON over lines": (b'{\n "error":{\n  "message":"no", "code":503}\n}\n', "503", "no"),
    "a list": (b'data: [{"error":{"message":"no","code":503}}]\n\n', "503", "no"),
    "detail": (b'data: {"detail":"no"}\n\n', None, "no"),
    "named in capitals": (b"event: ERROR\ndata: no\n\n", None, "no"),
    "a message alone": (b'data: {"message":"no"}\n\n', None, "no"),
    "a list of errors": (b'data: {"errors":[{"message":"no"}]}\n\n', None, "no"),
    "Groq": (b'data: {"choices":[],"x_groq":{"error":"no"}}\n\n', None, "no"),
    "in a choice": (
        b'data: {"choices":[{"index":0,"error":{"code":503,"message":"no"}}]}\n\n',
        "503",
        "no",
    ),
    "beside choices": (
        b'data: {"error":{"code":503,"message":"no"},"choices":[{"finish_reason":"error"}]}\n\n',
        "503",
        "no",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_in_the_middle(name):
    """In every shape an error is at the top of the reply, with the partial text beside it."""
    event, code, message = ERRORS[name]
    stream = _fold(ROLE, _say("half"), event)
    value = json.loads(stream.body())
    assert stream.problem() is None
    assert reading.completion(value) is None
    told = error_body.read(value)
    assert told.code == code and told.message == message
    assert value["choices"][0]["message"]["content"] == "half"


def test_the_first_error_counts():
    """A second error is most often about the first."""
    stream = _fold(_event({"error": "first"}), _event({"error": "second"}))
    assert json.loads(stream.body())["error"] == "first"


def test_the_raw_reply_keeps_what_vendors_add():
    """Unknown fields of chunk and choice are kept, padding is not; lists of a choice are joined."""
    chunks = [
        _chunk({"content": c, "annotations": [c]}, more={"token_ids": [n], "stop_reason": None},
               obfuscation="xxxx", provider="p", timings={"n": n})
        for n, c in enumerate("ab")
    ]  # fmt: skip
    value = json.loads(_fold(*chunks, STOP).body())
    assert value["object"] == "chat.completion"
    assert (value["provider"], value["timings"]) == ("p", {"n": 1})
    assert "obfuscation" not in value
    assert value["choices"][0]["token_ids"] == [0, 1]
    assert value["choices"][0]["message"]["annotations"] == ["a", "b"]


def test_what_has_begun():
    """The model has begun with its first text, reasoning, refusal or tool call, and no sooner."""
    for delta in (
        {"content": "a"},
        {"content": [{"type": "text", "text": "a"}]},
        {"reasoning": "a"},
        {"reasoning_content": "a"},
        {"refusal": "a"},
        {"tool_calls": [{"index": 0}]},
    ):
        stream = Stream()
        stream.feed(
            b": hello\n\n" + _event(ROLE) + _event(_chunk({"reasoning": "", "content": None}))
        )
        assert not stream.begun
        stream.feed(_event(_chunk(delta)))
        assert stream.begun


def test_the_quick_ways_are_taken():
    """Repeated chunks are not decoded one by one, or streams would cost what they should not."""
    decoded = []
    original = streams.read_plain
    streams.read_plain = lambda data: decoded.append(data) or original(data)
    try:
        pieces = [_event(value) for value in (ROLE, *map(_say, "abcdefgh"), STOP)]
        stream = Stream()
        stream.feed(b"".join(pieces))
        assert json.loads(stream.body())["choices"][0]["message"]["content"] == "abcdefgh"
        assert len(decoded) == 3  # the opening, the first text, the end
    finally:
        streams.read_plain = original


def test_a_stream_of_llama_cpp():
    """As it came: a null that opens, each chunk with the second it was made in, and usage with
    its own timings in a chunk without choices.
    """
    tail = (
        b'"id":"chatcmpl-t","model":"m.gguf","system_fingerprint":"b0-unknown",'
        b'"object":"chat.completion.chunk"'
    )
    said = ('"role":"assistant","content":null', '"content":"L"', '"content":"\u00c9t"')
    chunks = [
        b'{"choices":[{"finish_reason":null,"index":0,"delta":{%b}}],"created":%d,%b}'
        % (delta.encode(), 1795325602 + second, tail)
        for second, delta in enumerate(said)
    ]
    chunks += [
        b'{"choices":[{"finish_reason":"length","index":0,"delta":{}}],"created":1795325605,%b}'
        % tail,
        b'{"choices":[],"created":1795325606,%b,"usage":{"completion_tokens":2,"prompt_tokens":37,'
        b'"total_tokens":39,"prompt_tokens_details":{"cached_tokens":36}},"timings":{"cache_n":36,'
        b'"prompt_n":1,"prompt_ms":11.908}}' % tail,
    ]
    stream = _fold(*map(_event, chunks))
    assert stream.problem() is None
    body = reading.parse(stream.body())
    assert body["timings"]["cache_n"] == 36
    found = reading.completion(body)
    assert (found.first.content, found.first.finish_reason) == ("L\u00c9t", "length")
    assert (found.model, found.response_id, found.created_s) == (
        "m.gguf",
        "chatcmpl-t",
        1795325602,
    )
    assert found.usage == Usage(37, 2, 39, 36, None)
