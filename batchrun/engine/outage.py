"""Outages: an endpoint that is down is left alone, and costs no row an attempt.

While it is, the gate lets one request through at a time, after growing pauses. What fails then is
sent again later, uncharged; so is what failed in the time that led to it. Probes take turns among
the open rows. A row that was the probe several times is charged for more, where its own request
may be the cause: rows that no server can digest must end some day.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchrun.core.outage import PROBES_FREE, Evidence, probe_wait_s
from batchrun.core.rules import Action, Health
from batchrun.core.verdict import Verdict
from batchrun.engine.guards import Stop, StopSwitch
from batchrun.engine.tally import Tally

if TYPE_CHECKING:
    from batchrun.engine.attempt import RowRun
    from batchrun.engine.gate import Dice
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
        self._probes = 0
        self._periods: set[int] = set()

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
        self, run: RowRun, verdict: Verdict, health: Health, *, probe: bool, sent_at_s: float
    ) -> Verdict:
        """What becomes of a row whose exchange tells of bad health: the verdict, or that it is
        to be held until the endpoint is back.
        """
        if verdict.action is Action.STOP:
            return verdict
        if self._down_from_s is not None:
            if not probe:
                return _held(verdict)
            self._probes += 1
            run.probes += 1
            self._wait(verdict)
            self._give_up(verdict)
            charged = health is Health.AILING and run.probes > PROBES_FREE
            return verdict if charged else _held(verdict)
        if verdict.action is Action.FREE:
            return verdict  # a connection that went stale while it was idle
        first = not run.rulings
        last = (verdict.action is Action.FAIL or run.charged + 1 >= self._attempts_max) and (
            len(run.doubts) == run.charged
        )
        if not self._evidence.failed(run.request.row, health, first=first, last=last):
            run.doubts.append((self._evidence.period, verdict.rule))
            return verdict
        self._down_from_s = sent_at_s
        self._probes = 0
        self._periods.add(self._evidence.period)
        self._wait(verdict)
        said = " ".join(verdict.message.split())[:200]
        self._tally.notices.append(
            f"{self._endpoint} does not answer ({said}): sending stops, one request at a time "
            "finds out when it is back; no row fails for it"
            + ("" if self._tally.succeeded else ". Nothing has answered yet: is the URL right?")
        )
        return _held(verdict)

    def forgive(self, run: RowRun) -> None:
        """Take back what a row was charged in a time that turned out to be an outage."""
        for period, rule in run.doubts:
            if period in self._periods:
                run.charged -= 1
                run.rulings[rule] -= 1
        now = self._evidence.period
        run.doubts = [d for d in run.doubts if d[0] == now and d[0] not in self._periods]

    def _wait(self, verdict: Verdict) -> None:
        wait_s = probe_wait_s(self._probes, verdict.wait_s, self._dice.random())
        self._gate.hold(wait_s)

    def _give_up(self, verdict: Verdict) -> None:
        assert self._down_from_s is not None
        down_s = self._clock.now_s() - self._down_from_s
        if self._tally.succeeded or down_s < self._silence_s_max:
            return
        message = (
            f"{self._endpoint} has not answered once in {down_s:,.0f} s (--max-wait): "
            f"{verdict.message}; check the base URL, and whether the server is up"
        )
        self._switch.stop(Stop(verdict.error_class or "connection", message))


def _held(verdict: Verdict) -> Verdict:
    return verdict._replace(action=Action.HOLD)
