"""What a decision sees of an endpoint and its run: ``core.verdict.decide.LaneView``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from batchrun.core.verdict import answer_checks
from batchrun.core.verdict.decide import Key
from batchrun.core.verdict.outage import Evidence
from batchrun.core.verdict.repeated_failures import Repeated
from batchrun.engine.lane import Lane
from batchrun.engine.open_row import RowRun, Withheld
from batchrun.engine.policy import Policy
from batchrun.engine.pool import Pool
from batchrun.engine.resending import Fallback
from batchrun.engine.session.tally import Tally
from batchrun.engine.withholding import Withholding
from batchrun.ports import Clock


@dataclass(frozen=True, slots=True)
class Scene:
    """The parts of a run that decisions look at, whatever the endpoint."""

    pool: Pool
    policy: Policy
    clock: Clock
    tally: Tally
    fallback: Fallback | None = None
    withholding: Withholding | None = None


class Seen(NamedTuple):
    """``core.verdict.decide.LaneView`` of one exchange: what is asked for is looked up then."""

    lane: Lane
    run: RowRun
    scene: Scene
    plain: bool
    probe: bool
    key: Key | None = None

    @property
    def output(self) -> answer_checks.Policy | None:
        """See ``LaneView``."""
        return self.scene.policy.output

    @property
    def attempts_max(self) -> int:
        """See ``LaneView``."""
        return self.scene.policy.max_attempts

    @property
    def wait_s_max(self) -> float:
        """See ``LaneView``."""
        return self.scene.policy.wait_s_max

    @property
    def model(self) -> str | None:
        """See ``LaneView``."""
        return self.scene.policy.model

    @property
    def url(self) -> str:
        """See ``LaneView``."""
        return self.lane.url

    @property
    def wall_s(self) -> float:
        """See ``LaneView``."""
        return self.run.wall_us / 1e6

    @property
    def succeeded(self) -> bool:
        """See ``LaneView``. Of several endpoints, what another one answered says nothing of this
        one.
        """
        if self.lane.exchanges.answered > 0:
            return True
        return self.scene.pool.only is not None and self.scene.tally.succeeded

    @property
    def run_succeeded(self) -> bool:
        """See ``LaneView``."""
        return self.scene.tally.succeeded

    @property
    def refused_s(self) -> float:
        """See ``LaneView``; in time awake."""
        from_s, clock = self.lane.refused_from_s, self.scene.clock
        return 0.0 if from_s is None else clock.now_s() - clock.missed_s - from_s

    @property
    def down(self) -> bool:
        """See ``LaneView``."""
        return self.lane.outage.down

    @property
    def down_s(self) -> float:
        """See ``LaneView``."""
        return self.lane.outage.down_s

    @property
    def evidence(self) -> Evidence:
        """See ``LaneView``."""
        return self.lane.outage.evidence

    @property
    def storm(self) -> bool:
        """See ``LaneView``."""
        return self.lane.gate.storm

    @property
    def others(self) -> bool:
        """See ``LaneView``."""
        return self.scene.pool.others(self.run, self.lane)

    @property
    def elsewhere(self) -> bool:
        """See ``LaneView``."""
        return self.scene.pool.elsewhere(self.run, self.lane)

    @property
    def elsewhere_now(self) -> bool:
        """See ``LaneView``."""
        return self.scene.pool.elsewhere(self.run, self.lane, now=True)

    @property
    def known_elsewhere(self) -> bool:
        """See ``LaneView``."""
        return self.scene.pool.known_elsewhere(self.run, self.lane)

    @property
    def replaceable(self) -> bool:
        """See ``LaneView``."""
        return self.scene.pool.replaceable(self.lane, self.run.request.model)

    @property
    def other_model(self) -> bool:
        """See ``LaneView``."""
        fallback = self.scene.fallback
        return fallback is not None and fallback.may_ask(self.run.request.model)

    @property
    def withholds(self) -> bool:
        """See ``LaneView``."""
        withholding = self.scene.withholding
        return withholding is not None and withholding.on

    @property
    def repeated(self) -> Repeated[Withheld]:
        """See ``LaneView``."""
        return self.lane.repeated

    @property
    def out(self) -> Collection[int]:
        """See ``LaneView``."""
        return self.lane.out
