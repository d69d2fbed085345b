"""Outages: an endpoint that is down is left alone, and costs no row an attempt.

While it is, the gate lets one request through at a time, after growing pauses. What fails then is
sent again later, uncharged; so is what failed in the time that led to it. Probes take turns among
the open rows. A row that was the probe several times is charged for more, where its own request
may be the cause: rows that no server can digest must end some day.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.core.verdict.judge import Verdict
from batchrun.core.verdict.outage import PROBES_FREE, Evidence, probe_wait_s
from batchrun.core.verdict.rules import Action, Health
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.engine.session.tally import Tally

if TYPE_CHECKING:
    from batchrun.engine.open_row import RowRun
    from batchrun.engine.pace.gate import Dice
    from batchrun.ports import Clock, Gate


class Outage:
    """Watches the exchanges with one endpoint, and has its gate closed while it is down."""

    def __init__(
        self,
        *,
        endpoint: str,
        gate: Gate,
        clock: Clock,
        dice: Dice,
        tally: Tally,
        switch: StopSwitch,
        attempts_max: int,
        silence_s_max: float,
    ) -> None:
        """A row is charged ``attempts_max`` attempts. An endpoint that never answered at all is
        waited for ``silence_s_max`` seconds.
        """
        self._endpoint = endpoint
        self._gate = gate
        self._clock = clock
        self._dice = dice
        self._tally = tally
        self._switch = switch
        self._attempts_max = attempts_max
        self._silence_s_max = silence_s_max
        self._evidence = Evidence()
        self._down_from_s: float | None = None
        self._missed_s = 0.0
        self._probes = 0
        self._periods: set[int] = set()

    @property
    def down(self) -> bool:
        """Whether the endpoint is left alone."""
        return self._down_from_s is not None

    @property
    def clean(self) -> bool:
        """Whether nothing failed of late: ``answered`` need not be called."""
        return self._evidence.clean

    def answered(self) -> None:
        """The endpoint answered, whatever it said."""
        if self._down_from_s is None:
            self._evidence.answered()
            return
        took_s = self._clock.now_s() - self._down_from_s
        self._down_from_s = None
        self._evidence.forget()
        self._gate.open()
        self._tally.notices.append(f"{self._endpoint} answers again, after {took_s:,.0f} s")

    def ruled(
        self,
        run: RowRun,
        verdict: Verdict,
        health: Health,
        *,
        probe: bool,
        sent_at_s: float,
        elsewhere: bool = False,
        alone: bool = True,
    ) -> Verdict:
        """What becomes of a row whose exchange tells of bad health: the verdict, or that it is
        to be held until the endpoint is back, or goes ``elsewhere`` if it can.

        Leaving an endpoint costs nothing where there is another: then fewer rows are evidence, and
        none is charged for finding nobody there, or ends for what one endpoint did. An endpoint
        that never answered stops the run only where it is ``alone``.
        """
        if verdict.action is Action.STOP:
            return verdict
        if self._down_from_s is not None:
            if not probe:
                return _held(verdict)
            self._probes += 1
            run.probes += 1
            self._wait(verdict)
            if alone:
                self._give_up(verdict)
            charged = health is Health.AILING and run.probes > PROBES_FREE
            return verdict if charged else _held(verdict)
        if verdict.action is Action.FREE:
            return verdict  # a connection that went stale while it was idle
        first = not run.rulings
        ends = verdict.action is Action.FAIL or run.charged + 1 >= self._attempts_max
        last = elsewhere or (ends and len(run.doubts) == run.charged)
        if not self._evidence.failed(run.request.row, health, first=first, last=last):
            if elsewhere and (ends or health is Health.DOWN):
                return _held(verdict)
            run.doubts.append(Doubt(self, self._evidence.period, verdict.rule))
            return verdict
        self._down_from_s, self._missed_s = sent_at_s, self._clock.missed_s
        self._probes = 0
        self._periods.add(self._evidence.period)
        self._wait(verdict)
        said = " ".join(verdict.message.split())[:200]
        self._tally.notices.append(
            f"{self._endpoint} does not answer ({said}): "
            + ("its rows go to the other endpoints, " if elsewhere else "sending stops, ")
            + "one request at a time finds out when it is back; no row fails for it"
            + ("" if self._tally.succeeded else ". Nothing has answered yet: is the URL right?")
        )
        return _held(verdict)

    def was(self, period: int) -> bool:
        """Whether a time of failures turned out to be an outage."""
        return period in self._periods

    def goes_on(self, period: int) -> bool:
        """Whether that may still turn out."""
        return period == self._evidence.period

    def _wait(self, verdict: Verdict) -> None:
        wait_s = probe_wait_s(self._probes, verdict.wait_s, self._dice.random())
        self._gate.hold(wait_s)

    def _give_up(self, verdict: Verdict) -> None:
        assert self._down_from_s is not None
        # What this process missed because it was stopped is not the endpoint's silence.
        missed_s = self._clock.missed_s - self._missed_s
        down_s = self._clock.now_s() - self._down_from_s - missed_s
        if self._tally.succeeded or down_s < self._silence_s_max:
            return
        message = (
            f"{self._endpoint} has not answered once in {down_s:,.0f} s (--max-wait): "
            f"{verdict.message}; check the base URL, and whether the server is up"
        )
        self._switch.stop(Stop(verdict.error_class or "connection", message))


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that a row was charged for, in a time that may turn out to be an outage."""

    outage: Outage
    period: int
    rule: str


def was_outage(run: RowRun) -> bool:
    """Whether the row was charged for something that turned out to be an outage."""
    return any(doubt.outage.was(doubt.period) for doubt in run.doubts)


def forgive(run: RowRun) -> None:
    """Take back what a row was charged in times that turned out to be outages."""
    doubts = []
    for doubt in run.doubts:
        if doubt.outage.was(doubt.period):
            run.charged -= 1
            run.rulings[doubt.rule] -= 1
        elif doubt.outage.goes_on(doubt.period):
            doubts.append(doubt)
    run.doubts = doubts


def _held(verdict: Verdict) -> Verdict:
    return verdict._replace(action=Action.HOLD)
