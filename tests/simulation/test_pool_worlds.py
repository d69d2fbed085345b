"""Several endpoints in random weather, on virtual time: what holds in every world."""

import asyncio
import random
from collections import Counter

import pytest

from batchrun.engine.lane import Way
from batchrun.engine.pace.gate import WINDOW_S, EndpointGate
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import chat_row, fault, ok, refusal
from batchrun.testing.virtual import START_S, VirtualClock, run_virtual
from tests.harness.rig import SIGNAL, Rig

SEEDS = 12
MODELS = "abc"
FATAL = {401: "auth", 402: "billing", 403: "forbidden"}
WEATHER = ("connect", "cut", "timeout", "hang", "503", "500", "429", "429+5", "429 now and then")
WEATHER_S = 120.0
"""Until then servers have their moods; afterwards all is well with those that are not closed."""
TIMEOUT_S = 30.0
END_S = 3000.0


def _now_s():
    return asyncio.get_running_loop().time() - START_S


class _Server:
    """A server with spells of bad weather, some rows it cannot digest and models it has not."""

    def __init__(self, dice, latencies_s):
        self._dice = dice
        self._latency_s = dice.choice(latencies_s)
        self._spells = []
        at_s = 0.0
        while at_s < WEATHER_S and dice.random() < 0.8:
            at_s += dice.choice((0.0, dice.uniform(0, 30)))
            until_s = at_s + dice.choice((1.0, 10.0, dice.uniform(0, 60)))
            self._spells.append((at_s, min(until_s, WEATHER_S), dice.choice(WEATHER)))
            at_s = until_s
        self._poison = dice.random() < 0.2
        self._lacks = dice.random() < 0.2
        self.fatal = dice.choice(sorted(FATAL)) if dice.random() < 0.15 else None
        self._fatal_from_s = dice.choice((0.0, dice.uniform(0, 20)))
        self.transport = FakeTransport(self._answer, latency_s=self._takes_s, timeout_s=TIMEOUT_S)

    @property
    def _spell(self):
        found = (kind for start_s, end_s, kind in self._spells if start_s <= _now_s() < end_s)
        return next(found, None)

    def _takes_s(self, _):
        if self._spell == "hang":
            return TIMEOUT_S + 1
        return 0.01 if self._spell in ("connect", "429") else self._latency_s

    def _answer(self, request, _):
        if self.fatal is not None and _now_s() >= self._fatal_from_s:
            return refusal(self.fatal)
        if self._poison and request.row % 17 == 3:
            return refusal(500)
        if self._lacks and request.row % 5 == 0:
            return refusal(404)
        match self._spell:
            case "connect" | "cut" | "timeout" as kind:
                return fault(kind)
            case "503" | "500" | "429" as status:
                return refusal(int(status))
            case "429+5":
                return refusal(429, retry_after_s=5)
            case "429 now and then" if self._dice.random() < 0.1:
                return refusal(429)
        return ok()


class _World:
    """Two to five servers with limits, weights and models of their own, rows for them, a stop."""

    def __init__(self, seed):
        dice = random.Random(seed)
        self.servers = [_Server(dice, (0.05, 0.2, 1.0, 3.0)) for _ in range(dice.randint(2, 5))]
        each = range(len(self.servers))
        some = [dice.sample(MODELS, dice.randint(1, 3)) for _ in each]
        self.models = [None if dice.random() < 0.5 else {m: m for m in named} for named in some]
        served = [model for model in MODELS if self.route(model)]
        self.rows = [
            row._replace(body=row.body | {"model": dice.choice(served)})
            for row in map(chat_row, range(dice.randint(20, 250)))
        ]
        self.concurrency = [dice.choice((1, 2, 4, 16)) for _ in each]
        self.rpm = [dice.choice((None, None, None, 60, 600)) for _ in each]
        self.tpm = [dice.choice((None, None, None, 20_000)) for _ in each]
        self.weight = [dice.choice((1.0, 1.0, 0.1, 5.0)) for _ in each]
        self.attempts = dice.choice((1, 2, 5))
        self.stops_s = []
        if dice.random() < 0.3:
            first_s = dice.uniform(0, 60)
            self.stops_s = [first_s, first_s + 1] if dice.random() < 0.3 else [first_s]

    def route(self, model):
        """The numbers of the servers that have a model."""
        return [n for n, has in enumerate(self.models) if has is None or model in has]

    async def session(self):
        """Run it; returns the rig and how long it took. Leaves no task behind."""
        clock = VirtualClock()
        ways = []
        for n, server in enumerate(self.servers):
            gate = EndpointGate(
                concurrency=self.concurrency[n],
                rpm=self.rpm[n],
                tpm=self.tpm[n],
                clock=clock,
                dice=random.Random(n),
            )
            named = {"models": self.models[n], "weight": self.weight[n]}
            ways.append(Way(f"e{n}", server.transport, gate, **named))
        rig = Rig(
            self.rows,
            only=ways,
            permits=sum(self.concurrency),
            max_attempts=self.attempts,
            shard_rows=50,
        )
        for at_s in self.stops_s:
            asyncio.get_running_loop().call_later(at_s, rig.switch.stop, SIGNAL)
        async with asyncio.timeout(END_S):
            await rig.run()
        assert len(asyncio.all_tasks()) == 1
        assert not any(way.gate.in_flight for way in ways)
        return rig, _now_s()


def _holds_rate(times_s, rpm):
    """In any stretch of time, no more than the rate, what may come at once, and the one that had
    its turn and then waited for something else.
    """
    at_once = max(1.0, rpm / 60 * WINDOW_S) + 1
    earliest_s = 0.0  # of a bucket that leaks: when it would be empty
    for at_s in times_s:
        earliest_s = max(earliest_s, at_s) + 60 / rpm
        assert earliest_s - at_s <= at_once * 60 / rpm + 0.01


@pytest.mark.parametrize("seed", range(SEEDS))
def test_it_adds_up_in_any_weather(seed):
    """Each row has one outcome, or is pending for a reason; the ledger is what servers counted;
    permits, rates and models hold; nobody is asked in vain over and over; and it ends.
    """
    world = _World(seed)
    rig, took_s = run_virtual(world.session())
    stop = rig.switch.reason
    assert rig.published_rows() == sorted(rig.outcomes)
    if stop is None:
        assert len(rig.outcomes) == len(world.rows)
    elif stop.by == "misconfiguration":
        assert not any(outcome.ok for outcome in rig.outcomes.values())
    elif stop.by == "repeated_failure":
        assert len(rig.outcomes) < len(world.rows)
    elif not stop.is_signal:
        closed = {n for n, server in enumerate(world.servers) if server.fatal}
        assert stop.by in FATAL.values()
        assert any(closed >= set(world.route(row.body["model"])) for row in world.rows)
    posted = Counter(attempt.row for attempt in rig.journal.attempts())
    assert all(posted[row] == outcome.attempts for row, outcome in rig.outcomes.items())
    counted = Counter(attempt.endpoint for attempt in rig.journal.attempts())
    for n, server in enumerate(world.servers):
        met = server.transport
        assert counted[f"e{n}"] == len(met.asked)
        assert met.in_flight_max <= world.concurrency[n]
        assert all(n in world.route(world.rows[row].body["model"]) for row in met.asked)
        if world.rpm[n] is not None:
            _holds_rate(met.asked_at_s, world.rpm[n])
    servers = len(world.servers)
    probes_and_refusals = 2 * took_s * servers
    most = len(world.rows) * (world.attempts + servers) + probes_and_refusals
    assert counted.total() <= most


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_a_healthy_endpoint_works_at_full_speed_whatever_the_others_do(seed):
    """While there are rows that nobody asked for yet, it is as busy as it would be alone."""
    dice = random.Random(seed)
    others = [_Server(dice, (0.05, 1.0, 20.0, 29.0)).transport for _ in range(dice.randint(1, 4))]
    healthy = FakeTransport(lambda *_: ok(), latency_s=0.2)
    concurrency = dice.choice((1, 4, 8))

    async def session():
        clock = VirtualClock()
        ways = []
        for n, transport in enumerate([*others, healthy]):
            paced = {"rpm": dice.choice((None, 6, 600)), "tpm": dice.choice((None, None, 3000))}
            limits = {"rpm": None, "tpm": None} if transport is healthy else paced
            gate = EndpointGate(concurrency=concurrency, clock=clock, dice=dice, **limits)
            ways.append(Way(f"e{n}", transport, gate))
        rig = Rig(120 * concurrency, only=ways, concurrency=concurrency, max_attempts=5)
        await rig.run()
        return rig

    rig = run_virtual(session())
    assert len(rig.outcomes) == 120 * concurrency
    first_s = {}
    for server in (*others, healthy):
        for row, at_s in zip(server.asked, server.asked_at_s, strict=True):
            first_s[row] = min(at_s, first_s.get(row, at_s))
    # The last rows are read ahead of time: until they are, nobody has to wait for one.
    fed_s = sorted(first_s.values())[-12 * concurrency] - START_S
    sent = sum(at_s - START_S < fed_s for at_s in healthy.asked_at_s)
    assert sent >= 0.9 * fed_s * concurrency / 0.2
