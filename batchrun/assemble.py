"""Settings become a wired engine: the only module that names concrete adapters.

``run`` is one session: open the directory, wire, go, publish, sum up.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from batchrun import __version__
from batchrun.adapters import files, parts, rundir
from batchrun.adapters.comparing import Changes
from batchrun.adapters.journal import JournalWriter
from batchrun.adapters.rundir import RunDirectory
from batchrun.adapters.sources.readahead import ReadAhead
from batchrun.core import body, redact, summary
from batchrun.core.duplicates import Duplicates
from batchrun.core.setting_table import DEFAULT_BASE_URL
from batchrun.core.setting_values import parse_key
from batchrun.core.settings import Settings
from batchrun.core.urls import chat_completions_url
from batchrun.engine.attempt import AttemptLoop, Policy
from batchrun.engine.engine import Engine, Known
from batchrun.engine.gate import EndpointGate
from batchrun.engine.guards import Stop, StopSwitch
from batchrun.engine.monitor import Monitor, Snapshot
from batchrun.engine.room import Room
from batchrun.engine.tally import Tally
from batchrun.errors import BatchrunError, RowError, StorageError, UsageError
from batchrun.ports import Observer, Transport
from batchrun.records import Request, Row

BODY_BYTES_MAX = 64 * 2**20
SAMPLE_S = 0.5
FLIGHT_SLOTS = 512
"""Slots of the flight log to begin with; it grows."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Result:
    """How a session ended: the summary as written, what stopped it, and what observers broke."""

    summary: Mapping[str, Any]
    stop: Stop | None
    bound_by: str | None
    observer_failures: int
    sent_nothing: bool
    duplicate_id: str | None = None


class LoopClock:
    """``ports.Clock`` by the running event loop and the system's wall clock."""

    def __init__(self) -> None:
        self.now_s = asyncio.get_running_loop().time
        self.sleep = asyncio.sleep

    @staticmethod
    def wall_us() -> int:
        """See ``ports.Clock``."""
        return time.time_ns() // 1000


def key_of(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """The endpoint's key. Raises ``UsageError`` where the default endpoint has none."""
    variable = settings.endpoint.api_key_env
    key = parse_key(environment.get(variable, ""), variable=variable)
    given = {name.lower() for name in settings.endpoint.headers}
    if key is None and settings.endpoint.base_url == DEFAULT_BASE_URL and not given:
        message = (
            f"no key: set {variable} (or name another variable with --api-key-env), "
            "or name another endpoint with --base-url"
        )
        raise UsageError(message)
    return key


def run(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    changes: Changes = Changes(),  # noqa: B008 - frozen
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Run one session to its end. Blocks; handles SIGINT, SIGTERM and SIGHUP meanwhile.

    Raises ``BatchrunError`` as described by its subclasses.
    """
    url = chat_completions_url(settings.endpoint.base_url)
    key = key_of(settings, environment)
    opened = rundir.open_run(settings, changes, say=say)
    try:
        if _is_finished(opened):
            found = rundir.summary_of(opened.folder)
            if found is not None:
                return Result(found, None, None, 0, sent_nothing=True)
        session = _Session(settings, opened, observers, say)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(session.go(url, key, environment))
    finally:
        opened.close()


def _organisation(environment: Mapping[str, str]) -> dict[str, str]:
    """OpenAI's headers that say on whose account requests run."""
    named = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
    return {
        header: environment[variable]
        for header, variable in named.items()
        if environment.get(variable)
    }


def _is_finished(opened: RunDirectory) -> bool:
    return not opened.spans and not opened.touched


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class _Session:
    """The parts of one session, and what happens around the engine."""

    def __init__(
        self,
        settings: Settings,
        opened: RunDirectory,
        observers: Sequence[Observer],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._settings = settings
        self._opened = opened
        self._observers = observers
        self._tally = Tally()
        self._duplicates = Duplicates()
        self._observer_failures = 0
        self._ended = threading.Event()
        self._started_s = time.monotonic()

    async def go(self, url: str, key: str | None, environment: Mapping[str, str]) -> Result:
        """Wire the engine, run it, sum up."""
        from batchrun.adapters.http import HttpTransport

        settings, opened = self._settings, self._opened
        endpoint = settings.endpoint
        switch, clock = StopSwitch(), LoopClock()
        _on_signals(switch, self._say)
        journal = JournalWriter(opened.journal, opened.flights(FLIGHT_SLOTS))
        sealer = parts.Sealer(opened.parts, opened.journal)
        gate = EndpointGate(
            concurrency=endpoint.concurrency,
            rpm=endpoint.rpm,
            tpm=endpoint.tpm,
            clock=clock,
            dice=random.Random(),
        )
        self._count_resumed()
        counting = asyncio.create_task(asyncio.to_thread(self._count_input))
        try:
            async with HttpTransport(
                url,
                key=key,
                headers=_organisation(environment) | dict(endpoint.headers),
                redactor=redact.Redactor(redact.secrets_of(key, endpoint.headers, url)),
                concurrency=endpoint.concurrency,
                timeout_s=settings.timeout_s,
                connect_timeout_s=settings.connect_timeout_s,
                body_bytes_max=settings.max_response_bytes,
                environment=environment,
                stream=settings.stream,
            ) as transport:
                engine = self._engine(transport, gate, journal, sealer, clock, switch)
                monitor = Monitor(engine=engine, gate=gate, tally=self._tally, switch=switch)
                watching = asyncio.create_task(self._watch(monitor))
                fault: BatchrunError | None = None
                try:
                    await engine.run(opened.spans)
                except BatchrunError as error:
                    fault = error
                finally:
                    watching.cancel()
            await journal.close()
            sealer.close()
            if isinstance(fault, StorageError):
                raise fault
            rows_input = await counting
            return self._sum_up(switch.reason, rows_input, fault)
        finally:
            self._ended.set()
            await asyncio.gather(counting, return_exceptions=True)

    def _engine(
        self,
        transport: Transport,
        gate: EndpointGate,
        journal: JournalWriter,
        sealer: parts.Sealer,
        clock: LoopClock,
        switch: StopSwitch,
    ) -> Engine:
        settings, opened, endpoint = self._settings, self._opened, self._settings.endpoint
        room = Room(endpoint.concurrency)
        return Engine(
            source=ReadAhead(opened.reader, limit=settings.limit),
            loop=AttemptLoop(
                transport=transport,
                gate=gate,
                journal=journal,
                clock=clock,
                dice=random.Random(),
                room=room,
                tally=self._tally,
                switch=switch,
                policy=Policy(
                    settings.max_attempts,
                    settings.max_wait_s,
                    settings.raw,
                    endpoint.name,
                ),
            ),
            journal=journal,
            publisher=sealer,
            prepare=partial(self._prepare, settings.defaults()),
            clock=clock,
            tally=self._tally,
            switch=switch,
            shard_rows=settings.shard_rows,
            room=room,
            grace_s=settings.grace_s,
            known={n: Known(*known) for n, known in opened.known.items()},
            touched=opened.touched,
            limit=settings.limit,
        )

    # Before

    def _prepare(self, defaults: Mapping[str, Any], row: Row) -> Request:
        """A row's request. Raises ``RowError`` that says where the row stands."""
        if row.custom_id is not None:
            self._duplicates.watch(row.custom_id)
        try:
            return body.build(
                row, defaults, body_bytes_max=BODY_BYTES_MAX, stream=self._settings.stream
            )
        except RowError as error:
            message = f"{self._opened.reader.where(row)}: {error}"
            raise RowError(message) from None

    def _count_resumed(self) -> None:
        ok, error = self._opened.totals().rows()
        more_ok, more_error = self._opened.journal.unpublished()
        self._tally.resumed_ok = ok + more_ok
        self._tally.resumed_error = error + more_error

    def _count_input(self) -> int | None:
        """Rows of the input, counted in a thread unless an earlier session did."""
        rows: int | None = self._opened.journal.states.get("input_rows")
        if rows is None:
            rows = self._opened.reader.count(self._ended.is_set)
        if rows is not None and self._settings.limit is not None:
            # Rows that an earlier run finished beyond the limit are there all the same.
            done = self._tally.resumed_ok + self._tally.resumed_error
            rows = min(rows, max(self._settings.limit, done))
        self._tally.rows_input = rows
        return rows

    # Meanwhile

    async def _watch(self, monitor: Monitor) -> None:
        """Take snapshots and show them to the observers, in a thread: a blocked terminal or a
        slow disk holds nothing up.
        """
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="observers") as thread:
            while True:
                snapshot = monitor.sample(loop.time(), time.process_time())
                await loop.run_in_executor(thread, self._show, snapshot)
                await asyncio.sleep(SAMPLE_S)

    def _show(self, snapshot: Snapshot) -> None:
        for observer in (self._write_status, *self._observers):
            try:
                observer(snapshot)
            except Exception:  # noqa: BLE001 - an observer never breaks a run; it is counted
                self._observer_failures += 1

    def _write_status(self, snapshot: object) -> None:
        assert isinstance(snapshot, Snapshot)
        status = asdict(snapshot) | {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "endpoint": self._settings.endpoint.name,
            "updated_at": summary.moment(LoopClock.wall_us()),
        }
        files.write_json(self._opened.checkpoint / rundir.STATUS, status, durable=False)

    # After

    def _sum_up(
        self, stop: Stop | None, rows_input: int | None, fault: BatchrunError | None
    ) -> Result:
        opened, settings = self._opened, self._settings
        totals = opened.totals()
        wall_s = opened.wall_s_before + time.monotonic() - self._started_s
        built = summary.build(
            totals=totals,
            rows_input=rows_input,
            stopped_by=stop.by if stop else None,
            stop_exit_code=stop.exit_code if stop else None,
            started_at_us=opened.started_at_us,
            ended_at_us=LoopClock.wall_us(),
            wall_s=wall_s,
            settings=settings.public(),
            version=__version__,
        )
        try:
            parts.write_usage(opened.folder / rundir.USAGE, totals)
            files.write_json(opened.folder / rundir.SUMMARY, built)
        except OSError as error:
            message = f"cannot write the summary into {opened.folder}: {error.strerror}"
            raise StorageError(message) from error
        whole = settings.limit is None or (rows_input or 0) < settings.limit
        opened.journal.states.put(wall_s=wall_s, input_rows=rows_input if whole else None)
        if fault is not None:
            raise fault
        return Result(
            built,
            stop,
            self._tally.bound_by,
            self._observer_failures,
            sent_nothing=False,
            duplicate_id=self._duplicates.first,
        )


def _on_signals(switch: StopSwitch, say: Callable[[str], None]) -> None:
    """The first signal stops the dispatch, a second one does not wait for what is in flight."""
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if switch.stopping:
            say(f"{number.name}: stopping at once")
        else:
            say(f"{number.name}: requests in flight may finish; once more stops at once")
        switch.stop(Stop(number.name, f"stopped by {number.name}", 128 + number))

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
