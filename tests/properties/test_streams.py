"""Any completion in any framing is the plain reply; any bytes at all end in a verdict."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrun.adapters.http.reply_body import Arriving
from batchrun.core.reply import completion as reading
from batchrun.core.stream.fold import Stream, fold
from batchrun.core.verdict.judge import Circumstances, Verdict, judge
from batchrun.records import Reply
from tests.harness.slow import examples

TEXT = st.text(max_size=30) | st.sampled_from(
    ["a" * 200, 'x"y', "\\", "\n\r\u2028", "😀\ud83d", "{}"]
)
SAID = st.none() | TEXT
CALL = st.builds(
    lambda name, args: {"type": "function", "function": {"name": name, "arguments": args}},
    st.text(min_size=1, max_size=5),
    TEXT | st.just('{"x": [1]}'),
)
TOKEN = st.fixed_dictionaries(
    {"token": st.text(max_size=3), "logprob": st.floats(-99, 0)},
    optional={"bytes": st.none() | st.lists(st.integers(0, 255), max_size=3)},
)
CHOICE = st.fixed_dictionaries(
    {
        "content": SAID,
        "reasoning": SAID,
        "refusal": SAID,
        "calls": st.lists(CALL, max_size=3),
        "tokens": st.none() | st.lists(TOKEN, max_size=4),
        "finish_reason": st.sampled_from(["stop", "length", "tool_calls", "eos", "endé"]),
    }
)
COUNT = st.none() | st.integers(0, 2**62)
USAGE = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": COUNT,
        "completion_tokens": COUNT,
        "total_tokens": COUNT,
        "completion_tokens_details": st.fixed_dictionaries({"reasoning_tokens": COUNT}),
    },
)
HEAD = st.fixed_dictionaries(
    {"id": st.text(min_size=1, max_size=8), "created": st.integers(1, 10**10)},
    optional={
        "model": st.text(min_size=1, max_size=8),
        "service_tier": st.text(min_size=1, max_size=8),
        "system_fingerprint": st.text(min_size=1, max_size=8),
    },
)


def _plain(head, choices, usage):
    """The completion as a plain reply."""
    listed = []
    for index, choice in enumerate(choices):
        message = {"role": "assistant", "content": choice["content"]}
        message |= {k: choice[k] for k in ("reasoning", "refusal") if choice[k] is not None}
        if choice["calls"]:
            message["tool_calls"] = [
                {"id": f"call-{n}"} | call for n, call in enumerate(choice["calls"])
            ]
        tokens = choice["tokens"]
        listed.append(
            {
                "index": index,
                "message": message,
                "logprobs": None if tokens is None else {"content": tokens},
                "finish_reason": choice["finish_reason"],
            }
        )
    return head | {"object": "chat.completion", "choices": listed, "usage": usage}


def _cuts(draw, text, most=4):
    """A text in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=most)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def _deltas(draw, choice):
    """One choice as the deltas of its chunks, each with what else its chunk's choice has."""
    spoken = any(choice[k] for k in ("reasoning", "refusal", "calls"))
    empty = choice["content"] == "" or (choice["content"] is None and spoken)
    yield {"role": "assistant", "content": "" if empty else None}, {}
    for name in ("reasoning", "refusal", "content"):
        if choice[name] == "":
            yield {name: ""}, {}
        elif choice[name] is not None:
            for piece in _cuts(draw, choice[name]):
                if piece:
                    yield {name: piece} | draw(st.sampled_from([{}, {"role": "assistant"}])), {}
    style = draw(st.sampled_from([int, str, lambda _: 0, lambda _: None]))
    for number, call in enumerate(choice["calls"]):
        index = style(number)
        where = {} if index is None else {"index": index}
        name, text = call["function"]["name"], call["function"]["arguments"]
        first, *more = _cuts(draw, text)
        opened = {"id": f"call-{number}", "function": {"name": name, "arguments": first}}
        yield {"tool_calls": [where | opened | {"type": "function"}]}, {}
        repeated = draw(st.sampled_from([{}, {"id": f"call-{number}"}, {"id": None}, {"id": ""}]))
        for piece in more:
            yield {"tool_calls": [where | repeated | {"function": {"arguments": piece}}]}, {}
    tokens = choice["tokens"]
    if tokens is not None:
        for piece in _cuts(draw, tokens):
            yield {}, {"logprobs": {"content": piece}}
    yield {}, {"finish_reason": choice["finish_reason"]}


@st.composite
def _streamed(draw):
    """A completion, and its chunks."""
    head = draw(HEAD)
    choices = draw(st.lists(CHOICE, min_size=1, max_size=3))
    usage = draw(USAGE)
    queues = [list(_deltas(draw, choice)) for choice in choices]
    chunks = []
    while any(queues):
        index = draw(st.sampled_from([n for n, queue in enumerate(queues) if queue]))
        delta, more = queues[index].pop(0)
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None} | more
        chunks.append(head | {"object": "chat.completion.chunk", "choices": [choice]})
    if usage is not None:
        if draw(st.booleans()):
            chunks.append(head | {"choices": [], "usage": usage})
        else:
            chunks[-1] |= {"usage": usage}
    return _plain(head, choices, usage), chunks


@st.composite
def _framed(draw, chunks):
    """Chunks as the bytes of a stream, framed in one of the ways that the format allows."""
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    ascii_only = draw(st.booleans())
    events = [draw(st.sampled_from([b"", b"\xef\xbb\xbf", b": hello" + end * 2, end * 3]))]
    for chunk in chunks:
        text = json.dumps(chunk, ensure_ascii=ascii_only, indent=draw(st.sampled_from([None, 1])))
        # Half of a pair can be escaped and not encoded.
        data = text.encode(errors="replace") if ascii_only else _encoded(text)
        field = draw(st.sampled_from([b"data: ", b"data:"]))
        event = end.join(field + line for line in data.split(b"\n")) + end * 2
        odd = draw(st.sampled_from([b""] * 6 + [b": c" + end, b"id: 1" + end, b"event: x" + end]))
        events.append(odd + event)
    events.append(draw(st.sampled_from([b"", b"data: [DONE]", b"data: [DONE]" + end * 2])))
    return b"".join(events)


def _encoded(text):
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _pieces(data, cuts):
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


CUTS = st.lists(st.integers(0, 2**20), max_size=8) | st.just(range(2**14))


@settings(max_examples=examples(125), deadline=None)
@given(st.data(), _streamed(), CUTS)
def test_any_completion_in_any_framing_is_the_plain_reply(data, streamed, cuts):
    """Cut at any bytes into any framing, an answer has the columns that it has when it is plain."""
    plain, chunks = streamed
    raw = data.draw(_framed(chunks))
    stream = Stream()
    for piece in _pieces(raw, cuts):
        stream.feed(piece)
    stream.end()
    assert stream.problem() is None
    found = reading.completion(reading.parse(stream.body()))
    ascii_only = json.dumps(plain).encode()
    assert found == reading.completion(reading.parse(ascii_only)) or (
        found == reading.completion(reading.parse(_encoded(json.dumps(plain, ensure_ascii=False))))
    )


@settings(max_examples=examples(125), deadline=None)
@given(_streamed(), st.sampled_from(["behind", "beside", "alone", "grown"]), st.booleans())
def test_whole_messages_among_the_deltas_count_once(streamed, style, completion):
    """An answer that a message says again, in whatever place, is the plain reply."""
    plain, chunks = streamed
    kind = "chat.completion" if completion else "chat.completion.chunk"
    whole = {choice["index"]: choice for choice in plain["choices"]}
    last = {c["choices"][0]["index"]: n for n, c in enumerate(chunks) if c["choices"]}
    made = []
    for number, chunk in enumerate(chunks):
        choices = chunk["choices"]
        index = choices[0]["index"] if choices else None
        if index is None or last[index] != number:
            if style != "alone" or not choices:
                made.append(chunk)
            if style == "grown" and choices and (text := whole[index]["message"]["content"]):
                half = {"content": text[: len(text) // 2]}
                made.append(chunk | {"choices": [{"index": index, "message": half}]})
        elif style == "beside":
            made.append(chunk | {"object": kind, "choices": [whole[index] | choices[0]]})
            made[-1]["choices"][0]["logprobs"] = None
        else:
            choice = whole[index] | ({} if style == "alone" else {"logprobs": None})
            made.append(chunk | {"object": kind, "choices": [choice]})
    stream = fold(b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in made))
    assert stream.problem() is None
    found = reading.completion(reading.parse(stream.body()))
    assert found == reading.completion(reading.parse(json.dumps(plain).encode()))


PARTS = st.sampled_from(
    [
        *(
            b"data: ",
            b"data:",
            b"\n",
            b"\n\n",
            b"\r\n",
            b"\r",
            b": c\n",
            b"event: error\n",
            b"error: ",
        ),
        *(b"[DONE]", b"{", b"}", b'{"error":', b"\xef\xbb\xbf", b"\xff", b"id: 1\n", b"retry"),
        b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"b\\n"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"c\\"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"d"e"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"index":1,"delta":{"tool_calls":[{"id":"a"}]}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"function":{}}]}}]}\n\n',
        b'data: {"choices":[],"usage":{"total_tokens":1}}\n\n',
        b"data: [DONE]\n\n",
    ]
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
DELTA = st.dictionaries(
    st.sampled_from("role content reasoning refusal tool_calls function_call audio x".split()),
    JSON | st.lists(st.dictionaries(st.sampled_from(["index", "id", "type", "function"]), JSON)),
    max_size=4,
)
ODD_CHOICE = st.dictionaries(
    st.sampled_from("index delta message finish_reason logprobs error usage token_ids".split()),
    JSON | DELTA,
    max_size=4,
)
ODD = st.dictionaries(
    st.sampled_from("id created model choices usage error x_groq object message detail x".split()),
    JSON | st.lists(JSON | ODD_CHOICE, max_size=3),
    max_size=5,
).map(lambda value: b"data: %b\n\n" % json.dumps(value).encode())
ODD_PART = st.fixed_dictionaries(
    {"type": st.sampled_from("text output_text thinking reasoning refusal image_url x".split())},
    optional=dict.fromkeys("text thinking reasoning refusal summary value a".split(), JSON),
)


@pytest.mark.slow
@settings(max_examples=examples(200), deadline=None)
@given(JSON | ODD_PART | st.lists(ODD_PART | JSON, max_size=3), JSON)
@example({"text": "a", "b": 1}, "null")
@example([[[[]]]], 2**70)
@example([], float("inf"))
@example([float("inf")], None)
def test_any_content_streamed_is_the_plain_one(content, reason):
    """JSON as content, and anything as finish reason, has the columns that it has when plain."""
    delta = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    message = {"index": 0, "message": {"content": content}, "finish_reason": reason}
    bodies = [json.dumps({"choices": [choice]}).encode() for choice in (delta, message)]
    stream = fold(b"data: %b\n\ndata: [DONE]\n\n" % bodies[0])
    assert stream.problem() is None
    found = reading.completion(reading.parse(stream.body()))
    assert found == reading.completion(reading.parse(bodies[1]))


BYTES = st.lists(PARTS | st.binary(max_size=12) | ODD, max_size=14).map(b"".join)


@pytest.mark.slow
@settings(max_examples=examples(250), deadline=None)
@given(BYTES, CUTS)
@example(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n' * 3 + b'data: {"error":NaN}\n\n', [])
def test_any_bytes_end_in_a_verdict(raw, cuts):
    """Nothing that is fed is ever raised; what comes of it is JSON, a verdict and a column; and
    the cuts do not matter.
    """
    stream = Stream()
    for piece in _pieces(raw, cuts):
        stream.feed(piece)
    stream.end()
    problem, body = stream.problem(), stream.body()
    assert problem is None or problem
    body.decode()
    verdict = judge(Reply(200, {}, body), Circumstances({}, True, 1e9, 600.0))
    assert isinstance(verdict, Verdict)
    whole = fold(raw)
    assert (whole.problem(), whole.body(), whole.done) == (problem, body, stream.done)


class _Unbounded:
    bytes_min = 2**40


def test_nothing_counts_behind_the_announced_end():
    """Chunks like the last one are not taken any more once the server said that it was done."""
    event = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
    arriving = Arriving(2**30, _Unbounded())
    assert arriving.take(event * 30 + b"data: [DONE]\n\n")
    assert arriving.take(event * 30)
    assert json.loads(arriving.stream.body())["choices"][0]["message"]["content"] == "x" * 30
