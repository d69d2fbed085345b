"""Wires the attempt loop: access to each endpoint, its gate, and the pool over them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, MutableMapping, Sequence
from functools import partial
from urllib.parse import urlsplit

from batchrun.adapters.environment import open_files
from batchrun.core.cost.price_book import PriceBook
from batchrun.core.settings.bounds import Finished
from batchrun.core.settings.resolve import Settings
from batchrun.core.verdict import answer_checks
from batchrun.core.verdict.drift import Drift
from batchrun.engine.attempt import AttemptLoop
from batchrun.engine.lane import Way
from batchrun.engine.pace.gate import EndpointGate
from batchrun.engine.policy import Policy
from batchrun.engine.session.guards import StopSwitch
from batchrun.engine.session.row_window import Room
from batchrun.engine.session.spending import Spending
from batchrun.engine.session.tally import Tally
from batchrun.machinery import EndpointAccess
from batchrun.ports import Clock, Journal, Transport
from batchrun.records import Turn


async def attempts(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    accesses: Sequence[EndpointAccess],
    *,
    journal: Journal,
    clock: Clock,
    dice: Callable[[], random.Random],
    room: Room,
    tally: Tally,
    switch: StopSwitch,
    prices: PriceBook,
    spending: Spending | None,
    models: Collection[str | None],
    finished: Finished,
    answered: MutableMapping[int, Sequence[Turn]],
    say: Callable[[str], None],
) -> AttemptLoop:
    """The loop that sends rows to these endpoints, ready until the stack is left. ``models``
    answered in earlier sessions, and so were the turns in ``answered``, by row; ``finished`` counts
    the rows of this one; every gate, and the loop, has its own random generator.
    """
    ways, remarks = [], set()
    for access in accesses:
        endpoint = access.endpoint
        transport, credentials = await stack.enter_async_context(access.talking(settings, say))
        remarks.add(transport.remark)
        bounds = open_files.within(endpoint, settings)
        gate = EndpointGate(
            concurrency=endpoint.concurrency,
            bounds=bounds,
            bound_notice=open_files.bound_notice(endpoint, bounds),
            rpm=endpoint.rpm,
            tpm=endpoint.tpm,
            clock=clock,
            dice=dice(),
            host=urlsplit(endpoint.base_url).hostname or "",
            charge=endpoint.charge,
            say=partial(_notice, tally, endpoint.name if len(accesses) > 1 else None),
        )
        if gate.climb is not None:
            reporting = access.reporting(gate.reported)
            if reporting is not None:
                await stack.enter_async_context(reporting)
        ways.append(
            Way(
                endpoint.name,
                transport,
                gate,
                credentials,
                Drift(settings.one_model, models),
                endpoint.models,
                endpoint.weight,
                access.address.url,
            )
        )
    _follow(ways, room)
    for remark in filter(None, remarks):
        say(f"warning: {remark}")
    return _loop_of(settings, answered)(
        ways,
        journal=journal,
        clock=clock,
        dice=dice(),
        room=room,
        tally=tally,
        switch=switch,
        policy=Policy(
            settings.max_attempts,
            settings.max_wait_s,
            settings.raw,
            settings.one_model,
            answer_checks.policy_of(settings),
            prices,
            settings.fallback_model,
        ),
        spending=spending,
        finished=finished if settings.repeated_failure else None,
    )


def _loop_of(
    settings: Settings, answered: MutableMapping[int, Sequence[Turn]]
) -> Callable[..., AttemptLoop]:
    """The factory of the loop, a different one if rows are conversations."""
    if settings.turns is None:
        return AttemptLoop
    from batchrun.core.request.turns import wording_of
    from batchrun.engine.conversation.turn_loop import TurnLoop

    wording = wording_of(settings)
    return partial(TurnLoop, wording=wording, answered=answered)


def _notice(tally: Tally, endpoint: str | None, text: str) -> None:
    """Notify the user; with several endpoints, the message names the endpoint."""
    tally.notices.append(text if endpoint is None else f"{endpoint}: {text}")


def _follow(ways: Sequence[Way], room: Room) -> None:
    """Make the bounds on open rows follow the permits of all gates, and the connections of each
    endpoint follow its own gate.
    """

    def resized() -> None:
        room.resize(sum(way.gate.concurrency for way in ways))

    def both(transport: Transport, concurrency: int) -> None:
        transport.resize(concurrency)
        resized()

    for way in ways:
        way.gate.resized = partial(both, way.transport)
    resized()
