"""Limits on tokens on virtual time: used up, hardly ever refused, and never exceeded."""

import asyncio
import json
import random
from dataclasses import replace

import pytest

from batchrun.core.request.charge import RULES, Size, stated
from batchrun.core.settings.charge import Charge
from batchrun.engine.pace.gate import EndpointGate
from batchrun.records import Reply, Row
from batchrun.simulator.limit_headers import Standing, write
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import MODEL, ok, refusal
from batchrun.testing.virtual import VirtualClock, run_virtual
from tests.harness.metered_server import Bucket, EmptyBucket, Metered, Sliding
from tests.harness.rig import Rig


class Server(FakeTransport):
    """Charges requests on their arrival as a ``Metered`` says, and notes it there."""

    def __init__(self, meter, dialect=None):
        super().__init__()
        self.meter, self._dialect = meter, dialect
        self._limit = meter.kind(meter.tpm, meter.burst_s, asyncio.get_running_loop().time())

    async def send(self, request):
        """Answer or refuse a request."""
        meter = self.meter
        now_s = asyncio.get_running_loop().time()
        words = json.loads(request.body)["messages"][0]["content"].split()
        limit = stated(request.body).limit
        output = meter.answer if limit is None else min(limit, meter.answer)
        size = Size(len(words) + 5, limit, output)
        cost = RULES[meter.charge].charged(size)
        wait_s = self._limit.wait_s(cost, now_s)
        told = {}
        if self._dialect:
            left = max(0.0, self._limit._level)
            full_s = (self._limit._most - self._limit._level) / meter.tpm * 60
            standing = [Standing("tokens", meter.tpm, left, full_s, 0)]
            told = write(self._dialect, standing, VirtualClock().wall_us() / 1e6)
        if wait_s > 1e-6:
            meter.refused.append((now_s, cost))
            await asyncio.sleep(0.02)
            return refusal(429, retry_after_s=wait_s + 0.001)._replace(headers=told)
        self._limit.take(cost, now_s)
        meter.passed.append((now_s, cost))
        await asyncio.sleep(meter.latency_s)
        answer = ok(prompt_tokens=size.prompt, completion_tokens=output)
        return Reply(200, {**answer.headers, **told}, answer.body)


def _rows(count, max_tokens, words=(5, 12), seed=1):
    dice = random.Random(seed)
    made = []
    for number in range(count):
        text = " ".join(
            dice.choice(("alpha", "of", "market", "a")) for _ in range(dice.choice(words))
        )
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        made.append(Row(number, str(number), {**body, "max_tokens": max_tokens}))
    return made


def _run(meter, rows, *, tpm=None, charge=None, dialect=None, concurrency=64):
    """Send the rows; returns the meter and the notices."""
    notices = []

    async def play():
        gate = EndpointGate(
            concurrency=concurrency,
            rpm=None,
            tpm=tpm,
            clock=VirtualClock(),
            dice=random.Random(0),
            charge=charge,
            say=notices.append,
        )
        server = Server(replace(meter, passed=[], refused=[]), dialect)
        rig = Rig(rows, transport=server, gate=gate, concurrency=concurrency)
        await rig.run()
        assert len(rig.outcomes) == len(rows)
        return server.meter

    return run_virtual(play()), notices


class TestTold:
    @pytest.mark.parametrize("kind", [Bucket, EmptyBucket, Sliding])
    def test_a_limit_is_used_up_and_not_exceeded(self, kind):
        """Answers as long as their limit: all but a few per cent is used, next to nothing refused,
        whichever way the server counts, and whether or not its bucket is full at first.
        """
        server, notices = _run(Metered(60_000, kind=kind), _rows(2500, 20), tpm=60_000)
        assert server.used() >= 0.95
        assert server.refused_share <= 0.005
        assert not notices

    @pytest.mark.slow
    def test_any_minute_of_a_small_limit(self):
        """12,000 within any 60 s, over four minutes."""
        server, _ = _run(Metered(12_000, kind=Sliding), _rows(1300, 20), tpm=12_000)
        assert server.used() >= 0.92
        assert server.refused_share <= 0.005
        assert server.most_in_a_minute <= 1

    def test_a_request_worth_two_seconds_of_the_limit(self):
        """Few requests fit into a minute, and the next one never makes it one too many."""
        server, _ = _run(
            Metered(12_000, kind=Sliding), _rows(110, 400), tpm=12_000, charge=Charge.SUM
        )
        assert server.used() >= 0.92
        assert server.refused_share <= 0.01

    def test_rows_worth_most_of_a_second_among_small_ones(self):
        """They wait for their share and are not refused over and over."""
        rows = _rows(300, 20, (5,) * 9 + (875,))
        server, _ = _run(Metered(60_000), rows, tpm=60_000)
        assert server.took_s <= 1.15 * server.work_s

    def test_rows_larger_than_a_minute_are_sent_and_hold_nobody_for_ever(self):
        """A row of 90 s worth leaves a debt, and the others follow once it is paid."""
        rows = _rows(40, 20, (5,) * 9 + (1500,))
        server, _ = _run(Metered(1200, burst_s=1), rows, tpm=1200)
        assert server.took_s <= 1.15 * server.work_s


class TestCharge:
    def test_what_is_used_counts_once_answers_are_known(self):
        """Of 400 allowed tokens 20 come back, and the server counts those: from 50 answers on nine
        tenths of the limit are used. The user hears what the limit costs, once.
        """
        server, notices = _run(Metered(60_000, Charge.REAL), _rows(2500, 400), tpm=60_000)
        assert server.used(after=60) >= 0.90
        assert server.refused_share <= 0.005
        assert len(notices) == 1
        assert "max_tokens 400 reserves 20 times" in notices[0]

    @pytest.mark.parametrize("charge", [Charge.SUM, Charge.MAX])
    def test_a_server_that_reserves_refuses_the_trial_only(self, charge):
        """The run is back at the reserving pace after a handful of refusals."""
        server, notices = _run(Metered(60_000, charge), _rows(700, 400), tpm=60_000)
        assert server.used(after=100) >= 0.9 * (400 / 425 if charge is Charge.MAX else 1)
        assert len(server.refused) <= 16
        assert len(notices) == 1

    @pytest.mark.parametrize("charge", list(Charge))
    def test_a_rule_that_is_given_is_kept_from_the_start(self, charge):
        """Each rule uses its server's limit up, without a trial and hardly a refusal."""
        count = {Charge.SUM: 150, Charge.MAX: 160, Charge.INPUT: 3500, Charge.REAL: 2000}[charge]
        server, notices = _run(
            Metered(60_000, charge), _rows(count, 400), tpm=60_000, charge=charge
        )
        assert server.used(after=20) >= 0.90
        assert server.refused_share <= 0.01
        assert len(notices) == (charge in (Charge.SUM, Charge.MAX))

    @pytest.mark.slow
    def test_the_limits_that_headers_report_show_the_rule(self):
        """A large bucket that counts what was used: it is used up, and next to nothing refused."""
        server, _ = _run(
            Metered(60_000, Charge.REAL, burst_s=60, answer=40),
            _rows(9000, 400),
            dialect="openai",
            concurrency=128,
        )
        assert server.used() >= 0.95
        assert server.refused_share <= 0.02


class TestInputAndOutput:
    def test_each_is_paced(self):
        """Anthropic limits input and output apart; the output is what binds here."""
        server, _ = _run(
            Metered(24_000, Charge.REAL, burst_s=60), _rows(3000, 20), dialect="anthropic"
        )
        assert server.used() >= 0.9
        assert server.refused_share <= 0.03
