"""Whole fleets on virtual time: workers that die, are suspended, come late or never, and whose
clocks disagree. Every shard is published exactly once, whatever happens.
"""

import heapq
import itertools
import random
import threading

import pytest

from batchrun.core.fleet import claims
from batchrun.core.fleet.board import Board, Place
from batchrun.core.fleet.claimant import Claimant
from batchrun.core.fleet.leases import BEAT_S, LEASE_S
from batchrun.testing.claims import FakeClaims

LOOK_S = 7.0


class Worker:
    """A process: it claims, works for a while, publishes; it beats meanwhile, unless it is dead or
    suspended.
    """

    def __init__(self, fleet, index, count):
        skew_s = fleet.dice.uniform(-3600, 3600)
        self.fleet = fleet
        self.name = f"{index:04d}-{next(fleet.numbers)}"
        self.claimant = Claimant(
            fleet.store,
            Board(fleet.shards),
            Place(index, count),
            self.name,
            monotonic_s=lambda: fleet.now_s + skew_s,
        )
        self.index = index
        self.dead = self.left = self.fenced = False
        self.suspended_until_s = 0.0
        self.beat()
        fleet.after(0, self.turn)

    def resumes(self, action):
        """Whether the process runs now; if it is suspended, the action happens when it is not."""
        if self.dead or self.left:
            return False
        if self.fleet.now_s < self.suspended_until_s:
            self.fleet.at(self.suspended_until_s, action)
            return False
        return True

    def beat(self):
        """Renew the lease, as a thread of the process does."""
        if self.resumes(self.beat):
            self.claimant.beat()
            self.fleet.after(BEAT_S, self.beat)

    def turn(self):
        """Claim a shard, or wait for the others."""
        if not self.resumes(self.turn):
            return
        claim = self.claimant.claim()
        if claim is not None:
            self.fleet.worked.append(claim.shard)
            self.fleet.after(self.fleet.dice.uniform(1, 40), lambda: self.end(claim.shard))
        elif self.claimant.all_published:
            self.left = True
            self.claimant.leave()
        else:
            self.fleet.after(LOOK_S, self.turn)

    def end(self, shard):
        """The shard's rows are answered: commit its parts, or find out that it is another's."""
        if not self.resumes(lambda: self.end(shard)):
            return
        if self.claimant.publish(shard, {"by": self.name}):
            self.fleet.parts.setdefault(shard, []).append(self.name)
            self.turn()
        else:
            self.fenced = self.left = True
            self.claimant.leave()


class Fleet:
    """All processes of a run, their store, and what becomes of its shards."""

    def __init__(self, seed, shards, count):
        self.dice = random.Random(seed)
        self.shards, self.count = shards, count
        self.now_s = 0.0
        self.numbers = itertools.count()
        offset_s = self.dice.uniform(-3600, 3600)
        self.store = FakeClaims(lambda: self.now_s + offset_s)
        self.parts, self.worked, self.workers = {}, [], []
        self._events, self._order = [], itertools.count()

    def at(self, when_s, action):
        """Have something happen at a time."""
        heapq.heappush(self._events, (when_s, next(self._order), action))

    def after(self, delay_s, action):
        """Have something happen later."""
        self.at(self.now_s + delay_s, action)

    def join(self, index):
        """Start a process."""
        self.workers.append(Worker(self, index, self.count))

    def hit(self, kill):
        """Kill or suspend one of those that run; a killed one may be started again."""
        running = [w for w in self.workers if not (w.dead or w.left)]
        if len(running) < 2:
            return
        struck = self.dice.choice(running)
        if not kill:
            struck.suspended_until_s = self.now_s + self.dice.uniform(1, 5 * LEASE_S)
            return
        struck.dead = True
        if self.dice.random() < 0.7:
            self.after(self.dice.uniform(0, 90), lambda: self.join(struck.index))

    def run(self):
        """Play it to its end."""
        while self._events:
            self.now_s, _, action = heapq.heappop(self._events)
            action()
        return self


def play(seed, shards, count):
    """A fleet with deaths, suspensions, latecomers and some that never start."""
    fleet = Fleet(seed, shards, count)
    dice = fleet.dice
    for index in range(count):
        if index and dice.random() < 0.05:
            continue  # never started
        fleet.at(dice.uniform(0, 20), lambda index=index: fleet.join(index))
    span_s = 25 * shards / count
    for _ in range(count):
        kill = dice.random() < 0.5
        fleet.at(dice.uniform(0, span_s), lambda kill=kill: fleet.hit(kill))
    return fleet.run()


def check(fleet, seed):
    """Every shard once; one published record a chain, the last one; nobody waits for ever."""
    note = f"seed {seed}"
    assert sorted(fleet.parts) == list(range(fleet.shards)), note
    assert all(len(by) == 1 for by in fleet.parts.values()), note
    chains = {}
    for name in fleet.store.names(claims.FOLDER):
        shard, epoch = claims.parse_name(name)
        content = fleet.store.read(claims.record_name(shard, epoch))
        chains.setdefault(shard, []).append(claims.parse(shard, epoch, content))
    for shard, chain in chains.items():
        assert [claim.epoch for claim in chain] == list(range(1, len(chain) + 1)), note
        assert [claim.published is not None for claim in chain[:-1]] == [False] * (len(chain) - 1)
        assert chain[-1].published == {"by": fleet.parts[shard][0]}, note
    assert all(w.left for w in fleet.workers if not w.dead), note


@pytest.mark.parametrize("seed", range(12))
def test_every_shard_is_published_once(seed):
    """Whatever dies, sleeps, or comes late, and however far apart the clocks are."""
    fleet = play(seed, shards=200, count=25)
    check(fleet, seed)
    # What was worked on twice belonged to a process that died or was suspended.
    struck = [w for w in fleet.workers if w.dead or w.suspended_until_s]
    assert len(fleet.worked) - fleet.shards <= len(struck), f"seed {seed}"


@pytest.mark.slow
def test_thousands_of_shards_and_hundreds_of_workers():
    """The same at the size of a large cluster."""
    check(play(7, shards=3000, count=250), 7)


def test_some_fleets_have_zombies_that_are_fenced():
    """The simulation does what it is for: a suspended worker returns, and may not publish."""
    fleets = [play(seed, shards=60, count=12) for seed in range(20)]
    assert any(w.fenced for fleet in fleets for w in fleet.workers)


def test_without_trouble_every_worker_does_its_share():
    """Nobody works on a shard that another one has, and all of them are done about then."""
    fleet = Fleet(1, 100, 10)
    for index in range(10):
        fleet.join(index)
    check(fleet.run(), 1)
    assert len(fleet.worked) == 100
    shares = [sum(by == [w.name] for by in fleet.parts.values()) for w in fleet.workers]
    assert min(shares) >= 6


def test_a_process_alone_does_what_the_others_never_started():
    """One of eight starts, and publishes everything."""
    fleet = Fleet(2, 40, 8)
    fleet.join(3)
    check(fleet.run(), 2)
    assert fleet.worked[:5] == [15, 16, 17, 18, 19]


def test_a_worker_that_leaves_frees_its_shards_at_once():
    """No lease need expire where somebody left in order."""
    store = FakeClaims(lambda: 0.0)
    one, two = (
        Claimant(store, Board(1), Place(i, 2), str(i), monotonic_s=lambda: 0.0) for i in range(2)
    )
    one.beat()
    assert one.claim() is not None
    assert two.claim() is None
    assert two.others_living
    one.leave()
    assert two.claim().epoch == 2
    assert not one.publish(0, {})


def test_a_death_that_is_known_frees_them_too():
    """A machine knows of its own processes; nobody waits for the lease."""
    store, dead = FakeClaims(lambda: 0.0), set()
    one, two = (
        Claimant(
            store,
            Board(1),
            Place(i, 2),
            str(i),
            monotonic_s=lambda: 0.0,
            is_dead=lambda lease: lease.worker in dead,
        )
        for i in range(2)
    )
    one.beat()
    one.claim()
    assert two.claim() is None
    dead.add("0")
    assert two.claim().worker == "1"


def test_a_lease_is_renewed_while_a_slow_store_is_searched():
    """Looking at all claims may take longer than a lease lasts; meanwhile the worker lives."""
    store, now = FakeClaims(lambda: now[0]), [0.0]
    one = Claimant(store, Board(3), Place(0, 2), "one", monotonic_s=lambda: now[0])
    other = Claimant(store, Board(3), Place(1, 2), "other", monotonic_s=lambda: now[0])
    one.beat()
    one.claim()
    names, searching, found = store.names, threading.Event(), threading.Event()

    def slow(folder):
        searching.set()
        assert found.wait(60)
        return names(folder)

    store.names = slow
    looking = threading.Thread(target=one.look)
    looking.start()
    assert searching.wait(60)
    now[0] += LEASE_S + 1
    beating = threading.Thread(target=one.beat)
    beating.start()
    beating.join(60)
    renewed = not beating.is_alive()
    found.set()
    looking.join(60)
    assert renewed
    assert other.claim().shard == 1
    assert other.claim().shard == 2
    assert other.claim() is None, "the first one lives"


def test_a_zombie_hears_of_it_with_its_next_beat():
    """It need not work on to the end of the shard to find out."""
    now = [0.0]
    store = FakeClaims(lambda: now[0])
    one, two = (
        Claimant(store, Board(1), Place(i, 2), str(i), monotonic_s=lambda: now[0]) for i in range(2)
    )
    one.beat()
    one.claim()
    now[0] += LEASE_S + 1
    assert two.claim().epoch == 2
    assert not one.lost
    one.beat()
    assert one.lost == {0}
    assert one.claim() is None
