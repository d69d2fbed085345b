"""Whole runs on virtual time: a seeded world is lived through, and everything is accounted for.

``simulate(seed, folder)`` runs every session of the seed's world (``live`` of a given one) and
holds what is on the disk against what the model server counted. It returns a story with a digest:
the same seed has the same story. An invariant that does not hold raises ``AssertionError``; its
note names the seed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from batchrun.core.run.changes import Changes
from batchrun.core.settings.resolve import Settings, resolve
from batchrun.errors import InputError, RunChangedError, StorageError
from batchrun.records import Outcome
from batchrun.testing.virtual import EPOCH_US
from tests.harness.accounts import Accounts
from tests.harness.stage import Ended, Stage
from tests.harness.worlds import Leg, World, world

LAST_LEGS_MAX = 25
"""A run in calm weather that is not complete after so many sessions never will be: a guard that
stops it after the first 20 rows that failed alike lets it go on with the next."""


@dataclass(slots=True)
class Story:
    """What happened: the sessions of a run by how they ended, and a digest of every event."""

    seed: int
    sessions: list[str] = field(default_factory=list)
    exchanges: int = 0
    rows: int = 0
    virtual_s: float = 0.0
    digest: str = ""


class _Life:
    """One run directory from its first session to its last."""

    def __init__(self, drawn: World, folder: Path, trace: list[str] | None) -> None:
        self.world = drawn
        self._trace = trace
        self.story = Story(drawn.seed)
        self._hash = hashlib.sha256()
        self._folder = folder / "run"
        self._input = folder / "rows.jsonl"
        self._editions = 0
        self._text: str | None = None
        self.stage = Stage(
            server=drawn.server(),
            folder=self._folder,
            dice=Random(f"stage {drawn.seed}"),
            disk_s=drawn.disk_s,
            plain=drawn.plain,
            note=self._note,
            told=self._told,
        )
        self.accounts = Accounts(self.stage.server, self._folder, drawn.plain)
        self._resending = False

    def live(self) -> Story:
        """Go through all sessions. Raises ``AssertionError``."""
        for leg in self.world.legs:
            self._leg(leg)
        if not self.world.last.lines:
            self._refuses_nothing()
        else:
            self._to_the_end()
        server, story = self.stage.server, self.story
        story.exchanges = len(server.exchanges)
        story.rows = len(self.world.last.lines)
        story.virtual_s = self.stage.elapsed_s
        story.digest = self._hash.hexdigest()
        return story

    def _refuses_nothing(self) -> None:
        ended, _ = self._session(self.world.last, self.world.last.changes)
        assert isinstance(ended.error, InputError), f"no rows: {ended}"
        assert not self.stage.server.exchanges

    def _to_the_end(self) -> None:
        leg = self.world.last
        self.stage.elapsed_s = max(self.stage.elapsed_s, self.world.clear_from_s)
        for _ in range(LAST_LEGS_MAX):
            ended = self._leg(leg)
            if ended.result is not None and ended.result.summary["rows"]["pending"] == 0:
                break
            # Failed rows were sent again once; a poisonous row would be for ever.
            leg = replace(leg, changes=Changes())
        else:
            raise AssertionError(f"not complete after {LAST_LEGS_MAX} sessions: {ended}")
        table = self.accounts.whole_run(self._settings(leg), leg.lines)
        self._note(table)

    def _leg(self, leg: Leg) -> Ended:
        """One session; once more with a flag where what changed has to be allowed."""
        self.stage.elapsed_s += leg.gap_s
        changes = replace(leg.changes, resend_changed=self._resending)
        ended, settings = self._session(leg, changes)
        if isinstance(ended.error, RunChangedError):
            self.accounts.untouched()
            self.accounts.edited = True
            self._resending = leg.choice == "resend"
            self.accounts.kept_some |= not self._resending
            changes = replace(
                leg.changes, resend_changed=self._resending, keep_done=not self._resending
            )
            ended, settings = self._session(leg, changes)
            refused = isinstance(ended.error, RunChangedError)
            assert not refused, f"refused in spite of {changes}: {ended.error}"
        done = ended.result
        if done is not None and done.stop is None and leg.limit is None:
            self._resending = False
        began_s = self.stage.elapsed_s - ended.took_s
        said = self.stage.said
        self.accounts.session_ended(ended, settings, leg.fate, changes, said, began_s)
        return ended

    def _session(self, leg: Leg, changes: Changes) -> tuple[Ended, Settings]:
        settings = self._settings(leg)
        self._write_input(leg)
        self.accounts.session_begins()
        ended = self.stage.run(settings, changes, leg.fate)
        how = _how(ended)
        self.story.sessions.append(how)
        self._note(f"session {self.stage.session} {how} {ended.took_s:.6f}")
        expected = (InputError, RunChangedError, StorageError, type(None))
        assert isinstance(ended.error, expected), f"session {self.stage.session}: {ended.error!r}"
        return ended, settings

    def _settings(self, leg: Leg) -> Settings:
        raw = {
            **leg.raw,
            "input.files": [str(self._input)],
            "output.dir": str(self._folder),
        }
        return resolve(raw, limit=leg.limit)

    def _write_input(self, leg: Leg) -> None:
        text = "".join(f"{line.text()}\n" for line in leg.lines)
        if text != self._text:
            self._text = text
            self._editions += 1
            self._input.write_text(text, "utf-8")
            # The file system's clock is too coarse for somebody who edits within a millisecond.
            stamp_ns = EPOCH_US * 1000 + self._editions * 10**9
            os.utime(self._input, ns=(stamp_ns, stamp_ns))

    def _told(self, outcome: Outcome) -> None:
        self.accounts.told(outcome)
        at_us = self.stage.world_us()
        self._note(f"told {outcome.row} {outcome.ok} {outcome.attempts} {at_us}")

    def _note(self, event: str) -> None:
        self._hash.update(event.encode() + b"\n")
        if self._trace is not None:
            self._trace.append(event)


def _how(ended: Ended) -> str:
    if ended.killed:
        return "killed"
    if ended.error is not None:
        return type(ended.error).__name__
    assert ended.result is not None
    stop = ended.result.stop
    status: str = ended.result.summary["status"]
    return status if stop is None else f"{status} by {stop.by}"


def simulate(seed: int, folder: Path, trace: list[str] | None = None) -> Story:
    """Live through the world of a seed; see ``live``."""
    return live(world(seed), folder, trace)


def live(drawn: World, folder: Path, trace: list[str] | None = None) -> Story:
    """Live through a world in an empty folder, which is removed afterwards.

    ``trace`` gets every event. Raises ``AssertionError`` where an invariant does not hold, and
    whatever else the program under test raises that it should not.
    """
    folder.mkdir(parents=True)
    life = _Life(drawn, folder, trace)
    try:
        return life.live()
    except BaseException as error:
        told = ", ".join(life.story.sessions)
        error.add_note(f"seed {drawn.seed}, after the sessions: {told or 'none'}")
        error.add_note(f"replay it with: make simulate SEED={drawn.seed}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
