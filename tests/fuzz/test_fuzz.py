"""Fuzzing what reads the wire: real replies and headers, broken in random ways.

In the ordinary suite each target gets a few hundred examples. `make fuzz` gives all of them
together FUZZ_SECONDS, in rounds with a new seed each, and prints what was tried; a failure is shown
in its smallest form with the seed of its round. An example that takes more than two seconds counts
as a hang.

A new reader of bytes gets a strategy and a check, and a line in TARGETS.
"""

import itertools
import json
import os
import runpy
import sys
import time
from datetime import timedelta
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from batchrun.core.reply import error_body
from batchrun.core.reply.completion import parse
from batchrun.core.reply.headers import WAIT_S_MAX, request_id, reset_s, should_retry, wait_s
from batchrun.core.stream import sse
from batchrun.core.stream.fold import fold
from batchrun.core.verdict.judge import Action, Circumstances, judge
from batchrun.records import Reply
from batchrun.simulator.catalogue import CATALOGUE
from batchrun.testing.samples import completion_body
from tests.harness.slow import rest_slow

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
ROUND_EXAMPLES = 1000 if SECONDS else 150
HANG = timedelta(seconds=2)
WALL_S = 1_700_000_000.0

TOOL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
RICH = {
    "index": 0,
    "finish_reason": "tool_calls",
    "message": {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "é😀"}],
        "reasoning_content": "why",
        "refusal": None,
        "tool_calls": [TOOL],
    },
    "logprobs": {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]},
}
USAGE = {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}, "reasoning_tokens": 2}
REPLIES = [
    completion_body("Hello, wörld."),
    completion_body(choices=[RICH, RICH | {"index": 1}], usage=USAGE),
    *(rejection.body for rejection in CATALOGUE.values()),
]
WORDS_OF_JSON = b'NaN -Infinity 1e999 \\ud800 \\u0000 null true {} [] " \\ , : { [ ] } -1 0.5'
NASTY = [*WORDS_OF_JSON.split(), b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\0", b"\r\n"]
NASTY += [b"9" * 50, b"9" * 5000, b"[" * 2000, b"{" * 50]

EDIT = st.tuples(
    st.floats(0, 1), st.integers(0, 12), st.sampled_from(NASTY) | st.binary(max_size=4)
)


def _broken(text, edits):
    """A text with pieces cut out and others put in, at places given as shares of its length."""
    for place, cut, put in edits:
        at = int(place * len(text))
        text = text[:at] + put + text[at + cut :]
    return text


BODIES = st.builds(_broken, st.sampled_from(REPLIES), st.lists(EDIT, max_size=4)) | st.binary()
ANY_TEXT = st.text(st.characters(codec=None), max_size=40)
WORDS = [
    "7", "0.25", "1m30s", "37 seconds", "00:12:34", "1700000000000", "2023-11-14T22:13:50Z",
    "Tue, 14 Nov 2023 22:13:20 GMT", "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023",
    "true", "false", "0", "-1",
]  # fmt: skip
TEXTS = ANY_TEXT | st.builds(
    lambda text, edits: _broken(text.encode(), edits).decode(errors="surrogateescape"),
    st.sampled_from(WORDS),
    st.lists(EDIT, max_size=3),
)
HEADERS = st.dictionaries(
    st.sampled_from(
        "retry-after retry-after-ms x-should-retry x-ratelimit-reset x-ratelimit-remaining "
        "x-ratelimit-reset-requests x-ratelimit-remaining-requests x-request-id".split()
    ),
    TEXTS,
    max_size=4,
)
MESSAGES = [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
    "Rate limit reached for m on tokens per day (TPD): Limit 9, Requested 1. Try again in 10m3.5s.",
    "You exceeded your current quota.\n* Quota exceeded for metric: a, limit: 0, model: m",
    "litellm.BadRequestError: OpenAIException - error error error exception: ",
]
SAID = st.builds(
    lambda text, edits, times: _broken(text.encode() * times, edits).decode(errors="replace"),
    st.sampled_from(MESSAGES),
    st.lists(EDIT, max_size=4),
    st.integers(1, 60),
)


def check_reply(stored, status, headers, body, succeeded):
    """Any reply ends in a verdict, and Parquet holds what comes of it."""
    reply = Reply(status, headers, body)
    verdict = judge(reply, Circumstances({}, succeeded, WALL_S, 600.0))
    assert (verdict.action is Action.DONE) == (verdict.completion is not None)
    assert verdict.action is not Action.PAUSE
    stored(verdict, reply)


def check_header(_stored, text, headers):
    """Any text is a wait or none; any headers can be read."""
    for found in (wait_s(text, wall_s=WALL_S), reset_s(headers, wall_s=WALL_S)):
        assert found is None or 0 <= found <= WAIT_S_MAX
    assert should_retry(headers) in (None, True, False)
    (request_id(headers) or "").encode()


def check_message(_stored, message):
    """Any words of a server are read in time, and what is kept of them is bounded."""
    value = parse(json.dumps({"error": {"message": message}}).encode())
    error = error_body.read(value)
    found = error_body.wait_s(error, wall_s=WALL_S)
    assert found is None or 0 <= found <= WAIT_S_MAX
    assert len(error.message) <= 4096


STREAMS = runpy.run_path(str(Path(__file__).parents[1] / "properties" / "test_streams.py"))
"""The properties of streams, whose examples are the fuzzer's too."""


def _property(name):
    return STREAMS[name].hypothesis.inner_test


def check_framing(_stored, *arguments):
    """Any completion, cut at any bytes into any framing, is the plain reply."""
    _property("test_any_completion_in_any_framing_is_the_plain_reply")(*arguments)


def check_stream(stored, raw, cuts, label):
    """Any bytes are a stream or none; as one they end in a verdict, wherever they are cut, and
    Parquet holds what comes of it.
    """
    _property("test_any_bytes_end_in_a_verdict")(raw, cuts)
    assert sse.is_stream(raw, label, whole=True) in (True, False)
    stream = fold(raw)
    stream.remark().encode()
    reply = Reply(200, {}, stream.body())
    stored(judge(reply, Circumstances({}, True, WALL_S, 600.0)), reply)


STREAM_BYTES = STREAMS["BYTES"] | st.builds(_broken, STREAMS["BYTES"], st.lists(EDIT, max_size=3))
LABEL = st.sampled_from(["", "text/event-stream", "application/json", "text/html; charset=x"])
STATUS = st.sampled_from([200, 200, 200, 400, 403, 404, 429, 500, 503]) | st.integers(100, 999)
TARGETS = {
    "headers": (check_header, (TEXTS, HEADERS)),
    "messages": (check_message, (SAID,)),
    "replies": (check_reply, (STATUS, HEADERS, BODIES, st.booleans())),
    "framings": (check_framing, (st.data(), STREAMS["_streamed"](), STREAMS["CUTS"])),
    "streams": (check_stream, (STREAM_BYTES, STREAMS["CUTS"], LABEL)),
}


@pytest.mark.parametrize("name", rest_slow(TARGETS, 2))
def test_nothing_on_the_wire_breaks_its_reader(name, stored):
    """No example of the target raises, hangs, or yields what cannot be stored."""
    check, strategies = TARGETS[name]
    tried = 0

    def example(arguments):
        nonlocal tried
        tried += 1
        check(stored, *arguments)

    began_s = time.monotonic()
    ends_s = began_s + SECONDS / len(TARGETS)
    for seed in itertools.count(int(time.time()) if SECONDS else 0):
        settings = hypothesis.settings(
            max_examples=ROUND_EXAMPLES,
            deadline=HANG,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        try:
            hypothesis.seed(seed)(settings(hypothesis.given(st.tuples(*strategies))(example)))()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        if time.monotonic() >= ends_s:
            break
    if SECONDS:
        took_s = time.monotonic() - began_s
        sys.stdout.write(f"\n{name}: {tried:,} examples in {took_s:.0f} s, nothing broke\n")
