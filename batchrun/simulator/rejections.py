"""Every answer that is not a completion, and when it is sent. Those that are configured by rate are
in `catalogue.py`.
"""

from batchrun.simulator.catalogue import CATALOGUE, HTML, JSON, WAITING, Rejection, envelope
from batchrun.simulator.limits import OverLimit, write_seconds

__all__ = ["HTML", "JSON", "Rejection"]


class RejectedError(Exception):
    """The request is answered with `rejection`."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"HTTP {rejection.status}")
        self.rejection = rejection


TOO_LARGE = CATALOGUE["413"]
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

INJECTED = CATALOGUE
"""The errors that can be configured by rate, by name."""


def injected(name: str, retry_after_s: float) -> Rejection:
    """The reply of `INJECTED`; a refusal for now also says how long to wait."""
    reply = INJECTED[name]
    if name not in WAITING:
        return reply
    return Rejection(
        reply.status, reply.body, headers={"Retry-After": write_seconds(retry_after_s)}
    )


def invalid_request(message: str, param: str | None, code: str | None = None) -> RejectedError:
    """400: the body cannot be a chat completion request; `param` names the part."""
    return RejectedError(envelope(400, message, "invalid_request_error", code, param))


def no_key() -> RejectedError:
    """401: no `Authorization: Bearer ...` came along."""
    return RejectedError(
        envelope(
            401,
            "No API key was given; send it as 'Authorization: Bearer KEY'.",
            "invalid_request_error",
            None,
        )
    )


def wrong_key(key: str) -> RejectedError:
    """401: another key than the endpoint's; the message shows it masked, as OpenAI's does."""
    return RejectedError(
        envelope(
            401,
            f"Incorrect API key provided: {mask(key)}.",
            "invalid_request_error",
            "invalid_api_key",
        )
    )


def unknown_model(model: str) -> RejectedError:
    """404: not one of the endpoint's models."""
    return RejectedError(
        envelope(
            404,
            f"The model `{model}` does not exist or you do not have access to it.",
            "invalid_request_error",
            "model_not_found",
            "model",
        )
    )


def unknown_path(method: str, path: str) -> Rejection:
    """404: a route the endpoint does not have, most often a base URL without `/v1`."""
    return envelope(
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
        return RejectedError(envelope(429, message, refusal.kind, "rate_limit_exceeded"))
    wait = write_seconds(refusal.wait_s)
    message = f"Rate limit reached {figures}. Please try again in {wait}s."
    return RejectedError(
        envelope(429, message, refusal.kind, "rate_limit_exceeded", Retry_After=wait)
    )


BARE_429 = envelope(429, "Too many requests.", None, None)
"""429 of a server that says neither what the limit is nor how long to wait."""


def queue_full(running: int, waiting: int) -> RejectedError:
    """429 of a server on which no more requests may wait."""
    message = f"Too many concurrent requests: {running} are being answered and {waiting} wait."
    return RejectedError(envelope(429, message, "requests", "queue_full"))


def mask(key: str) -> str:
    """A key with its middle starred out; a short one entirely."""
    shown = 4
    if len(key) <= 3 * shown:
        return "*" * len(key)
    return key[:shown] + "*" * (len(key) - 2 * shown) + key[-shown:]
