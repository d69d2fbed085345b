"""What one exchange means for its row and for the run: the reading of a table.

The table is ``core/verdict/rules.py``. A signal is a fault of the transport
(``TransportFault.kind``), or a status with the names that the error's body gives itself
(``core/reply/error_body.py``). A success whose body is an error enters with the status inside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from batchrun.core.reply import (
    answer,
    error_body,
    failure_reports,
    limit_headers,
    phrases,
    redirects,
)
from batchrun.core.reply import completion as reading
from batchrun.core.reply import headers as header
from batchrun.core.reply.error_body import NO_ERROR, ErrorBody
from batchrun.core.reply.fast_completion import plain_completion
from batchrun.core.reply.vendor_codes import judged_as
from batchrun.core.settings import urls
from batchrun.core.verdict import trail as words
from batchrun.core.verdict.rules import (
    CODES,
    PAUSED_S_MAX,
    REFUSED_S_MAX,
    RULES,
    STATUS_OF_NAME,
    UNFINISHED,
    UNFINISHED_REASONS,
    Action,
    Rule,
)
from batchrun.errors import FaultKind, TransportFault
from batchrun.records import NO_USAGE, Completion, Reply, Usage

__all__ = ["RULES", "Action", "Circumstances", "Rule", "Verdict", "answered", "judge"]


class Verdict(NamedTuple):
    """What one exchange means by itself: the first step of a decision (``core/verdict/decide.py``).

    ``wait_s`` is the wait the server asked for, None where it named none. ``rule`` names the line
    of the table that decided ("completion" for a success). ``usage`` is what the reply says it
    cost, completion or not, and ``usage_raw`` the object that says so, as JSON text. ``backoff_s``
    is the first backoff where the table has one of its own. ``trail`` says how it came about
    (``core/verdict/trail.py``).
    """

    action: Action
    rule: str
    completion: Completion | None = None
    error_class: str | None = None
    code: str | None = None
    message: str = ""
    wait_s: float | None = None
    usage: Usage = NO_USAGE
    backoff_s: float | None = None
    usage_raw: str | None = None
    trail: str = words.COMPLETION

    @property
    def charged(self) -> bool:
        """Whether the exchange counts against the row's attempts."""
        return self.action in (Action.AGAIN, Action.FAIL, Action.DONE)


class Circumstances(NamedTuple):
    """What a ruling depends on besides the exchange itself.

    ``rulings`` counts this row's earlier rulings by rule name; ``succeeded`` says whether any row
    of this run had an answer; ``wall_s`` is seconds since the epoch; ``wait_s_max`` is the longest
    wait that is still waited out. ``runs_model`` says that the row asks for the run's own model
    rather than for one of its choice; ``last_try`` that another charged ruling uses up the row's
    attempts; ``refused_s`` how long the endpoint has answered with refusals only. ``url`` is the
    one that was asked, for messages.
    """

    rulings: Mapping[str, int]
    succeeded: bool
    wall_s: float
    wait_s_max: float
    runs_model: bool = False
    last_try: bool = False
    refused_s: float = 0.0
    url: str = ""


_new = tuple.__new__  # half the time of a named tuple's own ways
_DONE = Action.DONE  # a name of the module is found sooner than a member of an enumeration


def answered(exchange: Reply | TransportFault) -> Verdict | None:
    """The verdict on the most common exchange, a success with a whole answer: it depends on no
    circumstances. None for any other, which ``judge`` decides about.
    """
    if isinstance(exchange, Reply) and 200 <= exchange.status < 300:
        plain = plain_completion(exchange.body)
        if plain is not None:
            found, usage_raw = plain
            # What says nothing may report a failure beside it.
            if found.first.content and found.first.finish_reason not in UNFINISHED_REASONS:
                known = (_DONE, "completion", found, None, None, "", None, found.usage, None)
                return _new(Verdict, (*known, usage_raw, words.COMPLETION))
    return None


def judge(exchange: Reply | TransportFault, circumstances: Circumstances) -> Verdict:
    """Decide about one exchange. Any body and any headers end in a verdict."""
    if isinstance(exchange, TransportFault):
        kind = exchange.kind
        signal = _Signal(kind, None, frozenset(), kind.value, str(exchange))
        return _rule(signal, circumstances)
    status = exchange.status
    value = reading.parse(exchange.body)
    if 200 <= status < 300:
        found = reading.completion(value)
        if found is not None and not _unfinished(found) and not _failed(found, value):
            usage, usage_raw = reading.usage_and_text(value)
            return Verdict(_DONE, "completion", found, usage=usage, usage_raw=usage_raw)
        return _rule(_without_completion(exchange, value, found, circumstances), circumstances)
    if value is None and _EVENT.match(exchange.body):
        from batchrun.core.stream.fold import fold  # only streams need it

        value = reading.parse(fold(exchange.body).body())
    error = error_body.read(value)
    if not error.layers:
        page = {phrases.PAGE} if exchange.body.lstrip()[:1] == b"<" else set()
        error = error._replace(names=frozenset({phrases.SILENT, *page}))
    message = error.message or f"HTTP {status}: {_glimpse(exchange.body)}"
    if 300 <= status < 400 and (location := exchange.headers.get("location")):
        message = redirects.refused(status, location)
    meant = judged_as(error.names, status)
    return _rule(_signal(exchange, meant, error, message, value, circumstances), circumstances)


_EVENT = re.compile(rb"\s*(?:data|event|error|id|retry)?:")
"""What a refusal begins with that is told as an event of a stream."""


class _Signal(NamedTuple):
    """An exchange as the table sees it."""

    fault: FaultKind | None
    status: int | None
    names: frozenset[str]
    code: str | None
    message: str
    wait_s: float | None = None
    should_retry: bool | None = None
    usage: Usage = NO_USAGE
    usage_raw: str | None = None


def _signal(
    reply: Reply,
    status: int,
    error: ErrorBody,
    message: str,
    value: object,
    circumstances: Circumstances,
) -> _Signal:
    names = error.names
    if error.code in CODES and error.kind not in (None, error.code):
        # A type may still say what it said before there were codes (OpenAI's insufficient_quota).
        names -= {error.kind}
    wall_s = circumstances.wall_s
    wait_s = header.retry_after_s(reply.headers, wall_s=wall_s)
    if wait_s is None:
        wait_s = error_body.wait_s(error, wall_s=wall_s)
    if wait_s is None and status == 429:
        wait_s = limit_headers.used_up_s(reply.headers, wall_s=wall_s)
        if wait_s is None:
            wait_s = header.reset_s(reply.headers, wall_s=wall_s)
    return _Signal(
        None,
        status,
        names,
        # A code that repeats the status (llama.cpp, vLLM) says less than the type beside it.
        error.kind if error.kind and error.code == str(reply.status) else error.code or error.kind,
        message,
        wait_s,
        header.should_retry(reply.headers),
        *reading.usage_and_text(value),
    )


def _without_completion(
    reply: Reply, value: object, found: Completion | None, circumstances: Circumstances
) -> _Signal:
    """A success that is none: an error in disguise, an answer that broke off, or something else."""
    error = error_body.read(_error_inside(value))
    meant = judged_as(error.names, reply.status)
    status = error.status if meant == reply.status else meant
    if status is None:
        ranked = (error.code or "", error.kind or "", *sorted(error.names))
        status = next((STATUS_OF_NAME[name] for name in ranked if name in STATUS_OF_NAME), None)
    reason = None if found is None else _unfinished(found)
    if reason is not None and status is None:
        message = error.message or f"HTTP {reply.status}: the answer ended with {reason!r}"
        error = error._replace(names=error.names | {UNFINISHED}, code=error.code or reason)
        return _signal(reply, reply.status, error, message, value, circumstances)
    if status is None and isinstance(value, dict) and _reports_failure(value):
        # What it is named as is unknown, but a server that reports an error failed.
        status = 500
    if status is None:
        message = f"HTTP {reply.status} without a completion{_lack(value, reply.body)}"
        if value is None and reply.body.strip():
            error = NO_ERROR._replace(names=frozenset({phrases.SILENT}))
        else:
            error = NO_ERROR
        return _signal(reply, reply.status, error, message, value, circumstances)
    message = error.message or f"HTTP {reply.status} with an error: {_glimpse(reply.body)}"
    return _signal(reply, status, error, message, value, circumstances)


def _lack(value: object, body: bytes) -> str:
    """What a success lacks to be a completion, and the start of its body."""
    if not body.strip():
        return ": empty body"
    found = reading.flaw(body)
    if found is None and not isinstance(value, dict):
        found = "not a JSON object"
    elif found is None and isinstance(value, dict):
        listed = value.get("choices")
        found = "no choices" if not listed else "no message in its choices"
    return f" ({found}): {_glimpse(body)}"


def _unfinished(found: Completion) -> str | None:
    """The finish reason that says of a choice that the server broke it off."""
    for choice in found.choices or (found.first,):
        if choice.finish_reason in UNFINISHED_REASONS:
            return choice.finish_reason
    return None


def _failed(found: Completion, value: object) -> bool:
    """Whether a completion without any answer reports a failure beside it, as MiniMax does of a
    request that its moderation refused. An answer is kept, whatever is said beside it.
    """
    return answer.is_empty(found) and isinstance(value, dict) and failure_reports.failed(value)


def _reports_failure(value: Mapping[str, object]) -> bool:
    """Whether a success without an answer says that it failed. Half an answer does not."""
    return bool(value.get("error")) or (not value.get("choices") and failure_reports.failed(value))


def _error_inside(value: object) -> object:
    """Where in a success an error stands: at the top, or in a choice (OpenRouter)."""
    if isinstance(value, dict):
        choices = value.get("choices")
        if not value.get("error") and isinstance(choices, list) and choices:
            listed = (choice.get("error") for choice in choices if isinstance(choice, dict))
            inside = next((error for error in listed if error), None)
            return {"error": inside} if inside or not failure_reports.failed(value) else value
    return value


def _rule(signal: _Signal, circumstances: Circumstances) -> Verdict:
    """What the table says, bent by what the server asks for and by how often it said so."""
    rule = next(rule for rule in RULES if _applies(rule, signal, circumstances))
    before = circumstances.rulings.get(rule.name, 0)
    action, said = rule.action, rule.said
    if rule.tries_max is not None and (
        before >= rule.tries_max
        or (circumstances.last_try and rule.then is Action.STOP and action is Action.AGAIN)
    ):
        action = rule.then
        if action is not Action.AGAIN:
            said = f"{said}{words.BETWEEN}{words.TRIES_USED_UP}"
    action, more = _as_told(action, signal, circumstances)
    said = words.BETWEEN.join((said, *more))
    message = signal.message
    if rule.advice and before:
        message = f"{message} ({rule.advice})"
    if circumstances.url and not circumstances.succeeded and _of_the_url(rule, signal):
        message = f"{message} ({urls.asked_in_vain(circumstances.url)})"
    return Verdict(
        action,
        rule.name,
        error_class=rule.error_class,
        code=signal.code,
        message=message,
        wait_s=signal.wait_s,
        usage=signal.usage,
        backoff_s=rule.backoff_s,
        usage_raw=signal.usage_raw,
        trail=said,
    )


def _of_the_url(rule: Rule, signal: _Signal) -> bool:
    """Whether a ruling before any answer tells of a path that serves something else: a web page,
    another call, nothing.
    """
    return (
        rule.name == "wrong_path"
        or signal.status == 405
        or (rule.name == "not_a_completion" and phrases.SILENT in signal.names)
    )


def _applies(rule: Rule, signal: _Signal, circumstances: Circumstances) -> bool:
    return (
        rule.matches(signal.fault, signal.status, signal.names)
        and rule.succeeded in (None, circumstances.succeeded)
        and (circumstances.runs_model or not rule.runs_model)
        and (signal.wait_s is not None or not rule.with_wait)
    )


def _as_told(
    action: Action, signal: _Signal, circumstances: Circumstances
) -> tuple[Action, list[str]]:
    """The action after ``x-should-retry`` and the wait that the server asks for, and the words for
    what these changed.
    """
    said: list[str] = []
    if signal.should_retry is False and action in _REPEATING:
        return Action.FAIL, [words.TOLD_NOT_TO_RETRY]
    if (
        signal.should_retry is True
        and action in (Action.FAIL, Action.STOP)
        and not circumstances.last_try
    ):
        # Told to try again, also at what would end the row or the run: within its attempts.
        action = Action.AGAIN
        said.append(words.TOLD_TO_RETRY)
    wait_s, wait_s_max = signal.wait_s, circumstances.wait_s_max
    refused_s_max = max(REFUSED_S_MAX, 3 * wait_s_max)
    if action is Action.PAUSE:
        action = Action.STOP if wait_s is None else Action.THROTTLE
        refused_s_max = max(PAUSED_S_MAX, 3 * (wait_s or 0.0))
    if wait_s is not None and wait_s > wait_s_max and action in _REPEATING:
        return Action.STOP, [*said, words.WAIT_TOO_LONG]
    if action is Action.THROTTLE and circumstances.refused_s > refused_s_max:
        return Action.STOP, [*said, words.REFUSED_TOO_LONG]
    return action, said


_REPEATING = (Action.AGAIN, Action.THROTTLE, Action.FREE, Action.PAUSE)


def _glimpse(body: bytes) -> str:
    """The start of a body on one line, for a message."""
    text = " ".join(reading.text_of(body, 300).split())
    return text or "empty body"
