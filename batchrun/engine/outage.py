"""Outages: an endpoint that is down is left alone, and costs no row an attempt.

While it is, the gate lets one request through at a time, after growing pauses. What fails then is
sent again later, uncharged; so is what failed in the time that led to it. Which exchanges show an
outage, and which rows are charged, is for ``core/verdict/decide.py`` to say; here is what follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchrun.core.verdict.decide import Decision
from batchrun.core.verdict.outage import Evidence, probe_wait_s
from batchrun.core.verdict.rules import Health
from batchrun.engine.pace.gate import Dice
from batchrun.engine.session.guards import Cause, Stop, StopSwitch
from batchrun.engine.session.tally import Tally
from batchrun.ports import Clock, Gate


class Outage:
    """What is known of one endpoint's health; has its gate closed while it is down."""

    def __init__(
        self,
        *,
        endpoint: str,
        gate: Gate,
        clock: Clock,
        dice: Dice,
        tally: Tally,
        switch: StopSwitch,
    ) -> None:
        self.evidence = Evidence()
        self._endpoint = endpoint
        self._gate = gate
        self._clock = clock
        self._dice = dice
        self._tally = tally
        self._switch = switch
        self._down_from_s: float | None = None
        self._missed_s = 0.0
        self._probes = 0
        self._periods: set[int] = set()

    @property
    def down(self) -> bool:
        """Whether the endpoint is left alone."""
        return self._down_from_s is not None

    @property
    def down_s(self) -> float:
        """For how many seconds it has been; what this process missed because it was stopped is not
        the endpoint's silence.
        """
        if self._down_from_s is None:
            return 0.0
        missed_s = self._clock.missed_s - self._missed_s
        return self._clock.now_s() - self._down_from_s - missed_s

    @property
    def clean(self) -> bool:
        """Whether nothing failed of late: ``answered`` need not be called."""
        return self.evidence.clean

    def answered(self) -> None:
        """The endpoint answered, whatever it said."""
        if self._down_from_s is None:
            self.evidence.answered()
            return
        took_s = self._clock.now_s() - self._down_from_s
        self._down_from_s = None
        self.evidence.forget()
        self._gate.open()
        self._tally.notices.append(f"{self._endpoint} answers again, after {took_s:,.0f} s")

    def failed(self, row: int, health: Health, *, first: bool) -> None:
        """An exchange failed; ``first`` says that it was the row's first one."""
        self.evidence.failed(row, health, first=first)

    def doubt(self, rule: str) -> Doubt:
        """What a row was charged for just now, by this rule."""
        return Doubt(self, self.evidence.period, rule)

    def begins(self, decision: Decision, sent_at_s: float, *, elsewhere: bool) -> None:
        """The exchange that was sent at ``sent_at_s`` (loop time) shows that the endpoint is down;
        ``elsewhere`` says that others serve its rows.
        """
        self._down_from_s, self._missed_s = sent_at_s, self._clock.missed_s
        self._probes = 0
        self._periods.add(self.evidence.period)
        self._hold(decision)
        said = " ".join(decision.verdict.message.split())[:200]
        self._tally.notices.append(
            f"{self._endpoint} does not answer ({said}): "
            + ("its rows go to the other endpoints" if elsewhere else "sending stops")
            + ", and one request at a time finds out when it is back; no row fails for it"
            + ("" if self._tally.succeeded else ". Nothing has answered yet: is the URL right?")
        )

    def probed(self, decision: Decision) -> None:
        """A probe did not reach it."""
        self._probes += 1
        self._hold(decision)

    def give_up(self, decision: Decision) -> None:
        """Stop the run: the endpoint never answered."""
        message = (
            f"{self._endpoint} has not answered once in {self.down_s:,.0f} s (--max-wait): "
            f"{decision.verdict.message.rstrip('.')}; check the base URL, and whether the server "
            "is running"
        )
        cause = Cause(decision.error_class or "connection", decision.verdict.message)
        self._switch.stop(Stop(cause.error_class, message, cause=cause))

    def was(self, period: int) -> bool:
        """Whether a time of failures turned out to be an outage."""
        return period in self._periods

    def goes_on(self, period: int) -> bool:
        """Whether that may still turn out."""
        return period == self.evidence.period

    def _hold(self, decision: Decision) -> None:
        self._gate.hold(probe_wait_s(self._probes, decision.wait_s, self._dice.random()))


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that a row was charged for, in a time that may turn out to be an outage."""

    outage: Outage
    period: int
    rule: str
