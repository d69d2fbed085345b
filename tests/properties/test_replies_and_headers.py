"""Whatever a server sends ends in a verdict and in values that can be stored."""

import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrun.core.reply import completion as reading
from batchrun.core.reply import fast_completion
from batchrun.core.reply.headers import WAIT_S_MAX, request_id, reset_s, retry_after_s, should_retry
from batchrun.core.verdict.judge import Action, Circumstances, Verdict, judge
from batchrun.records import Reply
from tests.harness.slow import examples

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**66)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "\0", "stop"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def _object(**fields):
    """Objects with some of these fields, each as it should be or as anything at all."""
    return st.fixed_dictionaries({}, optional={k: v | JSON for k, v in fields.items()})


COUNT = st.integers(-1, 2 * 10**9) | st.integers(-1, 2**63)
FUNCTION = _object(name=st.text(max_size=5), arguments=st.text(max_size=9))
CALL = _object(id=st.text(max_size=5), type=st.just("function"), function=FUNCTION)
PART = _object(type=st.just("text"), text=st.text(max_size=5))
MESSAGE = _object(
    content=st.text(max_size=9) | st.lists(PART, max_size=3),
    reasoning=st.text(max_size=5),
    reasoning_content=st.text(max_size=5),
    refusal=st.none(),
    function_call=FUNCTION,
    tool_calls=st.lists(CALL, max_size=3),
)
CHOICE = st.fixed_dictionaries(
    {"message": MESSAGE},
    optional={"index": COUNT | JSON, "finish_reason": st.text(max_size=5) | JSON, "logprobs": JSON},
)
USAGE = _object(
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_cache_hit_tokens=COUNT,
    reasoning_tokens=COUNT,
    cached_tokens=COUNT,
    input_tokens=COUNT,
    prompt_tokens_details=_object(cached_tokens=COUNT),
    completion_tokens_details=_object(reasoning_tokens=COUNT),
)
COMPLETION = _object(
    id=st.text(max_size=5),
    created=st.integers(-1, 10**12),
    model=st.text(max_size=5),
    system_fingerprint=st.text(max_size=5),
    service_tier=st.text(max_size=5),
    choices=st.lists(CHOICE, max_size=3),
    usage=USAGE,
)
ERROR = _object(
    message=st.text(max_size=9),
    type=st.text(max_size=5),
    retry_after=st.integers() | st.floats() | st.text(max_size=5),
    details=st.lists(_object(retryDelay=st.text(max_size=5)), max_size=2),
    metadata=_object(raw=st.text(max_size=9), reasons=st.lists(st.text(), max_size=1)),
    code=st.integers(0, 1000) | st.integers(0, 1000).map(str),
)
BODY = (
    st.binary(max_size=40)
    | (COMPLETION | _object(error=ERROR, detail=JSON) | JSON).map(
        lambda value: json.dumps(value).encode()
    )
    | COMPLETION.map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="replace"))
)
STATUS = st.sampled_from([200, 200, 200, 201, 400, 401, 403, 404, 429, 500, 503]) | st.integers(
    100, 999
)
# aiohttp decodes headers with half surrogates for bytes that are not UTF-8.
ANY_TEXT = st.text(st.characters(codec=None), max_size=30)
HEADERS = st.dictionaries(
    st.sampled_from(
        "retry-after retry-after-ms x-request-id x-should-retry x-ratelimit-reset "
        "x-ratelimit-remaining-tokens x-ratelimit-reset-tokens".split()
    ),
    ANY_TEXT | st.sampled_from(["true", "false", "0", "1m30s", "1700000000000", "-1"]),
)


@pytest.mark.slow
@settings(max_examples=examples(200), deadline=None)
@given(STATUS, HEADERS, BODY, st.booleans())
@example(200, {}, b'{"choices":[{"message":{"content":"\\ud800"}}]}', False)
@example(500, {}, b'{"error":{"message":{"n":99999999999999999999999}}}', False)
@example(429, {"retry-after": "1e400"}, b"", True)
@example(200, {}, b'{"choices":[{"message":{}},{"message":{},"index":false}]}', False)
@example(503, {"x-request-id": "\udcff"}, b'{"error":{"type":"\\ud800"}}', False)
@example(200, {}, b'{"choices":[{"message":{"content":"\\u0000"},"finish_reason":{"a":1}}]}', False)
@example(200, {}, b'{"choices":[{"message":{"content":' + b"[" * 990 + b"]" * 990 + b"}}]}", False)
def test_any_reply_ends_in_a_verdict_and_in_parquet(stored, status, headers, body, succeeded):
    """No body, status or header crashes the judge, and Parquet holds what comes of it."""
    reply = Reply(status, headers, body)
    verdict = judge(reply, Circumstances({}, succeeded, 1e9, 600.0))
    assert isinstance(verdict, Verdict)
    assert (verdict.completion is not None) == (verdict.action is Action.DONE)
    row = stored(verdict, reply)
    assert row["status"] == ("ok" if verdict.completion else "error")
    assert verdict.completion is not None or verdict.error_class
    assert len(verdict.code or "") <= reading.WORD_MAX


@settings(max_examples=examples(100), deadline=None)
@given(COMPLETION)
def test_the_quick_reading_agrees_with_the_long_one(value):
    """What the quick reading takes for a completion the long one reads the same."""
    body = json.dumps(value).encode()
    quick = fast_completion.plain_completion(body)
    if quick is not None:
        parsed = reading.parse(body)
        assert repr(quick[0]) == repr(reading.completion(parsed))
        told = reading.usage_and_text(parsed)[1]
        assert json.loads(quick[1] or "null") == json.loads(told or "null")


@pytest.mark.slow
@settings(max_examples=examples(120), deadline=None)
@given(COMPLETION)
def test_a_completion_in_strict_or_lenient_json_reads_the_same(value):
    """The tolerant second reading agrees with the strict first one."""
    strict = reading.parse(json.dumps(value, allow_nan=True).encode())
    marked = reading.parse(b"\xef\xbb\xbf" + json.dumps(value).encode())
    if strict is not None and marked is not None:
        assert repr(reading.completion(strict)) == repr(reading.completion(marked))


MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec Foo".split()
DATE_LIKE = st.builds(
    lambda day, date, month, year, time, zone: f"{day}, {date} {month} {year} {time} {zone}",
    st.sampled_from(["Mon", "Sunday", ""]),
    st.integers(-5, 99_999_999_999),
    st.sampled_from(MONTHS),
    st.integers(-1, 10**12),
    st.from_regex(r"[0-9:.]{0,12}", fullmatch=True),
    st.sampled_from(["GMT", "+0000", "-0000", "+9999", "EST", "", "+99999999999"]),
)


TEXT = (
    ANY_TEXT
    | st.text(string.digits + " :,-+.eEmshdT" + string.ascii_letters, max_size=40)
    | DATE_LIKE
    | st.floats().map(str)
    | st.integers().map(str)
    | st.lists(
        st.tuples(st.integers(0, 999), st.sampled_from(["ms", "s", "m", "h", " seconds"])),
        max_size=4,
    ).map(lambda pieces: "".join(f"{number}{unit}" for number, unit in pieces))
)


@settings(max_examples=examples(300), deadline=None)
@given(TEXT, st.none() | ANY_TEXT | st.floats().map(str))
def test_any_retry_after_is_a_wait_or_nothing(text, milliseconds):
    """Whatever the header says: None, or seconds between 0 and a week."""
    given_headers = {"retry-after": text} | (
        {} if milliseconds is None else {"retry-after-ms": milliseconds}
    )
    found = retry_after_s(given_headers, wall_s=1_700_000_000.0)
    assert found is None or 0 <= found <= WAIT_S_MAX


@pytest.mark.slow
@settings(max_examples=examples(200), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            "x-ratelimit-reset X-RateLimit-Remaining x-ratelimit-reset-tokens x-should-retry "
            "x-ratelimit-remaining-tokens anthropic-ratelimit-requests-reset x-request-id".split()
        )
        | ANY_TEXT,
        TEXT,
    )
)
def test_any_headers_are_read(headers):
    """Resets, advice and names come out of any headers in a form that can be used."""
    found = reset_s(headers, wall_s=1_700_000_000.0)
    assert found is None or 0 <= found <= WAIT_S_MAX
    assert should_retry(headers) in (None, True, False)
    (request_id(headers) or "").encode()
