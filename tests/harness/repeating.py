"""Seeded worlds for the guard of repeated failures, and a study of what it does in them.

Healthy worlds hold everything that fails in a row and is no reason to stop; in broken ones nothing
is answered any more from some moment on. ``python -m tests.harness.repeating 200`` plays so many
seeds of each kind on virtual time and prints a table.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import click

from batchrun.records import Reply, Request
from batchrun.testing.fakes import Answer, FakeTransport
from batchrun.testing.samples import fault, ok, refusal
from batchrun.testing.virtual import START_S, run_virtual
from tests.harness.rig import Rig

GUARD = "repeated_failure"
FOREVER_S = float("inf")
_LOGIN = Reply(200, {"content-type": "text/html"}, b"<html><body>Please sign in</body></html>")
_EMPTY = (Reply(200, {}, b""), Reply(200, {}, b"{}"), Reply(200, {}, b'{"choices": []}'))
_BAD = (refusal(400, code="odd_value"), refusal(413), refusal(422, code="no_such_thing"))
_FILTERED = refusal(400, code="content_filter")
_OUT = (refusal(500), refusal(503), fault("connect"), fault("timeout"), fault("cut"))


@dataclass(slots=True)
class World:
    """A server and what is asked of it: which rows fail and how, and a time in which all do."""

    rows: int
    concurrency: int
    bad: dict[int, Answer]
    slow_s: tuple[float, float] = (0.1, 2.0)
    quick_s: tuple[float, float] = (0.02, 0.2)
    """How long answers take, and failures."""
    from_s: float = FOREVER_S
    until_s: float = FOREVER_S
    answers: tuple[Answer, ...] = ()
    """What everybody gets in between."""
    at_reply: bool = False
    """Whether what is in flight when that time begins fails too."""
    throttled: float = 0.0
    """The share of requests that are refused with a 429, at all times."""
    max_attempts: int = 5


class Played(NamedTuple):
    """What became of a world: who stopped the run, rows that failed though they are good, requests
    that went out after everything broke, and bad rows that did not end as error rows.
    """

    stopped_by: str | None
    wronged: int
    late: int
    missing: int


def _rows_and_concurrency(dice: random.Random) -> tuple[int, int]:
    concurrency = dice.choice((1, 4, 16, 64, 256, 512))
    return dice.randrange(150, 400) + dice.choice((1, 2, 3)) * concurrency, concurrency


def _scattered(dice: random.Random) -> World:
    """Bad rows everywhere that fail quickly, between answers that take their time."""
    rows, concurrency = _rows_and_concurrency(dice)
    share = dice.choice((0.01, 0.05, 0.1, 0.3, 0.6))
    reply = dice.choice((*_BAD, _LOGIN, *_EMPTY))
    bad: dict[int, Answer] = {n: reply for n in range(rows) if dice.random() < share}
    slow_s = dice.choice(((0.1, 2.0), (5.0, 60.0), (59.0, 60.0)))
    return World(rows, concurrency, bad, slow_s, throttled=dice.choice((0.0, 0.2)))


def _thirty(dice: random.Random) -> World:
    """Thirty bad rows in a row: at the beginning, at the end, or anywhere."""
    rows, concurrency = _rows_and_concurrency(dice)
    first = dice.choice((0, rows - 30, dice.randrange(rows - 30)))
    reply = dice.choice((*_BAD, _LOGIN, *_EMPTY))
    return World(rows, concurrency, dict.fromkeys(range(first, first + 30), reply))


def _moderated(dice: random.Random) -> World:
    """Sorted data: hundreds of rows in a row that a filter rejects."""
    rows, concurrency = _rows_and_concurrency(dice)
    first = dice.randrange(rows // 2)
    return World(rows, concurrency, dict.fromkeys(range(first, rows), _FILTERED))


def _undigestible(dice: random.Random) -> World:
    """Rows that no server can digest: their retries gather at the end."""
    rows, concurrency = _rows_and_concurrency(dice)
    reply = dice.choice((refusal(500), fault("cut"), *_EMPTY))
    share = dice.choice((0.02, 0.1, 0.25))
    bad: dict[int, Answer] = {n: reply for n in range(rows) if dice.random() < share}
    return World(rows, concurrency, bad, dice.choice(((0.1, 2.0), (0.01, 0.02))))


def _outage(dice: random.Random) -> World:
    """Nothing works for a while, and then it does again. It begins while there are rows that were
    not sent yet: what fails at the end of all rows may be the rows.
    """
    rows, concurrency = _rows_and_concurrency(dice)
    from_s = dice.uniform(0.5, 10.0)
    rows += int(concurrency * (from_s + 2))
    until_s = from_s + dice.choice((2.0, 60.0, 600.0))
    return World(
        rows, concurrency, {}, from_s=from_s, until_s=until_s, answers=(dice.choice(_OUT),)
    )


def _slow_failures(dice: random.Random) -> World:
    """Bad rows that fail long after the answers came in: the last of them gather at the end."""
    rows, concurrency = _rows_and_concurrency(dice)
    share = dice.choice((0.02, 0.1, 0.25))
    bad: dict[int, Answer] = {n: _BAD[0] for n in range(rows) if dice.random() < share}
    return World(rows, concurrency, bad, (0.05, 0.5), (30.0, 60.0))


def _broken(
    *answers: Answer, throttled: float = 0.0, at_reply: bool = False
) -> Callable[[random.Random], World]:
    def drawn(dice: random.Random) -> World:
        concurrency = dice.choice((1, 4, 16, 64, 256, 512))
        slow_s = dice.choice(((0.1, 2.0), (1.0, 20.0)))
        return World(
            200 + 12 * concurrency,
            concurrency,
            {},
            slow_s,
            from_s=dice.uniform(1.0, 2.0) * slow_s[1],
            answers=answers if throttled else (dice.choice(answers),),
            at_reply=at_reply,
            throttled=throttled,
        )

    return drawn


HEALTHY: dict[str, Callable[[random.Random], World]] = {
    "scattered bad rows, slow answers": _scattered,
    "thirty bad rows in a row": _thirty,
    "hundreds of filtered rows in a row": _moderated,
    "undigestible rows gather at the end": _undigestible,
    "bad rows that fail slowly": _slow_failures,
    "an outage that ends": _outage,
}
BROKEN: dict[str, Callable[[random.Random], World]] = {
    "unknown code from then on": _broken(*_BAD),
    "login page from then on": _broken(_LOGIN),
    "empty replies from then on": _broken(*_EMPTY),
    "login page, also for all in flight": _broken(_LOGIN, at_reply=True),
    "unknown code, 429s before and after": _broken(_BAD[0], throttled=0.3),
    "several failures in turn": _broken(_BAD[0], _BAD[1], _LOGIN, throttled=0.05),
}


def play(world: World, seed: int) -> Played:
    """Run a world on virtual time, as a session of a run that has answers."""
    dice = random.Random(f"play {seed}")

    def now_s() -> float:
        return asyncio.get_running_loop().time() - START_S

    def fate(request: Request) -> Answer:
        if dice.random() < world.throttled:
            return refusal(429)
        if world.from_s <= now_s() < world.until_s:
            return dice.choice(world.answers)
        return world.bad.get(request.row, _OK)

    fates: dict[int, Answer] = {}

    def latency_s(request: Request) -> float:
        # An exchange is what it is when it begins; a row has one at a time.
        found = fates[request.row] = fate(request)
        return dice.uniform(*(world.slow_s if found is _OK else world.quick_s))

    def script(request: Request, _: int) -> Answer:
        broken = world.at_reply and now_s() >= world.from_s
        return world.answers[0] if broken else fates[request.row]

    async def session() -> tuple[Rig, float]:
        transport = FakeTransport(script, latency_s)
        rig = Rig(
            world.rows,
            transport=transport,
            concurrency=world.concurrency,
            shard_rows=500,
            max_attempts=world.max_attempts,
            seed=seed,
        )
        rig.tally.resumed_ok = 1
        await rig.run()
        return rig, world.from_s + START_S

    rig, broke_s = run_virtual(session())
    failed = {row for row, outcome in rig.outcomes.items() if not outcome.ok}
    stop = rig.switch.reason
    return Played(
        None if stop is None else stop.by,
        len(failed - world.bad.keys()),
        sum(at_s >= broke_s for at_s in rig.transport.asked_at_s),
        len(world.bad.keys() - failed),
    )


_OK = ok()


def main() -> None:
    """Play all kinds, and print what came of it."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    click.echo("| kind | runs | false stops | good rows failed (most in a run) |")
    click.echo("|---|---|---|---|")
    for kind, draw in HEALTHY.items():
        played = [play(draw(random.Random(f"{kind} {n}")), n) for n in range(seeds)]
        stops = sum(one.stopped_by is not None for one in played)
        click.echo(f"| {kind} | {seeds} | {stops} | {max(one.wronged for one in played)} |")
    click.echo("")
    click.echo(
        "| kind | runs | stops missed | rows failed after the break (mean, most) | requests |"
    )
    click.echo("|---|---|---|---|---|")
    for kind, draw in BROKEN.items():
        worlds = [draw(random.Random(f"{kind} {n}")) for n in range(seeds)]
        played = [play(world, n) for n, world in enumerate(worlds)]
        missed = sum(one.stopped_by != GUARD for one in played)
        wronged = [one.wronged for one in played]
        most = max(one.late - world.concurrency for one, world in zip(played, worlds, strict=True))
        click.echo(
            f"| {kind} | {seeds} | {missed} | {sum(wronged) / seeds:.1f}, {max(wronged)} "
            f"| concurrency + {most} |"
        )


if __name__ == "__main__":
    main()
