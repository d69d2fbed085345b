"""Whole runs on virtual time: seeded worlds, and proof that the net catches what is broken.

`make simulate SEEDS=10000` runs many more seeds, on all cores; `make simulate SEED=123` replays
one.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from batchrun.adapters.journal.journal import JournalWriter
from batchrun.core.run.changes import Changes
from batchrun.core.verdict.judge import Action, Verdict
from batchrun.engine.attempt import AttemptLoop
from batchrun.engine.engine import Engine
from batchrun.engine.pace.gate import EndpointGate, EndpointPermit
from batchrun.rundir import open_run
from tests.harness.crashes import Death
from tests.harness.inline import InlineJournal
from tests.harness.model_server import Spell
from tests.harness.simulate import MEMORY
from tests.harness.slow import rest_slow
from tests.harness.stage import Fate, Hanging
from tests.harness.whole_runs import live, simulate
from tests.harness.worlds import Leg, Line, World

SEEDS = 100
TWICE = (3, 8, 13, 22, 41, 64, 155)
MUTANT_SEEDS = 60


@pytest.fixture
def folder(tmp_path):
    """A folder for a world, in memory where there is such a disk."""
    if not MEMORY.is_dir():
        yield tmp_path / "world"
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        yield Path(made) / "world"


@pytest.mark.parametrize("tens", rest_slow(range(SEEDS // 10), 2))
def test_everything_adds_up(tens, folder):
    """Whatever the server, the disk and the user do: rows, ledger, totals and limits hold."""
    for seed in range(10 * tens, 10 * tens + 10):
        simulate(seed, folder)


@pytest.mark.slow
def test_a_seed_tells_one_story(folder):
    """Run twice, a seed has the same events and the same published rows."""
    for seed in TWICE:
        told = [[], []]
        stories = [simulate(seed, folder, events) for events in told]
        assert told[0] == told[1], seed
        assert stories[0].digest == stories[1].digest and len(told[0]) > 1


def _world(*legs, rows, poison):
    """A world in calm weather with real parts: per leg its fate, limit and parameters."""
    lines = tuple(Line("good", f"id-{n}", f"question {n}", "label") for n in range(rows))
    made = []
    for fate, limit, params in legs:
        raw = {
            "request.model": "fake-model",
            "request.params": params,
            "output.shard_rows": 4,
            "endpoint.base_url": "http://model.invalid/v1",
            "endpoint.concurrency": 4,
            "retry.max_attempts": 1,
            "retry.timeout_s": 30.0,
            "guards.grace_s": 0.0,
        }
        made.append(Leg(lines, raw, Changes(), "keep", fate, 1.0, limit))
    return World(
        0, tuple(made[:-1]), made[-1], disk_s=0.01, plain=False, spells=(), poison=poison,
        latency_s=(0.1, 0.1),
    )  # fmt: skip


def test_rows_done_behind_a_limit(folder):
    """A stop left rows done behind the first of the rows; with --limit they are part of the input,
    and nothing counts below zero.
    """
    legs = (Fate(signals_s=(5.0,)), None, {}), (Fate(), 3, {}), (Fate(), None, {})
    story = live(_world(*legs, rows=10, poison={0: "stalled"}), folder)
    assert story.sessions == ["interrupted by SIGINT", *["complete_with_errors"] * 2]


def test_other_settings_kept_for_a_run_that_is_complete(folder):
    """--keep-done with nothing left to send: the summary tells of the settings that hold now."""
    legs = (Fate(), None, {}), (Fate(), None, {"seed": 1})
    story = live(_world(*legs, rows=6, poison={}), folder)
    assert story.sessions == ["complete", "RunChangedError", "complete"]


@pytest.mark.parametrize("kind", ["login", "rejected"])
@pytest.mark.parametrize(
    "death", rest_slow([None, Death("turn", 150, power=False), Death("step", 12, True)])
)
def test_everything_fails_alike_for_a_while(folder, kind, death):
    """Stopped, killed or cut off while rows are withheld: no row fails, and all of it adds up."""
    legs = (Fate(), None, {}), (Fate(death=death), None, {}), (Fate(), None, {})
    drawn = _world(*legs, rows=150, poison={})
    drawn = replace(drawn, spells=(Spell(kind, 2.0, 60.0),))
    story = live(drawn, folder)
    assert story.sessions[0] == "stopped by repeated_failure"
    assert story.sessions[1] == ("stopped by repeated_failure" if death is None else "killed")
    assert story.sessions[-1] == "complete"


def _permit_given_back_early(monkeypatch):
    enter = EndpointGate.enter

    async def entered(gate, tokens, request=None):
        permit = await enter(gate, tokens, request)
        gate.release()
        return permit

    def left(permit, *_):
        permit.settle(None)
        if permit.probe:
            permit._gate.probe_over()

    monkeypatch.setattr(EndpointGate, "enter", entered)
    monkeypatch.setattr(EndpointPermit, "__exit__", left)


def _published_without_a_flush(monkeypatch):
    async def publish(engine, number, *, complete):
        await engine._publisher.publish(number, complete=complete)

    monkeypatch.setattr(Engine, "_flush_and_publish", publish)


def _throttling_charged(monkeypatch):
    charged = (Action.AGAIN, Action.FAIL, Action.DONE, Action.THROTTLE)
    monkeypatch.setattr(Verdict, "charged", property(lambda verdict: verdict.action in charged))


def _answers_during_a_stop_dropped(monkeypatch):
    settle = Engine._settle

    def settled(engine, opened, outcome):
        if engine._switch.stopping:
            engine._left_pending(opened)
        else:
            settle(engine, opened, outcome)

    monkeypatch.setattr(Engine, "_settle", settled)


def _told_before_it_is_durable(monkeypatch):
    def write(journal, taken):
        journal._told(taken, None)
        journal._journal.write([entry for entry, _ in taken])

    monkeypatch.setattr(InlineJournal, "_write", write)


def _notes_of_requests_forgotten(monkeypatch):
    monkeypatch.setattr(open_run, "recover_flights", lambda *_: 0)


def _one_attempt_too_many(monkeypatch):
    init = AttemptLoop.__init__

    def made(loop, *ways, policy, **others):
        init(loop, *ways, policy=replace(policy, max_attempts=policy.max_attempts + 1), **others)

    monkeypatch.setattr(AttemptLoop, "__init__", made)


def _a_group_forgotten_at_the_end(monkeypatch):
    async def flush(_):
        return

    monkeypatch.setattr(JournalWriter, "flush", flush)


MUTANTS = {
    "permit given back early": _permit_given_back_early,
    "published without a flush": _published_without_a_flush,
    "throttling charged": _throttling_charged,
    "answers during a stop dropped": _answers_during_a_stop_dropped,
    "told before it is durable": _told_before_it_is_durable,
    "notes of requests forgotten": _notes_of_requests_forgotten,
    "one attempt too many": _one_attempt_too_many,
    "flush does nothing": _a_group_forgotten_at_the_end,
}


@pytest.mark.parametrize("name", rest_slow(MUTANTS, 2))
def test_the_net_catches(name, monkeypatch, folder):
    """A guarded thing that is broken turns the simulation red within so many seeds."""
    MUTANTS[name](monkeypatch)
    told = None
    for seed in range(MUTANT_SEEDS):
        try:
            simulate(seed, folder)
        except (Exception, Hanging) as error:  # noqa: BLE001 - whatever it is, it is red
            told = error
            break
    assert told is not None, f"{name}: nothing was noticed in {MUTANT_SEEDS} runs"
    assert f"make simulate SEED={seed}" in "".join(told.__notes__)
