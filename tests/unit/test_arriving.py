"""What arrives in the chunked coding, in one read and byte by byte: the cuts must not matter."""

import json
from itertools import pairwise

import pytest

from batchrun.adapters.arriving import Arriving
from batchrun.core.chunked import BULK_BYTES, LAST, ChunkedError, Dechunker
from batchrun.core.stream import fold


class _Unbounded:
    bytes_min = 2**40


def _event(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()


TEXTS = [_event({"content": f"{number} "}) for number in range(40)]
CONTENT = "".join(f"{number} " for number in range(40))
STOP = _event({}, "stop")
DONE = b"data: [DONE]\n\n"


def _coded(*chunks):
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


def _taken(*reads):
    """Who took these reads, where the coding broke, and what is behind its end."""
    arriving, dechunker, broken = Arriving(2**30, _Unbounded()), Dechunker(), None
    for read in reads:
        try:
            arriving.take_coded(dechunker, read)
        except ChunkedError as error:
            broken = str(error)
            break
    return arriving, broken, dechunker


def _outcome(*reads):
    arriving, broken, dechunker = _taken(*reads)
    stream = arriving.stream
    if stream is None:
        found = b"".join(arriving._pieces), None
    else:
        stream.end()
        found = stream.body(), stream.problem()
    return *found, arriving.ttft_s is not None, broken, dechunker.ended, dechunker.surplus


def _cut(wire, places):
    cuts = [0, *places, len(wire)]
    return [wire[start:end] for start, end in pairwise(cuts)]


TORN = TEXTS[0][:20], TEXTS[0][20:]
PRETENDER = b": x\n\nzz\r\n" + b"".join(TEXTS)
"""One chunk that holds what looks like the size of another."""


@pytest.mark.parametrize(
    ("wire", "places"),
    [
        pytest.param(_coded(*TEXTS, STOP, DONE) + LAST, [], id="whole"),
        pytest.param(
            _coded(*TORN, *TEXTS[1:], STOP, DONE) + LAST, [len(_coded(TORN[0]))],
            id="in an event of two chunks",
        ),
        pytest.param(
            _coded(TEXTS[0], b": a\r" + TEXTS[1], *TEXTS[2:], STOP) + LAST, [], id="lone CR"
        ),
        pytest.param(
            _coded(TEXTS[0], b": a\n" + TEXTS[1], *TEXTS[2:], STOP) + LAST, [], id="two lines"
        ),
        pytest.param(_coded(b": hi\n\n", *TEXTS, STOP) + LAST, [], id="comment first"),
        pytest.param(_coded(b"\n", *TEXTS, STOP) + LAST, [], id="blank line first"),
        pytest.param(_coded(b"da", *TEXTS) + LAST, [len(_coded(b"da"))], id="no stream at all"),
        pytest.param(_coded(b'{"x":"', *TEXTS, b'"}') + LAST, [], id="events in JSON"),
        pytest.param(_coded(b'{"x":"', *TEXTS, b'"}') + LAST, [11], id="behind the brace"),
        pytest.param(
            _coded(PRETENDER, *TEXTS, STOP) + LAST, [len(b"fff\r\n: x\n\n")], id="within a chunk"
        ),
        pytest.param(
            _coded(*TEXTS, LAST, STOP) + LAST, [len(_coded(*TEXTS)) + 3, len(_coded(*TEXTS)) + 8],
            id="a chunk like the last",
        ),
        pytest.param(_coded(*TEXTS, STOP) + LAST + b"HTTP/1.1", [], id="something behind"),
    ],
)  # fmt: skip
def test_the_cuts_do_not_matter(wire, places):
    """The same answer, the same end."""
    bytewise = _outcome(*(wire[at : at + 1] for at in range(len(wire))))
    assert _outcome(*_cut(wire, places)) == bytewise
    assert _outcome(wire) == bytewise
    assert len(wire) > BULK_BYTES and bytewise[3] is None


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"zz\r\n" + b"".join(TEXTS), id="from the start"),
        pytest.param(_coded(*TEXTS, STOP) + b"zz\r\n" + STOP, id="behind events"),
        pytest.param(_coded(b"".join(TEXTS)) + b"zz\r\n", id="behind a large chunk"),
        pytest.param(_coded(*TEXTS)[:-2] + b"zz" + _coded(STOP), id="at a chunk's end"),
        pytest.param(_coded(*(t.replace(b"\n", b"\r\n") for t in TEXTS)) + b"\r\n", id="CRLF"),
    ],
)
def test_what_stood_before_a_broken_coding_counts(wire):
    """It is kept, timed and told, in one read as byte by byte."""
    bytewise = _outcome(*(wire[at : at + 1] for at in range(len(wire))))
    found = _outcome(wire)
    assert found[:3] == bytewise[:3] and None not in (found[3], bytewise[3])
    if wire.startswith(b"zz"):
        assert found[:3] == (b"", None, False)
    else:
        assert json.loads(found[0])["choices"][0]["message"]["content"] == CONTENT and found[2]


def test_the_plain_way_agrees():
    """What is taken from the coding is what the events say without it."""
    events = [*TEXTS, STOP, DONE]
    expected = fold(b"".join(events))
    assert _outcome(_coded(*events) + LAST)[:2] == (expected.body(), expected.problem())


@pytest.mark.parametrize("end", [[LAST], [b"0\r\n", b"\r\n"], [b"0", b"\r\n\r", b"\n"]])
def test_behind_the_end_is_nothing(end):
    """However the end is cut: a chunk behind it is surplus and no text."""
    dechunker = Dechunker()
    for read in end:
        assert dechunker.feed(read) == []
    assert dechunker.ended and not dechunker.surplus and not dechunker.at_border
    assert dechunker.feed(b"5\r\nhello\r\n") == [] and dechunker.surplus
