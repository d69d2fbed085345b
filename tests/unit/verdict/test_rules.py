"""The verdict table by examples: for each line at least one reply of a real server."""

import json
from typing import NamedTuple

import pytest

from batchrun.core.verdict import rules
from batchrun.core.verdict.judge import Circumstances, judge
from batchrun.core.verdict.rules import CODES, RULES, STATUS_OF_NAME, Action
from batchrun.errors import TransportFault
from batchrun.records import Reply
from batchrun.simulator.catalogue import CATALOGUE

THROTTLE, FREE, AGAIN = Action.THROTTLE, Action.FREE, Action.AGAIN
FAIL, STOP = Action.FAIL, Action.STOP


class Case(NamedTuple):
    """One exchange: who does it, what decides, what becomes of it."""

    who: str
    rule: str
    action: Action
    error_class: str
    status: int = 0
    body: object = b""
    headers: dict[str, str] = {}  # noqa: RUF012  never changed
    fault: str | None = None
    succeeded: bool = False
    runs_model: bool = True
    rulings: dict[str, int] = {}  # noqa: RUF012  never changed


def _error(code=None, kind=None, message="m", **more):
    return {"error": {"code": code, "type": kind, "message": message} | more}


PAGE = b"<html><center><h1>nginx</h1></center></html>"
PER_DAY = {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}
RETRY_INFO = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "46s"}
IN_FLIGHT = {"error": {"code": 402, "metadata": {"limit_source": "openrouter_in_flight_budget"}}}

CASES = [
    # Faults of the way
    Case("no reply in time", "timeout", AGAIN, "timeout", fault="timeout"),
    Case("no such host, ever", "unknown_host", AGAIN, "connection", fault="dns"),
    Case("no such host, for ever", "unknown_host", STOP, "connection", fault="dns",
         rulings={"unknown_host": 3}),
    Case("no such host, for a while", "connect", AGAIN, "connection", fault="dns", succeeded=True),
    Case("nobody listens", "connect", AGAIN, "connection", fault="connect"),
    Case("a stale connection", "stale", FREE, "connection", fault="stale"),
    Case("closed before a reply", "reset", FREE, "connection", fault="reset"),
    Case("a cut body", "cut", AGAIN, "connection", fault="cut"),
    Case("a stream without its end", "incomplete", AGAIN, "incomplete_stream", fault="incomplete"),
    Case("broken while we were stopped", "suspended", FREE, "connection", fault="suspended"),
    Case("a bad certificate", "tls", STOP, "config", fault="tls"),
    Case("a proxy that refuses", "tls", STOP, "config", fault="proxy"),
    Case("a huge body", "too_large", FAIL, "response_too_large", fault="too_large"),
    # 400
    Case("OpenAI", "context", FAIL, "context_length", 400, _error("context_length_exceeded")),
    Case("OpenAI", "context", FAIL, "context_length", 400, _error("string_above_max_length")),
    Case("llama.cpp", "context", FAIL, "context_length", 400,
         _error(400, "exceed_context_size_error", n_prompt_tokens=9, n_ctx=4)),
    Case("vLLM", "context", FAIL, "context_length", 400,
         _error(400, "BadRequestError", "This model's maximum context length is 9 tokens.")),
    Case("SGLang", "context", FAIL, "context_length", 400,
         {"object": "error", "code": 400, "type": "BadRequest", "param": None,
          "message": "The input (9 tokens) is longer than the model's context length (4 tokens)."}),
    Case("TGI", "context", FAIL, "context_length", 422,
         {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 9",
          "error_type": "validation"}),
    Case("Cerebras", "context", FAIL, "context_length", 400,
         {"message": "Current length is 9 while limit is 4", "type": "invalid_request_error"}),
    Case("OpenAI", "filter", FAIL, "content_filter", 400, _error("content_policy_violation")),
    Case("OpenAI", "filter", FAIL, "content_filter", 400, _error("invalid_prompt")),
    Case("OpenAI", "filter", FAIL, "content_filter", 400, _error("cyber_policy")),
    Case("Azure", "filter", FAIL, "content_filter", 400, _error("content_filter")),
    Case("Azure, inside", "filter", FAIL, "content_filter", 400,
         _error("400", innererror={"code": "ResponsibleAIPolicyViolation"})),
    Case("OpenRouter, moderation", "filter", FAIL, "content_filter", 403,
         _error(403, metadata={"reasons": ["violence"], "flagged_input": "x"})),
    Case("Groq", "model_output", AGAIN, "invalid_output", 400, _error("tool_use_failed")),
    Case("Groq", "model_output", FAIL, "invalid_output", 400, _error("json_validate_failed"),
         rulings={"model_output": 2}),
    Case("OpenAI", "invalid", FAIL, "invalid_request", 400, _error(None, "invalid_request_error")),
    Case("FastAPI", "invalid", FAIL, "invalid_request", 422, {"detail": [{"loc": [], "msg": "x"}]}),
    Case("OpenAI, a long user name", "invalid", FAIL, "invalid_request", 400,
         _error(None, "invalid_request_error", "Invalid 'user': string too long.")),
    Case("Anthropic, spending", "quota", STOP, "quota", 400,
         _error("enforced_spend_limit_reached")),
    Case("Anthropic, spending in words", "quota", STOP, "quota", 400,
         _error(None, "invalid_request", "You have reached your specified API usage limits.")),
    Case("a gateway's spending limit", "quota", STOP, "quota", 403,
         _error("team_spend_limit_exceeded")),
    Case("DashScope, per minute", "allocated", THROTTLE, "rate_limit", 429,
         _error("insufficient_quota", "insufficient_quota",
                "Allocated quota exceeded, please increase your quota limit.")),
    Case("MiniMax, a plan", "quota_resets", STOP, "quota", 429,
         _error(None, "rate_limit_error", "usage limit exceeded (2056)")),
    Case("MiniMax, a plan but soon", "quota_resets", THROTTLE, "quota", 429,
         _error(None, "rate_limit_error", "usage limit exceeded (2056)"), {"retry-after": "60"}),
    Case("Anthropic, a cut body", "unparsed", AGAIN, "invalid_request", 400,
         _error(None, "invalid_request_error", "The request body is not valid JSON: unexpected end "
                "of data: line 1 column 9 (char 8)")),
    Case("FastAPI, a cut body", "unparsed", FAIL, "invalid_request", 422,
         {"detail": [{"type": "json_invalid", "loc": ["body", 9], "msg": "JSON decode error"}]},
         rulings={"unparsed": 3}),
    Case("a load balancer", "page_400", AGAIN, "invalid_request", 400, PAGE),
    Case("nobody in particular", "unsupported", FAIL, "invalid_request", 501),
    # 401 to 403
    Case("OpenAI", "auth", STOP, "auth", 401, _error("invalid_api_key")),
    Case("vLLM", "auth", STOP, "auth", 401, {"error": "Unauthorized"}),
    Case("OpenAI, a new key", "auth_again", AGAIN, "auth", 401, succeeded=True),
    Case("OpenAI, a revoked key", "auth_again", STOP, "auth", 401, succeeded=True,
         rulings={"auth_again": 2}),
    Case("DeepSeek", "billing", STOP, "billing", 402, _error("insufficient_balance")),
    Case("OpenRouter, for now", "budget_in_flight", THROTTLE, "rate_limit", 402, IN_FLIGHT,
         {"retry-after": "2"}),
    Case("OpenRouter, without a wait", "billing", STOP, "billing", 402, IN_FLIGHT),
    Case("OpenRouter, too much", "above_budget", FAIL, "request_too_large", 402,
         _error("weight_exceeds_budget")),
    Case("OpenAI, a region", "forbidden", STOP, "forbidden", 403,
         _error("unsupported_country_region_territory")),
    Case("OpenRouter, a key's limit", "forbidden", STOP, "forbidden", 403, _error(403)),
    Case("a firewall", "forbidden", STOP, "forbidden", 403, PAGE),
    Case("API Management, for hours", "gateway_quota", STOP, "quota", 403,
         {"statusCode": 403,
          "message": "Out of call volume quota. Quota will be replenished in 08:00:00."}),
    Case("API Management, for minutes", "gateway_quota", THROTTLE, "quota", 403,
         {"statusCode": 403,
          "message": "Out of call volume quota. Quota will be replenished in 00:05:00."}),
    # 404
    Case("OpenAI, the run's model", "wrong_model", STOP, "not_found", 404,
         _error("model_not_found")),
    Case("OpenAI, the row's model", "not_found", FAIL, "not_found", 404, _error("model_not_found"),
         runs_model=False),
    Case("Azure, a new deployment", "model_gone", AGAIN, "not_found", 404,
         _error("DeploymentNotFound"), succeeded=True),
    Case("Azure, a deleted deployment", "model_gone", STOP, "not_found", 404,
         _error("DeploymentNotFound"), succeeded=True, rulings={"model_gone": 2}),
    Case("FastAPI, a wrong path", "wrong_path", STOP, "not_found", 404, {"detail": "Not Found"},
         runs_model=False),
    Case("nginx, a wrong path", "wrong_path", STOP, "not_found", 404, PAGE, runs_model=False),
    Case("a path that is gone", "path_gone", AGAIN, "not_found", 404, PAGE, succeeded=True),
    Case("a file that the row names", "not_found", FAIL, "not_found", 404,
         _error("file_not_found"), succeeded=True),
    Case("a retired model", "not_found", FAIL, "not_found", 410),
    Case("LM Studio without /v1", "wrong_path", STOP, "not_found", 200,
         {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
    # Other 3xx and 4xx
    *(Case("a wrong address", "config", STOP, "config", status, PAGE)
      for status in (301, 302, 303, 307, 308, 405, 406, 407, 415)),
    Case("a slow server", "request_timeout", AGAIN, "timeout", 408),
    Case("a lock", "conflict", AGAIN, "server_error", 409),
    Case("nginx", "payload", FAIL, "payload_too_large", 413, PAGE),
    Case("Groq", "payload", FAIL, "payload_too_large", 413, _error("rate_limit_exceeded")),
    *(Case("Groq and others", "dependency", AGAIN, "server_error", status)
      for status in (421, 424, 425, 499)),
    Case("Groq, flex", "overloaded", AGAIN, "overloaded", 498, _error("capacity_exceeded")),
    # 429
    Case("OpenAI", "throttled", THROTTLE, "rate_limit", 429,
         _error("rate_limit_exceeded", "tokens")),
    Case("TGI", "throttled", THROTTLE, "rate_limit", 429,
         {"error": "Model is overloaded", "error_type": "overloaded"}),
    Case("OpenAI, an old type", "throttled", THROTTLE, "rate_limit", 429,
         _error("rate_limit_exceeded", "insufficient_quota")),
    Case("OpenAI", "slow_down", THROTTLE, "rate_limit", 429,
         _error("slow_down", "rate_limit_error")),
    *(Case("OpenAI", "quota", STOP, "quota", 429, _error(code, "insufficient_quota"))
      for code in ("insufficient_quota", "credit_balance_exhausted",
                   "organization_spend_limit_exceeded", "project_spend_limit_exceeded",
                   "organization_usage_limit_exceeded")),
    Case("Gemini, per minute", "throttled", THROTTLE, "rate_limit", 429,
         [_error(429, details=[RETRY_INFO])]),
    Case("Gemini, per day", "per_day", STOP, "rate_limit", 429, [_error(429, details=[PER_DAY])]),
    Case("Gemini, per day but soon", "per_day", THROTTLE, "rate_limit", 429,
         [_error(429, details=[PER_DAY, RETRY_INFO])]),
    Case("Gemini, for hours", "throttled", STOP, "rate_limit", 429,
         [_error(429, message="Please retry in 10h17m5.7s.")]),
    Case("a gateway, per day", "per_day", STOP, "rate_limit", 200,
         {"code": "rate_limit_daily", "message": "m"}),
    Case("Groq, per day", "per_day", STOP, "rate_limit", 429,
         _error("rate_limit_exceeded", "tokens", "Rate limit reached for model `m` on tokens per "
                "day (TPD): Limit 9, Used 9, Requested 1. Please try again in 10m3.5s.")),
    Case("OpenAI, too large", "above_limit", FAIL, "request_too_large", 429,
         _error("rate_limit_exceeded", "tokens",
                "Request too large for m on tokens per min (TPM): Limit 30000, Requested 45000.")),
    Case("OpenAI, not too large", "throttled", THROTTLE, "rate_limit", 429,
         _error("rate_limit_exceeded", "tokens",
                "Rate limit reached for m on tokens per min (TPM): Limit 9, Used 9, Requested 4.")),
    Case("Gemini, no limit at all", "no_limit", STOP, "quota", 429,
         [_error(429, message="You exceeded your current quota.\n* limit: 0, model: m")]),
    # 5xx
    Case("OpenAI", "server", AGAIN, "server_error", 500, _error(None, "server_error")),
    *(Case("nginx", "server", AGAIN, "server_error", status, PAGE) for status in (502, 504)),
    Case("Cloudflare", "server", AGAIN, "server_error", 520, PAGE),
    *(Case("Cloudflare", "unreachable", AGAIN, "server_error", status, PAGE)
      for status in (521, 522, 523, 530)),
    Case("Cloudflare", "silent_too_long", AGAIN, "server_error", 524,
         {"type": "about:blank", "title": "Error 524", "status": 524}),
    *(Case("Cloudflare", "origin_tls", AGAIN, "config", status, PAGE) for status in (525, 526)),
    Case("Cloudflare", "origin_tls", STOP, "config", 526, rulings={"origin_tls": 2}),
    Case("llama.cpp", "starting", AGAIN, "overloaded", 503,
         _error(503, "unavailable_error", "Loading model")),
    Case("OpenAI", "overloaded", AGAIN, "overloaded", 503, _error("server_is_overloaded"),
         succeeded=True),
    Case("SGLang", "overloaded", AGAIN, "overloaded", 503,
         {"object": "error", "message": "The request queue is full.", "code": 503},
         succeeded=True),
    Case("Anthropic", "overloaded", AGAIN, "overloaded", 529,
         {"type": "error", "error": {"type": "overloaded_error"}}),
    # Under status 200
    Case("OpenRouter", "throttled", THROTTLE, "rate_limit", 200,
         {"id": None, "choices": None, "error": {"code": 429, "message": "m"}}),
    Case("DeepSeek", "unfinished", AGAIN, "server_error", 200,
         {"choices": [{"message": {}, "finish_reason": "insufficient_system_resource"}]}),
    Case("a login page", "not_a_completion", AGAIN, "invalid_response", 200, PAGE),
    Case("a login page, for ever", "not_a_completion", FAIL, "invalid_response", 200, PAGE,
         rulings={"not_a_completion": 2}),
]  # fmt: skip


def _rule(case):
    circumstances = Circumstances(
        case.rulings, case.succeeded, 1_700_000_000.0, 600.0, case.runs_model
    )
    if case.fault:
        return judge(TransportFault("it broke", kind=case.fault, sent=True), circumstances)
    body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
    return judge(Reply(case.status, case.headers, body), circumstances)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}, {case.status}, {case.who}")
def test_a_reply_of_a_real_server(case):
    """The line that decides, what is done, and the error class."""
    verdict = _rule(case)
    assert (verdict.rule, verdict.action, verdict.error_class) == (
        case.rule,
        case.action,
        case.error_class,
    )
    assert verdict.message


def test_every_line_has_an_example_and_a_name():
    """No line of the table is named twice, and none goes without an example."""
    named = [rule.name for rule in RULES]
    assert len(set(named)) == len(named)
    assert {case.rule for case in CASES} == set(named)


def test_every_code_and_every_name_has_its_effect():
    """A code of a line reaches it under each of its statuses, whatever stands above it."""
    for rule in RULES:
        for code in rule.codes - {name for name in rule.codes if name.startswith("@")}:
            for status in rule.statuses:
                case = Case("", rule.name, rule.action, "", status, _error(code),
                            {"retry-after": "1"}, None, rule.succeeded or False)  # fmt: skip
                assert _rule(case).rule == rule.name, (code, status)


@pytest.mark.parametrize(("name", "status"), sorted(STATUS_OF_NAME.items()))
def test_a_name_under_status_200_is_its_status(name, status):
    """An error that only names itself is judged as under the status that it should have had."""
    if name.startswith("@"):
        return
    inside = _rule(Case("", "", FAIL, "", 200, _error(name)))
    plain = _rule(Case("", "", FAIL, "", status, _error(name)))
    assert (inside.rule, inside.action) == (plain.rule, plain.action)


def test_codes_are_identifiers():
    """What silences a type is a server's own code, never a name of ours."""
    assert "insufficient_quota" in CODES and "rate_limit_exceeded" in CODES
    assert not [code for code in CODES if code.startswith("@")]
    assert rules.UNFINISHED not in STATUS_OF_NAME


def test_the_simulator_plays_every_line_that_a_reply_can_reach():
    """Each line of the table is met by one of the simulator's errors, in some circumstances."""
    met = set()
    for name, rejection in CATALOGUE.items():
        reply = Reply(rejection.status, dict(rejection.headers) | {"retry-after": "1"},
                      rejection.body)  # fmt: skip
        for succeeded in (False, True):
            for runs_model in (False, True):
                circumstances = Circumstances({}, succeeded, 0.0, 600.0, runs_model)
                verdict = judge(reply, circumstances)
                assert verdict.action is not Action.DONE, name
                met.add(verdict.rule)
    assert met == {rule.name for rule in RULES if not rule.faults}
