"""What an exchange leaves behind: its line in the ledger, and the tokens it is charged with."""

from __future__ import annotations

from batchrun.core.cost.price_book import PriceBook
from batchrun.core.reply import completion as reading
from batchrun.core.reply import headers as header
from batchrun.core.verdict import trail
from batchrun.core.verdict.decide import Decision, decision_of
from batchrun.core.verdict.judge import Action, Verdict
from batchrun.engine.open_row import Phase, RowRun
from batchrun.errors import FaultKind, TransportFault
from batchrun.ports import Journal
from batchrun.records import NO_USAGE, Attempt, Reply

_new = tuple.__new__  # half the time of a named tuple's own ways
_INTERRUPTED = decision_of(
    Verdict(
        Action.AGAIN,
        "interrupted",
        error_class="connection",
        code=FaultKind.INTERRUPTED.value,
        trail=trail.INTERRUPTED,
    )
)


def ledger_line(
    run: RowRun,
    endpoint: str,
    exchange: Reply | TransportFault,
    decision: Decision,
    queue_s: float,
    latency_s: float,
    prices: PriceBook | None = None,
) -> Attempt:
    """The line of a row's latest exchange. ``prices`` say what it cost; without them the cost is
    not known.
    """
    verdict = decision.verdict
    fault: TransportFault | None = None
    if isinstance(exchange, Reply):
        reply: Reply | None = exchange
    else:
        fault, reply = exchange, exchange.partial
    completion = verdict.completion
    usage, usage_raw = verdict.usage, verdict.usage_raw
    told: object = None
    status, request_id, ttft_s = None, None, None
    if reply is not None:
        status, headers, _, ttft_s = reply
        request_id = header.request_id(headers)
        if ttft_s is not None:
            # The event loop's clock ticks in milliseconds: an answer of one token, which arrives
            # whole, would end before it began.
            latency_s = max(latency_s, ttft_s)
        if fault is not None or (completion is None and usage != NO_USAGE):
            # Half an answer, and one that was refused, may still have told what it cost.
            told = reading.parse(reply.body)
        if fault is not None:
            usage, usage_raw = reading.usage_and_text(told)
    elif fault is not None:
        status = fault.http_status
    asked = run.request.model
    if completion is not None:
        answered, tier = completion.model, completion.service_tier
    else:
        answered, tier = (_text(told, name) for name in ("model", "service_tier"))
    cost_pd, billed_from = None, None
    if prices is not None and reply is not None:
        cost_pd, billed_from = prices.bill(
            endpoint, asked, answered, tier, usage, usage_raw, reply.headers, run.wall_us
        )
    line = (
        run.request.row,
        run.number,
        endpoint,
        answered or asked,
        tier,
        run.wall_us,
        queue_s,
        latency_s,
        status,
        verdict.error_class,
        verdict.code,
        verdict.wait_s,
        usage,
        cost_pd,
        request_id,
        fault is not None and fault.sent and usage == NO_USAGE,
        ttft_s,
        usage_raw,
        billed_from,
        decision.trail,
        run.turn,
    )
    return _new(Attempt, line)


def given_up(
    journal: Journal, run: RowRun, endpoint: str, queue_s: float, latency_s: float
) -> None:
    """A request in flight was given up: the server may answer, and bill, it all the same."""
    fault = TransportFault("the run was stopped", kind=FaultKind.INTERRUPTED, sent=True)
    journal.post(ledger_line(run, endpoint, fault, _INTERRUPTED, queue_s, latency_s))
    run.phase = Phase.SETTLED


def _text(value: object, name: str) -> str | None:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def tokens_used(exchange: Reply | TransportFault, verdict: Verdict) -> int | None:
    """Tokens that an exchange used: 0 if the server refused it, None if unknown."""
    if verdict.completion is not None:
        usage = verdict.completion.usage
        used = usage.total_tokens
        if used is None and usage.prompt_tokens is not None:
            used = usage.prompt_tokens + (usage.completion_tokens or 0)
        return used
    if isinstance(exchange, TransportFault):
        return None if exchange.sent else 0
    return 0 if exchange.status >= 400 else None
