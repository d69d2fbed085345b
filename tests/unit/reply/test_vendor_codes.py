"""What the replies of many vendors mean, plain and streamed, and what only looks like them."""

import json

import pytest

from batchrun.core.reply import failure_reports, phrases, vendor_codes
from batchrun.core.reply.vendor_codes import MEANINGS, SAID_BY, judged_as, meaning_of
from batchrun.core.stream.fold import fold
from batchrun.core.verdict.judge import Circumstances, answered, judge
from batchrun.core.verdict.rules import STATUS_OF_NAME, Action
from batchrun.records import Reply

DONE, THROTTLE, AGAIN = Action.DONE, Action.THROTTLE, Action.AGAIN
FAIL, STOP = Action.FAIL, Action.STOP


def _judge(status, body, *, succeeded=False, headers=None, rulings=None, runs_model=True):
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    reply = Reply(status, headers or {}, data)
    circumstances = Circumstances(rulings or {}, succeeded, 1_700_000_000.0, 600.0, runs_model)
    return answered(reply) or judge(reply, circumstances)


def _streamed(*events, done=False):
    body = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    stream = fold(body + (b"data: [DONE]\n\n" if done else b""))
    return stream, stream.body()


def _error(code=None, message="m", kind=None, **more):
    return {"error": {"code": code, "message": message, "type": kind} | more}


def _mm(code, words):
    return {"id": "x", "choices": None, "base_resp": {"status_code": code, "status_msg": words}}


MODERATED = [
    ("Azure", 400, _error("content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
    ("DashScope", 400, _error("data_inspection_failed", "Output data may contain ...")),
    ("DashScope, native", 400, {"code": "DataInspectionFailed", "message": "m", "request_id": "1"}),
    ("DashScope, in words", 400, _error("invalid_parameter_error",
     "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate "
     "content.", "invalid_request_error")),
    ("DashScope, through a gateway", 500, _error("bad_response_status_code",
     "Input data may contain inappropriate content.")),
    ("DeepSeek", 400, _error("invalid_request_error", "Content Exists Risk",
                             "invalid_request_error")),
    ("Moonshot", 400, _error(400, "The request was rejected because it was considered high risk",
                             "content_filter")),
    ("Moonshot, words only", 400, {"error": {"message": "The request was rejected because it was "
                                                        "considered high risk"}}),
    ("Zhipu", 400, {"contentFilter": [{"level": 1}], **_error("1301", "unsafe or sensitive")}),
    ("Zhipu, words", 400, _error(None, "系统检测到输入或生成内容可能包含不安全或敏感内容")),
    ("Zhipu, 200", 200, {"code": 1301, "msg": "m", "success": False}),
    ("MiniMax", 200, _mm(1026, "input new_sensitive")),
    ("MiniMax", 200, _mm(1027, "output new_sensitive")),
    ("MiniMax", 422, {"type": "error", "error": {"type": "bad_request_error", "http_code": "422",
                                                 "message": "input new_sensitive (1026)"}}),
    ("MiniMax, its codes only", 500, _error(None, "something odd (1027)", "api_error")),
    ("Qianfan", 403, _error("system_unsafe", "the content of system field is invalid",
                            "unsafe_request")),
    ("Ark", 400, _error("SensitiveContentDetected.Violence", kind="BadRequest")),
    ("Ark", 400, _error("InputTextSensitiveContentDetected", kind="BadRequest")),
    ("Ark", 400, _error("OutputTextRiskDetection", kind="BadRequest")),
    ("Spark", 200, {"code": 10013, "message": "输入内容审核不通过", "sid": "s"}),
    ("Spark, header", 200, {"header": {"code": 10014, "message": "m", "sid": "s", "status": 2}}),
    ("Spark, error", 500, _error("10019", kind="api_error")),
    ("Tencent", 200, {"Response": {"Error": {"Code": "OperationDenied.TextIllegalDetected",
                                             "Message": "m"}, "RequestId": "1"}}),
    ("StepFun", 451, _error(None, "The content you provided or machine outputted is blocked.",
                            "censorship_blocked")),
    ("OpenRouter", 403, _error(403, "m", metadata={"reasons": ["violence"]})),
    ("OpenRouter, a provider's", 400, _error(400, "Provider returned error", metadata={
        "raw": json.dumps(_error("data_inspection_failed", "Input data may"))})),
    ("xAI", 403, {"code": "The caller does not have permission to execute the operation",
                  "error": "Content violates usage guidelines. Team: t, Failed check: X"}),
    ("Anthropic", 400, {"type": "error", "error": {
        "type": "invalid_request_error", "message": "Output blocked by content filtering policy"}}),
    ("Cohere", 498, {"message": "blocked output: please ensure that it satisfies our guidelines"}),
    ("LiteLLM", 400, _error("400", "litellm.ContentPolicyViolationError: AzureException - x")),
    ("new-api", 500, _error("sensitive_words_detected", "sensitive words detected: x",
                            "new_api_error")),
    ("new-api, Chinese", 400, _error(None, "检测到敏感词，请修改后重试", "new_api_error")),
]  # fmt: skip

SPENT = [
    ("DashScope", 400, _error("Arrearage", "Access denied, please make sure", "Arrearage"),
     "billing"),
    ("DashScope, words only", 400, {"error": "Access denied, please make sure your account is in "
                                             "good standing."}, "billing"),
    ("DashScope", 403, _error("AllocationQuota.FreeTierOnly"), "quota"),
    ("DashScope", 429, {"code": "PostpaidBillOverdue", "message": "m"}, "billing"),
    ("DashScope", 429, _error("insufficient_quota", "Free allocated quota exceeded."), "quota"),
    ("DeepSeek", 402, _error("invalid_request_error", "Insufficient Balance"), "billing"),
    ("DeepSeek, as 429", 429, _error(None, "Insufficient Balance"), "billing"),
    ("Moonshot", 429, _error(None, "Your account is suspended due to insufficient balance, please "
                                   "recharge", "exceeded_current_quota_error"), "quota"),
    ("Moonshot, words only", 429, {"error": {"message": "Your account o-1 <ak-2> is suspended due "
                                             "to insufficient balance"}}, "billing"),
    ("Zhipu", 429, _error("1113", "您的账户已欠费，请充值后重试"), "billing"),
    ("Zhipu, words only", 429, _error(None, "您的账户已欠费，请充值后重试。"), "billing"),
    ("z.ai", 429, _error("1113", "Insufficient balance or no resource package."), "billing"),
    ("Zhipu, 5 hours", 429, _error("1308", "已达到 5 小时 的使用上限。"), "quota"),
    ("Zhipu, 200", 200, {"code": 1113, "msg": "欠费", "success": False}, "billing"),
    ("MiniMax", 200, _mm(1008, "insufficient balance"), "billing"),
    ("MiniMax", 429, _error(None, "insufficient balance (1008)", "insufficient_balance_error",
                            http_code="429"), "billing"),
    ("MiniMax", 500, {"type": "error", "error": {
        "type": "api_error", "message": "insufficient balance (1008)"}}, "billing"),
    ("MiniMax, a plan", 429, _error(None, "usage limit exceeded (2056)", "rate_limit_error"),
     "quota"),
    ("MiniMax, a plan", 200, _mm(2056, "usage limit exceeded"), "quota"),
    ("Qianfan", 403, _error("account_overdue", kind="access_denied"), "billing"),
    ("Qianfan, a plan", 429, _error("coding_plan_month_quota_exceeded"), "quota"),
    ("Baidu", 200, {"error_code": 19, "error_msg": "Open api total request limit reached"},
     "quota"),
    ("Baidu, a day", 200, {"error_code": 17, "error_msg": "Open api daily request limit reached"},
     "rate_limit"),
    ("Ark", 403, _error("AccountOverdueError", kind="Forbidden"), "billing"),
    ("Ark", 429, _error("SetLimitExceeded", kind="TooManyRequests"), "quota"),
    ("Ark", 429, _error("QuotaExceeded", kind="TooManyRequests"), "quota"),
    ("Tencent", 200, {"Response": {"Error": {"Code": "FailedOperation.ResourcePackExhausted",
                                             "Message": "资源包余量已用尽"}}}, "billing"),
    ("Tencent", 400, _error("FailedOperation.ServiceStopArrears"), "billing"),
    ("StepFun", 402, _error(None, "insufficient balance"), "billing"),
    ("SiliconFlow", 403, {"code": 30001, "data": None,
                          "message": "Sorry, your account balance is insufficient"}, "billing"),
    ("LiteLLM", 400, _error("400", "Budget has been exceeded! Current cost: 9, Max budget: 1",
                            "budget_exceeded"), "quota"),
    ("LiteLLM", 429, _error("429", "ExceededBudget: End User=x over budget. Spend=1",
                            "budget_exceeded"), "quota"),
    ("LiteLLM, wrapped", 400, _error("400", "litellm.BadRequestError: OpenAIException - Budget has "
                                            "been exceeded! Current cost: 14.1"), "quota"),
    ("LiteLLM, no code", 429, _error(None, "LiteLLM User: e-1, exceeded budget for model=m"),
     "quota"),
    ("LiteLLM, deployments", 429, _error(None, "No deployments available - crossed budget: Exc"),
     "quota"),
    ("Fireworks", 412, _error("PRECONDITION_FAILED", "Account p is suspended, possibly due to "
     "reaching the monthly spending limit or failure to pay past invoices.", "error"), "quota"),
    ("OpenRouter", 402, _error(402, "Insufficient credits"), "billing"),
    ("OpenRouter, a key", 403, _error(403, "Key limit exceeded (total limit)."), "quota"),
    ("xAI", 429, {"code": "Some resource has been exhausted", "error": "Your team 16f2151a-40f4-"
     "4a80-8ad0-cae00c27e8dd has either used all available credits or reached its monthly spending "
     "limit."}, "billing"),
    ("xAI, new", 403, {"error": "Your newly created team doesn't have any credits or licenses"},
     "billing"),
    ("Cohere, a trial", 429, {"message": "You are using a Trial key, which is limited to 1000 API "
                                         "calls / month."}, "quota"),
    ("one-api", 403, _error("insufficient_user_quota", "user quota is not enough"), "quota"),
    ("one-api, Chinese", 403, _error(None, "用户额度不足, 剩余额度: ¥0.000000"), "quota"),
    ("one-api, a token", 401, _error(None, "该令牌额度已用尽 !token.Un", "new_api_error"),
     "quota"),
    ("one-api, named", 429, _error(None, "令牌 t（#1）额度已用尽"), "quota"),
    ("new-api", 403, _error("pre_consume_token_quota_failed", "token quota is not enough"),
     "quota"),
    ("new-api, words", 429, _error(None, "预扣费额度失败, 用户剩余额度: ¥0.23"), "quota"),
    ("a gateway, Chinese", 429, _error(None, "账户余额不足，请充值"), "billing"),
    ("a gateway, 200", 200, {"code": 500, "msg": "余额不足", "success": False}, "billing"),
    ("a gateway", 429, {"code": "INSUFFICIENT_BALANCE", "message": "Insufficient account balance"},
     "billing"),
    ("a gateway", 429, _error(None, "You have run out of credits."), "billing"),
    ("a gateway", 403, _error(None, "Your account has run out of funds."), "billing"),
    ("a gateway", 400, _error(None, "Your organization has no remaining credits"), "billing"),
    ("a gateway", 429, _error(None, "You've used up your free credits"), "billing"),
    ("a gateway", 429, _error(None, "Your monthly token quota has been exhausted"), "quota"),
]  # fmt: skip

OTHERS = [
    ("Zhipu", 401, _error("1002", "Authorization Token非法"), STOP, "auth"),
    ("Zhipu, 200", 200, {"code": 1001, "success": False,
     "msg": "Header中未收到Authorization参数，无法进行身份验证。"}, STOP, "auth"),
    ("MiniMax", 200, _mm(1004, "login fail"), STOP, "auth"),
    ("MiniMax", 200, _mm(2049, "invalid api key"), STOP, "auth"),
    ("Baidu", 200, {"error_code": 110, "error_msg": "Access token invalid"}, STOP, "auth"),
    ("Gemini", 400, [_error(400, "API key not valid. Please pass a valid API key.",
     status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}])], STOP, "auth"),
    ("xAI", 400, {"code": "Client specified an invalid argument",
                  "error": "Incorrect API key provided: xa***."}, STOP, "auth"),
    ("one-api", 401, _error(None, "无效的令牌"), STOP, "auth"),
    ("one-api, 200", 200, {"success": False, "message": "无效的令牌"}, STOP, "auth"),
    ("Tencent", 200, {"Response": {"Error": {"Code": "AuthFailure.SignatureFailure",
                                             "Message": "m"}}}, STOP, "auth"),
    ("Spark", 200, {"error": {"message": "AppIdNoAuthError", "code": "11200"}}, STOP, "forbidden"),
    ("Groq", 400, _error("organization_restricted"), STOP, "forbidden"),
    ("Gemini, a region", 400, _error(400, "User location is not supported for the API use."),
     STOP, "forbidden"),
    ("DashScope", 403, _error("AccessDenied.Unpurchased"), STOP, "forbidden"),
    ("Zhipu", 429, _error("1302", "您当前使用该API的并发数过高"), THROTTLE, "rate_limit"),
    ("Zhipu, 200", 200, {"code": 1302, "msg": "m", "success": False}, THROTTLE, "rate_limit"),
    ("Zhipu, a day", 429, _error("1304", "该API已达今日调用次数限额"), STOP, "rate_limit"),
    ("MiniMax", 200, _mm(1002, "rate limit"), THROTTLE, "rate_limit"),
    ("MiniMax", 200, _mm(1039, "token limit"), THROTTLE, "rate_limit"),
    ("Baidu", 200, {"error_code": 18, "error_msg": "Open api qps request limit reached"},
     THROTTLE, "rate_limit"),
    ("Baidu", 200, {"error_code": 336501, "error_msg": "rpm"}, THROTTLE, "rate_limit"),
    ("Qianfan", 429, _error("rpm_rate_limit_exceeded"), THROTTLE, "rate_limit"),
    ("Qianfan, 200", 200, {"code": "tpm_rate_limit_exceeded", "message": "m"}, THROTTLE,
     "rate_limit"),
    ("Spark", 200, {"header": {"code": 11202, "message": "m"}}, THROTTLE, "rate_limit"),
    ("DashScope, tokens per minute", 429, _error("insufficient_quota",
     "Allocated quota exceeded, please increase your quota limit.", "insufficient_quota"),
     THROTTLE, "rate_limit"),
    ("DashScope, tokens per minute", 429, _error("insufficient_quota", "You exceeded your current "
     "quota, please check your plan and billing details. For more information, see: "
     "https://help.aliyun.com/zh/model-studio/error-code#token-limit", "insufficient_quota"),
     THROTTLE, "rate_limit"),
    ("DashScope", 429, {"code": "Throttling.RateQuota", "message": "m"}, THROTTLE, "rate_limit"),
    ("DashScope, 200", 200, {"code": "Throttling.AllocationQuota", "message": "m"}, THROTTLE,
     "rate_limit"),
    ("Moonshot", 429, _error(None, "The engine is currently overloaded",
                             "engine_overloaded_error"), THROTTLE, "rate_limit"),
    ("new-api", 429, _error("rate_limit_exceeded", "当前分组上游负载已饱和，请稍后再试"),
     THROTTLE, "rate_limit"),
    ("a gateway, Chinese", 200, {"code": 500, "msg": "请求过于频繁，请稍后再试"}, THROTTLE,
     "rate_limit"),
    ("a key for trials, per minute", 429, {"message": "You are using a Trial key, which is limited "
     "to 20 API calls / minute."}, THROTTLE, "rate_limit"),
    ("Gemini, per minute", 429, _error(429, "You exceeded your current quota, please check your "
     "plan and billing details.\n* Quota exceeded for metric: x, limit: 15, model: m\nPlease retry "
     "in 33.5s."), THROTTLE, "rate_limit"),
    ("Cerebras, per minute", 429, {"code": "token_quota_exceeded", "type": "too_many_tokens_error",
     "message": "Tokens per minute limit exceeded - too many tokens processed."}, THROTTLE,
     "rate_limit"),
    ("Mistral", 429, {"object": "error", "type": "rate_limited", "code": "1300",
                      "message": "Requests rate limit exceeded"}, THROTTLE, "rate_limit"),
    ("Zhipu, busy", 200, {"code": 1312, "msg": "该模型当前访问量过大"}, AGAIN, "overloaded"),
    ("a gateway, busy", 200, {"code": -1, "msg": "系统繁忙，请稍后再试"}, AGAIN, "overloaded"),
    ("MiniMax, its own fault", 200, _mm(1000, "unknown error"), AGAIN, "server_error"),
    ("MiniMax, an unknown number", 200, _mm(9999, "?"), AGAIN, "server_error"),
    ("MiniMax, an invalid request", 200, _mm(2013, "invalid params"), FAIL, "invalid_request"),
    ("MiniMax, a long prompt", 400, _error(None, "invalid params, context window exceeds limit "
                                                 "(2013)"), FAIL, "context_length"),
    ("Baidu, a long prompt", 200, {"error_code": 336007, "error_msg": "the max input characters "
                                   "is 4800"}, FAIL, "context_length"),
    ("Qianfan, a long prompt", 400, _error("tokens_too_long"), FAIL, "context_length"),
    ("Zhipu, a long prompt", 400, _error("1261", "Prompt 超长"), FAIL, "context_length"),
    ("Spark, a long prompt", 200, {"code": 10907, "message": "token 数量超过上限"}, FAIL,
     "context_length"),
    ("Together, a long prompt", 403, _error(None, "Input token count + max_tokens parameter must "
     "be less than the context length of the model being queried."), FAIL, "context_length"),
    ("xAI, a long prompt", 400, {"error": "This model's maximum prompt length is 131072 but the "
                                          "request contains 140000 tokens."}, FAIL,
     "context_length"),
    ("Gemini, a long prompt", 400, _error(400, "The input token count (1200000) exceeds the "
     "maximum number of tokens allowed (1048576)."), FAIL, "context_length"),
    ("Moonshot, a long prompt", 400, _error(None, "Invalid request: Your request exceeded model "
     "token limit: 262144 (requested: 269030)"), FAIL, "context_length"),
    ("DashScope, a long prompt", 400, _error("invalid_parameter_error",
     "Range of input length should be [1, 98304]"), FAIL, "context_length"),
    ("LiteLLM, a long prompt", 400, _error("400", "litellm.ContextWindowExceededError: x"), FAIL,
     "context_length"),
    ("DeepSeek, a model", 400, _error("invalid_request_error", "Model Not Exist"), STOP,
     "not_found"),
    ("Ark, a model", 404, _error("InvalidEndpointOrModel.NotFound", kind="NotFound"), STOP,
     "not_found"),
    ("SiliconFlow, a model", 400, {"code": 20012, "message": "Model does not exist. Please check",
                                   "data": None}, STOP, "not_found"),
    ("Zhipu, a model", 400, _error("1211", "模型不存在，请检查模型代码。"), STOP, "not_found"),
    ("Mistral, a model", 400, {"object": "error", "type": "invalid_model", "code": "1500",
                               "message": "Invalid model: x"}, STOP, "not_found"),
    ("Qianfan, a model", 401, _error("invalid_model", "The model does not exist or you do not have "
                                     "access to it."), STOP, "not_found"),
    ("Zhipu, a path", 200, {"code": 500, "msg": "404 NOT_FOUND", "success": False}, STOP,
     "not_found"),
    ("a list of errors", 200, {"errors": [{"code": 429, "message": "m"}]}, THROTTLE, "rate_limit"),
    ("a status", 200, {"status": 401, "message": "m"}, STOP, "auth"),
    ("a status as text", 200, {"status": "503", "message": "m"}, AGAIN, "overloaded"),
    ("a word for it", 200, {"status": "error", "message": "m"}, AGAIN, "server_error"),
    ("success false", 200, {"success": False, "code": "x1", "message": "m"}, AGAIN,
     "server_error"),
    ("nothing but success false", 200, {"success": False}, AGAIN, "server_error"),
    ("an unknown code", 200, {"code": 7, "msg": "m", "data": None}, AGAIN, "server_error"),
    ("another code", 200, {"errcode": 40001, "errmsg": "m"}, AGAIN, "server_error"),
]  # fmt: skip

CASES = [
    *((who, status, body, FAIL, "content_filter") for who, status, body in MODERATED),
    *((who, status, body, STOP, known) for who, status, body, known in SPENT),
    *OTHERS,
]


@pytest.mark.parametrize(
    ("status", "body", "action", "known"),
    [case[1:] for case in CASES],
    ids=[f"{case[0]}, {case[1]}, {case[-1]}" for case in CASES],
)
def test_a_reply_means_what_its_vendor_means(status, body, action, known):
    """Class and action of each, before and after answers, whatever the row's model."""
    verdict = _judge(status, body)
    assert (verdict.action, verdict.error_class) == (action, known), verdict
    if action is not STOP or known in ("billing", "quota", "forbidden"):
        later = _judge(status, body, succeeded=True, runs_model=False)
        assert (later.action, later.error_class) == (action, known), later


@pytest.mark.parametrize(
    ("body", "action", "known"),
    [case[2:] for case in CASES if case[1] == 200],
    ids=[f"{case[0]}, {case[-1]}" for case in CASES if case[1] == 200],
)
def test_a_report_in_a_stream_is_the_same(body, action, known):
    """As an event, with or without an end, and after the first words of an answer."""
    opening = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "The beg"}}]}
    for events in ([body], [opening, body]):
        for done in (False, True):
            stream, folded = _streamed(*events, done=done)
            assert stream.problem() is None
            verdict = _judge(200, folded)
            assert (verdict.action, verdict.error_class) == (action, known)


GOOD = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
BESIDE = [
    {"base_resp": {"status_code": 0, "status_msg": ""}, "input_sensitive": False},
    {"base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}},
    {"base_resp": None},
    {"code": 0, "message": "Success", "sid": "cha"},
    {"code": 200, "msg": "ok", "success": True},
    {"code": "0"},
    {"code": 1301, "message": "unrelated"},
    {"code": "SUCCESS", "status": "ok"},
    {"header": {"code": 0, "message": "Success", "status": 2}},
    {"error_code": 0, "error_msg": ""},
    {"success": True},
    {"success": False},
    {"status": "completed", "errors": []},
    {"status": 500},
]


@pytest.mark.parametrize("beside", BESIDE, ids=str)
def test_an_answer_is_kept_whatever_stands_beside_it(beside):
    """Plain, and in the last chunk of a stream: text that was paid for is never thrown away."""
    for body in (GOOD | beside, beside | GOOD):
        verdict = _judge(200, body)
        assert verdict.action is DONE and verdict.completion.first.content == "hi"
    chunk = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    alone = [] if beside.get("code") == 1301 else [[chunk, last, beside]]
    for events in ([chunk | beside, last], [chunk, last | beside], *alone):
        for done in (False, True):
            stream, folded = _streamed(*events, done=done)
            assert stream.problem() is None
            verdict = _judge(200, folded)
            assert verdict.action is DONE, verdict
            assert verdict.completion.first.content == "hi"


@pytest.mark.parametrize(
    "well",
    [{"code": 0, "message": "Success"}, {"code": "200", "msg": "ok"}, {"success": True, "msg": "x"},
     {"base_resp": {"status_code": 0, "status_msg": "success"}}],
    ids=str,
)  # fmt: skip
def test_a_report_of_success_in_a_stream_is_no_error(well):
    """Neither before the answer nor where the answer has no finish reason."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "hi"}}]}
    for events in ([well, chunk], [chunk, well]):
        stream, folded = _streamed(*events, done=True)
        assert stream.problem() is None
        assert _judge(200, folded).action is DONE


def test_an_empty_answer_beside_a_report_of_failure_is_the_failure():
    """What MiniMax sends of a request that its moderation refused; other empty answers are kept."""
    empty = {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}
    refused = {"base_resp": {"status_code": 1026, "status_msg": "input new_sensitive"}}
    verdict = _judge(200, empty | refused)
    assert (verdict.action, verdict.error_class) == (FAIL, "content_filter")
    _, folded = _streamed(
        {"choices": [{"delta": {"content": ""}, "finish_reason": "content_filter"}]} | refused
    )
    assert _judge(200, folded).error_class == "content_filter"
    for fine in ({}, {"base_resp": {"status_code": 0}}, {"code": 0, "message": "Success"}):
        assert _judge(200, empty | fine).action is DONE
    call = {"choices": [{"message": {"content": "", "tool_calls": [{"id": "1"}]}}]}
    assert _judge(200, call | refused).action is DONE


ECHOES = [
    (400, _error(None, "Invalid value: '余额不足'"), FAIL, "invalid_request"),
    (400, _error(None, "messages[0].content: 余额不足，请充值"), FAIL, "invalid_request"),
    (400, _error(None, "余额不足怎么办 is not a valid prompt"), FAIL, "invalid_request"),
    (400, _error(None, "内容 “insufficient balance” 无效"), FAIL, "invalid_request"),
    (400, _error(None, "Invalid 'messages': why is my insufficient balance error shown?"), FAIL,
     "invalid_request"),
    (400, _error(None, "rate limit reached, says the prompt"), FAIL, "invalid_request"),
    (400, _error(None, "Unknown parameter: 'budget has been exceeded'"), FAIL, "invalid_request"),
    (422, {"detail": [{"type": "string_type", "loc": ["body"], "msg": "m",
                       "input": "Insufficient balance"}]}, FAIL, "invalid_request"),
    (422, {"detail": [{"type": "Arrearage?", "msg": "m"}]}, FAIL, "invalid_request"),
    (400, _error(None, "Invalid prompt: 'Content Exists Risk'"), FAIL, "invalid_request"),
    (400, _error("invalid_json_schema", "Invalid JSON schema for response_format"), FAIL,
     "invalid_request"),
    (500, _error("1001", "internal"), AGAIN, "server_error"),
    (200, {"code": 1001, "message": "timeout"}, AGAIN, "server_error"),
    (500, _error(None, "请求失败"), AGAIN, "server_error"),
    (429, _error(None, "每分钟请求配额不足，请稍后"), THROTTLE, "rate_limit"),
    (429, _error(None, "Token quota exceeded: 10000 tokens per minute"), THROTTLE, "rate_limit"),
    (429, _error("rate_limit_exceeded", "Rate limit reached"), THROTTLE, "rate_limit"),
    (400, {"error": {"code": "@no_funds", "message": "m"}}, FAIL, "invalid_request"),
    (451, b"<html>Unavailable For Legal Reasons</html>", FAIL, "invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "action", "known"), ECHOES, ids=str)
def test_what_only_looks_like_it_is_not(status, body, action, known):
    """Prompts that are echoed, numbers of other servers, limits per minute."""
    verdict = _judge(status, body)
    assert (verdict.action, verdict.error_class) == (action, known)


UNPARSED = [
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using",
    "The request body is not valid JSON: unexpected end of data: line 1 column 18 (char 17)",
    "There was an error parsing the body",
    "Expecting value: line 1 column 1 (char 0)",
    "Unterminated string starting at: line 1 column 9 (char 8)",
    "Unexpected end of JSON input",
    "unexpected end of JSON input",
    "Unexpected token < in JSON at position 0",
    "unexpected EOF",
    "failed to read request body",
    "read_request_body_failed",
    "request body is empty",
    "Request body is missing",
    "Invalid JSON",
    "Malformed JSON in request body",
    "JSON decode error",
    "JSON parse error: Unexpected end-of-input",
    "Failed to parse the request body as JSON: EOF while parsing a value at line 1 column 0",
    "EOF while parsing a value at line 1 column 0",
    "invalid character 'x' looking for beginning of value",
    "[json.exception.parse_error.101] parse error at line 1, column 1: syntax error",
    "Required request body is missing: public Object chat()",
    "Error parsing JSON body",
    "BadRequestError: Unable to parse request body",
]


@pytest.mark.parametrize("words", UNPARSED)
def test_a_body_that_did_not_arrive_whole_is_sent_again(words):
    """Three times, charged to the row; then it fails as the request that it may be after all."""
    for body in (_error(None, words), {"detail": words}, {"error": words}, {"message": words}):
        for tries, action in ((0, AGAIN), (2, AGAIN), (3, FAIL)):
            verdict = _judge(400, body, rulings={"unparsed": tries})
            assert (verdict.action, verdict.error_class) == (action, "invalid_request")
        assert verdict.charged


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, {"detail": [{"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error",
                           "input": {}, "ctx": {"error": "Expecting value"}}]}),
        (422, {"detail": [{"type": "value_error.jsondecode", "msg": "Expecting value"}]}),
        (400, _error("malformed_json", "Invalid Argument", "invalid_request_error")),
        (400, _error("bad_request_body", "x", "new_api_error")),
        (200, {"error_code": 336002, "error_msg": "Invalid JSON"}),
    ],
)  # fmt: skip
def test_a_code_for_a_broken_body_is_the_same(status, body):
    """FastAPI's reasons, Baidu's and gateways' codes."""
    assert _judge(status, body).rule == "unparsed"


def test_a_page_under_400_is_tried_twice_more():
    """What stands in front of the API has not read the request; the API's own words decide."""
    page = b"<html><head><title>400 Bad Request</title></head></html>"
    for tries, action in ((0, AGAIN), (1, AGAIN), (2, FAIL)):
        verdict = _judge(400, page, rulings={"page_400": tries})
        assert (verdict.action, verdict.error_class) == (action, "invalid_request")
    assert _judge(400, b"no").action is FAIL
    assert _judge(400, _error("x", "<html>")).action is FAIL


def test_a_wait_of_minutes_for_a_plan_is_waited_out():
    """A budget that comes back soon is waited for; an empty account never is."""
    headers = {"retry-after": "60"}
    assert _judge(429, _error("1308"), headers=headers).action is THROTTLE
    assert _judge(429, _error("1308"), headers={"retry-after": "9999"}).action is STOP
    for _, status, body, known in SPENT:
        if status == 429 and known == "billing":
            assert _judge(status, body, headers=headers).action is STOP


@pytest.mark.parametrize(
    ("code", "vendor", "name"),
    [
        ("InsufficientBalance", None, phrases.NO_FUNDS),
        ("insufficient-balance", None, phrases.NO_FUNDS),
        ("INSUFFICIENT_BALANCE_ERROR", None, phrases.NO_FUNDS),
        ("FailedOperation.ResourcePackExhausted", None, phrases.NO_FUNDS),
        ("Throttling.Api", None, phrases.LIMITED),
        ("1002", vendor_codes.MINIMAX, phrases.LIMITED),
        ("1002", None, None),
        ("1301", vendor_codes.MINIMAX, None),
        ("17", vendor_codes.BAIDU, phrases.PER_DAY),
        ("17", None, None),
        ("10013", vendor_codes.SPARK, phrases.MODERATED),
        ("10013", None, phrases.MODERATED),
        ("-1", None, None),
        ("", None, None),
        (".", None, None),
        ("error", None, None),
        ("١٣٠١", None, None),
    ],
)
def test_codes_are_found_however_they_are_written(code, vendor, name):
    """Case, punctuation and a final "error" do not matter; whose a number is does."""
    assert meaning_of(code, vendor) == name


def test_every_code_of_the_tables_has_its_meaning():
    """No word is listed twice with two meanings, and each reaches the name it stands beside."""
    for name, rows in SAID_BY.items():
        for vendor, listed in rows:
            assert listed.split(), vendor
            for word in listed.split():
                given = vendor if word.isdigit() else None
                found = {meaning_of(word, given), meaning_of(word)}
                assert name in found, (vendor, word)


def test_every_meaning_has_a_status_that_names_it():
    """What is judged under a status is judged so only where it may have come with it."""
    for name, meaning in MEANINGS.items():
        assert judged_as({name}, 200) == meaning.status
        if meaning.under is not None:
            assert judged_as({name}, 418) == 418
    assert judged_as(set(), 418) == 418
    assert judged_as({phrases.LIMITED}, 503) == 429
    assert judged_as({phrases.BAD_KEY}, 500) == 500
    assert STATUS_OF_NAME


@pytest.mark.parametrize(
    ("code", "well"),
    [(0, True), ("0", True), (200, True), ("200", True), (20000, True), ("ok", True),
     ("Success", True), (None, True), ("", True), (0.0, True), (200.0, True), (True, True),
     (1, False), (-1, False), ("1008", False), (500, False), ("failed", False), (2013, False)],
)  # fmt: skip
def test_what_a_code_for_success_looks_like(code, well):
    """Zero, a 2xx, a word for it, or nothing."""
    assert failure_reports.is_success(code) is well
