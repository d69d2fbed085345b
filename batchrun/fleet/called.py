"""``batchrun.run(..., workers=N)`` and ``shard="I/N"``: processes of a fleet, started by a program.

A call changes nothing of its process, and a worker has signals and settings of a whole process. So
each worker is a process (``cli/called.py``), started and watched like those of ``--workers``. It
reads the settings from its standard input, and answers on its standard output how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from batchrun.adapters.storage.store import SUMMARY, read_json
from batchrun.core.fleet.places import place_of
from batchrun.core.run.changes import Changes
from batchrun.core.settings.resolve import Settings
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.errors import BatchrunError, DamagedError, RunUnfinishedError, StorageError
from batchrun.fleet import launcher, worker
from batchrun.fleet.progress import FleetProgress
from batchrun.ports import Observer
from batchrun.rundir import inspect
from batchrun.session import Result

_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from batchrun.cli.called import main; sys.exit(main())"
)
"""Modules are found where this process finds them; PYTHONPATH would reach other programs too."""


class Handed(NamedTuple):
    """What a worker reads from its standard input."""

    settings: Settings
    environment: Mapping[str, str]
    changes: Changes


class Answer(NamedTuple):
    """How a worker ended, as it writes it to its standard output: the fields of a ``Result``, or
    the type, arguments and fields of what was raised.
    """

    summary: Mapping[str, Any]
    stop: Stop | None = None
    sent_nothing: bool = False
    elsewhere: bool = False
    raised: tuple[type[BatchrunError], tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def error(self) -> BatchrunError | None:
        """What was raised. It is put together without its constructor, whose arguments differ."""
        if self.raised is None:
            return None
        kind, arguments, fields = self.raised
        error = kind.__new__(kind, *arguments)
        error.__dict__.update(fields)
        return error


@dataclass(frozen=True, slots=True)
class Spread:
    """How a call is spread over processes: ``workers`` of them here, or this one of several."""

    workers: int | None = None
    shard: str | None = None

    def places(self) -> list[str]:
        """The places of the processes to start. Raises ``UsageError``."""
        if self.workers is not None:
            launcher.require(self.workers, shard=self.shard is not None)
            return launcher.places_of(self.workers)
        assert self.shard is not None
        place = place_of(self.shard, os.environ)
        return [f"{place.index or place.count}/{place.count}"]

    @property
    def shown(self) -> str:
        """The flag of the command that means the same."""
        return f"--shard {self.shard}" if self.workers is None else f"--workers {self.workers}"


async def run(
    spread: Spread,
    handed: Handed,
    *,
    switch: StopSwitch,
    observers: Sequence[Observer],
    say: Callable[[str], None],
) -> Result:
    """Run the processes to their end, in the running loop; ``switch`` stops them in order. Raises
    what the first of them raised, if none came to the end of the run.
    """
    places = spread.places()
    worker.require(handed.settings, handed.changes)
    launches = worker.launches_of(handed.settings)
    progress, began_s = FleetProgress(launches), time.monotonic()
    children = launcher.Children(
        places,
        [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
        say,
        shown=spread.shown,
        # Processes that are started one by one have no such id in common.
        start=launcher.new_start() if spread.workers is not None else None,
        handed=pickle.dumps(handed),
    )
    stopping = [asyncio.create_task(wait()) for wait in (switch.wait, switch.hurried)]
    try:
        await asyncio.to_thread(children.start)
        pending = set(stopping)
        while await asyncio.to_thread(children.look):
            asked, pending = await _next(pending)
            for _ in asked:
                children.forward(signal.SIGINT)
            with contextlib.suppress(StorageError, DamagedError):  # folded at this moment
                snapshot = await asyncio.to_thread(progress.look, time.monotonic() - began_s)
                for observer in observers if snapshot is not None else ():
                    observer(snapshot)
        codes = await asyncio.to_thread(children.end)
    finally:
        for task in stopping:
            task.cancel()
    answers = [pickle.loads(output) for output in children.outputs() if output]  # noqa: S301 - ours
    return _whole(answers, codes, switch, handed.settings, launches.shown)


async def _next(pending: set[asyncio.Task[Any]]) -> tuple[set[Any], set[asyncio.Task[Any]]]:
    """Wait a moment, or until a stop is asked for."""
    if not pending:
        await asyncio.sleep(launcher.LOOK_S)
        return set(), pending
    return await asyncio.wait(pending, timeout=launcher.LOOK_S, return_when=asyncio.FIRST_COMPLETED)


def _whole(
    answers: Sequence[Answer],
    codes: Sequence[int],
    switch: StopSwitch,
    settings: Settings,
    shown: str,
) -> Result:
    """How all of them ended, by what each answered."""
    ended = [answer for answer in answers if answer.raised is None and answer.summary]
    if not ended:
        for answer in answers:
            if answer.error is not None:
                raise answer.error
        if switch.reason is not None:  # it came before anything was sent; the caller raises
            return Result({}, switch.reason, None, 0, sent_nothing=True)
        signals = ", ".join(sorted({launcher.name_of(-code) for code in codes if code < 0}))
        why = f"killed by {signals}" if signals else "ended without an answer"
        message = f"all processes of this call were {why}; the same call resumes {shown}"
        raise RunUnfinishedError(message)
    # Who summed the run up knows all of it; who left before its end knows how far it came.
    best = max(ended, key=lambda answer: (answer.stop is None, not answer.elsewhere))
    found = best.summary
    if len(codes) > 1 or best.elsewhere:
        summary = read_json(inspect.look_at(settings.dir, settings.checkpoint).store, SUMMARY)
        found = summary if isinstance(summary, dict) else found
    result = Result(found, best.stop, None, 0, sent_nothing=best.sent_nothing)
    return replace(result, elsewhere=True)  # they have sent the notifications
