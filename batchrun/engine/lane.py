"""One endpoint as rows meet it: its gate, the way to it, its key, and what is known of its health.

What goes wrong at one endpoint stays in its lane: a refusal cools only its gate, an outage holds
only its gate, a refused key is renewed only there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from batchrun.core.request.body import with_model
from batchrun.core.verdict.drift import Drift
from batchrun.core.verdict.repeated_failures import Repeated
from batchrun.engine.key_renewal import Renewal
from batchrun.engine.open_row import Withheld
from batchrun.engine.outage import Outage
from batchrun.engine.pace.gate import Dice
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.engine.session.tally import Tally
from batchrun.ports import Clock, Credentials, Gate, Transport
from batchrun.records import Request


class Way(NamedTuple):
    """What leads to one endpoint. ``models`` and ``weight`` are the settings of those names;
    ``drift`` says which models answered in earlier sessions, ``url`` is the one that is asked.
    """

    name: str
    transport: Transport
    gate: Gate
    credentials: Credentials | None = None
    drift: Drift | None = None
    models: Mapping[str, str] | None = None
    weight: float = 1.0
    url: str = ""


@dataclass(slots=True)
class Exchanges:
    """What became of the requests sent to one endpoint, in numbers."""

    sent: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0


class Lane:
    """One endpoint of a run. ``number`` is its place in the settings."""

    def __init__(self, number: int, way: Way, outage: Outage, renewal: Renewal) -> None:
        self.number = number
        self.name = way.name
        self.url = way.url
        self.transport = way.transport
        self.gate = way.gate
        self.models = way.models
        self.drift = way.drift or Drift()
        self.outage = outage
        self.renewal = renewal
        self.exchanges = Exchanges()
        self.repeated: Repeated[Withheld] = Repeated()
        self.out: set[int] = set()
        """The requests in flight, by their numbers (``RowRun.sent``)."""
        self.refused_from_s: float | None = None
        """Since when it has answered with refusals only, in time awake (``now_s - missed_s``)."""
        self.closed: Stop | None = None
        """Why nothing is sent there any more in this session."""
        self.promised = False
        """Whether a waiting row was given a turn here and has not taken it yet."""
        self._weight = way.weight
        names = {} if way.models is None else way.models
        self._renamed = {here: there for here, there in names.items() if here != there}

    def serves(self, model: str) -> bool:
        """Whether rows that ask for this model may go there."""
        return self.models is None or model in self.models

    def name_of(self, model: str) -> str:
        """The name that a model has there."""
        return self._renamed.get(model, model)

    def worded(self, request: Request) -> Request:
        """The request as sent to this endpoint, with the endpoint's name for the model."""
        name = self._renamed.get(request.model)
        return request if name is None else request._replace(body=with_model(request.body, name))

    @property
    def in_service(self) -> bool:
        """Whether it takes rows as far as is known."""
        return self.closed is None and not self.outage.down

    @property
    def load(self) -> float:
        """The share of its permits in use, for its weight."""
        return self.gate.load / self._weight

    @property
    def state(self) -> str:
        """In a word: ``closed``, ``down``, ``throttled`` or ``up``."""
        if self.closed is not None:
            return "closed"
        if self.outage.down:
            return "down"
        return "throttled" if self.gate.cooling_s > 0 else "up"


def lanes_of(
    ways: Sequence[Way], *, clock: Clock, dice: Dice, tally: Tally, switch: StopSwitch
) -> list[Lane]:
    """A lane for each of these endpoints, in their order."""
    return [
        Lane(
            number,
            way,
            Outage(
                endpoint=way.name,
                gate=way.gate,
                clock=clock,
                dice=dice,
                tally=tally,
                switch=switch,
            ),
            Renewal(way.credentials),
        )
        for number, way in enumerate(ways)
    ]
