"""The verdict table: which signal means what, one line each; the first that matches decides.

Sources: the status tables and SDKs of OpenAI, Azure, Anthropic, Google, Groq, OpenRouter, DeepSeek,
Together, Cerebras, Mistral, vLLM, SGLang, TGI, llama.cpp and LM Studio as of 2026-11. ``source``
names the server that a line was made for, where it is not everybody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from batchrun.core.reply import phrases as names
from batchrun.core.verdict import trail as words
from batchrun.errors import FaultKind


class Action(Enum):
    """What to do with the row."""

    DONE = "done"
    """A completion."""
    THROTTLE = "throttle"
    """Again when the endpoint lets it; costs the row nothing."""
    PAUSE = "pause"
    """Throttled where the server names a wait that is waited out, else the run stops. Only in the
    table: a verdict says which of the two.
    """
    FREE = "free"
    """Again at once; costs the row nothing."""
    AGAIN = "again"
    """Again after a backoff; costs one of the row's attempts."""
    FAIL = "fail"
    """The row ends as an error."""
    STOP = "stop"
    """The run stops; the row stays pending."""
    HOLD = "hold"
    """Again when the endpoint is back, or at another one; costs the row nothing. This action and
    those that follow are not in the table: they are what a later step makes of a ruling.
    """
    LEAVE = "leave"
    """The endpoint is left out, and the row goes to another one; costs the row nothing."""
    SWITCH = "switch"
    """The row is sent again, to the fallback model."""
    WITHHOLD = "withhold"
    """The row failed, and waits until it is known whether its endpoint is to blame."""


class Health(Enum):
    """What a ruling tells of the endpoint's health. Any other ruling: it answers."""

    DOWN = "down"
    """Nobody is there to answer: it has nothing to do with the row."""
    AILING = "ailing"
    """It may be down, or it may be this row's request that it cannot digest."""


ACTIONS: Mapping[Action, str] = {
    Action.DONE: "The row is `ok`.",
    Action.THROTTLE: (
        "Retries the row when the server may accept it. If many recent replies were refusals, all "
        "requests wait, otherwise only this row. Does not count as an attempt. After an hour of "
        "nothing but refusals (three times `--max-wait`, if that is longer) the run stops."
    ),
    Action.PAUSE: (
        "*throttle* if the server names a wait of at most `--max-wait`, otherwise *stop*. After "
        "five minutes of nothing but refusals (three times the named wait, if that is longer) the "
        "run stops."
    ),
    Action.FREE: "Retries the row immediately. Does not count as an attempt.",
    Action.AGAIN: (
        "Retries the row after a backoff. Counts as an attempt; after `--max-attempts` the row "
        "fails."
    ),
    Action.FAIL: "Ends the row as an `error` row.",
    Action.STOP: "Stops the run with exit code 3. The row stays pending.",
    Action.HOLD: (
        "Replaces *again* during an outage: retries the row when the endpoint is back, or at "
        "another one. Does not count as an attempt."
    ),
    Action.LEAVE: (
        "Replaces *stop* if other endpoints serve the row's model: only this endpoint is left out, "
        "and the row goes to another one. Does not count as an attempt."
    ),
    Action.SWITCH: "Sends the row again, to `--fallback-model`.",
    Action.WITHHOLD: (
        "Replaces *fail* while nothing was answered since the row was sent: the row fails once an "
        "answer shows that the endpoint is well."
    ),
}
"""What the actions do, for the reference."""

ERROR_CLASSES: Mapping[str, str] = {
    "invalid_row": "The input row cannot become a request. It is never sent.",
    "invalid_request": "The server rejects the request as malformed.",
    "context_length": "The request is longer than the model's context.",
    "content_filter": "The server's content filter rejects the request.",
    "payload_too_large": "The request is larger than the server accepts.",
    "request_too_large": "The request can never fit the account's rate limit.",
    "rate_limit": (
        "The server throttles. Waited out, and not counted as an attempt: it appears in the ledger "
        "only."
    ),
    "quota": "The account's quota or spending limit is used up.",
    "auth": "The key is missing or not accepted.",
    "billing": "The server asks for payment.",
    "forbidden": "The key may not do this, or not from here.",
    "not_found": "The server does not know the model or the path.",
    "config": "A redirect, a proxy that refuses, a bad certificate, or a path that takes no POST.",
    "timeout": "No whole reply within `--timeout`, or the server itself timed out.",
    "connection": "The connection could not be made, or broke.",
    "server_error": "The server failed.",
    "overloaded": "The server reports that it is overloaded.",
    "incomplete_stream": "A stream ended before its answer did.",
    "invalid_response": "A success status without a completion in the body.",
    "invalid_output": (
        "The answer does not fit the JSON Schema of its request or is not JSON, or a tool call "
        "does not fit its tool; or the model wrote what its own server could not parse (Groq)."
    ),
    "truncated_output": "A token limit cut the answer off; only with `--on-truncation`.",
    "empty_output": "No content, tool call or refusal; only with `--on-empty`.",
    "response_too_large": "The reply is larger than `--max-response-bytes`.",
}
"""Every class that a row can fail with, and what it means. The table below gives all of them but
``invalid_row``, ``truncated_output`` and ``empty_output``.
"""

FAULTS: Mapping[str, str] = {
    "timeout": "no whole reply in time",
    "dns": "host name not found",
    "connect": "no connection",
    "stale": "a kept-alive connection is closed before a reply",
    "reset": "connection closed before a reply",
    "cut": "connection closed within the reply",
    "incomplete": "a stream ends before its answer does",
    "suspended": "one of these while batchrun was suspended, or its machine was asleep",
    "tls": "TLS failure",
    "proxy": "the proxy refuses",
    "too_large": "reply too large",
}
"""The kinds of transport fault, ``TransportFault.kind``, in words."""

REFUSED_S_MAX = 3600.0
"""After so many seconds of nothing but refusals the run stops, or after three times the longest
wait if that is more: throttling costs a row nothing, and would otherwise go on for ever."""
PAUSED_S_MAX = 300.0
"""The same where the refusal names a limit of a day or longer, or three times the wait that it
asks for. Gemini asks to come back in half a minute all day long."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    ``statuses`` and ``codes`` narrow the rule where they are not empty; ``codes`` are compared
    with the names of the error's body. ``succeeded`` (None: either way) is whether any row of the
    run had an answer; ``runs_model``: only where the row asks for the run's model; ``with_wait``:
    only where the server names a wait. After ``tries_max`` rulings of this rule for one row (None:
    no limit of its own) ``then`` takes the place of ``action``. ``backoff_s`` is a first backoff
    of its own; ``advice`` is told when it rules a row again. ``health`` is what it tells of the
    endpoint: enough of these in a row, and nothing else, make an outage (core/verdict/outage.py).
    ``word`` begins the trail of its decisions where the error class does not.
    """

    name: str
    action: Action
    error_class: str
    faults: Collection[FaultKind] = ()
    statuses: Collection[int] = ()
    codes: frozenset[str] = frozenset()
    tries_max: int | None = None
    then: Action = Action.FAIL
    succeeded: bool | None = None
    runs_model: bool = False
    with_wait: bool = False
    backoff_s: float | None = None
    advice: str = ""
    health: Health | None = None
    source: str = ""
    word: str = ""

    @property
    def said(self) -> str:
        """The first word of the trail of what it decides (``core/verdict/trail.py``)."""
        return self.word or self.error_class

    def matches(self, fault: FaultKind | None, status: int | None, given: Collection[str]) -> bool:
        """Whether this line speaks of such an exchange, its circumstances aside."""
        if fault is not None:
            return fault in self.faults
        if self.faults or (self.statuses and status not in self.statuses):
            return False
        return not self.codes or not self.codes.isdisjoint(given)


_QUOTA = frozenset(
    """
    insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded
    project_spend_limit_exceeded organization_usage_limit_exceeded enforced_spend_limit_reached
    """.split()
) | {names.SPENDING}
_CONTEXT = frozenset(
    "context_length_exceeded exceed_context_size_error string_above_max_length".split()
) | {names.CONTEXT}
_FILTER = frozenset(
    """
    content_filter content_policy_violation ResponsibleAIPolicyViolation cyber_policy
    invalid_prompt
    """.split()
) | {names.MODERATED}
_NO_MODEL = frozenset("model_not_found DeploymentNotFound".split()) | {names.NO_MODEL}
_NO_PATH = frozenset({"unknown_url", "Not Found", names.WRONG_PATH, names.SILENT})
_RATE = frozenset({"rate_limit_exceeded"})

UNFINISHED = "@unfinished"
UNFINISHED_REASONS = frozenset(
    """
    error abort network_error insufficient_system_resource
    """.split()
)
"""Finish reasons that tell of a failure of the server (OpenRouter, vLLM, SGLang, Zhipu, DeepSeek),
not of the model's: what came before them is no answer."""

A = Action
DOWN, AILING = Health.DOWN, Health.AILING
RULES: tuple[Rule, ...] = (
    # It may have been billed and may still be running: not worth all of a row's attempts.
    Rule("timeout", A.AGAIN, "timeout", faults=(FaultKind.TIMEOUT,), tries_max=2, health=AILING),
    # A name that was never resolved is most likely misspelt.
    Rule(
        "unknown_host",
        A.AGAIN,
        "connection",
        faults=(FaultKind.DNS,),
        tries_max=3,
        then=A.STOP,
        succeeded=False,
    ),
    Rule("connect", A.AGAIN, "connection", faults=(FaultKind.CONNECT, FaultKind.DNS), health=DOWN),
    # A kept-alive connection that the server had closed meanwhile: not the row's fault.
    Rule(
        "stale",
        A.FREE,
        "connection",
        faults=(FaultKind.STALE,),
        tries_max=8,
        then=A.AGAIN,
        health=AILING,
    ),
    # The same, where it cannot be told.
    Rule(
        "reset",
        A.FREE,
        "connection",
        faults=(FaultKind.RESET,),
        tries_max=1,
        then=A.AGAIN,
        health=AILING,
    ),
    Rule("cut", A.AGAIN, "connection", faults=(FaultKind.CUT,), health=AILING),
    # This process was stopped, or asleep with its machine, and its connection broke meanwhile.
    Rule(
        "suspended",
        A.FREE,
        "connection",
        faults=(FaultKind.SUSPENDED,),
        tries_max=20,
        then=A.AGAIN,
        health=AILING,
    ),
    # A stream that ended before its answer did, by a cut or in good order.
    Rule("incomplete", A.AGAIN, "incomplete_stream", faults=(FaultKind.INCOMPLETE,), health=AILING),
    Rule("tls", A.STOP, "config", faults=(FaultKind.TLS, FaultKind.PROXY)),
    Rule("too_large", A.FAIL, "response_too_large", faults=(FaultKind.TOO_LARGE,)),
    Rule(
        "no_limit",
        A.STOP,
        "quota",
        statuses=(429,),
        codes=frozenset({names.NO_LIMIT}),
        source="Gemini, for models that an account may not use",
    ),
    Rule(
        "allocated",
        A.THROTTLE,
        "rate_limit",
        statuses=(429,),
        codes=frozenset({names.ALLOCATED}),
        source="DashScope, whose `insufficient_quota` is tokens per minute",
    ),
    Rule("quota", A.STOP, "quota", statuses=(400, 403, 429), codes=_QUOTA),
    Rule("quota_resets", A.PAUSE, "quota", statuses=(429,), codes=frozenset({names.RESETS})),
    Rule("context", A.FAIL, "context_length", statuses=(400, 413, 422), codes=_CONTEXT),
    Rule("filter", A.FAIL, "content_filter", statuses=(400, 403, 422), codes=_FILTER),
    Rule(
        "model_output",
        A.AGAIN,
        "invalid_output",
        statuses=(400,),
        codes=frozenset({"tool_use_failed", "json_validate_failed"}),
        tries_max=2,
        source="Groq, where the model wrote what its own server cannot read",
    ),
    # Every body that is sent is valid JSON: what arrived was cut or changed on its way.
    Rule(
        "unparsed",
        A.AGAIN,
        "invalid_request",
        statuses=(400, 422),
        codes=frozenset({names.UNPARSED}),
        tries_max=3,
    ),
    Rule(
        "page_400",
        A.AGAIN,
        "invalid_request",
        statuses=(400,),
        codes=frozenset({names.PAGE}),
        tries_max=2,
        source="nginx, CloudFront and load balancers, which have not read the request",
    ),
    # Keys spread slowly through some providers: after successes a 401 gets two more chances.
    Rule(
        "auth_again", A.AGAIN, "auth", statuses=(401,), tries_max=2, then=A.STOP, succeeded=True,
        word=words.BAD_KEY,
    ),
    Rule("auth", A.STOP, "auth", statuses=(401,), word=words.BAD_KEY),
    Rule(
        "budget_in_flight",
        A.THROTTLE,
        "rate_limit",
        statuses=(402,),
        codes=frozenset({"openrouter_in_flight_budget"}),
        with_wait=True,
        source="OpenRouter, whose balance covers fewer requests at once",
    ),
    Rule(
        "above_budget",
        A.FAIL,
        "request_too_large",
        statuses=(402,),
        codes=frozenset({"weight_exceeds_budget"}),
        source="OpenRouter",
    ),
    Rule("billing", A.STOP, "billing", statuses=(402,)),
    Rule(
        "gateway_quota",
        A.PAUSE,
        "quota",
        statuses=(403,),
        codes=frozenset({names.GATEWAY_QUOTA}),
        source="Azure API Management",
    ),
    Rule("forbidden", A.STOP, "forbidden", statuses=(403,)),
    # The path is the run's, and so is a model that the row did not choose: nobody will find them.
    Rule("wrong_path", A.STOP, "not_found", statuses=(404,), codes=_NO_PATH, succeeded=False),
    Rule("wrong_model", A.STOP, "not_found", statuses=(404,), succeeded=False, runs_model=True),
    Rule(
        "path_gone",
        A.AGAIN,
        "not_found",
        statuses=(404,),
        codes=_NO_PATH,
        tries_max=2,
        then=A.STOP,
        succeeded=True,
    ),
    Rule(
        "model_gone",
        A.AGAIN,
        "not_found",
        statuses=(404,),
        codes=_NO_MODEL,
        runs_model=True,
        tries_max=2,
        then=A.STOP,
        succeeded=True,
        source="Azure, whose new deployments may be missing for minutes",
    ),
    Rule("not_found", A.FAIL, "not_found", statuses=(404, 410)),
    Rule("config", A.STOP, "config", statuses=(405, 406, 407, 415, *range(300, 400))),
    Rule("request_timeout", A.AGAIN, "timeout", statuses=(408,), health=AILING),
    Rule("conflict", A.AGAIN, "server_error", statuses=(409,), tries_max=3),
    Rule("payload", A.FAIL, "payload_too_large", statuses=(413,)),
    Rule("dependency", A.AGAIN, "server_error", statuses=(421, 424, 425, 499)),
    Rule(
        "above_limit",
        A.FAIL,
        "request_too_large",
        statuses=(429,),
        codes=frozenset({names.TOO_LARGE}),
        source="OpenAI, Groq",
    ),
    Rule(
        "per_day",
        A.PAUSE,
        "rate_limit",
        statuses=(429,),
        codes=frozenset({"rate_limit_daily", names.PER_DAY}),
        source="Gemini, OpenAI, Groq, OpenRouter",
    ),
    Rule(
        "slow_down",
        A.THROTTLE,
        "rate_limit",
        statuses=(429,),
        codes=frozenset({"slow_down"}),
        source="OpenAI, for traffic that grew too fast",
    ),
    Rule("throttled", A.THROTTLE, "rate_limit", statuses=(429,)),
    # Servers that still load their model answer 503 for a while.
    Rule(
        "starting", A.AGAIN, "overloaded", statuses=(503,), succeeded=False, backoff_s=2.0,
        health=DOWN,
        source="llama.cpp, and load balancers without a healthy server",
    ),
    Rule("overloaded", A.AGAIN, "overloaded", statuses=(498, 503, 529), health=DOWN),
    Rule("unsupported", A.FAIL, "invalid_request", statuses=(501,)),
    Rule(
        "origin_tls",
        A.AGAIN,
        "config",
        statuses=(525, 526),
        tries_max=2,
        then=A.STOP,
        source="Cloudflare, which cannot trust the server behind it",
    ),
    Rule(
        "silent_too_long",
        A.AGAIN,
        "server_error",
        statuses=(524,),
        health=AILING,
        advice="the proxy gives up on answers that are silent for long: ask for a stream",
        source="Cloudflare",
    ),
    # What Cloudflare says of a server that it cannot reach.
    Rule("unreachable", A.AGAIN, "server_error", statuses=(521, 522, 523, 530), health=DOWN),
    Rule("server", A.AGAIN, "server_error", statuses=range(500, 600), health=AILING),
    Rule("invalid", A.FAIL, "invalid_request", statuses=range(400, 500)),
    Rule(
        "unfinished",
        A.AGAIN,
        "server_error",
        statuses=range(200, 300),
        codes=frozenset({UNFINISHED}),
        source="OpenRouter, DeepSeek, SGLang, Zhipu",
    ),
    # A success status without a completion in it: a proxy's page, half a body, something else.
    Rule("not_a_completion", A.AGAIN, "invalid_response", tries_max=2),
)  # fmt: skip

HEALTH: Mapping[str, Health] = {rule.name: rule.health for rule in RULES if rule.health}
"""What rulings tell of the endpoint's health, by the rule's name."""

CODES: frozenset[str] = _RATE | {
    code for rule in RULES for code in rule.codes if not code.startswith("@")
}
"""Codes that the table knows: where an error has one of them, its type says nothing more."""

STATUS_OF_NAME: Mapping[str, int] = {
    name: status
    for status, listed in {
        400: (
            *_CONTEXT,
            *_FILTER,
            *"invalid_request_error BadRequestError INVALID_ARGUMENT tool_use_failed".split(),
            *"json_validate_failed validation_error".split(),
            "Bad Request",
        ),
        401: (
            *"invalid_api_key authentication_error AuthenticationError UNAUTHENTICATED".split(),
            "Unauthorized",
        ),
        402: ("billing_error", "insufficient_balance", "Payment Required"),
        403: (
            *"permission_error PermissionDeniedError PERMISSION_DENIED".split(),
            *"unsupported_country_region_territory Forbidden".split(),
        ),
        404: (
            *_NO_MODEL,
            *"unknown_url not_found_error NotFoundError NOT_FOUND".split(),
            "Not Found",
            names.WRONG_PATH,
        ),
        413: ("request_too_large",),
        429: (
            *_QUOTA,
            *_RATE,
            *"rate_limit_daily rate_limit_error rate_limited RateLimitError slow_down".split(),
            *"too_many_requests RESOURCE_EXHAUSTED".split(),
            "Too Many Requests",
        ),
        500: (
            *"server_error api_error internal_error internal_server_error INTERNAL".split(),
            *"InternalServerError".split(),
            "Internal Server Error",
        ),
        503: (
            *"server_is_overloaded unavailable_error UNAVAILABLE service_unavailable".split(),
            *"ServiceUnavailableError overloaded".split(),
            "Service Unavailable",
        ),
        504: ("timeout", "timeout_error", "DEADLINE_EXCEEDED", "Gateway Timeout"),
        529: ("overloaded_error",),
    }.items()
    for name in listed
}
"""The status that an error under status 200 should have had, by the name it gives itself."""
