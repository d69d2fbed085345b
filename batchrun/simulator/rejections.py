"""Every answer that is not a completion: its status, its body, and when it is given.

The bodies follow the shapes in the field: OpenAI's envelope for most, a proxy's HTML page for 413,
502 and 504, FastAPI's list for 422, Anthropic's envelope for 529, and a gateway's error under
status 200.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from batchrun.simulator.limits import OverLimit, write_seconds

JSON = "application/json"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One error reply, ready to be sent."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class RejectedError(Exception):
    """The request gets `rejection` for an answer."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"HTTP {rejection.status}")
        self.rejection = rejection


def _openai(
    status: int,
    message: str,
    kind: str,
    code: str | None,
    param: str | None = None,
    **headers: str,
) -> Rejection:
    error = {"message": message, "type": kind, "param": param, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Rejection(status, msgspec.json.encode({"error": error}), headers=named)


def _page(status: int, reason: str) -> Rejection:
    title = f"{status} {reason}"
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Rejection(status, page.encode(), HTML)


TOO_LARGE = _page(413, "Request Entity Too Large")
GARBAGE = Rejection(
    200,
    b"<!doctype html>\n<html><head><title>Sign in</title></head>"
    b"<body><h1>Sign in to continue</h1></body></html>\n",
    HTML,
)
ERROR_200 = Rejection(
    200,
    b'{"id":null,"object":null,"choices":null,"error":{"code":502,'
    b'"message":"Provider returned error","metadata":{"provider_name":"simulator"}}}',
)

# The errors that can be asked for by rate, by the name they are asked for.
INJECTED: Mapping[str, Rejection] = {
    "400": _openai(
        400,
        "The prompt is longer than this model's context length. Shorten the messages.",
        "invalid_request_error",
        "context_length_exceeded",
        "messages",
    ),
    "401": _openai(
        401, "The API key was not accepted.", "invalid_request_error", "invalid_api_key"
    ),
    "402": _openai(402, "The balance is used up.", "billing_error", "insufficient_balance"),
    "403": _openai(
        403,
        "This key may not use the endpoint from here.",
        "request_forbidden",
        "unsupported_country_region_territory",
    ),
    "404": _openai(
        404, "The model does not exist here.", "invalid_request_error", "model_not_found", "model"
    ),
    "408": _openai(408, "The request took too long.", "timeout_error", "request_timeout"),
    "409": _openai(409, "The resource is locked; try again.", "conflict_error", "conflict"),
    "413": TOO_LARGE,
    "422": Rejection(
        422,
        b'{"detail":[{"type":"value_error","loc":["body","messages"],'
        b'"msg":"Value error, the messages cannot be processed"}]}',
    ),
    "429": _openai(
        429,
        "The rate limit was reached. Please try again later.",
        "requests",
        "rate_limit_exceeded",
    ),
    "quota": _openai(
        429,
        "The quota of this account is used up; check its plan and billing.",
        "insufficient_quota",
        "insufficient_quota",
    ),
    "500": _openai(500, "The server failed while it worked on this.", "server_error", None),
    "502": _page(502, "Bad Gateway"),
    "503": _openai(
        503, "The server is overloaded; try again soon.", "server_error", "server_is_overloaded"
    ),
    "504": _page(504, "Gateway Time-out"),
    "529": Rejection(
        529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    ),
}


def injected(name: str, retry_after_s: float) -> Rejection:
    """The reply of `INJECTED`; a rate limit also says how long to wait."""
    reply = INJECTED[name]
    if name != "429":
        return reply
    return Rejection(
        reply.status, reply.body, headers={"Retry-After": write_seconds(retry_after_s)}
    )


def invalid_request(message: str, param: str | None, code: str | None = None) -> RejectedError:
    """400: the body cannot be a chat completion request; `param` names the part."""
    return RejectedError(_openai(400, message, "invalid_request_error", code, param))


def no_key() -> RejectedError:
    """401: no `Authorization: Bearer ...` came along."""
    return RejectedError(
        _openai(
            401,
            "No API key was given; send it as 'Authorization: Bearer KEY'.",
            "invalid_request_error",
            None,
        )
    )


def wrong_key(key: str) -> RejectedError:
    """401: another key than the endpoint's; the message shows it masked, as OpenAI's does."""
    return RejectedError(
        _openai(
            401,
            f"Incorrect API key provided: {mask(key)}.",
            "invalid_request_error",
            "invalid_api_key",
        )
    )


def unknown_model(model: str) -> RejectedError:
    """404: not one of the endpoint's models."""
    return RejectedError(
        _openai(
            404,
            f"The model `{model}` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
            "model",
        )
    )


def unknown_path(method: str, path: str) -> Rejection:
    """404: a route the endpoint does not have, most often a base URL without `/v1`."""
    return _openai(
        404,
        f"Unknown request URL: {method} {path}. Completions are at POST /v1/chat/completions.",
        "invalid_request_error",
        "unknown_url",
    )


def over_limit(refusal: OverLimit, model: str) -> RejectedError:
    """429 of the enforced limits, with `Retry-After` unless the request can never pass."""
    limit = f"{refusal.limit_per_min:.15g}"
    name = "RPM" if refusal.kind == "requests" else "TPM"
    figures = f"for {model} on {refusal.kind} per min ({name}): Limit {limit}"
    if refusal.wait_s is None:
        message = f"Request too large {figures}, Requested {refusal.requested}."
        return RejectedError(_openai(429, message, refusal.kind, "rate_limit_exceeded"))
    wait = write_seconds(refusal.wait_s)
    message = f"Rate limit reached {figures}. Please try again in {wait}s."
    return RejectedError(
        _openai(429, message, refusal.kind, "rate_limit_exceeded", Retry_After=wait)
    )


def mask(key: str) -> str:
    """A key with its middle starred out; a short one entirely."""
    shown = 4
    if len(key) <= 3 * shown:
        return "*" * len(key)
    return key[:shown] + "*" * (len(key) - 2 * shown) + key[-shown:]
