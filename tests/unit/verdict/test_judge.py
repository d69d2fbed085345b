"""What one exchange means for its row and for the run."""

import json

import pytest

from batchrun.core.verdict.judge import Action, Circumstances, judge
from batchrun.errors import TransportFault
from batchrun.records import Reply, Usage

DONE, THROTTLE, FREE = Action.DONE, Action.THROTTLE, Action.FREE
AGAIN, FAIL, STOP = Action.AGAIN, Action.FAIL, Action.STOP
ANSWER = {"choices": [{"message": {"content": "hi"}}]}


def _judge(
    status, body=b"", *, headers=None, rulings=None, succeeded=False, wait_s_max=600.0, **more
):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge(
        Reply(status, headers or {}, data),
        Circumstances(rulings or {}, succeeded, 1_700_000_000.0, wait_s_max, **more),
    )


def _fault(kind, *, rulings=None, succeeded=False, **more):
    return judge(
        TransportFault("it broke", kind=kind, sent=True),
        Circumstances(rulings or {}, succeeded, 0.0, 600.0, **more),
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
        ("dns", AGAIN, "connection"),
        ("connect", AGAIN, "connection"),
        ("stale", FREE, "connection"),
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


@pytest.mark.parametrize("code", [None, "no_such_code", "12", "4290", "-42", 0])
def test_an_error_under_status_200_without_a_status_is_transient(code):
    """Without a status or a known name inside, nothing is known but that the server failed."""
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


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b" ", "empty body"),
        (b"<html>Sign in</html>", "(a page, not JSON): <html>"),
        (b'{"choices": [{"mess', "(JSON that breaks off): "),
        (b'{"choices": []} {}', "(not JSON, for something follows behind character 16): "),
        (b"{'choices': 1}", "(not JSON, from character 1 on): "),
        (b"[" * 100_000, "(JSON that is nested too deeply): "),
        (b"[1]", "(not a JSON object): [1]"),
        (b"null", "(not a JSON object): null"),
        (b'{"id": 1}', '(no choices): {"id": 1}'),
        (b'{"choices": [{"text": "a"}]}', "(no message in its choices): "),
    ],
)
def test_a_success_without_a_completion_is_told_apart(body, words):
    """The message says what is wrong with the body, and shows its start."""
    message = _judge(200, body).message
    assert message.startswith("HTTP 200 without a completion") and words in message


def test_a_refusal_told_as_an_event_is_read():
    """Servers that were asked for a stream refuse in one, whatever the status is."""
    body = b": hi\n\ndata: %b\n\n" % json.dumps(_error("context_length_exceeded")).encode()
    assert _judge(400, body).error_class == "context_length"


def test_a_redirect_names_its_target():
    """Where it points to is what tells a login page from a wrong base URL."""
    verdict = _judge(302, b"", headers={"location": "https://login.example/x"})
    assert "redirected to https://login.example/x" in verdict.message


def test_a_reply_without_a_readable_error_is_shown():
    """The message is the status and the start of the body, on one line."""
    verdict = _judge(502, b"<html>\r\n<h1>Bad   Gateway</h1>\n" + b"x" * 1000)
    assert verdict.message.startswith("HTTP 502: <html> <h1>Bad Gateway</h1> x")
    assert len(verdict.message) < 400
    assert _judge(500, b"").message == "HTTP 500: empty body"


@pytest.mark.parametrize(
    ("rule", "judged", "tries", "before", "after"),
    [
        ("stale", lambda rulings: _fault("stale", rulings=rulings), 8, FREE, AGAIN),
        ("suspended", lambda rulings: _fault("suspended", rulings=rulings), 20, FREE, AGAIN),
        ("reset", lambda rulings: _fault("reset", rulings=rulings), 1, FREE, AGAIN),
        ("timeout", lambda rulings: _fault("timeout", rulings=rulings), 2, AGAIN, FAIL),
        ("unknown_host", lambda rulings: _fault("dns", rulings=rulings), 3, AGAIN, STOP),
        ("origin_tls", lambda rulings: _judge(525, rulings=rulings), 2, AGAIN, STOP),
        (
            "model_output",
            lambda rulings: _judge(400, _error("tool_use_failed"), rulings=rulings),
            2,
            AGAIN,
            FAIL,
        ),
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


def test_messages_are_not_searched():
    """A prompt echoed in an error message cannot change what happens."""
    echo = "rate limit 429 insufficient_quota context_length_exceeded maximum context length"
    verdict = _judge(400, _error(None, "invalid_request_error", echo))
    assert (verdict.action, verdict.error_class) == (FAIL, "invalid_request")


@pytest.mark.parametrize(
    ("body", "action", "error_class"),
    [
        # OpenRouter: a number, a number as text, a provider's failure in a choice
        ({"choices": None, "error": {"code": 429, "message": "m"}}, THROTTLE, "rate_limit"),
        ({"error": {"code": "502", "message": "m"}}, AGAIN, "server_error"),
        (
            {"choices": [{"message": {"content": "a"}, "finish_reason": "error",
                          "error": {"code": 403, "metadata": {"reasons": ["violence"]}}}]},
            FAIL,
            "content_filter",
        ),
        # a gateway's flat object, without an error key
        ({"code": "rate_limit_daily", "message": "m"}, STOP, "rate_limit"),
        ({"object": "error", "code": 400, "message": "m"}, FAIL, "invalid_request"),
        # names instead of numbers
        ({"error": {"type": "rate_limit_error", "message": "m"}}, THROTTLE, "rate_limit"),
        ({"error": {"code": "context_length_exceeded"}}, FAIL, "context_length"),
        ({"error": {"code": "insufficient_quota"}}, STOP, "quota"),
        ({"error": {"type": "overloaded_error"}}, AGAIN, "overloaded"),
        ({"error": {"status": "UNAVAILABLE"}}, AGAIN, "overloaded"),
        ({"error": "Unauthorized"}, STOP, "auth"),
        ({"error": "This model's maximum context length is 9 tokens"}, FAIL, "context_length"),
        # LM Studio without /v1
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, STOP, "not_found"),
        # Gemini's array
        ([{"error": {"code": 429, "message": "m"}}], THROTTLE, "rate_limit"),
        # nothing that is known
        ({"error": "something"}, AGAIN, "server_error"),
        ({"error": {"message": "m"}, "choices": [{"message": {"content": "a"}}]}, AGAIN,
         "server_error"),
        ({"message": "hello"}, AGAIN, "invalid_response"),
        ([{"choices": [{"message": {"content": "a"}}]}], AGAIN, "invalid_response"),
        ({"choices": [{"text": "hi"}]}, AGAIN, "invalid_response"),
        ({"choices": [{"delta": {"content": "hi"}}]}, AGAIN, "invalid_response"),
        ({"choices": [{"message": None}]}, AGAIN, "invalid_response"),
    ],
)  # fmt: skip
def test_an_error_under_status_200_is_known_by_what_it_says(body, action, error_class):
    """The code inside counts, else the names, else the server failed; a body that is neither a
    completion nor an error is not one.
    """
    verdict = _judge(200, body)
    assert (verdict.action, verdict.error_class) == (action, error_class)
    assert verdict.message


@pytest.mark.parametrize(
    "reason", ["error", "abort", "network_error", "insufficient_system_resource"]
)
def test_an_answer_that_the_server_broke_off_is_tried_again(reason):
    """What came before is no answer; its tokens were billed all the same."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    choice = {"message": {"content": "The beg"}, "finish_reason": reason}
    verdict = _judge(200, {"choices": [choice], "usage": usage})
    assert (verdict.action, verdict.error_class) == (AGAIN, "server_error")
    assert verdict.code == reason and reason in verdict.message
    assert verdict.completion is None and verdict.usage == Usage(3, 4, 7)
    both = [{"message": {"content": "a"}, "finish_reason": "stop"}, choice]
    assert _judge(200, {"choices": both}).action is AGAIN
    for other in ("stop", "length", "content_filter", "eos", "sensitive", None):
        assert _judge(200, {"choices": [choice | {"finish_reason": other}]}).action is DONE


def test_usage_of_a_reply_that_is_no_answer_is_kept():
    """An error may have been billed: what it says of its cost goes into the ledger."""
    verdict = _judge(500, _error() | {"usage": {"total_tokens": 9}})
    assert verdict.usage.total_tokens == 9


@pytest.mark.parametrize(
    ("status", "said", "action"),
    [
        (400, "true", AGAIN),
        (401, "true", AGAIN),
        (429, "true", THROTTLE),
        (500, "false", FAIL),
        (503, "false", FAIL),
        (429, "false", FAIL),
        (401, "false", STOP),
        (400, "false", FAIL),
        (400, "maybe", FAIL),
        (500, "", AGAIN),
    ],
)
def test_a_server_that_says_whether_to_retry_is_obeyed(status, said, action):
    """``x-should-retry`` comes before the table's own action."""
    verdict = _judge(status, _error(), headers={"x-should-retry": said})
    assert verdict.action is action


def test_being_told_to_retry_ends_with_the_attempts():
    """At the last attempt the table's own action holds again."""
    headers = {"x-should-retry": "true"}
    assert _judge(400, headers=headers, last_try=True).action is FAIL
    assert _judge(401, headers=headers, last_try=True).action is STOP


def test_what_would_stop_the_run_does_not_fail_its_last_try():
    """A row that runs out of attempts before the rule runs out of tries stays pending."""
    assert _judge(401, succeeded=True, last_try=True).action is STOP
    assert _fault("dns", last_try=True).action is STOP
    assert _judge(500, last_try=True).action is AGAIN


@pytest.mark.parametrize(
    ("wait", "action"), [(None, STOP), ("599", THROTTLE), ("600", THROTTLE), ("601", STOP)]
)
def test_a_limit_per_day_is_waited_out_or_stops_the_run(wait, action):
    """Within the longest wait it is throttling; beyond it, or of unknown length, it is a stop."""
    headers = {} if wait is None else {"retry-after": wait}
    verdict = _judge(429, {"code": "rate_limit_daily", "message": "m"}, headers=headers)
    assert (verdict.action, verdict.error_class) == (action, "rate_limit")


def test_refusals_without_end_stop_the_run():
    """Throttling is free for a row, and still does not go on for ever."""
    assert _judge(429, refused_s=3599).action is THROTTLE
    assert _judge(429, refused_s=3601).action is STOP
    assert _judge(429, refused_s=3601, wait_s_max=2000).action is THROTTLE
    assert _judge(500, refused_s=10**6).action is AGAIN


@pytest.mark.parametrize(
    ("wait", "refused_s", "action"),
    [("30", 299, THROTTLE), ("30", 301, STOP), ("500", 1400, THROTTLE), ("500", 1600, STOP)],
)
def test_refusals_by_a_limit_of_a_day_stop_the_run_soon(wait, refused_s, action):
    """A server that asks to come back in 30 s all day long is believed for minutes, not an hour."""
    body = {"code": "rate_limit_daily", "message": "m"}
    assert _judge(429, body, headers={"retry-after": wait}, refused_s=refused_s).action is action


def test_a_code_that_is_known_silences_the_type():
    """A type may still read insufficient_quota where the code says something else."""
    verdict = _judge(429, _error("rate_limit_exceeded", "insufficient_quota"))
    assert (verdict.action, verdict.error_class) == (THROTTLE, "rate_limit")
    assert _judge(429, _error("some_code", "insufficient_quota")).action is STOP


@pytest.mark.parametrize(
    ("headers", "body", "wait_s"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, _error(), 1.5),
        ({"retry-after": "9"}, {"error": {"retry_after": 5}}, 9),
        ({"retry-after": "junk"}, {"error": {"retry_after": 5}}, 5),
        ({}, {"error": {"message": "Please try again in 5.289s."}}, 5.289),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}, _error(), 2),
        ({"x-ratelimit-reset-tokens": "2s"}, _error(), None),
    ],
)
def test_the_first_that_says_how_long_to_wait_counts(headers, body, wait_s):
    """Headers, then the body, then the limits that are used up."""
    assert _judge(429, body, headers=headers).wait_s == wait_s


def test_a_reset_is_only_read_of_a_refusal():
    """Every reply carries reset headers: they are no wait where nothing was refused."""
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s"}
    assert _judge(500, headers=headers).wait_s is None


def test_a_proxy_that_gives_up_twice_gets_advice():
    """The second 524 of a row tells what helps."""
    assert "stream" not in _judge(524, _error()).message
    assert "stream" in _judge(524, _error(), rulings={"silent_too_long": 1}).message


@pytest.mark.parametrize("succeeded", [False, True])
def test_every_status_ends_in_a_verdict(succeeded):
    """There is no status without a line, and never a failure without a class."""
    for status in range(100, 1000):
        verdict = _judge(status, b"x", succeeded=succeeded)
        assert verdict.error_class, status
        assert verdict.action is not DONE, status


@pytest.mark.parametrize(
    ("status", "body", "action", "error_class", "code"),
    [
        (
            400,
            (
                b'{"error":{"code":400,"message":"request (931 tokens) exceeds the available '
                b'context size (512 tokens), try increasing it","type":"exceed_context_size_error",'
                b'"n_prompt_tokens":931,"n_ctx":512}}'
            ),
            FAIL,
            "context_length",
            "exceed_context_size_error",
        ),
        (
            400,
            (
                b'{"error":{"code":400,"message":"Field \'n\': Value must be between 1 <= value '
                b'<= 1, but got 3","type":"invalid_request_error"}}'
            ),
            FAIL,
            "invalid_request",
            "invalid_request_error",
        ),
        (
            401,
            b'{"error":{"message":"Invalid API Key","type":"authentication_error","code":401}}',
            STOP,
            "auth",
            "authentication_error",
        ),
        (
            500,
            (
                b'{"error":{"code":500,"message":"image input is not supported - hint: if this is '
                b'unexpected, you may need to provide the mmproj","type":"server_error"}}'
            ),
            AGAIN,
            "server_error",
            "server_error",
        ),
    ],
)
def test_what_llama_cpp_says(status, body, action, error_class, code):
    """Its errors as they came: the code repeats the status, so the type is kept for it."""
    verdict = _judge(status, body)
    assert (verdict.action, verdict.error_class, verdict.code) == (action, error_class, code)


@pytest.mark.parametrize(
    ("status", "body", "hinted"),
    [
        (404, {"detail": "Not Found"}, True),
        (404, b"404 page not found", True),
        (404, b"<pre>Cannot POST /chat/completions</pre>", True),
        (405, b"<h1>405 Not Allowed</h1>", True),
        (405, {"detail": "Method Not Allowed"}, True),
        (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, True),
        (200, b"<!doctype html><title>Web UI</title>", True),
        (200, b"Ollama is running", True),
        (200, {"code": 500, "msg": "404 NOT_FOUND", "success": False}, True),
        (200, b"", False),
        (200, {"choices": []}, False),
        (404, _error("model_not_found"), False),
        (407, b"", False),
        (415, b"", False),
        (500, b"<h1>oops</h1>", False),
    ],
)
def test_a_path_that_serves_something_else_is_named(status, body, hinted):
    """Before any answer the message tells what was asked and which base URL is likely meant."""
    url = "http://h:1234/chat/completions"
    message = _judge(status, body, url=url).message
    assert ("(asked http://h:1234/chat/completions: " in message) is hinted
    assert ("http://h:1234/v1" in message) is hinted
    assert "asked" not in _judge(status, body, url=url, succeeded=True).message
    assert "asked" not in _judge(status, body).message
