"""Telling a stream from a plain body, cutting it into events, reading an event's fields."""

import pytest

from batchrun.core.stream.sse import Splitter, is_stream, read_event


@pytest.mark.parametrize(
    ("start", "label", "expected"),
    [
        (b"data: {}", "text/event-stream", True),
        (b"data:{}", "application/json", True),
        (b"data:{}", "", True),
        (b": keep-alive\n\n", "", True),
        (b"event: ping\n", "text/plain", True),
        (b"id: 5\n", "text/plain", True),
        (b"retry: 5\n", "text/plain", True),
        (b"error: {}\n", "text/event-stream; charset=utf-8", True),
        (b"anything", "Text/Event-Stream", True),
        (b"\xef\xbb\xbfdata: {}", "", True),
        (b"\r\n\r\n \ndata: {}", "", True),
        (b'{"choices":[]}', "text/event-stream", False),
        (b' \n{"choices":[]}', "text/event-stream", False),
        (b'\xef\xbb\xbf{"choices":[]}', "text/event-stream", False),
        (b"[{}]", "text/event-stream", False),
        (b"<html>", "text/event-stream", False),
        (b"database: down", "text/plain", False),
        (b"dated", "text/plain", False),
        (b"upstream error: no", "text/plain", False),
        (b"", "text/event-stream", None),
        (b"\n\n", "text/event-stream", None),
        (b"\xef\xbb", "text/event-stream", None),
        (b"da", "text/plain", None),
        (b"data", "", None),
    ],
)
def test_what_is_a_stream(start, label, expected):
    """The body's first bytes decide, then its label; too few bytes decide nothing."""
    assert is_stream(start, label) is expected


@pytest.mark.parametrize(
    ("body", "label", "expected"),
    [
        (b"", "text/event-stream", True),
        (b"\n", "text/event-stream", True),
        (b"", "application/json", False),
        (b"da", "text/plain", False),
        (b"data", "text/plain", False),
    ],
)
def test_a_whole_body_is_always_decided(body, label, expected):
    """An empty body is what its label says."""
    assert is_stream(body, label, whole=True) is expected


EVENTS = "data: one\ndata: two\n\n: comment\n\ndata: \u2028\u0085\x0c in a string\n\ndata: é€😀\n\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_line_ends_and_cuts_change_nothing(end, size):
    """LF, CRLF and lone CR, cut at any bytes, give the same events; no other character ends a
    line.
    """
    data = EVENTS.replace("\n", end).encode()
    splitter = Splitter()
    found = []
    for start in range(0, len(data), size):
        block = splitter.feed(data[start : start + size])
        found += [event for event in block.split(b"\n\n") if event]
    assert found == [event.encode() for event in EVENTS.split("\n\n") if event]
    assert splitter.rest().strip(b"\n") == b""


def test_mixed_line_ends():
    """Every kind of line end may come in one stream, a CR and its LF in two pieces."""
    splitter = Splitter()
    pieces = [b"data: 1\r", b"\n\r", b"", b"\ndata: 2\n\r\n", b"data: 3\r", b"\rdata: 4\n\n"]
    found = b"\n".join(block for piece in pieces if (block := splitter.feed(piece)))
    assert [line for line in found.split(b"\n") if line] == [b"data: %d" % n for n in (1, 2, 3, 4)]


def test_what_no_blank_line_ended_is_the_rest():
    """A last event without its blank line is not lost."""
    splitter = Splitter()
    assert splitter.feed(b"data: 1\n\ndata: 2\n") == b"data: 1"
    assert splitter.rest() == b"data: 2\n"


def test_a_stream_without_blank_lines_is_not_held_forever():
    """Lines are handed on once there are too many of them; a single line of any length is not
    torn.
    """
    splitter = Splitter()
    blocks = [splitter.feed(b"data: {}\n" * 1000) for _ in range(100)]
    assert any(blocks)
    assert b"".join(blocks).count(b"data: {}") + splitter.rest().count(b"data: {}") == 100_000
    splitter = Splitter()
    assert not any(splitter.feed(b"x" * 100_000) for _ in range(10))
    assert splitter.feed(b"\n\n") == b"x" * 1_000_000


@pytest.mark.parametrize(
    ("lines", "name", "data"),
    [
        ([b"data: x"], "", [b"x"]),
        ([b"data:x"], "", [b"x"]),
        ([b"data:  x"], "", [b" x"]),
        ([b"data"], "", [b""]),
        ([b"data: a", b"data: b"], "", [b"a", b"b"]),
        ([b": comment", b"id: 1", b"retry: 5", b"data: x"], "", [b"x"]),
        ([b"event: error", b"data: x"], "error", [b"x"]),
        ([b'error: {"code":500}'], "error", [b'{"code":500}']),
        ([b"\xef\xbb\xbfdata: x"], "", [b"x"]),
        ([b"\0\0 data: x"], "", [b"x"]),
        ([b"event: Error", b"data: x"], "error", [b"x"]),
        ([b'{"error":1}'], "", [b'{"error":1}']),
        ([b"{", b'  "error": 1', b"}"], "", [b'{\n  "error": 1\n}']),
        ([b"{", b"}", b"data: x"], "", [b"{\n}", b"x"]),
        ([b"unknown: x"], "", []),
        ([b": comment"], "", []),
    ],
)
def test_the_fields_of_an_event(lines, name, data):
    """Data with one space or none, several lines, comments, names, and bare JSON."""
    event = read_event(lines)
    assert (event.name, event.data) == (name, data)
