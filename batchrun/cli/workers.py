"""``batchrun run --workers N``: several processes, shown as one command; on this machine, or on a
Ray cluster with ``--engine ray``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.adapters.storage.store import SUMMARY, read_json
from batchrun.cli.console import print_json, print_unwrapped
from batchrun.core.run.changes import Changes
from batchrun.core.settings.resolve import Settings
from batchrun.errors import UsageError
from batchrun.ports import Observer

if TYPE_CHECKING:
    from batchrun.fleet.ray_cluster import Cluster


@dataclass(frozen=True, slots=True)
class Launching:
    """The flags that say how a run is spread over processes; None is one that was not given."""

    shard: str | None
    workers: int | None
    engine: str | None
    address: str | None
    worker_cpus: float | None

    def require(self) -> None:
        """Raise ``UsageError`` for a flag without the one that it belongs to."""
        needs = (
            ("--engine", self.engine, "--workers", self.workers),
            ("--address", self.address, "--engine ray", self.engine),
            ("--worker-cpus", self.worker_cpus, "--engine ray", self.engine),
        )
        for flag, value, other, needed in needs:
            if value is not None and needed is None:
                message = f"{flag} requires {other}"
                raise UsageError(message)

    def cluster(self) -> Cluster | None:
        """The chosen Ray cluster; None for this machine. Raises ``UsageError``."""
        if self.engine is None:
            return None
        from batchrun.fleet import ray_cluster

        cpus = ray_cluster.WORKER_CPUS if self.worker_cpus is None else self.worker_cpus
        found = ray_cluster.Cluster(self.address, cpus)
        ray_cluster.require(found)
        return found


def run_with_workers(
    launching: Launching,
    settings: Settings,
    changes: Changes,
    environment: Mapping[str, str],
    *,
    progress: Callable[[], contextlib.AbstractContextManager[Observer]] | None,
    as_json: bool,
) -> int:
    """Start the workers and wait for their end; returns the overall exit code. ``progress`` makes
    the display. Raises ``UsageError`` for what several processes cannot do together.
    """
    from batchrun.fleet import launcher, worker
    from batchrun.rundir import inspect

    launching.require()
    workers = launching.workers
    assert workers is not None
    launcher.require(workers, shard=launching.shard is not None)
    worker.require(settings, changes)
    cluster, arguments = launching.cluster(), sys.argv[1:]
    with contextlib.ExitStack() as stack:
        observers = [] if progress is None else [stack.enter_context(progress())]
        launches = worker.launches_of(settings)
        if cluster is None:
            code = launcher.run_workers(
                workers, arguments, launches, observers=observers, say=print_unwrapped
            )
        else:
            from batchrun.fleet.ray_cluster import run_on_ray

            code = run_on_ray(
                workers,
                arguments,
                settings.dir,
                launches,
                cluster,
                environment,
                observers=observers,
                say=print_unwrapped,
            )
    if as_json:
        store = inspect.look_at(settings.dir, settings.checkpoint).store
        summary = read_json(store, SUMMARY)
        if isinstance(summary, dict):
            print_json(summary)
    return code
