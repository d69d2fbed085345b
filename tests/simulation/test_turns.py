"""Conversations on virtual time: many rows, failing servers, stops, and what is asked when."""

import asyncio
import json
import random
from collections import Counter, defaultdict

import pytest

from batchrun.records import Row, Turn, Usage
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.samples import MODEL, fault, ok, refusal
from batchrun.testing.virtual import run_virtual
from tests.harness.rig import SIGNAL, Rig

SHARD_ROWS = 50


def _row(number, turns):
    said = [{"role": "user", "content": f"{number}.{turn}"} for turn in range(1, turns + 1)]
    return Row(number, f"id-{number}", {"model": MODEL, "messages": [], "turns": said}, None, 100)


class Server:
    """A server that answers turn by turn, fails now and then, and says what it was asked."""

    def __init__(self, seed, *, failing=0.0):
        self.dice = random.Random(seed)
        self.failing = failing
        self.asked = Counter()
        self.answered = defaultdict(list)
        self.transport = FakeTransport(self._answer, latency_s=self._latency)

    def _latency(self, _request):
        return self.dice.uniform(0.05, 2.0)

    def _answer(self, request, _before):
        said = [message["content"] for message in json.loads(request.body)["messages"]]
        turn = said[-1]
        number = int(turn.split(".")[1])
        # Every earlier turn is there, with the answer that was given to it.
        earlier = [f"{request.row}.{n}" for n in range(1, number)]
        assert said[:-1:2] == earlier and len(said) == 2 * number - 1, said
        for question, reply in zip(said[:-1:2], said[1:-1:2], strict=True):
            assert reply in self.answered[question], (question, reply)
        self.asked[turn] += 1
        draw = self.dice.random()
        if draw < self.failing:
            wrong = (refusal(500), refusal(429), fault("reset"), fault("timeout"))
            return self.dice.choice(wrong)
        reply = f"re {turn} ({self.asked[turn]})"
        self.answered[turn].append(reply)
        return ok(reply)


def _whole(rig, lengths):
    """Every row has its exchange, its numbers and its sums."""
    assert sorted(rig.outcomes) == list(range(len(lengths)))
    attempts = defaultdict(list)
    for attempt in rig.journal.attempts():
        attempts[attempt.row].append(attempt)
    for row, outcome in rig.outcomes.items():
        ledger = sorted(attempts[row], key=lambda attempt: attempt.number)
        assert outcome.attempts == len(ledger)
        assert [attempt.number for attempt in ledger] == list(range(1, len(ledger) + 1))
        assert outcome.conversation is not None
        said = [m["content"] for m in json.loads(outcome.conversation.messages)]
        if not outcome.ok:
            assert len(said) % 2 == 1
            continue
        assert said[::2] == [f"{row}.{n}" for n in range(1, lengths[row] + 1)]
        assert said[-1] == outcome.completion.first.content
        good = [attempt for attempt in ledger if attempt.error_class is None]
        assert [attempt.turn for attempt in good] == list(range(1, lengths[row] + 1))
        assert outcome.completion.usage.total_tokens == sum(a.usage.total_tokens for a in good)


@pytest.mark.parametrize("seed", range(3))
def test_many_conversations(seed):
    """A thousand of one to six turns, with failures: each turn is asked after the answer to the one
    before, as many are out as may be, and nothing is asked once it was answered.
    """
    dice = random.Random(seed)
    lengths = [dice.randint(1, 6) for _ in range(1000)]
    rows = [_row(number, turns) for number, turns in enumerate(lengths)]
    server = Server(seed, failing=0.1)

    async def play():
        rig = Rig(
            rows,
            transport=server.transport,
            concurrency=64,
            shard_rows=SHARD_ROWS,
            max_attempts=8,
            seed=seed,
            answered={},
        )
        await rig.run()
        return rig

    rig = run_virtual(play())
    _whole(rig, lengths)
    assert server.transport.in_flight_max == 64
    assert all(len(replies) == 1 for replies in server.answered.values()), "asked again"
    assert rig.published_rows() == list(range(len(rows)))


@pytest.mark.parametrize("seed", range(5))
def test_stops_in_the_middle(seed):
    """Stopped at any moment and begun again, no turn that was durable is asked again, and the
    tries of a turn do not count for the next one.
    """
    dice = random.Random(seed)
    lengths = [dice.randint(1, 5) for _ in range(120)]
    rows = [_row(number, turns) for number, turns in enumerate(lengths)]
    server = Server(seed, failing=0.15)

    async def play():
        rig = Rig(
            rows,
            transport=server.transport,
            concurrency=16,
            shard_rows=SHARD_ROWS,
            max_attempts=9,
            grace_s=0.3,
            seed=seed,
            answered={},
        )
        between = 0
        for _ in range(4):
            running = asyncio.create_task(rig.run())
            await asyncio.sleep(dice.uniform(0.5, 6.0))
            rig.switch.stop(SIGNAL)
            await running
            durable = {
                f"{entry.row}.{entry.number}": server.asked[f"{entry.row}.{entry.number}"]
                for entry in rig.journal.durable
                if isinstance(entry, Turn)
            }
            between += len(rig.turns())
            rig = rig.resumed(
                server.transport,
                answered=rig.turns(),
                concurrency=16,
                max_attempts=9,
                seed=seed,
            )
            checked.append(durable)
        await rig.run()
        assert between, "no stop came in the middle of a conversation"
        return rig

    checked = []
    rig = run_virtual(play())
    _whole(rig, lengths)
    for durable in checked:
        assert all(server.asked[turn] == asked for turn, asked in durable.items())


def test_a_turn_that_fails_for_good():
    """It ends the row after its own tries; the exchange so far stays, and its sums."""
    asked = Counter()

    def answer(request, _before):
        said = json.loads(request.body)["messages"][-1]["content"]
        asked[said] += 1
        return refusal(500) if said == "0.2" else ok(f"re {said}")

    async def play():
        rig = Rig(
            [_row(0, 3), _row(1, 2)],
            transport=FakeTransport(answer),
            max_attempts=3,
            answered={},
            repeated_failure=False,
        )
        await rig.run()
        return rig

    rig = run_virtual(play())
    assert asked == {"0.1": 1, "0.2": 3, "1.1": 1, "1.2": 1}
    failed = rig.outcomes[0]
    assert failed.failure.error_class == "server_error" and failed.attempts == 4
    said = [m["content"] for m in json.loads(failed.conversation.messages)]
    assert said == ["0.1", "re 0.1", "0.2"]
    first = next(a for a in rig.journal.attempts() if (a.row, a.number) == (0, 1))
    assert failed.conversation.usage.total_tokens == first.usage.total_tokens
    assert rig.outcomes[1].ok


def test_turns_of_another_conversation_count_for_nothing():
    """A pending row whose input was edited begins with its first turn."""
    asked = []

    def answer(request, _before):
        asked.append(json.loads(request.body)["messages"][-1]["content"])
        return ok("fine")

    said = b'{"role": "assistant", "content": "old"}'
    old = Turn(0, 1, "0" * 64, said, Usage(1, 1, 2), None)

    async def play():
        rig = Rig([_row(0, 2)], transport=FakeTransport(answer), answered={0: [old]})
        await rig.run()
        return rig

    run_virtual(play())
    assert asked == ["0.1", "0.2"]
