"""The judges of a run, at its end: each judges the answers that are new or changed.

A judge is a separate run, inside the directory of the run and under its lock. It judges again
without a flag: verdicts on answers that still exist are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from batchrun.adapters.storage.store import SUMMARY, StoreReader, read_json
from batchrun.core.cost.money import picodollars
from batchrun.core.evaluation.judges import folder_of
from batchrun.core.text.wording import counted
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.errors import BatchrunError, ScoringError
from batchrun.rundir import state_reader
from batchrun.rundir.judges.prepare import JudgeRun, place_of, require_other, with_budget


class Ended(Protocol):
    """How the session of a judge ended."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """Its summary."""
        ...

    @property
    def stop(self) -> Stop | None:
        """What stopped it, if anything."""
        ...


JudgeSession = Callable[[JudgeRun, StopSwitch], Coroutine[Any, Any, Ended]]
"""Runs one session of a judge."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How the judges ended: what stopped one early, or why it failed."""

    stop: Stop | None = None
    failed: BatchrunError | None = None


class Judging:
    """The judges of one session of a run."""

    def __init__(
        self,
        runs: Sequence[JudgeRun],
        session: JudgeSession,
        directory: str,
        checkpoint: Path,
        say: Callable[[str], None],
    ) -> None:
        self._runs = runs
        self._session = session
        self._directory = directory
        self._checkpoint = checkpoint
        self._say = say

    def charged_pd(self, store: StoreReader) -> int:
        """The charge of the judges so far, in picodollars."""
        return sum(self._charged(store, run.judge.name) for run in self._runs)

    def _charged(self, store: StoreReader, name: str) -> int:
        place = place_of(self._directory, self._checkpoint, name)
        return charged_pd(store, place, folder_of(name))

    async def run(
        self,
        store: StoreReader,
        switch: StopSwitch,
        left_pd: int | None,
        models: Sequence[str | None],
    ) -> Judged:
        """Run one judge after the other. ``left_pd`` is what remains of the run's budget after the
        run and all judges so far, None without a budget; ``models`` gave the answers. A stop of the
        run stops the present judge; if a guard stops a judge, no further judge runs.
        """
        for run in self._runs:
            name = run.judge.name
            try:
                require_other(run, models)
                before = self._charged(store, name)
                # Its earlier charge counts in its own account.
                covered = with_budget(run, None if left_pd is None else max(0, left_pd + before))
                ended = await self._one(covered, switch)
            except BatchrunError as error:
                failed = ScoringError(f"{run.judge.key}: {error}. The answers are intact")
                return Judged(failed=failed)
            if left_pd is not None:
                left_pd -= self._charged(store, name) - before
            self._say(_told(name, ended))
            if ended.stop is not None and ended.summary["rows"]["pending"] != 0:
                if not switch.stopping:
                    self._say(f"judge {name}: {ended.stop.message}")
                return Judged(ended.stop)
        return Judged()

    async def _one(self, run: JudgeRun, switch: StopSwitch) -> Ended:
        """One session; a stop of the run stops it too."""
        own = StopSwitch()

        async def follow() -> None:
            own.stop(await switch.wait())
            await switch.hurried()
            if switch.reason is not None and switch.reason.is_signal:
                own.stop(switch.reason)
            else:
                own.stop(Stop("SIGINT", "stopped", 130))

        following = asyncio.create_task(follow())
        try:
            return await self._session(run, own)
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following


def charged_pd(store: StoreReader, checkpoint: Path, folder: str) -> int:
    """The charge of the judge in a folder over all its sessions: from its budget, or its bill if it
    had none. A session that was killed is charged the most it may have spent.
    """
    account = state_reader.values(checkpoint, "budget_cost").get("budget_cost")
    kept = 0
    if isinstance(account, Mapping):
        kept = int(account.get("mark", account.get("spent", 0)))
    found = read_json(store, f"{folder}/{SUMMARY}")
    totals = found.get("totals") if isinstance(found, Mapping) else None
    bill = totals.get("cost_usd") if isinstance(totals, Mapping) else None
    return max(kept, 0 if bill is None else picodollars(bill))


def _told(name: str, ended: Ended) -> str:
    """A line about a judge that ended."""
    rows = ended.summary["rows"]
    judged = counted(rows["ok"], "answer")
    more = f", {rows['error']:,} without a verdict" if rows["error"] else ""
    more += f", {rows['pending']:,} pending" if rows["pending"] else ""
    return f"judge {name}: {judged} judged{more}"
