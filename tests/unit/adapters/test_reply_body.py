"""What arrives of a reply, in one read and byte by byte: the cuts must not matter."""

import json
from itertools import pairwise

import pytest

from batchrun.adapters.http.reply_body import Arriving


class _Unbounded:
    bytes_min = 2**40


def _event(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()


TEXTS = [_event({"content": f"{number} "}) for number in range(40)]
CONTENT = "".join(f"{number} " for number in range(40))
STOP = _event({}, "stop")
DONE = b"data: [DONE]\n\n"


def _outcome(*reads):
    """What these reads make, why it is not whole, and whether something was said."""
    arriving = Arriving(2**30, _Unbounded())
    for read in reads:
        arriving.take(read)
    stream = arriving.stream
    if stream is None:
        return b"".join(arriving._pieces), None, False
    stream.end()
    return stream.body(), stream.problem(), arriving.ttft_s is not None


def _cut(wire, places):
    return [wire[start:end] for start, end in pairwise([0, *places, len(wire)])]


@pytest.mark.parametrize(
    ("events", "places", "whole"),
    [
        pytest.param([*TEXTS, STOP, DONE], [], True, id="whole"),
        pytest.param([*TEXTS, STOP, DONE], [20], True, id="in an event"),
        pytest.param([*TEXTS, STOP, DONE], [len(TEXTS[0]) - 1], True, id="between line breaks"),
        pytest.param([TEXTS[0], b": a\r", *TEXTS[1:], STOP], [], True, id="lone CR"),
        pytest.param([TEXTS[0], b": a\n", *TEXTS[1:], STOP], [], True, id="two lines"),
        pytest.param([b": hi\n\n", *TEXTS, STOP], [2], True, id="comment first"),
        pytest.param([b"\n", *TEXTS, STOP], [1], True, id="blank line first"),
        pytest.param([e.replace(b"\n", b"\r\n") for e in [*TEXTS, STOP]], [], True, id="CRLF"),
        pytest.param(TEXTS, [], False, id="unfinished"),
    ],
)
def test_the_cuts_do_not_matter(events, places, whole):
    """The same answer, the same end."""
    wire = b"".join(events)
    found = _outcome(*(wire[at : at + 1] for at in range(len(wire))))
    assert _outcome(*_cut(wire, places)) == _outcome(wire) == found
    assert json.loads(found[0])["choices"][0]["message"]["content"] == CONTENT
    assert (found[1] is None, found[2]) == (whole, True)


def test_what_is_no_stream_is_kept_as_it_is():
    """Events inside of something else are text."""
    wire = b'{"x":"' + b"".join(TEXTS)
    for reads in ([wire], [wire[:1], wire[1:]], [wire[at : at + 1] for at in range(len(wire))]):
        assert _outcome(*reads)[0] == wire
