"""The engine against servers that tell their limits, on virtual time: true ones and nonsense."""

import asyncio
import random

import pytest

from batchrun.engine.pace.gate import EndpointGate
from batchrun.simulator.limit_headers import DIALECTS, Standing, write
from batchrun.simulator.limits import Bucket
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import ok, refusal
from batchrun.testing.virtual import VirtualClock, run_virtual
from tests.harness.rig import Rig
from tests.harness.slow import rest_slow

IN_FLIGHT = 32
"""So many requests go out before anything was told."""


class Window:
    """A limit that is renewed all at once; like ``Bucket`` to those who ask."""

    def __init__(self, rate_per_min, window_s, now_s):
        self.rate_per_min = rate_per_min
        self._most = self._left = rate_per_min * window_s / 60
        self._window_s = window_s
        self._ends_s = now_s + window_s * 0.6  # it began before the run

    def level(self, now_s):
        """What is left."""
        while now_s >= self._ends_s:
            self._ends_s += self._window_s
            self._left = self._most
        return self._left

    def full_in_s(self, now_s):
        """Seconds until it is renewed."""
        self.level(now_s)
        return self._ends_s - now_s

    def wait_s(self, cost, now_s):
        """Seconds until a request of this cost may pass."""
        return 0.0 if cost <= self.level(now_s) else self.full_in_s(now_s)

    def take(self, cost, now_s):
        """Charge a request."""
        del now_s
        self._left -= cost


class Server:
    """Enforces limits of requests and tokens, and tells them in a dialect.

    ``others`` is what other clients take of each limit, as a share. ``cost`` is what it charges for
    a request in tokens, of which the answer says that ``used`` were used.
    """

    def __init__(
        self, *, rpm=None, tpm=None, window_s=60.0, make=Bucket, others=0.0, cost=100, used=100,
        dialect="openai",
    ):  # fmt: skip
        self._loop = asyncio.get_running_loop()
        began_s = self._loop.time()
        rates = (("requests", rpm), ("tokens", tpm))
        self.limits = {kind: make(rate, window_s, began_s) for kind, rate in rates if rate}
        self._others, self._others_s = others, began_s
        self._costs = {"requests": 1, "tokens": cost}
        self._answer = ok(prompt_tokens=used // 2, completion_tokens=used - used // 2)
        self._dialect = dialect
        self.answered, self.refused = [], []

    def __call__(self, _request, _before):
        """Answer or refuse a request."""
        now_s = self._loop.time()
        if self._others:
            for limit in self.limits.values():
                due = limit.rate_per_min / 60 * self._others * (now_s - self._others_s)
                limit.take(min(due, max(0.0, limit.level(now_s))), now_s)
            self._others_s = now_s
        wait_s = max(limit.wait_s(self._costs[kind], now_s) for kind, limit in self.limits.items())
        (self.refused if wait_s > 0 else self.answered).append(now_s)
        if wait_s > 0:
            reply = refusal(429, retry_after_s=wait_s + 0.001)
        else:
            for kind, limit in self.limits.items():
                limit.take(self._costs[kind], now_s)
            reply = self._answer
        standings = [
            Standing(kind, limit.rate_per_min, limit.level(now_s), limit.full_in_s(now_s), 0)
            for kind, limit in self.limits.items()
        ]
        told = write(self._dialect, standings, VirtualClock().wall_us() / 1e6)
        return reply._replace(headers={**reply.headers, **told})


def _play(rows, make_script, *, in_flight=IN_FLIGHT, latency_s=0.2, gate=None, **settings):
    """Run so many rows against a script made on the loop. Returns script, rig and its seconds."""

    async def session():
        loop = asyncio.get_running_loop()
        script, began_s = make_script(), loop.time()
        transport = FakeTransport(script, latency_s=latency_s)
        rig = Rig(
            rows, transport=transport, concurrency=in_flight, shard_rows=rows,
            gate=gate and gate(), **settings,
        )  # fmt: skip
        await rig.run()
        return script, rig, loop.time() - began_s

    return run_virtual(session())


BUCKETS = {
    "a minute's bucket": {"rpm": 600},
    "a bucket of ten seconds": {"rpm": 600, "window_s": 10.0},
    "a second's bucket": {"rpm": 600, "window_s": 1.0},
    "tokens": {"tpm": 60_000},
    "tokens by the second": {"tpm": 60_000, "window_s": 1.0},
    "tokens, charged five times what is used": {"tpm": 300_000, "cost": 500},
    "tokens, charged a fifth of what is used": {"tpm": 12_000, "cost": 20},
    "both": {"rpm": 600, "tpm": 90_000},
    "a minute's window": {"rpm": 600, "make": Window},
    "a minute's window of tokens": {"tpm": 60_000, "make": Window},
    "a window told in whole seconds": {"rpm": 600, "make": Window, "dialect": "azure"},
    "a bucket told in whole seconds": {"rpm": 600, "dialect": "azure"},
    "a bucket told in moments": {"rpm": 600, "dialect": "anthropic"},
    "a bucket without a reset": {"rpm": 600, "dialect": "mistral"},
    "named policies": {"rpm": 600, "window_s": 10.0, "dialect": "ietf"},
}


@pytest.mark.parametrize("limits", rest_slow(BUCKETS.values(), 4), ids=[*BUCKETS])
def test_a_limit_that_is_told_is_used_and_not_run_into(limits):
    """600 requests a minute, told in any way: next to none is refused, but for those that went out
    before anything was told, and the limit is made use of.
    """
    server, rig, took_s = _play(900, lambda: Server(**limits))
    assert rig.tally.ok == 900
    assert len(server.refused) <= IN_FLIGHT + 5, len(server.refused)
    assert took_s <= 90 / 0.95 + 2


def test_without_headers_it_is_found_from_refusals():
    """The same server, telling nothing: it is run into once, and then its rate is known."""
    server, _, _ = _play(900, lambda: Server(rpm=600, window_s=1.0, dialect="none"))
    assert IN_FLIGHT < len(server.refused) < 10 * IN_FLIGHT


@pytest.mark.slow
@pytest.mark.parametrize("make", [Bucket, Window])
def test_others_use_the_same_account(make):
    """Where other clients take half of the limit, the other half is used, and not more."""
    server, _, _ = _play(900, lambda: Server(rpm=1200, others=0.5, make=make))
    assert len(server.refused) <= 20, len(server.refused)
    first_s, last_s = server.answered[300], server.answered[-1]
    assert 600 / (last_s - first_s) >= 0.8 * 10


def test_slow_answers_and_many_in_flight():
    """News that is ten seconds old still keeps the limit."""
    server, _, took_s = _play(900, lambda: Server(rpm=600), in_flight=200, latency_s=10.0)
    assert len(server.refused) <= 5
    assert took_s <= 90 / 0.95 + 20


def test_a_limit_that_changes_is_followed():
    """The server takes half of the limit away, and later gives more: both are kept and used."""

    class Changing(Server):
        def __call__(self, request, before):
            now_s = self._loop.time()
            after_s = now_s - self.changed_s
            if self.step == 0 and after_s > 30:
                self.step, self.limits["requests"] = 1, Bucket(300, 10.0, now_s)
            elif self.step == 1 and after_s > 60:
                self.step, self.limits["requests"] = 2, Bucket(1200, 10.0, now_s)
            return super().__call__(request, before)

    def server():
        made = Changing(rpm=600, window_s=10.0)
        made.step, made.changed_s = 0, asyncio.get_running_loop().time()
        return made

    server, _, _ = _play(1300, server)
    assert len(server.refused) <= IN_FLIGHT
    at_s = [moment_s - server.changed_s for moment_s in server.answered]
    assert sum(35 < at < 60 for at in at_s) / 25 == pytest.approx(5, rel=0.06)
    assert sum(70 < at < 90 for at in at_s) / 20 == pytest.approx(20, rel=0.06)


def test_what_the_user_set_is_never_loosened():
    """A server that tells more than the user wants does not change what is sent."""

    def gate():
        return EndpointGate(
            concurrency=IN_FLIGHT, rpm=300, tpm=None, clock=VirtualClock(), dice=random.Random(1)
        )

    server, _, took_s = _play(200, lambda: Server(rpm=60_000), gate=gate)
    assert not server.refused
    assert 39 <= took_s <= 42


# Nonsense


def _saying(**told):
    """A server without limits whose headers say this of requests: texts, or functions of them."""

    def script():
        def answer(_request, _before):
            headers = {
                f"x-ratelimit-{part}-requests": text() if callable(text) else text
                for part, text in told.items()
            }
            return ok()._replace(headers=headers)

        return answer

    return script


DICE = random.Random(7)
IGNORED = {
    "negative": _saying(limit="-1", remaining="-1", reset="0"),
    "no number": _saying(limit="NaN", remaining="inf", reset="soon"),
    "nothing allowed": _saying(limit="0", remaining="7", reset="1s"),
    "more left than there is": _saying(limit="10", remaining="700", reset="60s"),
    "unlimited": _saying(limit="99999999999999999999", remaining="0", reset="60s"),
    "generous": _saying(limit="1000000", remaining="999999", reset="1ms"),
    "a day's": _saying(limit="1000", remaining="7", reset="23h10m"),
    "a limit alone, of a day": _saying(limit="10", reset="7h"),
}


@pytest.mark.parametrize("script", rest_slow(IGNORED.values(), 3), ids=[*IGNORED])
def test_what_cannot_be_or_does_not_bind_changes_nothing(script):
    """The run takes as long as without headers, to the tick."""
    _, _, plain_s = _play(600, _saying())
    _, _, took_s = _play(600, script)
    assert took_s == pytest.approx(plain_s, abs=0.05)


LIES = {
    "one a minute": _saying(limit="1", remaining="0", reset="60s"),
    "nothing left, ever": _saying(limit="600", remaining="0", reset="60s"),
    "always the same": _saying(limit="60", remaining="59", reset="1s"),
    "dice": _saying(
        limit="600",
        remaining=lambda: str(DICE.randrange(600)),
        reset=lambda: f"{DICE.randrange(60)}s",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", LIES.values(), ids=LIES)
def test_limits_that_are_none_are_found_out(script):
    """Headers that are about something else may cost some seconds, once: then the run goes on as
    fast as without them.
    """
    _, rig, took_s = _play(1600, script, in_flight=16)  # 80 a second: 20 s
    assert rig.tally.ok == 1600
    assert took_s <= 20 + 15


@pytest.mark.slow
def test_headers_that_cease_are_forgotten():
    """A server that stops telling is not kept to what it told."""
    replies = iter([True] * 5)

    def script():
        def answer(_request, _before):
            told = {"x-ratelimit-limit-requests": "60"} if next(replies, False) else {}
            return ok()._replace(headers=told)

        return answer

    _, _, took_s = _play(2000, script)
    assert took_s <= 160


# A day's limit


def test_a_day_that_is_used_up_ends_the_run():
    """A refusal with nothing left of a day's limit is a long wait, and not what the last answers
    before it say.
    """
    told = {
        "x-ratelimit-limit-requests-day": "20",
        "x-ratelimit-reset-requests-day": "33011.382867",
    }
    left = iter(range(19, -1, -1))

    def script():
        def answer(_request, _before):
            remaining = next(left, None)
            reply = refusal(429) if remaining is None else ok()
            return reply._replace(
                headers=told | {"x-ratelimit-remaining-requests-day": str(remaining or 0)}
            )

        return answer

    _, rig, _ = _play(30, script, in_flight=2)
    assert rig.tally.ok == 20
    assert len(rig.transport.asked) <= 22
    assert rig.switch.reason.by == "rate_limit" and rig.switch.reason.exit_code == 3


def test_every_dialect_is_played():
    """The table above leaves out those dialects alone whose windows are not of a minute."""
    played = {limits.get("dialect", "openai") for limits in BUCKETS.values()}
    assert set(DIALECTS) - played == {"groq", "cerebras", "together", "openrouter", "none"}
