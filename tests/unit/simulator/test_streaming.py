"""The simulator's streams say what its plain answers say, whatever the framing."""

import hashlib
import json

import pytest

from batchrun.core.reply import completion as reading
from batchrun.core.stream.fold import fold
from batchrun.simulator import faults
from batchrun.simulator.chat import answer_digest, read_body, read_chat
from batchrun.simulator.completion import Manner, write_answer
from batchrun.simulator.rejections import RejectedError
from batchrun.simulator.streaming import pieces_of, write_chunks, write_events
from batchrun.simulator.writing.draws import seed_key


def _answer(**body):
    body = {"messages": [{"role": "user", "content": "订单 and parcel"}]} | body
    return write_answer(read_chat(body), hashlib.sha256(b"x").digest(), seed_key(1), Manner())


@pytest.mark.parametrize(
    "text", ["", " ", "one", "two words", "  lead", "tail \n", "订单退款发票快递地址客服颜色尺码。"]
)
def test_pieces_are_the_text(text):
    """Nothing is lost between two pieces, and none is long."""
    pieces = pieces_of(text)
    assert "".join(pieces) == text
    assert all(len(piece.strip()) <= 8 for piece in pieces)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("max_tokens", [None, 9])
@pytest.mark.parametrize("fault", [None, faults.NO_DONE, faults.ODD_FRAMING])
def test_a_whole_stream_is_the_plain_answer(n, max_tokens, fault):
    """Every field of the answer, usage too, comes in the chunks."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    answer = _answer(n=n, max_tokens=max_tokens, **options)
    stream = fold(b"".join(write_events(write_chunks(answer, "c-1", 5, "fp"), fault)))
    assert stream.problem() is None
    assert stream.done is (fault != faults.NO_DONE)
    found = reading.completion(reading.parse(stream.body()))
    assert found == reading.completion(reading.parse(answer.encode("c-1", 5, "fp")))
    assert len(found.choices or [found.first]) == n


@pytest.mark.parametrize("fault", [faults.STREAM_END, faults.STREAM_STALL, faults.STREAM_ERROR])
def test_half_a_stream_is_none(fault):
    """A stream that a fault ends is not whole, or brings an error with a status."""
    stream = fold(b"".join(write_events(write_chunks(_answer(stream=True), "c", 5, "fp"), fault)))
    if fault == faults.STREAM_ERROR:
        assert json.loads(stream.body())["error"]["code"] == 500
    else:
        assert stream.problem() == "the stream ended in the middle of the answer"


def test_usage_comes_where_it_was_asked_for():
    """Without include_usage no chunk names it; with it the last one does."""
    chunks = [json.loads(c) for c in write_chunks(_answer(stream=True), "c", 5, "fp")]
    assert not any("usage" in chunk for chunk in chunks)
    asked = _answer(stream=True, stream_options={"include_usage": True})
    chunks = [json.loads(c) for c in write_chunks(asked, "c", 5, "fp")]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["usage"] == asked.usage() and chunks[-1]["choices"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
    ],
)
def test_stream_parameters_are_checked(body, param):
    """As servers do, options without a stream are refused."""
    with pytest.raises(RejectedError) as caught:
        _answer(**body)
    assert json.loads(caught.value.rejection.body)["error"]["param"] == param


def test_an_answer_does_not_depend_on_streaming():
    """The digest that the text is drawn from is that of the request without its stream."""
    plain = {"messages": [], "model": "m"}
    body, digest = read_body(json.dumps(plain).encode())
    assert answer_digest(body, digest) == digest
    streamed = plain | {"stream": True, "stream_options": {"include_usage": True}}
    body, other = read_body(json.dumps(streamed).encode())
    assert other != digest
    assert answer_digest(body, other) == digest
