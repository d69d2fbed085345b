"""Reading an error's body, in all the shapes that servers give it."""

import json
import math

import pytest

from batchrun.core.reply import error_body, phrases
from batchrun.core.reply.completion import ERROR_TEXT_MAX, WORD_MAX, parse

NOW_S = 1_700_000_000.0


def _nested(value):
    return json.dumps(value, indent=1)


# What the body is, by whom; code, type, embedded status, message.
SHAPES = {
    "OpenAI": ({"error": {"message": "m", "type": "t", "code": "c"}}, "c", "t", None, "m"),
    "vLLM, a number": (
        {"error": {"message": "m", "type": "t", "code": 429}},
        "429",
        "t",
        429,
        "m",
    ),
    "Ollama, nulls": (
        {"error": {"message": "m", "code": None, "type": None}},
        None,
        None,
        None,
        "m",
    ),
    "vLLM, a word": ({"error": "Unauthorized"}, None, None, None, "Unauthorized"),
    "TGI": ({"error": "m", "error_type": "overloaded"}, None, "overloaded", None, "m"),
    "Spring": ({"status": 500, "error": "m", "path": "/"}, None, None, 500, "m"),
    "SGLang, flat": (
        {"object": "error", "message": "m", "type": "BadRequest", "code": 400},
        "400",
        "BadRequest",
        400,
        "m",
    ),
    "Gemini, an array": ([{"error": {"code": 429, "message": "m"}}], "429", None, 429, "m"),
    "FastAPI, a text": ({"detail": "d"}, None, None, None, "d"),
    "FastAPI, a list": (
        {"detail": [{"loc": ["body"], "msg": "x"}]},
        None,
        None,
        None,
        '[{"loc":["body"],"msg":"x"}]',
    ),
    "FastAPI, an error as JSON": (
        {"detail": _nested({"error": {"message": "m", "code": "c", "type": "t"}})},
        "c",
        "t",
        None,
        "m",
    ),
    "flat": ({"message": "m", "type": "t"}, None, "t", None, "m"),
    "flat with a code": ({"code": "rate_limit_daily", "message": "m"}, "rate_limit_daily", None,
                         None, "m"),
    "success false": ({"success": False, "error": {"message": "m"}}, None, None, None, "m"),
    "a list of errors": ({"errors": [{"code": 7003, "message": "m"}]}, "7003", None, None, "m"),
    "RFC 7807": (
        {"type": "about:blank", "title": "Error 524", "status": 524, "detail": "d"},
        None,
        None,
        524,
        "d",
    ),
    "API Management": ({"statusCode": 429, "message": "m"}, None, None, 429, "m"),
    "an error as JSON in the message": (
        {"error": {"message": _nested({"error": {"message": "m", "code": 503}}), "code": 500}},
        "500",
        None,
        500,
        "m",
    ),
    "OpenRouter, the provider's error": (
        {
            "error": {
                "code": 400,
                "message": "Provider returned error",
                "metadata": {"raw": _nested({"error": {"message": "m", "type": "t"}})},
            }
        },
        "400",
        "t",
        400,
        "Provider returned error: m",
    ),
    "OpenRouter, the provider's text": (
        {"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "m"}}},
        "502",
        None,
        502,
        "Provider returned error: m",
    ),
    "Anthropic": (
        {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
        None,
        "overloaded_error",
        None,
        "m",
    ),
    "an empty error": ({"error": {}}, None, None, None, ""),
    "wrong types": (
        {"error": {"code": {"a": 1}, "type": 7, "message": 5}},
        None,
        "7",
        None,
        "5",
    ),
    "a boolean": ({"error": {"code": True}}, "True", None, None, ""),
    "a fraction that is whole": ({"error": {"code": 429.0}}, "429", None, 429, ""),
    "a number beyond bounds": ({"error": {"code": 10**30, "message": "m"}}, None, None, None, "m"),
    "no list": ([], None, None, None, ""),
    "a text": ("text", None, None, None, ""),
    "nothing": (None, None, None, None, ""),
    "a number": (7, None, None, None, ""),
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "code", "kind", "status", "message"), SHAPES.values(), ids=SHAPES
)
def test_all_shapes_are_read(value, code, kind, status, message):
    """Code, type, embedded status and message come out of every shape that servers use."""
    error = error_body.read(value)
    assert (error.code, error.kind, error.status, error.message) == (code, kind, status, message)


@pytest.mark.parametrize(
    "message",
    [{"at": 10**30}, [math.nan], {"deep": json.loads("[" * 900 + "]" * 900)}],
    ids=["huge integer", "NaN", "deep"],
)
def test_a_structured_message_becomes_text(message):
    """A message that is no text is shown as JSON, whatever is in it."""
    assert error_body.read({"error": {"message": message}}).message


def test_texts_are_bounded():
    """An error that repeats the whole prompt is kept in part."""
    error = error_body.read(
        {"error": {"message": "x" * 10**6, "code": "y" * 10**6, "type": "t" * 10**6}}
    )
    assert len(error.message) == ERROR_TEXT_MAX
    assert len(error.code) == len(error.kind) == WORD_MAX


def test_errors_inside_errors_come_to_an_end():
    """However deep errors are wrapped, in objects or in texts, a few are read."""
    wrapped = {"message": "m", "code": "c"}
    for _ in range(300):
        wrapped = {"error": wrapped}
    assert error_body.read(wrapped).code == "c"
    text = {"message": "m"}
    for _ in range(12):
        text = {"error": {"message": json.dumps(text)}}
    assert len(error_body.read(text).layers) <= error_body.LAYERS_MAX


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}},
         "ResponsibleAIPolicyViolation"),
        ({"error": {"status": "RESOURCE_EXHAUSTED"}}, "RESOURCE_EXHAUSTED"),
        ({"error": {"details": [{"reason": "API_KEY_INVALID"}]}}, "API_KEY_INVALID"),
        ({"error": {"metadata": {"limit_source": "openrouter_in_flight_budget"}}},
         "openrouter_in_flight_budget"),
        ({"error": {"metadata": {"reasons": ["violence"]}}}, phrases.MODERATED),
        ({"error": {"details": [{"violations": [{"quotaId": "RequestsPerDayPerProject"}]}]}},
         phrases.PER_DAY),
        ({"error": {"code": "workspace_spend_limit_reached"}}, phrases.SPENDING),
        ({"detail": "Not Found"}, "Not Found"),
    ],
)  # fmt: skip
def test_names_are_gathered_from_where_they_stand(value, name):
    """Identifiers inside, and what only the structure tells, are names of the error."""
    assert name in error_body.read(value).names


def test_nobody_else_makes_our_names():
    """A server that sends a name of ours is not believed."""
    own = phrases.SPENDING
    for error in ({"code": own}, {"type": own}, {"message": own}):
        assert error_body.read({"error": error}).names == frozenset()


# What servers say in words, and what it stands for.
SAID = [
    # OpenAI, vLLM, DeepSeek
    ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
     phrases.CONTEXT),
    (("'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context "
     "length is 4096 tokens"), phrases.CONTEXT),
    ("litellm.BadRequestError: OpenAIException - This model's maximum context length is 8 tokens",
     phrases.CONTEXT),
    # SGLang
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).",
     phrases.CONTEXT),
    ("Requested token count exceeds the model's maximum context length of 4096 tokens.",
     phrases.CONTEXT),
    # llama.cpp
    ("the request exceeds the available context size, try increasing it", phrases.CONTEXT),
    # TGI
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
     phrases.CONTEXT),
    # Mistral
    (("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum "
     "context length"), phrases.CONTEXT),
    ("the maximum input length is 2048 tokens", phrases.CONTEXT),
    # Cerebras
    (("Please reduce the length of the messages or completion. Current length is 9000 while limit "
     "is 8192"), phrases.CONTEXT),
    # Anthropic, Bedrock
    ("prompt is too long: 210000 tokens > 200000 maximum", phrases.CONTEXT),
    ("Input is too long for requested model.", phrases.CONTEXT),
    ("invalid 'user': string too long", None),
    # Anthropic
    ("You have reached your specified API usage limits. You will regain access on 2027-01-01",
     phrases.SPENDING),
    ("Your credit balance is too low to access the API", phrases.SPENDING),
    ("This request would exceed your organization's spend limit", phrases.SPENDING),
    ("Monthly spend limit reached", phrases.SPENDING),
    # OpenAI, Groq, OpenRouter
    (("Rate limit reached for gpt-x in organization o on requests per day (RPD): Limit 200, Used "
     "200, Requested 1. Please try again in 7m12s."), phrases.PER_DAY),
    ("Rate limit exceeded: free-models-per-day", phrases.PER_DAY),
    ("Rate limit reached for m on requests per min (RPM): Limit 3, Used 3, Requested 1.", None),
    ("Request too large for m on tokens per min (TPM): Limit 30000, Requested 45000.",
     phrases.TOO_LARGE),
    ("Request too large for m on tokens per min (TPM): Limit 30,000, Requested 45,000.5.",
     phrases.TOO_LARGE),
    ("Request too large for m on tokens per min (TPM): Limit 45000, Requested 30000.", None),
    ("Rate limit reached for m on tokens per min (TPM): Limit 0, Used 0, Requested 9.",
     phrases.NO_LIMIT),
    # Gemini
    ("You exceeded your current quota.\n* Quota exceeded for metric: a, limit: 0, model: m",
     phrases.NO_LIMIT),
    ("You exceeded your current quota.\n* Quota exceeded for metric: a, limit: 05", None),
    # Azure API Management
    ("Out of call volume quota. Quota will be replenished in 00:12:34.", phrases.GATEWAY_QUOTA),
    # Others that count context
    ("Input token count + max_tokens parameter must be less than the context length of the model",
     phrases.CONTEXT),
    ("This model's maximum prompt length is 131072 but the request contains 9 tokens.",
     phrases.CONTEXT),
    ("The input token count (12) exceeds the maximum number of tokens allowed (10).",
     phrases.CONTEXT),
    ("Range of input length should be [1, 98304]", phrases.CONTEXT),
    ("请求长度超过模型最大上下文长度", phrases.CONTEXT),
    # Moderation
    ("Content Exists Risk", phrases.MODERATED),
    ("The request was rejected because it was considered high risk", phrases.MODERATED),
    ("Input text data may contain inappropriate content.", phrases.MODERATED),
    ("输入内容审核不通过，涉嫌违规", phrases.MODERATED),
    ("sensitive words detected: x", phrases.MODERATED),
    ("The request failed because the input text may contain sensitive information.",
     phrases.MODERATED),
    ("Your request was rejected as a result of our safety system.", phrases.MODERATED),
    ("The response was filtered due to the prompt triggering the policy", phrases.MODERATED),
    ("Your input was flagged for: violence", phrases.MODERATED),
    # Budgets and accounts
    ("Budget has been exceeded! Current cost: 9", phrases.SPENDING),
    ("ExceededBudget: End User=x over budget. Spend=1", phrases.SPENDING),
    ("Key limit exceeded (total limit).", phrases.SPENDING),
    ("user quota is not enough", phrases.SPENDING),
    ("Free allocated quota exceeded.", phrases.SPENDING),
    ("用户额度不足, 剩余额度: 0", phrases.SPENDING),
    ("免费额度已用完。", phrases.SPENDING),
    ("Insufficient Balance", phrases.NO_FUNDS),
    ("Sorry, your account balance is insufficient", phrases.NO_FUNDS),
    ("账户余额不足，请充值", phrases.NO_FUNDS),
    ("您的账户已欠费，请充值后重试", phrases.NO_FUNDS),
    ("The request failed because your account has an overdue balance. Request ID: x",
     phrases.NO_FUNDS),
    ("You have run out of credits", phrases.NO_FUNDS),
    ("usage limit exceeded", phrases.RESETS),
    ("You've reached your usage limit for this billing cycle", phrases.RESETS),
    ("Allocated quota exceeded, please increase your quota limit.", phrases.ALLOCATED),
    ("Requests per day limit exceeded - try again tomorrow", phrases.PER_DAY),
    ("Tokens per minute limit exceeded - too many tokens processed.", None),
    # Keys, permissions, models, limits, overloads
    ("Incorrect API key provided: sk-***", phrases.BAD_KEY),
    ("无效的令牌", phrases.BAD_KEY),
    ("身份验证失败", phrases.BAD_KEY),
    ("User location is not supported for the API use.", phrases.FORBIDDEN),
    ("Model Not Exist", phrases.NO_MODEL),
    ("The model `m-9` does not exist or you do not have access to it.", phrases.NO_MODEL),
    ("当前分组 default 下对于模型 m 无可用渠道", phrases.NO_MODEL),
    ("当前分组上游负载已饱和，请稍后再试", phrases.LIMITED),
    ("您的请求过于频繁", phrases.LIMITED),
    ("系统繁忙，请稍后再试", phrases.BUSY),
    # Bodies cut on their way
    ("We could not parse the JSON body of your request.", phrases.UNPARSED),
    ("unexpected EOF", phrases.UNPARSED),
    # LM Studio
    ("Unexpected endpoint or method. (POST /chat/completions)", phrases.WRONG_PATH),
    # A prompt that is echoed
    ('Invalid content: "This model\'s maximum context length is 4096 tokens"', None),
    ("Invalid content: 'This models maximum context length is 4096 tokens'", None),
    ("Invalid value {'content': maximum context length is 4096", None),
    ("messages[0] is bad: maximum context length is 4096", None),
    ("bad\nThis model's maximum context length is 4096 tokens", None),
    ("maximum context length", None),
    ("Why does it say: You have reached your specified API usage limits?", None),
    ("a prompt about Limit 5, Requested 9", None),
]  # fmt: skip


@pytest.mark.parametrize(("message", "name"), SAID)
def test_words_are_recognised_at_the_start_only(message, name):
    """A server's own words stand for a name; the same words in a quoted prompt do not."""
    names = error_body.read({"error": {"message": message}}).names
    assert {found for found in names if found.startswith("@")} == ({name} if name else set())


@pytest.mark.parametrize("phrase", phrases.PHRASES, ids=lambda phrase: phrase.source)
def test_every_phrase_has_an_example(phrase):
    """No pattern stands in the table without a message that it recognises."""
    assert any(phrase.pattern.match(message) for message, name in SAID if name == phrase.name)


@pytest.mark.parametrize(
    "text", ["error " * 300, "a" * 5000, "Your " * 500, "' " * 900, "1." * 900]
)
def test_words_are_looked_for_in_bounded_time(text):
    """A message made to keep the patterns busy does not."""
    for phrase in phrases.PHRASES:
        assert phrase.pattern.match(text[: error_body.PHRASE_TEXT_MAX]) is None


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        ({"retry_after": 3}, 3),
        ({"retry_after": "1m30s"}, 90),
        ({"retry_after": -3}, None),
        ({"retry_after": True}, None),
        ({"retry_after": [3]}, None),
        ({"retry_after_ms": 1500}, 1.5),
        ({"retryDelay": "46s"}, 46),
        ({"details": [{"@type": "a"}, {"retryDelay": "46.5s"}]}, 46.5),
        ({"details": [{"retryDelay": {"seconds": 46, "nanos": 500_000_000}}]}, 46.5),
        ({"details": [{"retryDelay": {"seconds": "junk"}}]}, None),
        ({"metadata": {"retry_after": 2}}, 2),
        (
            {
                "metadata": {
                    "headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": 1700000100000}
                }
            },
            100,
        ),
        ({"metadata": {"headers": {"Retry-After": "9"}}}, 9),
        ({"message": "Rate limit reached. Please try again in 5.289s. Visit us."}, 5.289),
        ({"message": "Please try again in 6m0s."}, 360),
        ({"message": "Please try again in 120ms."}, 0.12),
        ({"message": "Please retry in 10h17m5.7s."}, 37025.7),
        ({"message": "Please retry after 37 seconds."}, 37),
        ({"message": "Rate limit is exceeded. Try again in 1 minute."}, 60),
        ({"message": "Quota will be replenished in 00:12:34."}, 754),
        ({"message": "Try again in a while."}, None),
        ({"message": "try again in 5 mice"}, None),
        ({"message": "429 rate limit 30s"}, None),
    ],
)
def test_a_body_may_say_how_long_to_wait(error, wait_s):
    """Fields, Google's RetryInfo, headers passed on, and a message's own words."""
    found = error_body.wait_s(error_body.read({"error": error}), wall_s=NOW_S)
    assert found == pytest.approx(wait_s)


def test_a_wait_beside_the_error_counts():
    """A hint next to the error object, or in the error inside the message, is read too."""
    beside = error_body.read({"error": {"message": "m"}, "retry_after": 4})
    assert error_body.wait_s(beside, wall_s=NOW_S) == 4
    inside = error_body.read(parse(b'{"error":{"message":"{\\"error\\":{\\"retry_after\\":5}}"}}'))
    assert error_body.wait_s(inside, wall_s=NOW_S) == 5
