"""Whole fleets on virtual time: several processes, one run directory, and everything that may
befall them; afterwards the books are held against what the server counted.

``make simulate-fleets`` plays many seeds (``simulate_fleets``). What runs is
``batchrun.fleet.worker`` and all that it needs: launch, claims, leases, books, engine, journal,
parts, folding, summary, on real files. Time, threads, locks, chance, the model server and (where
the directory is in a bucket) the store are virtual (``virtual_processes``, ``virtual_bucket``).
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from batchrun import assemble
from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.journal import state_db
from batchrun.adapters.storage import bucket as bucket_module
from batchrun.adapters.storage import claims_on_disk, disk, files, filesystems
from batchrun.core.fleet.board import Place
from batchrun.core.settings.resolve import Settings, resolve
from batchrun.errors import BatchrunError, RunLockedError, StorageError, UsageError
from batchrun.fleet import worker
from batchrun.machinery import Machinery
from batchrun.records import Outcome, Reply, Request
from batchrun.rundir.fleet import in_bucket
from batchrun.testing.samples import completion_body, refusal
from batchrun.testing.virtual import EPOCH_US
from batchrun.views.verify import verify
from tests.harness import virtual_processes
from tests.harness.inline import InlineJournal
from tests.harness.stage import SlowDisk, SmallPieces, StagedAccess
from tests.harness.tables import published
from tests.harness.virtual_bucket import VirtualBucket
from tests.harness.virtual_processes import Loop, Module, Process, Town, told

MEMORY = Path("/dev/shm")  # noqa: S108 - a disk in memory, used through tempfile
ADDRESS = "s3://bucket/run"
STORE_S = EPOCH_US / 1e6 - 3600.0
"""The store's clock when a world begins."""
HANG_S = 6 * 3600.0
"""A world that goes on for longer hangs."""
REAL_S = 240
"""And one that takes so long by the real clock."""
PROMPT_TOKENS, COMPLETION_MAX = 7, 20
LAST_TRIES = 6
STEPS = (
    *("fleet.ended", "fleet.recorded", "fleet.folded", "staged.revealed", "log.copied"),
    *("draft.linked", "seal.committed", "state.put", "log.removed", "draft.renamed"),
)
"""Durable steps at which much is half done."""


@dataclass(frozen=True, slots=True)
class Blow:
    """What befalls a process, or all, at a time."""

    kind: str
    at_s: float
    lasts_s: float = 0.0
    step: tuple[str, int] = ("", 0)
    again_s: float | None = None
    """So much later it is started again."""


@dataclass(frozen=True, slots=True)
class World:
    """What a seed says."""

    seed: int
    kind: str
    """``disk`` (all machines share it), ``machine`` (one machine), ``bucket``, ``buckets`` (in an
    object store, with one disk or one for each process, which is lost with it).
    """
    rows: int
    shard_rows: int
    count: int
    joins_s: tuple[tuple[int, float], ...]
    """Which place is started when; a place may be started twice, by mistake."""
    plain_at_s: float | None
    """When somebody starts the same run without ``--shard``, by mistake."""
    blows: tuple[Blow, ...]
    raw: Mapping[str, Any]
    latency_s: tuple[float, float]
    delay_s: tuple[float, float]
    """How long the store takes."""
    lost: float
    """The share of the store's writes whose answer is lost."""
    refused: float
    """The share of its requests that fail."""
    flaky: float
    """The share of the server's answers that are errors."""
    poison: frozenset[int]

    @property
    def troubled(self) -> bool:
        """Whether a process may be thought dead that is not."""
        return any(blow.kind in ("suspend", "cut") for blow in self.blows)


def world(seed: int) -> World:
    """The world of a seed."""
    dice = random.Random(f"fleet {seed}")
    kind = dice.choice(KINDS)
    count, rows = dice.randint(2, 5), dice.choice((6, 20, 40, 40, 80))
    latency_s = dice.choice(((0.05, 0.5), (0.5, 3.0), (1.0, 8.0)))
    concurrency = dice.choice((2, 4, 8, 16))
    raw: dict[str, Any] = {
        "request.model": "fake-model",
        "request.params": {"max_tokens": COMPLETION_MAX},
        "output.shard_rows": dice.choice((3, 5, 10)),
        "endpoint.base_url": "http://model.invalid/v1",
        "endpoint.concurrency": concurrency,
        "retry.max_attempts": dice.choice((1, 3)),
        "retry.timeout_s": 60.0,
    }
    if dice.random() < 0.4:
        raw["endpoint.rpm"] = dice.choice((60.0, 120.0, 600.0))
    if dice.random() < 0.2:
        raw["endpoint.tpm"] = dice.choice((3000.0, 20_000.0))
    if dice.random() < 0.3:
        raw["guards.max_total_tokens"] = dice.choice((10, 25, 60)) * rows
    joins = [(index, dice.uniform(0, 20)) for index in range(count) if dice.random() > 0.05]
    joins = joins or [(0, 0.0)]
    if dice.random() < 0.2:
        joins.append((joins[0][0], joins[0][1] + dice.choice((0.0, 0.0, 5.0))))
    span_s = 10 + rows * latency_s[1] / max(1, concurrency)
    delay_s = dice.choice(((0.001, 0.02), (0.001, 0.02), (0.01, 0.5), (0.5, 2.0)))
    return World(
        seed,
        kind,
        rows,
        int(raw["output.shard_rows"]),
        count,
        tuple(joins),
        dice.uniform(0, span_s) if dice.random() < 0.15 else None,
        tuple(_blow(dice, span_s) for _ in range(dice.choice((0, 1, 1, 2, 3, 4)))),
        raw,
        latency_s,
        delay_s,
        dice.choice((0.0, 0.0, 0.05)),
        dice.choice((0.0, 0.0, 0.03)),
        dice.choice((0.0, 0.05)),
        frozenset(n for n in range(rows) if dice.random() < 0.03),
    )


KINDS = ("disk", "machine", "bucket", "buckets")


def _blow(dice: random.Random, span_s: float) -> Blow:
    kind = dice.choice(("kill", "kill", "step", "step", "turn", "suspend", "cut", "signal", "all"))
    again_s = dice.uniform(0, 60) if dice.random() < 0.7 else None
    at_s = dice.uniform(0, 1.5 * span_s)
    if kind == "step":
        named = dice.random() < 0.7
        step = (dice.choice(STEPS), 1 + int(4 * dice.random() ** 2)) if named else ("step", 1)
        if not named:
            step = "step", 1 + int(150 * dice.random() ** 2)
        return Blow(kind, dice.uniform(0, span_s / 2), 0.0, step, again_s)
    if kind == "turn":
        return Blow(kind, at_s, 0.0, ("turn", 1 + int(40 * dice.random())), again_s)
    lasts_s = dice.choice((dice.uniform(1, 25), dice.uniform(25, 150)))
    if kind == "cut":
        lasts_s = 60.0
    return Blow(kind, at_s, lasts_s, ("", 0), again_s)


@dataclass(slots=True)
class Sent:
    """A request as the server saw it."""

    row: int
    process: Process
    at_s: float
    end_s: float
    billed: int = 0
    text: str | None = None


@dataclass(slots=True)
class Kept:
    """An outcome that a process was told to be durable."""

    process: Process
    at_s: float
    text: str | None


class Server:
    """It answers, and counts."""

    def __init__(self, drawn: World, town: Town) -> None:
        self.drawn, self.town = drawn, town
        self.sent: list[Sent] = []
        self.asked: Counter[int] = Counter()

    async def answer(self, process: Process, request: Request) -> Reply:
        """Answer a request."""
        drawn, row = self.drawn, request.row
        self.asked[row] += 1
        dice = random.Random(f"{drawn.seed} {row} {self.asked[row]}")
        latency_s = dice.uniform(*drawn.latency_s)
        now_s = self.town.now_s
        sent = Sent(row, process, now_s, now_s + latency_s)
        self.sent.append(sent)
        tokens = dice.randint(1, COMPLETION_MAX)
        refused = 400 if row in drawn.poison else 500 if dice.random() < drawn.flaky else None
        if refused is None:
            sent.billed = PROMPT_TOKENS + tokens
            sent.text = f"answer {len(self.sent)} to {row}"
        self.town.note(f"{process.name} asks for {row}")
        await asyncio.sleep(latency_s)
        if refused is not None:
            return refusal(refused, code="invalid_value" if refused == 400 else None)
        body = completion_body(
            sent.text or "",
            prompt_tokens=PROMPT_TOKENS,
            completion_tokens=tokens,
            id=f"c-{len(self.sent)}",
        )
        return Reply(200, {}, body)


@dataclass(slots=True)
class _Transport:
    server: Server
    process: Process
    remark: str | None = None

    def resize(self, concurrency: int) -> None:
        """See ``ports.Transport``."""

    async def send(self, request: Request) -> Reply:
        """See ``ports.Transport``."""
        return await self.server.answer(self.process, request)


class _Source:
    """``ports.Source`` that reads in a thread of the process."""

    def __init__(self, reader: Any, limit: int | None) -> None:
        self._reader, self._limit = reader, limit

    async def blocks(self, spans: Any) -> Any:
        """See ``ports.Source``."""
        blocks = self._reader.blocks(spans, limit=self._limit)
        loop = asyncio.get_running_loop()
        while True:
            block = await loop.run_in_executor(None, next, blocks, None)
            if block is None:
                return
            yield block


@dataclass(slots=True)
class Ended:
    """How a process ended: with an exit code or an error."""

    process: Process
    code: int
    error: BaseException | None = None
    how: str = ""


@dataclass(slots=True)
class Story:
    """What became of a world."""

    seed: int
    kind: str
    ends: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    sent: int = 0
    kills: int = 0
    virtual_s: float = 0.0
    digest: int = 0
    why: str = ""
    """Why it does not add up; empty where it does."""


class Life:
    """One world, played."""

    def __init__(self, drawn: World, folder: Path, note: Callable[[str], None]) -> None:
        self.drawn, self.folder = drawn, folder
        self.dice = random.Random(f"life {drawn.seed}")
        self.town = Town(self.dice, note)
        self.server = Server(drawn, self.town)
        self.kept: defaultdict[int, list[Kept]] = defaultdict(list)
        self.ended: list[Ended] = []
        self.processes: list[Process] = []
        self.kills = 0
        self.calm = False
        self.out_of_reach: set[Process] = set()
        self.input = folder / "rows.jsonl"
        self.run_folder = folder / "run"
        self.remote = drawn.kind.startswith("bucket")
        self.bucket = VirtualBucket(lambda: STORE_S + self.town.now_s, self.asking)

    # Processes

    def start(self, place: int | None, count: int) -> Process:
        """Start a process; without a place it is an ordinary run."""
        number = len(self.processes)
        machine = {"machine": "m", "bucket": "m", "buckets": f"m{place}"}.get(
            self.drawn.kind, f"m{number}"
        )
        skew_s = self.dice.uniform(-3600, 3600)
        process = Process(self.town, f"p{number}@{place}", machine, skew_s)
        self.processes.append(process)
        self.town.note(f"{process.name} starts")
        process.spawn(lambda: self._live(process, place, count))
        return process

    def settings(self, process: Process) -> Settings:
        """The settings of a process."""
        raw = {**self.drawn.raw, "input.files": [str(self.input)]}
        raw["output.dir"] = ADDRESS if self.remote else str(self.run_folder)
        if self.remote:
            raw["output.checkpoint"] = str(self.checkpoint(process))
        return resolve(raw)

    def checkpoint(self, process: Process) -> Path:
        """Where a process has its checkpoint, where the run directory is in a bucket."""
        return self.folder / f"checkpoint-{process.machine}"

    def _live(self, process: Process, place: int | None, count: int) -> None:
        settings, ended = self.settings(process), Ended(process, 0)
        machinery = self._machinery(process, settings)
        said: list[str] = []
        try:
            if place is None:
                result = assemble.run(settings, {}, say=said.append, machinery=machinery)
            else:
                result = worker.run(
                    settings, {}, place=Place(place, count), say=said.append, machinery=machinery
                )
            stop = result.stop
            ended.code = 0 if stop is None else stop.exit_code
            ended.how = "done" if stop is None else stop.by
        except (RunLockedError, UsageError) as error:
            ended.code, ended.error, ended.how = 2, error, type(error).__name__
        except StorageError as error:
            ended.code, ended.error, ended.how = 5, error, "StorageError"
        except (BatchrunError, KeyboardInterrupt) as error:
            ended.code, ended.error, ended.how = 70, error, type(error).__name__
        process.ended_s = self.town.now_s
        self.town.flocks.drop(process)
        self.town.note(f"{process.name} ends: {ended.code} {ended.how} {ended.error or ''}")
        self.ended.append(ended)

    def _machinery(self, process: Process, settings: Settings) -> Machinery:
        life, town = self, self.town
        seed = self.dice.random()
        slow = SlowDisk(random.Random(seed), 0.02)

        class Clock(LoopClock):
            wall_us = onward_us = staticmethod(
                lambda: EPOCH_US + round((town.now_s + process.skew_s) * 1e6)
            )

        class Journal(InlineJournal):
            def _resolve(self, taken: list[Any]) -> None:
                for entry, _ in taken:
                    if isinstance(entry, Outcome):
                        life.told(process, entry)
                super()._resolve(taken)

        access = StagedAccess(settings.endpoints[0], _Transport(self.server, process))
        return Machinery(
            accesses=lambda *_: [access],
            clock=Clock,
            monotonic_s=lambda: 1000.0 + town.now_s,
            dice=lambda: random.Random(self.dice.random()),
            source=lambda reader, *, limit: _Source(reader, limit),
            journal=lambda journal, flight: Journal(journal, flight, slow),
            parts=SmallPieces,
            sample_s=3600.0,
        )

    def told(self, process: Process, outcome: Outcome) -> None:
        """A process was told that an outcome is durable."""
        said = outcome.completion.first.content if outcome.completion else None
        self.kept[outcome.row].append(Kept(process, self.town.now_s, said))
        self.town.note(f"{process.name} keeps {outcome.row}")

    # What befalls them

    def strike(self, blow: Blow) -> None:
        """Something befalls one of those that run."""
        running = [p for p in self.processes if not p.dead and p.ended_s is None]
        if not running:
            return
        struck = self.dice.choice(running)
        if blow.kind == "kill":
            self.kill(struck, "kill", blow.again_s)
        elif blow.kind == "all":
            for process in running:
                self.kill(process, "all", blow.again_s)
        elif blow.kind in ("step", "turn"):
            struck.dies_at = blow.step
            struck.when_dead = lambda: self._again(struck, blow.again_s)
        elif blow.kind == "suspend":
            struck.suspend(blow.lasts_s)
        elif blow.kind == "cut":
            struck.troubled = True
            struck.cut_until_s = self.town.now_s + blow.lasts_s
            self.town.note(f"{struck.name} is cut off for {blow.lasts_s:.0f} s")
        elif blow.kind == "signal":
            struck.signal(signal.SIGTERM)

    def kill(self, process: Process, why: str, again_s: float | None) -> None:
        """Kill a process."""
        process.when_dead = lambda: self._again(process, again_s)
        process.die(why)

    def _again(self, process: Process, again_s: float | None) -> None:
        self.kills += 1
        if self.drawn.kind == "buckets":
            self.out_of_reach.add(process)  # of the others, even where its disk is kept
            if self.dice.random() < 0.5:
                self.lose_disk(process.machine)
        place = process.name.partition("@")[2]
        if again_s is not None and place != "None":
            self.town.after(again_s, lambda: self.start(int(place), self.drawn.count))

    def lose_disk(self, machine: str) -> None:
        """A machine is gone, and with it what was on its disk, and whoever else ran there."""
        self.town.note(f"the disk of {machine} is lost")
        for other in self.processes:
            if other.machine == machine:
                self.out_of_reach.add(other)
                if not other.dead and other.ended_s is None:
                    self.kill(other, "its machine is gone", None)
        shutil.rmtree(self.folder / f"checkpoint-{machine}", ignore_errors=True)

    # The store

    def asking(self, *, writes: bool) -> Callable[[], object]:
        """A request to the store begins: it takes its time, and may fail. Returns what happens when
        it has had its effect.
        """
        process, dice = self.town.process(), self.dice
        if process is None or self.calm:
            return lambda: False
        self.town.sleep(dice.uniform(*self.drawn.delay_s) / 2)
        while self.town.now_s < process.cut_until_s:
            if dice.random() < 0.5:
                self.town.sleep(5.0)
                raise OSError(errno.EIO, "cut off, on purpose")
            self.town.sleep(process.cut_until_s - self.town.now_s)

        def done() -> bool:
            """Returns whether the answer is lost."""
            self.town.sleep(dice.uniform(*self.drawn.delay_s) / 2)
            return writes and dice.random() < self.drawn.lost

        return done

    def step(self, name: str, _: object) -> None:
        """A durable step: others may come between, or death."""
        process = self.town.process()
        if process is None:
            return
        process.reached("step", name)
        if not self.calm and self.dice.random() < 0.05:
            self.town.sleep(self.dice.choice((0.01, 1.0)) * self.dice.random())

    # Playing it

    def play(self) -> Story:
        """Play it to its end. Raises ``AssertionError`` where something does not add up."""
        drawn, town = self.drawn, self.town
        lines = [
            json.dumps({"messages": [{"role": "user", "content": f"question {n}"}]})
            for n in range(drawn.rows)
        ]
        self.input.write_text("".join(f"{line}\n" for line in lines))
        os.utime(self.input, ns=(EPOCH_US * 1000, EPOCH_US * 1000))
        virtual_processes.replace_everything(town)
        vars(assemble)["new_loop"] = lambda: Loop(_running(town))
        files.step = self.step
        _machines(town)
        self._faults()
        for place, at_s in drawn.joins_s:
            town.at(at_s, partial(self.start, place, drawn.count))
        if drawn.plain_at_s is not None:
            town.at(drawn.plain_at_s, lambda: self.start(None, 1))
        for blow in drawn.blows:
            town.at(blow.at_s, partial(self.strike, blow))
        assert town.run(HANG_S), f"still at work after {HANG_S:,.0f} s: {self._at_work()}"
        self._waited_for()
        whole = any(end.code == 0 for end in self.ended)
        if self._to_the_end(whole):
            self._add_up()
        ends = Counter("killed" for p in self.processes if p.dead)
        ends.update(end.how for end in self.ended)
        return Story(
            drawn.seed, drawn.kind, dict(ends), drawn.rows, len(self.server.sent), self.kills,
            town.now_s,
        )  # fmt: skip

    def _at_work(self) -> list[str]:
        return [p.name for p in self.processes if not p.dead and p.ended_s is None]

    def _waited_for(self) -> None:
        faults = [f"{p.name}: {told(error)}" for p, error in self.town.faults]
        assert not faults, faults[0]
        assert not self._at_work(), f"wait for ever: {self._at_work()}"
        for end in self.ended:
            error = end.error
            allowed = end.code != 70
            if end.code == 5:
                # SQLite's own lock is that of a process which was suspended while it had the run.
                suspended = self.drawn.troubled and "is locked" in str(error)
                allowed = end.process.troubled or suspended
            if end.code == 2:
                allowed = isinstance(error, RunLockedError) or end.process.troubled
                allowed = allowed or self._lacks_a_checkpoint(end)
            said = "" if error is None else told(error)
            assert allowed, f"{end.process.name} ended with {end.code}: {said}"

    def _lacks_a_checkpoint(self, end: Ended) -> bool:
        """Whether the only checkpoint that knows the run is on another machine: it is dead, and had
        handed nothing on; or it began the run alone, without ``--shard``.
        """
        elsewhere = bool(self.out_of_reach) or self.drawn.plain_at_s is not None
        return elsewhere and "belongs to a run whose" in str(end.error)

    def _to_the_end(self, whole: bool) -> bool:
        """Nothing goes wrong any more: the same command, with or without others, ends the run.
        Returns whether it could.
        """
        self.calm = True
        sent = len(self.server.sent)
        for number in range(LAST_TRIES):
            place = None if number % 2 else 0
            self.town.after(3600.0, partial(self.start, place, 1))
            assert self.town.run(self.town.now_s + HANG_S), f"hangs: {self._at_work()}"
            self._waited_for()
            last = self.ended[-1]
            if last.code == 0:
                break
            budget = last.how == "max_total_tokens"
            if budget and number:
                return True
        else:
            lacks = self._lacks_a_checkpoint(last)
            assert lacks, f"not complete after {LAST_TRIES} more starts: {last}"
            return False
        if whole:
            assert len(self.server.sent) == sent, "a finished run sent something again"
        return True

    # The books

    def _add_up(self) -> None:
        drawn, server = self.drawn, self.server
        if self.remote:
            self._fetch()
        results, ledger = published(self.run_folder, plain=False)
        numbers = [row.row for row in results]
        doubled = [row for row, times in Counter(numbers).items() if times > 1]
        assert not doubled, f"rows published twice: {doubled}"
        limited = "guards.max_total_tokens" in drawn.raw
        missing = sorted(set(range(drawn.rows)) - set(numbers))
        assert limited or not missing, f"rows lost: {missing}"
        texts = defaultdict(set)
        for sent in server.sent:
            texts[sent.row].add(sent.text)
        for row in results:
            assert row.content is None or row.content in texts[row.row], f"row {row.row}"
        self._durable({row.row: row.content for row in results})
        self._ledger(ledger)
        self._limits()
        where = [str(self.run_folder)]
        if self.remote:
            where = [ADDRESS, str(self.checkpoint(self.ended[-1].process))]
        report = verify.check(*where)
        assert report.problems == [], report.problems

    def _fetch(self) -> None:
        """Make the published parts files."""
        for name, found in self.bucket.objects.items():
            path = self.run_folder / name.removeprefix("bucket/run/")
            if path.parent.name in ("results", "attempts"):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(found.content)

    def _durable(self, found: Mapping[int, str | None]) -> None:
        """What was durable in a place that is kept, by a process that nobody thought dead, is what
        counts, and its row was not sent again.
        """
        for row, kept in self.kept.items():
            for one in kept:
                if one.process.troubled or one.process in self.out_of_reach or one.text is None:
                    continue
                if any(other.process.troubled for other in kept):
                    continue
                assert found.get(row) == one.text, (
                    f"row {row}, durable at {one.at_s:.1f} by {one.process.name}, is lost: "
                    f"{one.text!r} is {found.get(row)!r}"
                )
                again = sum(
                    sent.row == row and sent.at_s > one.at_s and not sent.process.troubled
                    for sent in self.server.sent
                )
                assert not again, f"row {row} was done and sent again {again} times"
                break

    def _ledger(self, ledger: list[Any]) -> None:
        """Every request that the server saw is in the ledger, and nothing else but notes of those
        that were about to be sent.
        """
        lines: defaultdict[int, list[Any]] = defaultdict(list)
        for line in ledger:
            lines[line.row].append(line)
        excused = {s.row for s in self.server.sent if s.process.troubled}
        excused |= {s.row for s in self.server.sent if s.process in self.out_of_reach}
        for row, asked in self.server.asked.items():
            numbers = sorted(line.number for line in lines[row])
            assert numbers == list(range(1, len(numbers) + 1)), f"attempts of {row}: {numbers}"
            if row in excused:
                continue
            assert asked <= len(numbers), f"row {row}: asked {asked}, ledger {len(numbers)}"
            sure = sum(line.error_code != "interrupted" for line in lines[row])
            assert sure <= asked, f"row {row}: asked {asked}, ledger {sure} for sure"

    def _limits(self) -> None:
        raw, sent = self.drawn.raw, self.server.sent
        counted = [s for s in sent if not 0 <= s.at_s - s.process.woke_s < AWAKE_S]
        moments = sorted(s.at_s for s in counted)
        if "endpoint.rpm" in raw:
            per_s = raw["endpoint.rpm"] / 60
            for span_s in (1.0, 10.0, 60.0):
                most = max(
                    (bisect_left(moments, at + span_s) - n for n, at in enumerate(moments)),
                    default=0,
                )
                allowed = per_s * (span_s + BUCKET_S) + self.drawn.count + 1
                assert most <= allowed, f"{most} in {span_s} s, {allowed:.1f} allowed"
        busy = sorted([(s.at_s, 1) for s in counted] + [(s.end_s - BRIEF_S, -1) for s in counted])
        now = most = 0
        for _, change in sorted(busy, key=lambda one: (one[0], one[1])):
            now += change
            most = max(most, now)
        assert most <= raw["endpoint.concurrency"], f"{most} at once"
        cap = raw.get("guards.max_total_tokens")
        billed = sum(s.billed for s in sent)
        assert cap is None or billed <= cap, f"{billed} tokens billed, the budget is {cap}"

    # Faults of the disk

    def _faults(self) -> None:
        for name in ("create", "put", "read", "written_s", "remove", "names"):
            _wrap(claims_on_disk.DiskClaims, name, self)
        connect = sqlite3.connect

        def connected(*given: Any, **more: Any) -> sqlite3.Connection:
            # Whoever kills the process closes it.
            more["check_same_thread"] = False
            database: sqlite3.Connection = connect(*given, **more)
            process = self.town.process()
            if process is not None:
                process.databases.append(database)
            return database

        vars(state_db)["sqlite3"] = Module(sqlite3, connect=connected)
        _replace_store(self.bucket)
        link, dice = disk.link, self.dice

        def linked(source: Path, target: Path) -> None:
            link(source, target)
            if not self.calm and dice.random() < self.drawn.lost:
                raise FileExistsError(errno.EEXIST, "the answer was lost, and asked for again")

        disk.link = linked  # type: ignore[assignment]


BUCKET_S, BRIEF_S = 0.1, 1e-6
AWAKE_S = 1.0
"""A process that wakes up may send what was ready, once, before it notices."""


def _wrap(owner: Any, name: str, life: Life) -> None:
    method = getattr(owner, name)

    def asked(self: Any, *given: Any) -> Any:
        try:
            done = life.asking(writes=name in ("create", "put", "remove"))
        except OSError as error:
            raise StorageError(f"cannot use {name}: {error}") from error
        found = method(self, *given)
        done()
        return found

    setattr(owner, name, asked)


def _replace_store(bucket: VirtualBucket) -> None:
    """Every address of an object store leads here."""

    def store_at(address: str) -> str:
        return address.partition("://")[2].rstrip("/") + "/"

    def init(self: Any, store: Any, where: str) -> None:
        self._obstore, self._store, self._where = bucket, store, where

    bucket_module.Bucket.__init__ = init  # type: ignore[method-assign]
    for module in (bucket_module, in_bucket):
        vars(module)["bucket_store"] = store_at
    filesystems.place = bucket.place


def _running(town: Town) -> Process:
    process = town.process()
    assert process is not None
    return process


def _machines(town: Town) -> None:
    """Each process is on a machine."""
    from batchrun.rundir import lock
    from batchrun.rundir.fleet import handing_on, launches

    def kernel() -> str:
        process = town.process()
        return "here" if process is None else process.machine

    for module in (lock, launches, handing_on):
        vars(module)["this_kernel"] = kernel


# Seeds


def simulate(seed: int, tell: Callable[[str], None] | None = None, broken: Any = None) -> Story:
    """Play the world of a seed in a process of its own. ``broken`` may break the program there
    first.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(read)
        _child(seed, write, tell, broken)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if not content:
        return Story(seed, "", why=f"the process of this world ended with status {status}")
    return Story(**json.loads(content))


def _child(seed: int, write: int, tell: Callable[[str], None] | None, broken: Any) -> None:
    signal.alarm(REAL_S)
    code, digest = 0, [0]
    events: list[str] = []

    def note(event: str) -> None:
        digest[0] = (digest[0] * 31 + sum(event.encode())) % 2**61
        events.append(event)
        if tell is not None:
            tell(event)

    drawn = world(seed)
    folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
    try:
        if broken is not None:
            broken()
        story = Life(drawn, folder, note).play()
    except BaseException as error:  # noqa: BLE001 - every seed is told
        story = Story(seed, drawn.kind, why=told(error))
        if tell is not None:
            tell("".join(traceback.format_exception(error)))
            faulthandler.dump_traceback()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    content = json.dumps(_as_dict(replace(story, digest=digest[0]))).encode()
    while content:
        content = content[os.write(write, content) :]
    os._exit(code)


def _as_dict(story: Story) -> dict[str, Any]:
    return {name: getattr(story, name) for name in Story.__slots__}
