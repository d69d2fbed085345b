"""What one exchange means for its row and for the run."""

import json

import pytest

from batchrun.core.verdict import RULES, Action, Circumstances, judge
from batchrun.errors import TransportFault
from batchrun.records import Reply

DONE, THROTTLE, FREE = Action.DONE, Action.THROTTLE, Action.FREE
AGAIN, FAIL, STOP = Action.AGAIN, Action.FAIL, Action.STOP
ANSWER = {"choices": [{"message": {"content": "hi"}}]}


def _judge(status, body=b"", *, headers=None, rulings=None, succeeded=False, wait_s_max=600.0):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(
        Reply(status, headers or {}, data),
        Circumstances(rulings or {}, succeeded, 1_700_000_000.0, wait_s_max),
    )


def _fault(kind, *, rulings=None, succeeded=False):
    return judge(
        TransportFault("it broke", kind=kind, sent=True),
        Circumstances(rulings or {}, succeeded, 0.0, 600.0),
    )


def _error(code=None, kind=None, message="m"):
    return {"error": {"code": code, "type": kind, "message": message}}


def test_an_answer_is_an_answer():
    """A 200 with a completion is done; any 2xx will do."""
    for status in (200, 201, 299):
        verdict = _judge(status, ANSWER)
        assert verdict.action is DONE
        assert verdict.completion.first.content == "hi"
        assert verdict.error_class is None


@pytest.mark.parametrize(
    ("kind", "action", "error_class"),
    [
        ("timeout", AGAIN, "timeout"),
        ("connect", AGAIN, "connection"),
        ("reset", FREE, "connection"),
        ("cut", AGAIN, "connection"),
        ("tls", STOP, "config"),
        ("proxy", STOP, "config"),
        ("too_large", FAIL, "response_too_large"),
        ("incomplete", AGAIN, "incomplete_stream"),
    ],
)
def test_a_fault_of_the_transport(kind, action, error_class):
    """Each kind of fault has its line, and its message and code are kept."""
    verdict = _fault(kind)
    assert (verdict.action, verdict.error_class) == (action, error_class)
    assert (verdict.code, verdict.message) == (kind, "it broke")


# Status, error code, error type, what is done, error class.
SIGNALS = [
    (429, "insufficient_quota", "insufficient_quota", STOP, "quota"),
    (429, None, "insufficient_quota", STOP, "quota"),
    (429, "credit_balance_exhausted", None, STOP, "quota"),
    (429, "project_spend_limit_exceeded", "requests", STOP, "quota"),
    (429, "organization_spend_limit_exceeded", None, STOP, "quota"),
    (400, "enforced_spend_limit_reached", None, STOP, "quota"),
    (403, "organization_usage_limit_exceeded", None, STOP, "quota"),
    (429, "rate_limit_exceeded", "tokens", THROTTLE, "rate_limit"),
    (429, "slow_down", "rate_limit_error", THROTTLE, "rate_limit"),
    (429, None, None, THROTTLE, "rate_limit"),
    (400, "context_length_exceeded", "invalid_request_error", FAIL, "context_length"),
    (400, None, "exceed_context_size_error", FAIL, "context_length"),
    (422, "string_above_max_length", None, FAIL, "context_length"),
    (413, "context_length_exceeded", None, FAIL, "context_length"),
    (400, "content_filter", None, FAIL, "content_filter"),
    (400, "content_policy_violation", None, FAIL, "content_filter"),
    (403, "ResponsibleAIPolicyViolation", None, FAIL, "content_filter"),
    (400, "invalid_prompt", None, FAIL, "content_filter"),
    (401, "invalid_api_key", "invalid_request_error", STOP, "auth"),
    (402, None, None, STOP, "billing"),
    (403, "unsupported_country_region_territory", None, STOP, "forbidden"),
    (404, "model_not_found", None, FAIL, "not_found"),
    (410, None, None, FAIL, "not_found"),
    (301, None, None, STOP, "config"),
    (302, None, None, STOP, "config"),
    (307, None, None, STOP, "config"),
    (308, None, None, STOP, "config"),
    (405, None, None, STOP, "config"),
    (406, None, None, STOP, "config"),
    (407, None, None, STOP, "config"),
    (415, None, None, STOP, "config"),
    (408, None, None, AGAIN, "timeout"),
    (409, None, None, AGAIN, "server_error"),
    (413, None, None, FAIL, "payload_too_large"),
    (421, None, None, AGAIN, "server_error"),
    (424, None, None, AGAIN, "server_error"),
    (425, None, None, AGAIN, "server_error"),
    (499, None, None, AGAIN, "server_error"),
    (498, "capacity_exceeded", None, AGAIN, "overloaded"),
    (503, "server_is_overloaded", None, AGAIN, "overloaded"),
    (529, None, "overloaded_error", AGAIN, "overloaded"),
    (501, None, None, FAIL, "invalid_request"),
    (500, None, "server_error", AGAIN, "server_error"),
    (502, None, None, AGAIN, "server_error"),
    (504, None, None, AGAIN, "server_error"),
    (520, None, None, AGAIN, "server_error"),
    (524, None, None, AGAIN, "server_error"),
    (599, None, None, AGAIN, "server_error"),
    (400, None, "invalid_request_error", FAIL, "invalid_request"),
    (418, None, None, FAIL, "invalid_request"),
    (422, None, None, FAIL, "invalid_request"),
    # A code means what it means only under the statuses it belongs to.
    (500, "insufficient_quota", None, AGAIN, "server_error"),
    (429, "context_length_exceeded", None, THROTTLE, "rate_limit"),
]


@pytest.mark.parametrize(("status", "code", "kind", "action", "error_class"), SIGNALS)
def test_a_status_and_its_code(status, code, kind, action, error_class):
    """Status, code and type decide; the code is kept, or the type where there is none."""
    verdict = _judge(status, _error(code, kind))
    assert (verdict.action, verdict.error_class) == (action, error_class)
    assert verdict.code == (code or kind)
    assert verdict.message == "m"
    assert verdict.completion is None


@pytest.mark.parametrize(
    ("status", "kind"), [(status, kind) for status, _, kind, *_ in SIGNALS if status >= 400]
)
def test_an_error_under_status_200_is_the_error_inside(status, kind):
    """A 200 whose body is an error enters the table with the status that stands inside."""
    verdict = _judge(200, {"choices": None} | _error(status, kind))
    plain = _judge(status, _error(None, kind))
    assert (verdict.action, verdict.error_class) == (plain.action, plain.error_class)
    assert verdict.code == str(status)


@pytest.mark.parametrize("code", [None, "rate_limited", "12", "4290", "-42", 0])
def test_an_error_under_status_200_without_a_status_is_transient(code):
    """Without a status inside nothing is known but that the server failed."""
    verdict = _judge(200, _error(code))
    assert (verdict.action, verdict.error_class) == (AGAIN, "server_error")


@pytest.mark.parametrize("code", [100, 200, 204, 302, 999, "000", "٤٢٩"])
def test_a_strange_number_inside_an_error_never_stops_the_run(code):
    """An error under 200 whose code is no error status is one row's bad luck, not the run's."""
    verdict = _judge(200, _error(code))
    assert verdict.action in (AGAIN, THROTTLE, FAIL)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>Sign in</html>", b"{}", b"[]", b'"hi"', {"choices": []}, {"choices": None}],
)
def test_a_success_without_a_completion_is_tried_twice_more(body):
    """A page or half a body under 200 is worth two more tries, then the row fails."""
    for rulings, action in ((0, AGAIN), (1, AGAIN), (2, FAIL), (3, FAIL)):
        verdict = _judge(200, body, rulings={"not_a_completion": rulings})
        assert (verdict.action, verdict.error_class) == (action, "invalid_response")
        assert "HTTP 200" in verdict.message


def test_a_reply_without_a_readable_error_is_shown():
    """The message is the status and the start of the body, on one line."""
    verdict = _judge(502, b"<html>\r\n<h1>Bad   Gateway</h1>\n" + b"x" * 1000)
    assert verdict.message.startswith("HTTP 502: <html> <h1>Bad Gateway</h1> x")
    assert len(verdict.message) < 400
    assert _judge(500, b"").message == "HTTP 500: empty body"


@pytest.mark.parametrize(
    ("rule", "judged", "tries", "before", "after"),
    [
        ("reset", lambda rulings: _fault("reset", rulings=rulings), 1, FREE, AGAIN),
        ("conflict", lambda rulings: _judge(409, rulings=rulings), 3, AGAIN, FAIL),
        ("not_a_completion", lambda rulings: _judge(200, rulings=rulings), 2, AGAIN, FAIL),
        (
            "auth_again",
            lambda rulings: _judge(401, rulings=rulings, succeeded=True),
            2,
            AGAIN,
            STOP,
        ),
    ],
)
def test_a_rule_with_a_limit_gives_way(rule, judged, tries, before, after):
    """After so many rulings of one line for a row the other action takes its place."""
    for count in range(tries):
        assert judged({rule: count}).action is before
    assert judged({rule: tries}).action is after
    assert judged({"another rule": 99}).action is before


def test_a_401_before_any_success_stops_at_once():
    """A wrong key is not tried twice; one that worked before is."""
    assert _judge(401).action is STOP
    assert _judge(401, succeeded=True).action is AGAIN


@pytest.mark.parametrize(
    ("status", "wait", "action"),
    [
        (429, "600", THROTTLE),
        (429, "601", STOP),
        (503, "600", AGAIN),
        (503, "86400", STOP),
        (500, "9999", STOP),
        (400, "9999", FAIL),
        (401, "9999", STOP),
        (429, "junk", THROTTLE),
    ],
)
def test_a_wait_beyond_the_longest_stops_the_run(status, wait, action):
    """A server that asks for more than the longest wait stops the run; rows stay pending."""
    assert _judge(status, headers={"retry-after": wait}).action is action


def test_the_asked_wait_is_handed_on():
    """The verdict tells how long the server asked to wait, and None where it did not."""
    assert _judge(429, headers={"retry-after": "2.5"}).wait_s == 2.5
    assert _judge(429).wait_s is None


@pytest.mark.parametrize(
    ("status", "charged"), [(200, True), (500, True), (400, True), (429, False), (401, False)]
)
def test_throttling_and_stops_cost_the_row_nothing(status, charged):
    """Only what is the row's own counts against its attempts."""
    assert _judge(status, ANSWER if status == 200 else b"").charged is charged
    assert not _fault("reset").charged


def test_messages_are_never_searched():
    """A prompt echoed in an error message cannot change what happens."""
    echo = "rate limit 429 insufficient_quota context_length_exceeded maximum context length"
    verdict = _judge(400, _error(None, "invalid_request_error", echo))
    assert (verdict.action, verdict.error_class) == (FAIL, "invalid_request")


def test_every_rule_is_reachable_and_named_once():
    """Every line of the table is named once and decided at least one case of this file."""
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    kinds = ("timeout", "connect", "reset", "cut", "tls", "proxy", "too_large", "incomplete")
    seen = {_fault(kind).rule for kind in kinds}
    seen |= {_judge(status, _error(code, kind)).rule for status, code, kind, *_ in SIGNALS}
    seen |= {_judge(401, succeeded=True).rule, _judge(200).rule}
    assert seen == set(names)


@pytest.mark.parametrize("succeeded", [False, True])
def test_every_status_ends_in_a_verdict(succeeded):
    """There is no status without a line, and never a failure without a class."""
    for status in range(100, 1000):
        verdict = _judge(status, b"x", succeeded=succeeded)
        assert verdict.error_class, status
        assert verdict.action is not DONE, status
