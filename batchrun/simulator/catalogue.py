"""The errors of real servers, one of each kind, by name.

Every line of the verdict table that a reply can reach is here in the shape of a server known for
it: OpenAI's envelope, Anthropic's, Google's array, Azure's inner error, FastAPI's list, a flat
object, a text, a proxy's page, and errors under status 200.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

JSON = "application/json"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One error reply, ready to be sent."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


def envelope(
    status: int,
    message: str,
    kind: str | None,
    code: str | int | None,
    param: str | None = None,
    **headers: str,
) -> Rejection:
    """OpenAI's ``{"error": {...}}``; a header's name is written with underscores."""
    error = {"message": message, "type": kind, "param": param, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Rejection(status, msgspec.json.encode({"error": error}), headers=named)


def page(status: int, reason: str) -> Rejection:
    """A proxy's page."""
    title = f"{status} {reason}"
    text = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Rejection(status, text.encode(), HTML)


def _json(status: int, value: object, **headers: str) -> Rejection:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Rejection(status, msgspec.json.encode(value), headers=named)


def _redirect(status: int, reason: str) -> Rejection:
    return Rejection(
        status, page(status, reason).body, HTML, {"Location": "http://127.0.0.1:9/elsewhere"}
    )


_INVALID = "invalid_request_error"

CATALOGUE: Mapping[str, Rejection] = {
    # The request's own fault.
    "400": envelope(
        400,
        "The prompt is longer than this model's context length. Shorten the messages.",
        _INVALID,
        "context_length_exceeded",
        "messages",
    ),
    "400-llama": _json(
        400,
        {
            "error": {
                "code": 400,
                "message": "the request is larger than the context size, try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 9000,
                "n_ctx": 4096,
            }
        },
    ),
    "400-sglang": _json(
        400,
        {
            "object": "error",
            "message": "The input (9000 tokens) is longer than the model's context length (4096).",
            "type": "BadRequest",
            "param": None,
            "code": 400,
        },
    ),
    "400-tgi": _json(
        400,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
            "error_type": "validation",
        },
    ),
    "400-filter": envelope(400, "The prompt was filtered.", None, "content_filter", "prompt"),
    "400-azure": _json(
        400,
        {
            "error": {
                "message": "The response was filtered.",
                "code": "bad_request",
                "innererror": {
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_result": {"hate": {"filtered": True, "severity": "high"}},
                },
            }
        },
    ),
    "400-invalid": envelope(400, "'temperature' must be a number.", _INVALID, None, "temperature"),
    "400-tool": _json(
        400,
        {
            "error": {
                "message": "Failed to call a function. See 'failed_generation'.",
                "type": _INVALID,
                "code": "tool_use_failed",
                "failed_generation": "<function=f{",
            }
        },
    ),
    "403-moderation": _json(
        403,
        {
            "error": {
                "code": 403,
                "message": "The input was flagged.",
                "metadata": {"reasons": ["violence"], "flagged_input": "...", "provider_name": "s"},
            }
        },
    ),
    "410": envelope(410, "The model was retired.", _INVALID, None, "model"),
    "413": page(413, "Request Entity Too Large"),
    "422": Rejection(
        422,
        b'{"detail":[{"type":"value_error","loc":["body","messages"],'
        b'"msg":"Value error, the messages cannot be processed"}]}',
    ),
    "429-too-large": envelope(
        429,
        "Request too large for m on tokens per min (TPM): Limit 30000, Requested 45000.",
        "tokens",
        "rate_limit_exceeded",
    ),
    "402-weight": _json(
        402, {"error": {"code": 402, "message": "Too much", "type": "weight_exceeds_budget"}}
    ),
    "501": envelope(501, "This is not implemented here.", "not_implemented_error", None),
    "400-json": envelope(400, "We could not parse the JSON body of your request.", _INVALID, None),
    "400-page": page(400, "Bad Request"),
    # The account's, the key's or the run's.
    "400-spending": _json(
        400,
        {
            "type": "error",
            "error": {
                "type": _INVALID,
                "message": "You have reached your specified API usage limits.",
            },
        },
    ),
    "401": envelope(401, "The API key was not accepted.", _INVALID, "invalid_api_key"),
    "401-vllm": Rejection(401, b'{"error":"Unauthorized"}'),
    "402": envelope(402, "The balance is used up.", "billing_error", "insufficient_balance"),
    "403": envelope(
        403,
        "This key may not use the endpoint from here.",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    "403-waf": page(403, "Forbidden"),
    "403-quota": _json(
        403,
        {
            "statusCode": 403,
            "message": "Out of call volume quota. Quota will be replenished in 08:00:00.",
        },
    ),
    "404": envelope(404, "The model does not exist here.", _INVALID, "model_not_found", "model"),
    "404-azure": envelope(404, "The API deployment does not exist.", None, "DeploymentNotFound"),
    "404-path": Rejection(404, b'{"detail":"Not Found"}'),
    "404-page": page(404, "Not Found"),
    "302": _redirect(302, "Found"),
    "307": _redirect(307, "Temporary Redirect"),
    "405": page(405, "Not Allowed"),
    "406": page(406, "Not Acceptable"),
    "415": page(415, "Unsupported Media Type"),
    "quota": envelope(
        429,
        "The quota of this account is used up; check its plan and billing.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "429-credit": envelope(
        429, "The credit is used up.", "insufficient_quota", "credit_balance_exhausted"
    ),
    "429-plan": _json(
        429,
        {
            "type": "error",
            "error": {
                "type": "rate_limit_error",
                "message": "usage limit exceeded (2056)",
                "http_code": "429",
            },
        },
    ),
    "200-balance": _json(
        200,
        {
            "id": "x",
            "choices": None,
            "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"},
        },
    ),
    "429-day": _json(
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "The quota is used up. Please retry in 10h17m5.7s.",
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [
                        {
                            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                            "violations": [{"quotaId": "RequestsPerDayPerProject-FreeTier"}],
                        },
                        {
                            "@type": "type.googleapis.com/google.rpc.RetryInfo",
                            "retryDelay": "37025s",
                        },
                    ],
                }
            }
        ],
    ),
    "429-limit-0": _json(
        429,
        [
            {
                "error": {
                    "code": 429,
                    "message": "You exceeded your current quota.\n"
                    "* Quota exceeded for metric: free_tier_requests, limit: 0, model: m",
                    "status": "RESOURCE_EXHAUSTED",
                }
            }
        ],
    ),
    # Not now.
    "429-allocated": envelope(
        429,
        "Allocated quota exceeded, please increase your quota limit.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "402-in-flight": _json(
        402,
        {
            "error": {
                "code": 402,
                "message": "Too many requests in flight for the balance.",
                "metadata": {"limit_source": "openrouter_in_flight_budget"},
            }
        },
    ),
    "429": envelope(
        429,
        "The rate limit was reached. Please try again later.",
        "requests",
        "rate_limit_exceeded",
    ),
    "429-slow-down": envelope(
        429, "Traffic grew too fast; slow down.", "rate_limit_error", "slow_down"
    ),
    # The server's, or the way's to it.
    "408": envelope(408, "The request took too long.", "timeout_error", "request_timeout"),
    "409": envelope(409, "The resource is locked; try again.", "conflict_error", "conflict"),
    "421": page(421, "Misdirected Request"),
    "424": envelope(424, "A dependency failed.", "api_error", "failed_dependency"),
    "425": page(425, "Too Early"),
    "498": envelope(498, "The flex tier is at capacity.", "capacity", "capacity_exceeded"),
    "499": page(499, "Client Closed Request"),
    "500": envelope(500, "The server failed while it worked on this.", "server_error", None),
    "502": page(502, "Bad Gateway"),
    "503": envelope(
        503, "The server is overloaded; try again soon.", "server_error", "server_is_overloaded"
    ),
    "503-loading": _json(
        503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    ),
    "503-queue": _json(
        503,
        {
            "object": "error",
            "message": "The request queue is full.",
            "type": "ServiceUnavailable",
            "param": None,
            "code": 503,
        },
    ),
    "504": page(504, "Gateway Time-out"),
    **{
        str(status): page(status, reason)
        for status, reason in {
            520: "Web server returned an unknown error",
            521: "Web server is down",
            522: "Connection timed out",
            523: "Origin is unreachable",
            525: "SSL handshake failed",
            526: "Invalid SSL certificate",
            530: "Origin DNS error",
        }.items()
    },
    "524": Rejection(
        524,
        b'{"type":"about:blank","title":"Error 524: A timeout occurred","status":524,'
        b'"detail":"The origin did not answer in time."}',
        "application/problem+json",
    ),
    "529": Rejection(
        529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    ),
    # Under status 200.
    "200-flat": Rejection(
        200, b'{"code":"server_is_overloaded","message":"The model is busy."}', "text/plain"
    ),
    "200-nested": envelope(200, '{"error":{"message":"upstream failed","code":502}}', None, None),
    "200-array": Rejection(
        200, b'[{"error":{"code":503,"message":"The service is unavailable."}}]'
    ),
    "200-path": Rejection(
        200, b'{"error":"Unexpected endpoint or method. (POST /chat/completions)"}'
    ),
    "200-text": Rejection(200, b'"try again"'),
    "200-empty": Rejection(200, b""),
    "200-null": Rejection(200, b'{"id":"","object":"chat.completion","choices":null}'),
    "200-unfinished": Rejection(
        200,
        b'{"id":"x","choices":[{"index":0,"finish_reason":"insufficient_system_resource",'
        b'"message":{"role":"assistant","content":"The beginning of"}}],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}',
    ),
}

WAITING = frozenset({"402-in-flight", "429", "429-slow-down"})
"""Those that also say how long to wait, taken from the simulator's options."""
