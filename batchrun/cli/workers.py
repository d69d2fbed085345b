"""``batchrun run --workers N``: several processes, shown as one command."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from batchrun.adapters.storage.store import SUMMARY, read_json
from batchrun.cli.console import print_json, print_unwrapped
from batchrun.core.run.changes import Changes
from batchrun.core.settings.resolve import Settings
from batchrun.ports import Observer


def run_with_workers(
    workers: int,
    settings: Settings,
    changes: Changes,
    *,
    shard: str | None,
    progress: Callable[[], contextlib.AbstractContextManager[Observer]] | None,
    as_json: bool,
) -> int:
    """Start the processes and wait for their end; returns the exit code of the whole. ``progress``
    makes the display. Raises ``UsageError`` for what several processes cannot do together.
    """
    from batchrun.fleet import launcher, worker
    from batchrun.rundir import inspect

    launcher.require(workers, shard=shard is not None)
    worker.require(settings, changes)
    with contextlib.ExitStack() as stack:
        observers = [] if progress is None else [stack.enter_context(progress())]
        code = launcher.run_workers(
            workers,
            sys.argv[1:],
            worker.launches_of(settings),
            observers=observers,
            say=print_unwrapped,
        )
    if as_json:
        store = inspect.look_at(settings.dir, settings.checkpoint).store
        summary = read_json(store, SUMMARY)
        if isinstance(summary, dict):
            print_json(summary)
    return code
