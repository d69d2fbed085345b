"""The decision about one exchange: what becomes of its row, and of its endpoint.

``decide`` is pure. It takes what came back, what the row has been through and what is known of the
endpoint, and returns a ``Decision``; ``engine/attempt.py`` sends, decides and acts. Renewing a key
is the one thing that a decision may have to wait for: the loop asks for the key and decides again,
with ``LaneView.key`` set.

The first step is the verdict on the exchange itself (``core/verdict/judge.py``). ``STEPS`` come
after it, in order; each of them sees what the earlier ones decided and may change it. A step that
does adds a word to the trail (``core/verdict/trail.py``), which becomes ``decided_by`` in the
ledger. To see why a row was treated as it was, read its trails beside this table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sized
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

from batchrun.core.reply import answer
from batchrun.core.verdict import answer_checks
from batchrun.core.verdict import trail as words
from batchrun.core.verdict.judge import Circumstances, Verdict, answered, judge
from batchrun.core.verdict.outage import PROBES_FREE, Evidence
from batchrun.core.verdict.repeated_failures import Kind, Repeated, Step
from batchrun.core.verdict.rules import HEALTH, Action, Health
from batchrun.errors import TransportFault
from batchrun.records import Outcome, Reply, Request

OF_THE_MODEL = ("forbidden", "not_found")
"""Error classes that stop a run for its own model, and of the fallback model say that it is not
available.
"""
RENEWED = "renewed_key"
"""The rule of a ruling that a renewed key replaced, as ``RowView.rulings`` counts it."""


class Sign(Enum):
    """What an exchange shows about the health of its endpoint."""

    ANSWERED = auto()
    """It answers, whatever it said."""
    NOTHING = auto()
    FAILED = auto()
    """It failed in a way that counts as evidence of an outage."""
    OUTAGE = auto()
    """With this failure, the evidence shows that it is down."""
    PROBED = auto()
    """It is down, and this probe did not reach it."""
    SILENT = auto()
    """The same; it never answered in this run, and the time for that is over: the run stops."""


class Key(NamedTuple):
    """What became of asking for another key: whether one is in use now, or why there is none."""

    renewed: bool
    problem: str | None = None


class RowView(Protocol):
    """What a decision needs to know of the row: see ``engine.open_row.RowRun``."""

    @property
    def request(self) -> Request:
        """The request that was sent."""
        ...

    @property
    def rulings(self) -> Mapping[str, int]:
        """Earlier rulings by the rule's name."""
        ...

    @property
    def charged(self) -> int:
        """Attempts charged so far."""
        ...

    @property
    def doubts(self) -> Sized:
        """Of these, those that may turn out to be the fault of an outage."""
        ...

    @property
    def probes(self) -> int:
        """How often it was the probe of an endpoint that is down."""
        ...

    @property
    def before(self) -> Outcome | None:
        """How it ended with its own model, while the fallback model is asked."""
        ...

    def failing(self, kind: str | None, answered_sent: int) -> tuple[int, int]:
        """The first of its latest requests that all failed in this way, and the latest request
        that its endpoint had answered when that one failed; ``answered_sent`` is that one now.
        """
        ...


class LaneView(Protocol):
    """What a decision needs to know of the endpoint and of the run, while the exchange's permit is
    still held.
    """

    @property
    def plain(self) -> bool:
        """Whether the run asks nothing of answers: no output policy, no fallback model."""
        ...

    @property
    def output(self) -> answer_checks.Policy | None:
        """What the run asks of every answer."""
        ...

    @property
    def attempts_max(self) -> int:
        """``--max-attempts``."""
        ...

    @property
    def wait_s_max(self) -> float:
        """``--max-wait``."""
        ...

    @property
    def model(self) -> str | None:
        """The run's model."""
        ...

    @property
    def url(self) -> str:
        """The URL that was asked, for messages."""
        ...

    @property
    def wall_s(self) -> float:
        """When the request was sent, in seconds since the epoch."""
        ...

    @property
    def succeeded(self) -> bool:
        """Whether there was an answer: in this run, or of several endpoints from this one."""
        ...

    @property
    def run_succeeded(self) -> bool:
        """Whether any row of this run had an answer."""
        ...

    @property
    def refused_s(self) -> float:
        """For how many seconds the endpoint has sent nothing but refusals."""
        ...

    @property
    def key(self) -> Key | None:
        """What became of asking for another key; None where nobody asked."""
        ...

    @property
    def down(self) -> bool:
        """Whether the endpoint is down."""
        ...

    @property
    def down_s(self) -> float:
        """For how many seconds it has been down."""
        ...

    @property
    def probe(self) -> bool:
        """Whether this exchange was the probe."""
        ...

    @property
    def evidence(self) -> Evidence:
        """The latest exchanges with the endpoint, as evidence of an outage."""
        ...

    @property
    def storm(self) -> bool:
        """Whether one more refusal holds back every row, and not just its own."""
        ...

    @property
    def others(self) -> bool:
        """Whether another endpoint in service serves the row's model."""
        ...

    @property
    def elsewhere(self) -> bool:
        """Whether one of these has not turned the row away of late."""
        ...

    @property
    def elsewhere_now(self) -> bool:
        """Whether one of these would take it at once."""
        ...

    @property
    def known_elsewhere(self) -> bool:
        """Whether one may have what the row asks for, if this one lacks it."""
        ...

    @property
    def replaceable(self) -> bool:
        """Whether another endpoint that was not left out serves the row's model."""
        ...

    @property
    def other_model(self) -> bool:
        """Whether a fallback model can be asked that the row has not asked yet."""
        ...

    @property
    def withholds(self) -> bool:
        """Whether failed rows are withheld until it is known who is to blame."""
        ...

    @property
    def repeated(self) -> Repeated[Any]:
        """The failures at the endpoint since its latest answer."""
        ...

    @property
    def out(self) -> Collection[int]:
        """The numbers of the requests in flight there."""
        ...


class Decision(NamedTuple):
    """What becomes of a row after one exchange.

    ``charged`` says whether the exchange counts against its attempts, ``wait_s`` how long the
    server asks to wait (None: it does not say). ``avoid`` sends the row away from the endpoint: the
    gates do the waiting. ``trail`` names the steps that spoke. ``verdict`` is what the exchange
    meant, with its completion as the run wants it; ``http_status`` is that of the reply. ``sign``
    is to be noted of the endpoint; ``lacks`` notes that it has not what the row asks for.
    ``too_many`` says that the row is the one too many that fails (``REPEATED_FAILURE``).
    """

    action: Action
    error_class: str | None
    charged: bool
    wait_s: float | None
    avoid: bool
    trail: str
    verdict: Verdict
    http_status: int | None = None
    sign: Sign = Sign.ANSWERED
    lacks: bool = False
    too_many: bool = False


_DONE = Action.DONE  # a name of the module is found sooner than a member of an enumeration
_COMPLETION = words.COMPLETION
_new = tuple.__new__  # half the time of a named tuple's own ways
_NOTED = (Sign.ANSWERED, False, False)


def decide(exchange: Reply | TransportFault, row: RowView, lane: LaneView) -> Decision:
    """Decide about one exchange. Any reply and any fault end in a decision."""
    verdict = answered(exchange)
    if verdict is not None and lane.plain and row.request.expected is None:
        # The most common exchange: nothing can change its verdict. Only a reply has an answer.
        status = exchange.status  # type: ignore[union-attr]
        known = (_DONE, None, True, None, False, _COMPLETION, verdict, status, *_NOTED)
        return _new(Decision, known)
    if verdict is None:
        verdict = judge(exchange, _circumstances(row, lane))
    decision = decision_of(verdict, _http_status(exchange))
    for step in STEPS:
        decision = step.apply(decision, row, lane)
    return decision


def decision_of(verdict: Verdict, http_status: int | None = None) -> Decision:
    """The decision that follows from a verdict alone."""
    return Decision(
        verdict.action,
        verdict.error_class,
        verdict.charged,
        verdict.wait_s,
        avoid=False,
        trail=verdict.trail,
        verdict=verdict,
        http_status=http_status,
    )


def _circumstances(row: RowView, lane: LaneView) -> Circumstances:
    return Circumstances(
        row.rulings,
        lane.succeeded,
        lane.wall_s,
        lane.wait_s_max,
        row.request.model == lane.model,
        row.charged + 1 >= lane.attempts_max,
        lane.refused_s,
        lane.url,
    )


def _http_status(exchange: Reply | TransportFault) -> int | None:
    if isinstance(exchange, TransportFault):
        return exchange.http_status if exchange.partial is None else exchange.partial.status
    return exchange.status


def _key(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """A refused key: sent again with another one, or the run stops where its source failed."""
    del row
    key, verdict = lane.key, decision.verdict
    if key is None or decision.error_class != "auth":
        return decision
    if key.problem is not None:
        message = f"{verdict.message}; and no other key could be had: {key.problem}"
        verdict = verdict._replace(action=Action.STOP, message=message)
    elif key.renewed:
        verdict = verdict._replace(action=Action.FREE, rule=RENEWED)
    else:
        return decision
    word = words.RENEWED_KEY if key.renewed else words.NO_NEW_KEY
    changed = decision._replace(verdict=verdict, charged=verdict.charged)
    return _said(changed, word, verdict.action)


def _checks(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """A completion is made what the run wants of it, and checked."""
    expected, policy, verdict = row.request.expected, lane.output, decision.verdict
    if verdict.completion is None or (expected is None and policy is None):
        return decision
    checked = answer_checks.held_against(verdict, expected, policy)
    if checked is verdict:
        return decision
    return decision_of(checked, decision.http_status)


def _health(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """What the exchange shows about the endpoint's health, and what an outage makes of it.

    Leaving an endpoint costs nothing where there is another one: then fewer rows are evidence, no
    row is charged for finding nobody there, and none ends for what one endpoint did. An endpoint
    that never answered stops the run only where it is the only one.
    """
    health = HEALTH.get(decision.verdict.rule)
    if health is None:
        return decision
    if decision.action is Action.STOP:
        return decision._replace(sign=Sign.NOTHING)
    if lane.down:
        return _while_down(decision, health, row, lane)
    if decision.action is Action.FREE:
        return decision._replace(sign=Sign.NOTHING)  # a connection that went stale while idle
    ends = decision.action is Action.FAIL or row.charged + 1 >= lane.attempts_max
    elsewhere = lane.elsewhere
    last = elsewhere or (ends and len(row.doubts) == row.charged)
    first = not row.rulings
    if lane.evidence.shows_outage(row.request.row, health, first=first, last=last):
        return _held(decision, words.ENDPOINT_DOWN, Sign.OUTAGE)
    if elsewhere and (ends or health is Health.DOWN):
        return _held(decision, words.OTHER_ENDPOINT, Sign.FAILED)
    return decision._replace(sign=Sign.FAILED)


def _while_down(decision: Decision, health: Health, row: RowView, lane: LaneView) -> Decision:
    """The same while the endpoint is down. A row that was the probe several times is charged where
    its own request may be the cause: rows that no server can digest must end some day.
    """
    if not lane.probe:
        return _held(decision, words.ENDPOINT_DOWN, Sign.NOTHING)
    silent = not lane.others and not lane.run_succeeded and lane.down_s >= lane.wait_s_max
    sign = Sign.SILENT if silent else Sign.PROBED
    if health is Health.AILING and row.probes >= PROBES_FREE:
        return _said(decision._replace(sign=sign), words.PROBED_OFTEN, decision.action)
    return _held(decision, words.NEVER_ANSWERED if silent else words.ENDPOINT_DOWN, sign)


def _lacking(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """Another endpoint may have what this one has not."""
    del row
    if decision.action is not Action.FAIL or decision.error_class != "not_found":
        return decision
    if lane.known_elsewhere:
        decision = _held(decision, words.OTHER_ENDPOINT, decision.sign)
    return decision._replace(lacks=True)


def _model_gone(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """A fallback model that is not available ends its row instead of stopping the run."""
    del lane
    gone = decision.action is Action.STOP and row.before is not None
    if not gone or decision.error_class not in OF_THE_MODEL:
        return decision
    return _said(decision, words.NO_OTHER_MODEL, Action.FAIL)


def _left_out(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """What would stop the run leaves one endpoint out, where others serve the row's model."""
    del row
    if decision.action is not Action.STOP or not lane.replaceable:
        return decision
    return _said(decision, words.ENDPOINT_LEFT_OUT, Action.LEAVE)._replace(avoid=True)


def _refused(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """A refusal that is everybody's is waited out at the gate; one that is only its row's sends
    the row to an endpoint that would take it at once, if there is one.
    """
    del row
    if decision.action is not Action.THROTTLE:
        return decision
    if lane.storm or decision.verdict.rule == "slow_down":
        return decision._replace(avoid=True)
    if lane.elsewhere_now:
        return _said(decision, words.OTHER_ENDPOINT, Action.THROTTLE)._replace(avoid=True)
    return decision


def _attempts(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """A row that is charged its last attempt fails."""
    if decision.action is not Action.AGAIN or row.charged + 1 < lane.attempts_max:
        return decision
    return _said(decision, words.ATTEMPTS_USED_UP, Action.FAIL)


def _other_model(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """A row that a filter or a refusal ends asks the fallback model; where that fails too, the row
    ends as it did before.
    """
    if lane.plain or decision.action not in (Action.DONE, Action.FAIL):
        return decision
    if row.before is not None:
        if decision.action is Action.DONE:
            return decision
        return _said(decision, words.FIRST_MODEL_STANDS, Action.FAIL)
    completion = decision.verdict.completion
    filtered = decision.error_class == "content_filter"
    if (filtered or (completion is not None and answer.is_withheld(completion))) and (
        lane.other_model
    ):
        return _said(decision, words.OTHER_MODEL, Action.SWITCH)._replace(avoid=True)
    return decision


def _blame(decision: Decision, row: RowView, lane: LaneView) -> Decision:
    """A failed row is withheld until it is known whether its endpoint is to blame. That says
    nothing of the exchange, and adds no word; the row that is one too many does.
    """
    if decision.action is not Action.FAIL or row.before is not None or not lane.withholds:
        return decision
    sent, answered_sent = row.failing(failing_as(decision), lane.repeated.answered_sent)
    step = lane.repeated.step(
        kind_of(decision), sent=sent, answered_sent=answered_sent, out=lane.out
    )
    if step is Step.END:
        return decision
    if step is Step.STOP:
        decision = decision._replace(too_many=True)
        return _said(decision, words.REPEATED_FAILURE, Action.WITHHOLD)
    return decision._replace(action=Action.WITHHOLD)


class DecisionStep(NamedTuple):
    """One line of the table: the words that it may add, and what it does."""

    apply: Callable[[Decision, RowView, LaneView], Decision]
    words: tuple[str, ...]


STEPS: tuple[DecisionStep, ...] = (
    DecisionStep(_key, (words.RENEWED_KEY, words.NO_NEW_KEY)),
    DecisionStep(_checks, ()),
    DecisionStep(
        _health,
        (words.ENDPOINT_DOWN, words.OTHER_ENDPOINT, words.PROBED_OFTEN, words.NEVER_ANSWERED),
    ),
    DecisionStep(_lacking, (words.OTHER_ENDPOINT,)),
    DecisionStep(_model_gone, (words.NO_OTHER_MODEL,)),
    DecisionStep(_left_out, (words.ENDPOINT_LEFT_OUT,)),
    DecisionStep(_refused, (words.OTHER_ENDPOINT,)),
    DecisionStep(_attempts, (words.ATTEMPTS_USED_UP,)),
    DecisionStep(_other_model, (words.OTHER_MODEL, words.FIRST_MODEL_STANDS)),
    DecisionStep(_blame, (words.REPEATED_FAILURE,)),
)
"""The steps after the verdict, in order. ``_checks`` puts a first word of its own in place of
``completion``: the error class of an answer that does not do.
"""


def failing_as(decision: Decision) -> str | None:
    """In what way the row's request failed: failures that tell of the endpoint's health are one."""
    return "health" if decision.verdict.rule in HEALTH else decision.error_class


def kind_of(decision: Decision) -> Kind:
    """What makes the failure like others (``core/verdict/repeated_failures.py``)."""
    return Kind(decision.error_class or "", decision.http_status, decision.verdict.code)


def _said(decision: Decision, word: str, action: Action) -> Decision:
    """The decision with another word in its trail, and this action."""
    return decision._replace(action=action, trail=f"{decision.trail}{words.BETWEEN}{word}")


def _held(decision: Decision, word: str, sign: Sign) -> Decision:
    """The row is sent again elsewhere, or once the endpoint is back, uncharged."""
    held = decision._replace(charged=False, avoid=True, sign=sign)
    return _said(held, word, Action.HOLD)
