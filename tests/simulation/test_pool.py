"""Several endpoints on virtual time: who takes a row, and what one that fails costs."""

import asyncio
import random

import pytest

from batchrun.engine.lane import Way
from batchrun.engine.pace.gate import EndpointGate
from batchrun.records import Completion
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import chat_row, fault, ok, refusal
from batchrun.testing.virtual import START_S, VirtualClock, run_virtual
from tests.harness.rig import SIGNAL, Rig
from tests.harness.slow import rest_slow


def _now_s():
    return asyncio.get_running_loop().time() - START_S


def _between(start_s, end_s, answer):
    """A server that gives this answer in between."""
    return lambda *_: answer if start_s <= _now_s() < end_s else ok()


def _server(script=lambda *_: ok(), latency_s=0.2):
    return FakeTransport(script, latency_s=latency_s)


def _run(rows, servers, *, stop_at_s=None, gates=None, rig=None, **settings):
    """Run rows over servers, one endpoint each; returns rig, lanes and how long it took.

    ``gates`` are the limits of the gates, ``settings`` those of all, ``rig`` those of the rig.
    """
    concurrency = settings.pop("concurrency", 4)

    async def session():
        clock = VirtualClock()
        ways = []
        for number, server in enumerate(servers):
            limits = {"rpm": None, "tpm": None} | (gates or {}).get(number, {})
            gate = EndpointGate(
                concurrency=concurrency, clock=clock, dice=random.Random(number), **limits
            )
            more = {key: value[number] for key, value in settings.items()}
            ways.append(Way(f"e{number}", server, gate, **more))
        session = Rig(rows, concurrency=concurrency, only=ways, **(rig or {}))
        if stop_at_s is not None:
            asyncio.get_running_loop().call_later(stop_at_s, session.switch.stop, SIGNAL)
        await session.run()
        return session, _now_s()

    return run_virtual(session())


def _count(rig):
    """By endpoint, how many rows it answered."""
    found = {}
    for outcome in rig.outcomes.values():
        assert outcome.ok, outcome.failure
        found[outcome.attempt.endpoint] = found.get(outcome.attempt.endpoint, 0) + 1
    return found


def _sent(server, start_s, end_s):
    return sum(start_s <= at_s - START_S < end_s for at_s in server.asked_at_s)


def _ledger_is_true(rig, servers):
    counted = {}
    for attempt in rig.journal.attempts():
        counted[attempt.endpoint] = counted.get(attempt.endpoint, 0) + 1
    asked = {f"e{n}": len(server.asked) for n, server in enumerate(servers)}
    assert counted == {name: count for name, count in asked.items() if count}


def test_the_work_is_shared_by_speed():
    """A server that is three times as fast answers three times as many rows."""
    servers = [_server(latency_s=0.1), _server(latency_s=0.3)]
    rig, took_s = _run(400, servers)
    found = _count(rig)
    assert 280 <= found["e0"] <= 320
    assert took_s < 400 / (4 / 0.1 + 4 / 0.3) * 1.1
    _ledger_is_true(rig, servers)


def test_weight_shifts_what_is_not_at_its_limit():
    """With permits to spare, the heavier endpoint has more requests out."""
    servers = [_server(), _server()]
    rig, _ = _run(300, servers, concurrency=32, weight=[3.0, 1.0], gates={}, rig={"permits": 16})
    found = _count(rig)
    assert 2 < found["e0"] / found["e1"] < 4


@pytest.mark.parametrize("how", rest_slow(["connect", "cut", "timeout", "503", "500"], 10))
@pytest.mark.parametrize("concurrency", rest_slow([2, 1, 12]))
@pytest.mark.parametrize("attempts", [1, 3])
def test_an_endpoint_that_dies_costs_nobody(how, concurrency, attempts):
    """Down from 3 s to 13 s: every row is ok though a row has one attempt, the dead one is left
    alone after a moment, the other works on at full speed, and the dead one is used again.
    """
    answer = refusal(int(how)) if how.isdecimal() else fault(how)
    servers = [_server(_between(3, 13, answer)), _server()]
    per_s = concurrency / 0.2
    rows = int(per_s * (2 * 3 + 10 + 2 * 4))
    rig, took_s = _run(rows, servers, concurrency=concurrency, rig={"max_attempts": attempts})
    assert sum(_count(rig).values()) == rows
    _ledger_is_true(rig, servers)
    assert _sent(servers[0], 6, 13) <= 5  # probes
    assert _sent(servers[1], 4, 13) >= 0.9 * 9 * per_s
    assert _sent(servers[0], 14, took_s) > 0


def test_nothing_answers_anywhere_and_then_one_does():
    """While all are down rows wait, and whoever is back first takes them."""
    servers = [_server(_between(1, 60, fault("connect"))), _server(_between(1, 10, fault("cut")))]
    rig, took_s = _run(200, servers)
    assert sum(_count(rig).values()) == 200
    assert took_s < 30
    _ledger_is_true(rig, servers)


def test_a_refusing_endpoint_slows_only_itself():
    """One answers nothing but 429, with a wait of a minute: the other takes all rows at its
    speed.
    """
    servers = [_server(lambda *_: refusal(429, retry_after_s=60)), _server()]
    rig, took_s = _run(200, servers)
    assert _count(rig) == {"e1": 200}
    assert took_s < 200 / (4 / 0.2) * 1.1 + 0.5
    assert len(servers[0].asked) <= 8


@pytest.mark.parametrize("status", [401, 402, 403])
def test_an_endpoint_that_refuses_its_account_is_left_out(status):
    """The others go on, the user is told, and no row fails or is charged."""
    servers = [_server(lambda *_: refusal(status)), _server()]
    rig, _ = _run(50, servers, rig={"max_attempts": 1})
    assert _count(rig) == {"e1": 50}
    assert rig.switch.reason is None
    assert len(servers[0].asked) <= 4
    assert any("e0 is left out from now on" in said for said in rig.tally.notices)


def test_the_run_stops_once_all_endpoints_are_left_out():
    """Rows stay pending, and the reason is a guard's."""
    servers = [_server(lambda *_: refusal(401)), _server(lambda *_: refusal(402))]
    rig, _ = _run(50, servers)
    assert rig.switch.reason.by in ("auth", "billing")
    assert rig.switch.reason.message.startswith(("e0: ", "e1: "))
    assert not rig.outcomes


def test_rows_of_an_endpoint_that_is_left_out_stop_the_run_if_nobody_else_serves_them():
    """The rows of the other model that were answered until then are kept."""
    rows = [
        row._replace(body=row.body | {"model": "ab"[n % 2]})
        for n, row in enumerate(chat_row(n) for n in range(40))
    ]
    servers = [_server(lambda *_: refusal(401)), _server()]
    rig, _ = _run(rows, servers, models=[{"a": "a"}, {"b": "b"}])
    assert rig.switch.reason.by == "auth"
    assert {outcome.row % 2 for outcome in rig.outcomes.values()} <= {1}


def test_a_row_goes_where_its_model_is_served_by_the_name_it_has_there():
    """And what it is called there is what that endpoint is asked for."""
    names = ["small", "large", "other"]
    rows = [
        row._replace(body=row.body | {"model": names[n % 3]})
        for n, row in enumerate(chat_row(n) for n in range(90))
    ]
    asked = [set(), set(), set()]

    def script(number):
        def answer(request, _):
            asked[number].add((request.row % 3, b'"model":"there"' in request.body))
            return ok()

        return answer

    servers = [_server(script(n)) for n in range(3)]
    models = [{"small": "small", "large": "there"}, {"large": "large"}, None]
    rig, _ = _run(rows, servers, models=models)
    assert len(rig.outcomes) == 90
    assert asked[0] <= {(0, False), (1, True)}
    assert asked[1] == {(1, False)}
    assert {kind for kind, _ in asked[2]} == {0, 1, 2}
    hashes = {outcome.request_hash for outcome in rig.outcomes.values()}
    assert len(hashes) == 90  # of the body before any endpoint's names


def test_rows_that_wait_for_their_endpoint_do_not_hold_the_others_up():
    """The endpoint of one model is down for a minute; rows of the other model, behind, go on."""
    rows = [
        row._replace(body=row.body | {"model": "a" if n < 300 else "b"})
        for n, row in enumerate(chat_row(n) for n in range(600))
    ]
    servers = [_server(_between(0.5, 60, fault("connect"))), _server()]
    rig, took_s = _run(rows, servers, models=[{"a": "a"}, {"b": "b"}])
    assert _count(rig) == {"e0": 300, "e1": 300}
    assert max(at_s - START_S for at_s in servers[1].asked_at_s) < 25
    assert took_s < 150


def test_a_slow_rate_does_not_keep_the_last_rows():
    """An endpoint with a request a minute is not where the run waits while the other idles."""
    servers = [_server(), _server()]
    rig, took_s = _run(100, servers, gates={1: {"rpm": 1}})
    assert sum(_count(rig).values()) == 100
    assert took_s < 15


def test_several_keys_on_one_server_have_limits_of_their_own():
    """Two endpoints with 600 a minute make 20 a second together, and neither more than its 10."""
    servers = [_server(), _server()]
    rig, took_s = _run(200, servers, gates={0: {"rpm": 600}, 1: {"rpm": 600}})
    assert sum(_count(rig).values()) == 200
    assert 9 < took_s < 11.5
    for server in servers:
        assert 90 <= len(server.asked) <= 112


def test_a_model_that_one_endpoint_does_not_have_is_asked_of_another():
    """A 404 about one row costs it nothing while another endpoint may know."""
    servers = [
        _server(lambda request, _: refusal(404) if request.row % 5 == 0 else ok()),
        _server(),
    ]
    rig, _ = _run(100, servers, rig={"max_attempts": 1})
    assert sum(_count(rig).values()) == 100


def test_a_row_that_no_endpoint_can_digest_ends():
    """It is tried everywhere, and charged as anywhere."""

    def poisonous(request, _):
        return refusal(500) if request.row == 7 else ok()

    servers = [_server(poisonous), _server(poisonous)]
    rig, took_s = _run(100, servers, rig={"max_attempts": 3})
    assert [row for row, outcome in rig.outcomes.items() if not outcome.ok] == [7]
    assert servers[0].asked_of[7] + servers[1].asked_of[7] <= 6
    assert took_s < 60


@pytest.mark.parametrize("seed", range(12))
def test_a_stop_leaves_nothing_behind(seed):
    """Stopped at any moment of an outage, with rows that wait for turns: it ends, and every row
    is done or pending.
    """
    dice = random.Random(seed)
    servers = [
        _server(_between(2, 20, fault("connect"))),
        _server(_between(3, 9, refusal(429, retry_after_s=5))),
    ]
    rig, _ = _run(
        500, servers, stop_at_s=dice.uniform(0, 12), models=[None, {"fake-model": "there"}],
        gates={1: {"rpm": 300}}
    )  # fmt: skip
    assert rig.published_rows() == sorted(rig.outcomes)
    _ledger_is_true(rig, servers)
    assert all(isinstance(o.completion, Completion) for o in rig.outcomes.values())


@pytest.mark.parametrize("status", [404, 429, 500])
def test_rows_that_must_go_elsewhere_hold_nobody_up(status):
    """A quick endpoint turns a few rows away, for which there is a slow one: while they wait for
    it, the quick one works on at full speed.
    """
    quick = _server(
        lambda request, before: refusal(status) if request.row % 50 == 0 and not before else ok(),
        latency_s=0.1,
    )
    slow = _server(latency_s=20.0)
    rig, _ = _run(2000, [quick, slow], rig={"max_attempts": 1})
    assert sum(_count(rig).values()) == 2000
    assert _sent(quick, 0, 45) >= 0.9 * 45 * 4 / 0.1


def test_rows_with_one_endpoint_do_not_wait_for_those_with_two():
    """Of rows that may go to both and rows that may go to one, who came first goes first: both
    endpoints are busy to the end.
    """
    rows = [
        row._replace(body=row.body | {"model": "ab"[n % 2]})
        for n, row in enumerate(map(chat_row, range(400)))
    ]
    servers = [_server(latency_s=1.0), _server(latency_s=1.0)]
    rig, took_s = _run(rows, servers, models=[{"a": "a"}, None])
    assert sum(_count(rig).values()) == 400
    assert took_s < 1.1 * 400 / 8


def test_a_row_waits_for_the_endpoint_that_has_its_model():
    """One has not the model, the other refuses for a while: no row fails for asking too soon."""
    servers = [
        _server(lambda request, _: refusal(404) if request.row % 2 else ok()),
        _server(_between(1, 10, refusal(429, retry_after_s=3))),
    ]
    rig, _ = _run(150, servers, rig={"max_attempts": 1})
    assert sum(_count(rig).values()) == 150
    assert max(servers[0].asked_of.values()) == 1


def test_one_that_never_answered_does_not_stop_a_run_that_has_another():
    """Nothing has answered for longer than the longest wait: one is dead, the other slow."""
    servers = [_server(lambda *_: fault("connect")), _server(latency_s=30.0)]
    rig, _ = _run(20, servers, rig={"max_wait_s": 10.0})
    assert _count(rig) == {"e1": 20}
    servers = [_server(lambda *_: fault("connect")), _server(lambda *_: fault("cut"))]
    rig, took_s = _run(20, servers, rig={"max_wait_s": 10.0})
    assert rig.switch.reason.by == "connection" and took_s < 30
