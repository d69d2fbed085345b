"""What one exchange means for its row and for the run: a table, and the reading of it.

The first rule that matches decides. A signal is a fault of the transport (``TransportFault.kind``)
or a status with the code and type of the error body; a 200 whose body is an error enters with the
code inside it. Text is never searched for numbers or phrases: servers echo prompts in messages.

Sources: the status tables and SDKs of OpenAI, Azure, Groq, OpenRouter, DeepSeek, vLLM, SGLang and
llama.cpp as of 2026-11.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from batchrun.core import headers as header
from batchrun.core import reply as reading
from batchrun.errors import TransportFault
from batchrun.records import Completion, Reply


class Action(Enum):
    """What to do with the row."""

    DONE = "done"
    """A completion."""
    THROTTLE = "throttle"
    """Again after the endpoint's cool-down; costs the row nothing."""
    FREE = "free"
    """Again at once; costs the row nothing."""
    AGAIN = "again"
    """Again after a backoff; costs one of the row's attempts."""
    FAIL = "fail"
    """The row ends as an error."""
    STOP = "stop"
    """The run stops; the row stays pending."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    ``statuses`` and ``codes`` narrow the rule where they are not empty; ``codes`` are compared
    with the body's code and with its type. After ``tries_max`` rulings of this rule for one row
    (None: no limit of its own) ``then`` takes the place of ``action``.
    """

    name: str
    action: Action
    error_class: str
    faults: Collection[str] = ()
    statuses: Collection[int] = ()
    codes: frozenset[str] = frozenset()
    tries_max: int | None = None
    then: Action = Action.FAIL
    after_success: bool = False

    def matches(self, fault: str | None, status: int | None, names: Collection[str]) -> bool:
        """Whether this line speaks of such an exchange."""
        if fault is not None:
            return fault in self.faults
        if self.faults or (self.statuses and status not in self.statuses):
            return False
        return not self.codes or not self.codes.isdisjoint(names)


_QUOTA = frozenset(
    """
    insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded
    project_spend_limit_exceeded organization_usage_limit_exceeded enforced_spend_limit_reached
    """.split()
)
_CONTEXT = frozenset(
    "context_length_exceeded exceed_context_size_error string_above_max_length".split()
)
_FILTER = frozenset(
    """
    content_filter content_policy_violation ResponsibleAIPolicyViolation cyber_policy
    invalid_prompt
    """.split()
)

_ERROR_STATUSES = frozenset(str(status) for status in range(400, 600))

A = Action
RULES: tuple[Rule, ...] = (
    Rule("timeout", A.AGAIN, "timeout", faults=("timeout",)),
    Rule("connect", A.AGAIN, "connection", faults=("connect",)),
    # A kept-alive connection that the server had closed meanwhile: not the row's fault, once.
    Rule("reset", A.FREE, "connection", faults=("reset",), tries_max=1, then=A.AGAIN),
    Rule("cut", A.AGAIN, "connection", faults=("cut",)),
    # A stream that ended before its answer did, by a cut or in good order.
    Rule("incomplete", A.AGAIN, "incomplete_stream", faults=("incomplete",)),
    Rule("tls", A.STOP, "config", faults=("tls", "proxy")),
    Rule("too_large", A.FAIL, "response_too_large", faults=("too_large",)),
    Rule("quota", A.STOP, "quota", statuses=(400, 403, 429), codes=_QUOTA),
    Rule("context", A.FAIL, "context_length", statuses=(400, 413, 422), codes=_CONTEXT),
    Rule("filter", A.FAIL, "content_filter", statuses=(400, 403), codes=_FILTER),
    # Keys spread slowly through some providers: after successes a 401 gets two more chances.
    Rule(
        "auth_again",
        A.AGAIN,
        "auth",
        statuses=(401,),
        tries_max=2,
        then=A.STOP,
        after_success=True,
    ),
    Rule("auth", A.STOP, "auth", statuses=(401,)),
    Rule("billing", A.STOP, "billing", statuses=(402,)),
    Rule("forbidden", A.STOP, "forbidden", statuses=(403,)),
    Rule("not_found", A.FAIL, "not_found", statuses=(404, 410)),
    Rule("config", A.STOP, "config", statuses=(405, 406, 407, 415, *range(300, 400))),
    Rule("request_timeout", A.AGAIN, "timeout", statuses=(408,)),
    Rule("conflict", A.AGAIN, "server_error", statuses=(409,), tries_max=3),
    Rule("payload", A.FAIL, "payload_too_large", statuses=(413,)),
    Rule("dependency", A.AGAIN, "server_error", statuses=(421, 424, 425, 499)),
    Rule("throttled", A.THROTTLE, "rate_limit", statuses=(429,)),
    Rule("overloaded", A.AGAIN, "overloaded", statuses=(498, 503, 529)),
    Rule("unsupported", A.FAIL, "invalid_request", statuses=(501,)),
    Rule("server", A.AGAIN, "server_error", statuses=range(500, 600)),
    Rule("invalid", A.FAIL, "invalid_request", statuses=range(400, 500)),
    # A success status without a completion in it: a proxy's page, half a body, something else.
    Rule("not_a_completion", A.AGAIN, "invalid_response", tries_max=2),
)


class Verdict(NamedTuple):
    """The decision about one exchange.

    ``wait_s`` is the wait the server asked for, None where it named none. ``rule`` names the line
    of the table that decided ("completion" for a success).
    """

    action: Action
    rule: str
    completion: Completion | None = None
    error_class: str | None = None
    code: str | None = None
    message: str = ""
    wait_s: float | None = None

    @property
    def charged(self) -> bool:
        """Whether the exchange counts against the row's attempts."""
        return self.action in (Action.AGAIN, Action.FAIL, Action.DONE)


class Circumstances(NamedTuple):
    """What a ruling depends on besides the exchange itself.

    ``rulings`` counts this row's earlier rulings by rule name; ``succeeded`` says whether any row
    of this run had an answer; ``wall_s`` is seconds since the epoch; ``wait_s_max`` is the longest
    wait that is still waited out.
    """

    rulings: Mapping[str, int]
    succeeded: bool
    wall_s: float
    wait_s_max: float


def judge(exchange: Reply | TransportFault, circumstances: Circumstances) -> Verdict:
    """Decide about one exchange. Any body and any headers end in a verdict."""
    if isinstance(exchange, TransportFault):
        return _rule(exchange.kind, None, (None, None, str(exchange)), None, circumstances)
    status = exchange.status
    success = 200 <= status < 300
    if success and (found := reading.plain_completion(exchange.body)) is not None:
        return Verdict(Action.DONE, "completion", completion=found)
    value = reading.parse(exchange.body)
    if success and (found := reading.completion(value)) is not None:
        return Verdict(Action.DONE, "completion", completion=found)
    code, kind, message = reading.error_of(value)
    if success:
        if isinstance(value, dict) and value.get("error"):
            # An error in disguise: the code inside is the status it should have had.
            status = int(code) if code in _ERROR_STATUSES else 500
        else:
            message = f"HTTP {status} without a completion: {_glimpse(exchange.body)}"
    elif not message:
        message = f"HTTP {status}: {_glimpse(exchange.body)}"
    wait_s = header.retry_after_s(exchange.headers, wall_s=circumstances.wall_s)
    return _rule(None, status, (code, kind, message), wait_s, circumstances)


def _rule(
    fault: str | None,
    status: int | None,
    error: tuple[str | None, str | None, str],
    wait_s: float | None,
    circumstances: Circumstances,
) -> Verdict:
    code, kind, message = error
    names = tuple(name for name in (code, kind) if name)
    rule = next(
        rule
        for rule in RULES
        if rule.matches(fault, status, names)
        and (circumstances.succeeded or not rule.after_success)
    )
    action = rule.action
    if rule.tries_max is not None and circumstances.rulings.get(rule.name, 0) >= rule.tries_max:
        action = rule.then
    if (
        wait_s is not None
        and wait_s > circumstances.wait_s_max
        and action in (Action.AGAIN, Action.THROTTLE)
    ):
        action = Action.STOP
    return Verdict(
        action,
        rule.name,
        error_class=rule.error_class,
        code=code or kind or fault,
        message=message,
        wait_s=wait_s,
    )


def _glimpse(body: bytes) -> str:
    """The start of a body on one line, for a message."""
    text = " ".join(reading.text_of(body, 300).split())
    return text or "empty body"
