"""``batchrun run --engine ray --workers N``: N actors on a Ray cluster, as one command.

Each actor runs the command with ``--shard I/N`` (``fleet/ray_worker.py``), so the fleet defines
what the workers do and how they share the run (docs/adr/0055); Ray places them and reports when one
died. They belong to this process: if it is killed, Ray ends them, and the same command resumes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrun import __version__
from batchrun.adapters.environment.signals import heeded
from batchrun.core.fleet.operations import START
from batchrun.core.settings.addresses import local_path
from batchrun.core.text.wording import counted
from batchrun.errors import DamagedError, StorageError, UsageError
from batchrun.fleet.launcher import LOOK_S, QUIET, WHOLE, Relay, exit_code, forwarding
from batchrun.fleet.launcher import worker_arguments as arguments_of
from batchrun.fleet.progress import FleetProgress
from batchrun.fleet.ray_worker import Call, RayWorker, Switchboard
from batchrun.ports import Observer
from batchrun.rundir.fleet.launches import Launches

WORKER_CPUS = 1.0
"""CPUs of the cluster that a worker reserves."""
REPORTS_PER_S = 200
"""How many reports per second the switchboard takes from all workers together."""
CONNECT_S = 10.0
"""How long connecting to the address of a cluster may take."""
DEATHS_MAX = 3
"""A worker that died this often is not started again, unless the run made progress meanwhile."""
KILLED = 137
"""The exit code of a worker that died: the one that shells use for SIGKILL."""
WHY_MAX = 300
"""Characters of Ray's reason that are shown."""
_NODES_OWN = frozenset(
    "PATH HOME USER LOGNAME SHELL PWD OLDPWD HOSTNAME TMPDIR TMP TEMP TERM SHLVL _ LANG "
    "VIRTUAL_ENV XDG_RUNTIME_DIR".split()
)
_NODES_OWN_PREFIXES = ("RAY_", "PYTHON", "LD_", "LC_", "CUDA_", "CONDA_", "NVIDIA_")
"""Variables that describe a machine or its Ray; workers keep their own values."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the workers run."""

    address: str | None = None
    """The address of the cluster; None: the one that Ray finds (RAY_ADDRESS, a cluster on this
    machine), or else a new one on this machine.
    """
    worker_cpus: float = WORKER_CPUS


def require(cluster: Cluster) -> None:
    """Raise ``UsageError`` if a fleet cannot run on Ray."""
    if cluster.address is not None and cluster.address.startswith("ray://"):
        message = (
            f"--address {cluster.address} is a Ray Client address, which is not supported: run the "
            "command on a machine of the cluster, or submit it: ray job submit -- batchrun ..."
        )
        raise UsageError(message)
    if not (0 <= cluster.worker_cpus < math.inf):
        message = f"--worker-cpus must be 0 or more, not {cluster.worker_cpus:g}"
        raise UsageError(message)
    _ray()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        message = "--engine ray needs Ray: pip install 'batchrun-llm[ray]'"
        raise UsageError(message) from None
    return ray


def run_on_ray(
    workers: int,
    arguments: Sequence[str],
    folder: str,
    launches: Launches,
    cluster: Cluster,
    environment: Mapping[str, str],
    *,
    observers: Sequence[Observer],
    say: Callable[[str], None],
) -> int:
    """Start the actors, and return the overall exit code once all have ended. ``arguments`` are
    those of this command, after its name; ``folder`` is the run directory. Raises ``UsageError`` if
    there is no cluster.
    """
    given = arguments_of(arguments)
    # Ray prints its messages on stdout, which is reserved for the summary.
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        _connected(cluster),
        _marked(folder) as marker,
    ):
        call = Call(
            arguments=tuple(given),
            workers=workers,
            folder=str(Path.cwd()),
            marker=marker,
            environment={**shipped(environment), START: secrets.token_hex(8)},
            version=__version__,
            report_s=max(LOOK_S, workers / REPORTS_PER_S),
        )
        fleet = _Actors(call, cluster, launches, observers, say)
        with forwarding(fleet.signal):
            return fleet.wait()


def shipped(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that workers get from the command: keys, proxies and the like, but none that
    describe a machine.
    """
    return {
        name: value
        for name, value in environment.items()
        if name not in _NODES_OWN and not name.startswith(_NODES_OWN_PREFIXES)
    }


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[None]:
    """A connection to the cluster, or to a new one on this machine, until the block is left."""
    ray = _ray()
    # A cluster that is started here sends no usage reports.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handlers = {number: signal.getsignal(number) for number in heeded()}
    _require_listening(cluster.address or os.environ.get("RAY_ADDRESS") or "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # tips about versions to come
            ray.init(
                address=cluster.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False,
            )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = cluster.address or os.environ.get("RAY_ADDRESS") or "this machine"
        message = f"cannot use the Ray cluster at {where}: {_short(str(error))}"
        raise UsageError(message) from None
    for number, handler in handlers.items():  # Ray replaces them with its own
        signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raise ``UsageError`` for a ``HOST:PORT`` where nothing listens. Ray itself would try for
    minutes.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        message = f"no Ray cluster at {address}: {getattr(error, 'strerror', None) or error}"
        raise UsageError(message) from None


@contextlib.contextmanager
def _marked(folder: str) -> Iterator[str]:
    """A file next to the run directory that shows a worker that it sees the same disk: two nodes
    that each have a folder of that name would each do the whole run.
    """
    path = local_path(folder)
    if path is None:  # an object store is the same everywhere
        yield ""
        return
    run = Path(path).absolute()
    above = next(parent for parent in run.parents if parent.is_dir())
    place = above if os.access(above, os.W_OK) else run
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".batchrun-ray-") as marker:
            yield marker.name
    except OSError as error:
        message = f"cannot write into {place}: {error.strerror}"
        raise StorageError(message) from error


class _Actors:
    """The workers of a fleet, each in an actor."""

    def __init__(
        self,
        call: Call,
        cluster: Cluster,
        launches: Launches,
        observers: Sequence[Observer],
        say: Callable[[str], None],
    ) -> None:
        self._ray = ray = _ray()
        self._call = call
        self._cluster = cluster
        self._observers = observers
        self._relay = Relay(say)
        self._progress = FleetProgress(launches)
        self._started_s = time.monotonic()
        self._signals: list[int] = []
        self._codes: list[int] = []
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, int] = {}
        self._deaths = dict.fromkeys(range(1, call.workers + 1), 0)
        self._done_at_death = dict.fromkeys(self._deaths, -1)
        self._begun: set[int] = set()
        self._done = 0
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        # It reserves no CPU, so that it fits on the node of the command.
        self._switchboard = (
            ray.remote(Switchboard)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
            .remote()
        )

    def signal(self, number: int) -> None:
        """Send a signal to every worker, with its next report."""
        self._signals.append(number)

    def wait(self) -> int:
        """Wait for the end of all workers; returns the overall exit code."""
        if "--quiet" not in self._call.arguments:
            self._say_where()
        self._say_what_fits()
        for index in self._deaths:
            self._start(index)
        while self._running:
            ended, _ = self._ray.wait([*self._running], timeout=LOOK_S)
            self._exchange()
            for ref in ended:
                self._has_ended(ref)
            self._give_up_waiting()
            self._look()
        self._exchange()
        if not self._signals and all(code == KILLED for code in self._codes):
            self._relay.show("no worker is left; the same command resumes the run")
        return exit_code(self._codes)

    def _say_where(self) -> None:
        where = self._ray.get_runtime_context().gcs_address
        workers = counted(self._call.workers, "worker")
        self._relay.show(f"starting {workers} on the Ray cluster at {where}")

    def _say_what_fits(self) -> None:
        """Tell the user if the cluster has no room for all workers. Waiting workers do no harm: the
        others do their shards.
        """
        each, workers = self._cluster.worker_cpus, self._call.workers
        free = self._ray.available_resources().get("CPU", 0.0)
        fit = int(free / each) if each else workers
        if fit < workers:
            self._relay.show(
                f"warning: the cluster has {free:g} free CPUs, and {counted(workers, 'worker')} "
                f"reserve {each:g} each: {fit:,} can start now, the others when CPUs are free "
                "(to reserve less, use --worker-cpus)"
            )

    def _start(self, index: int) -> None:
        options = {"num_cpus": self._cluster.worker_cpus, "scheduling_strategy": "SPREAD"}
        actor = self._ray.remote(RayWorker).options(**options).remote(index, self._switchboard)
        self._actors[index] = actor
        # Arguments of a call are in memory only; those of an actor's creation may be stored.
        self._running[actor.run.remote(self._call)] = index

    def _exchange(self) -> None:
        """Hand out the signals, and show what the workers wrote."""
        lines, begun = self._ray.get(self._switchboard.exchange.remote(tuple(self._signals)))
        self._begun.update(begun)
        for line in lines:
            self._relay.show(self._in_one(line))

    def _in_one(self, line: str) -> str:
        """A worker's line, with the flags of this command instead of the worker's own."""
        shown = f"--engine ray --workers {self._call.workers}"
        if self._cluster.address is not None:
            shown += f" --address {self._cluster.address}"
        if self._cluster.worker_cpus != WORKER_CPUS:
            shown += f" --worker-cpus {self._cluster.worker_cpus:g}"
        head, own, tail = line.partition(f"{QUIET} --shard ")
        if not own:
            return line
        _, _, tail = tail.partition("/")
        return head + shown + tail.removeprefix(str(self._call.workers))

    def _has_ended(self, ref: Any) -> None:
        index = self._running.pop(ref)
        errors = self._ray.exceptions
        code: int | None
        try:
            code = self._ray.get(ref)
        except errors.RayTaskError as error:  # a defect, unlike what the command itself reports
            self._relay.show(f"batchrun: worker {index} failed: {_short(str(error))}")
            code = 5
        except errors.RayError as error:
            code = self._died(index, error)
            if code is None:
                return
        actor = self._actors.pop(index, None)
        if actor is not None:  # its work is durable, and its CPU is free at once
            self._ray.kill(actor)
        self._codes.append(code)

    def _died(self, index: int, error: Exception) -> int | None:
        """An actor's process is gone: start it again, as a new worker. Returns an exit code if it
        is not started again.
        """
        self._ray.kill(self._actors.pop(index))  # it may be alive but out of reach
        self._look()
        if self._done > self._done_at_death[index]:
            self._deaths[index] = 0
        self._deaths[index] += 1
        self._done_at_death[index] = self._done
        place = f"worker {index} of {self._call.workers}"
        if self._signals or any(code in WHOLE for code in self._codes):
            return KILLED
        if getattr(error, "actor_init_failed", False) or self._deaths[index] >= DEATHS_MAX:
            times = counted(self._deaths[index], "time")
            self._relay.show(f"{place} died {times} and is not restarted: {_short(str(error))}")
            return KILLED
        self._relay.show(f"{place} died and is restarted: {_short(str(error))}")
        self._start(index)
        return None

    def _give_up_waiting(self) -> None:
        """Stop waiting for workers that never got a CPU once the whole run is done, or stopped."""
        if not self._signals and not any(code in WHOLE for code in self._codes):
            return
        for ref, index in [*self._running.items()]:
            if index not in self._begun:
                self._ray.kill(self._actors.pop(index))
                del self._running[ref]

    def _look(self) -> None:
        """Show the progress."""
        with contextlib.suppress(StorageError, DamagedError):  # folded at this moment
            snapshot = self._progress.look(time.monotonic() - self._started_s)
            if snapshot is None:
                return
            self._done = max(self._done, snapshot.ok + snapshot.error)
            for observer in self._observers:
                observer(snapshot)


def _short(text: str) -> str:
    """The last line of an error text from Ray, which names the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:WHY_MAX] if lines else "reason unknown"
