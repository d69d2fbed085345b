"""Implements ``batchrun.run``, ``arun`` and ``stream`` (``calls.py``), and ``score`` and
``compare``.

The first three do what ``batchrun run`` does, with the settings of the config file as keywords.
They install no signal handlers and change nothing else of the process. Messages go to the logger
``batchrun``.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
import os
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

from batchrun import assemble
from batchrun.adapters.environment.clock import new_loop
from batchrun.adapters.environment.configuration import read_config, read_environment, read_schema
from batchrun.adapters.sources import memory
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.storage.home import at_home, located
from batchrun.announcing import Announcing
from batchrun.api_errors import for_callers, public
from batchrun.api_types import RowOutcome, Summary
from batchrun.api_wording import in_keywords
from batchrun.builtin_simulators import judges_of, served, standing_in_thread
from batchrun.core.request import prompt as prompts
from batchrun.core.run.changes import Changes, parse_classes
from batchrun.core.schema.response_format import strict_document
from batchrun.core.settings import resolve as config
from batchrun.core.settings.parameter_flags import keyword_hint
from batchrun.core.settings.table import BY_NAME, FLAGGED, OF_JUDGES, TABLE
from batchrun.engine.outbox import Outbox
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.errors import BatchrunError, RunStoppedError, UsageError
from batchrun.ports import Observer
from batchrun.rundir.recorded_reading import reading_of
from batchrun.session import Result

if TYPE_CHECKING:  # loaded when they are used
    from batchrun.api_progress import Progress
    from batchrun.fleet.called import Spread
    from batchrun.views.compare.compare import Comparison

__all__ = ["Options", "RowOutcome", "Summary", "compare", "judge", "score"]


class ArrowStream(Protocol):
    """An object that exports Arrow's C stream: tables, batches, data frames."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...


class Scannable(Protocol):
    """A data set of Arrow."""

    def scanner(self, *arguments: Any, **options: Any) -> Any:
        """A scan of it."""
        ...


class MakesSchema(Protocol):
    """An object that makes a JSON Schema: ``pydantic.TypeAdapter``."""

    def json_schema(self) -> dict[str, Any]:
        """The schema."""
        ...


Rows = str | os.PathLike[str] | Iterable[Any] | ArrowStream | Scannable | Summary
"""Paths, or rows: an iterable of dicts, or anything that holds Arrow data; or the summary of a run,
whose answers are the rows then. See docs/python.md."""

GUARD = RunStoppedError.exit_code
_LOG = logging.getLogger("batchrun")
_NOT_STREAMED = (
    "shard and workers work with run and arun, not with stream: outcomes of other processes are in "
    "the results"
)
_CANCELLED = Stop("cancelled", "the task of the run was cancelled", 130)
_CLOSED = Stop("closed", "the outcomes are no longer read", 130)
_INTERRUPTED = Stop("SIGINT", "stopped by KeyboardInterrupt", 130)


class Options(TypedDict, total=False):
    """The keyword arguments of ``run``, ``arun`` and ``stream``: the settings of the config file by
    their keys (``output`` is ``output.dir``), and settings that the command only has as flags.
    ``endpoints`` has the tables of several endpoints, each with the keys of ``[[endpoint]]``.
    ``make docs`` writes them out in the signatures of ``calls.py``.
    """

    output: str | os.PathLike[str]
    config: str | os.PathLike[str]
    limit: int
    keep_done: bool
    resend_changed: bool
    restart: bool
    retry_failed: bool
    retry_class: str | Sequence[str]
    repair: bool
    progress: bool
    shard: str
    workers: int
    format: str
    quoting: Literal["csv", "none"]
    delimiter: str
    encoding: str
    carry: str | Sequence[str]
    send: str | Sequence[str]
    id: str
    sample: int
    sample_seed: int
    reuse: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    lengths_from: str | os.PathLike[str]
    from_: str | os.PathLike[str] | Summary
    from_status: Literal["ok", "error", "any"]
    allow_partial: bool
    checkpoint: str | os.PathLike[str]
    raw: Literal["all", "errors", "none"]
    requests: Literal["none", "errors", "all"]
    shard_rows: int
    on_truncation: Literal["keep", "fail", "retry"]
    truncation_limit: int
    on_empty: Literal["keep", "fail", "retry"]
    fallback_model: str
    think: Literal["split", "keep"]
    accept_fenced: bool
    check_schema: bool
    check_tools: bool
    model: str
    system: str
    prompt: str
    messages: Sequence[Mapping[str, Any]]
    turns: str
    image: Sequence[str]
    file: Sequence[str]
    params: Mapping[str, Any]
    repeat: int
    temperature: float | str
    max_tokens: int | str
    top_p: float | str
    seed: int | str
    schema: str | os.PathLike[str] | Mapping[str, Any] | type | MakesSchema
    stream: bool
    name: str
    provider: str
    base_url: str
    api_key_env: str
    api_key_file: str | os.PathLike[str]
    api_key_command: str
    api_key_header: str
    ca_file: str | os.PathLike[str]
    client_cert: str | os.PathLike[str]
    client_key: str | os.PathLike[str]
    headers: Mapping[str, str]
    concurrency: int | Literal["auto"]
    min_concurrency: int
    max_concurrency: int
    rpm: float
    tpm: float
    charge: Literal["sum", "max", "input", "real"]
    models: Sequence[str] | Mapping[str, str]
    weight: float
    keepalive_s: float
    endpoints: Sequence[Mapping[str, Any]]
    max_attempts: int
    timeout_s: float
    connect_timeout_s: float
    max_wait_s: float
    max_response_bytes: int
    repeated_failure: bool
    max_failures: int | str
    max_truncated: str
    max_empty: str
    max_cost_usd: float
    max_total_tokens: int
    deadline_s: float
    min_free_disk: int | str
    grace_s: float
    on_finish: str
    webhook: str
    metrics_file: str | os.PathLike[str]
    prices: Mapping[str, Mapping[str, float | Decimal]]
    scores: Mapping[str, Any]
    metrics: Mapping[str, Any]
    gates: Mapping[str, Any]
    judge: Mapping[str, Any]
    labels: Mapping[str, str | float | bool]


_CHANGES = ("keep_done", "resend_changed", "restart", "retry_failed", "repair")
_SPREAD = ("shard", "workers")
_OTHERS = ("output", "config", "limit", "endpoints", *_CHANGES, "retry_class", "progress", *_SPREAD)
KEYWORDS: dict[str, str] = {
    setting.keyword: setting.name
    for setting in FLAGGED
    if setting.keyword and setting.name != "output.dir"
}
"""The setting of every keyword that sets one."""


def job_of(arguments: Mapping[str, Any]) -> _Job:
    """The job of a function that was called with these arguments, ``rows`` among them."""
    options = {name: value for name, value in arguments.items() if name != "rows"}
    return _Job(arguments["rows"], options)


def run_job(job: _Job) -> Summary:
    """Run a job in a separate thread and loop: see ``batchrun.run``."""
    return job.summary(_in_own_thread(lambda: job.go(None), job.switch))


def _in_own_thread(go: Callable[[], Coroutine[Any, Any, Result]], switch: StopSwitch) -> Result:
    """Run a session in a separate thread and loop. An interrupt stops it in an orderly way, and is
    raised when it has ended.
    """
    ended: Future[Result] = Future()
    ready: Future[asyncio.AbstractEventLoop] = Future()

    async def work() -> Result:
        ready.set_result(asyncio.get_running_loop())
        return await go()

    def body() -> None:
        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                ended.set_result(runner.run(work()))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            ended.set_exception(error)

    thread = threading.Thread(target=body, name="batchrun", daemon=True)
    thread.start()
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            result = ended.result()
            thread.join()
            break
        except KeyboardInterrupt as error:
            if ended.done():
                raise
            interrupted = error
            # The loop may not be running yet, or no longer.
            with contextlib.suppress(RuntimeError, TimeoutError):
                ready.result(1).call_soon_threadsafe(switch.stop, _INTERRUPTED)
    if interrupted is not None:
        raise interrupted
    return result


async def await_job(job: _Job) -> Summary:
    """Run a job in the running loop: see ``batchrun.arun``."""
    return job.summary(await _ended(asyncio.create_task(job.go(None)), job.switch, _CANCELLED))


def stream_job(job: _Job) -> AsyncGenerator[RowOutcome, None]:
    """Run a job in the running loop and yield its outcomes: see ``batchrun.stream``."""
    if job.is_spread:
        raise UsageError(_NOT_STREAMED)
    return _streamed(job)


async def _streamed(job: _Job) -> AsyncGenerator[RowOutcome, None]:
    outbox = Outbox()
    task = asyncio.create_task(job.go(outbox))
    task.add_done_callback(lambda _: outbox.close())
    try:
        while (outcome := await outbox.take()) is not None:
            yield RowOutcome.of(outcome)
    finally:
        outbox.close()
        if not task.done():
            job.switch.stop(_CLOSED)
        try:
            result = await _ended(task, job.switch, _CANCELLED)
        except BatchrunError as error:
            failed, cause = for_callers(error, job.given)
            raise failed from cause
    if result.stop is not None and result.stop.exit_code == GUARD:
        raise RunStoppedError(in_keywords(result.stop.message), by=result.stop.by)


async def _ended(task: asyncio.Task[Result], switch: StopSwitch, reason: Stop) -> Result:
    """The result of a task that is stopped instead of cancelled, however often its waiter is
    cancelled.
    """
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
            switch.stop(reason)
    result = task.result()
    if cancelled:
        raise asyncio.CancelledError
    return result


def _tell(text: str) -> None:
    """Log a message."""
    _LOG.info("%s", in_keywords(text))


def _relayed(text: str) -> None:
    """A line of a process that this one started."""
    if text.startswith("warning: "):
        _warn(text.removeprefix("warning: "))
    else:
        _tell(text)


def _warn(text: str) -> None:
    """Log a warning."""
    _LOG.warning("%s", in_keywords(text))


@dataclass(frozen=True, slots=True)
class _Plan:
    """The checked arguments of a call."""

    settings: config.Settings
    environment: Mapping[str, str]
    rows: Rows | None
    changes: Changes
    spread: Spread | None
    """The processes that share the run; None for one run of this process."""


class _Job:
    """One call: its settings, and the switch that stops it."""

    def __init__(self, rows: Rows | None, options: Mapping[str, Any]) -> None:
        """``options`` are keywords; None means not given."""
        self.given = frozenset(name for name, value in options.items() if value is not None)
        self._plan = _plan(rows, options)
        self.switch = StopSwitch()
        self._progress: Progress | None = None
        if options.get("progress"):
            from batchrun.api_progress import Progress

            self._progress = Progress(self._plan.settings.dir)

    @property
    def is_spread(self) -> bool:
        """Whether other processes do the work."""
        return self._plan.spread is not None

    async def go(self, outbox: Outbox | None) -> Result:
        """Run the session in the running loop."""
        plan = self._plan
        settings = plan.settings
        if plan.spread is not None:
            return await self._together(plan, plan.spread)
        async with Announcing(settings, _warn) as announcing:
            result = await self._session(settings, plan, outbox, announcing.observers)
            announcing.ended(result.summary)
        if result.failed is not None:
            raise result.failed
        if result.stop is not None:
            _warn(result.stop.message)
        if result.duplicate_id is not None:
            _LOG.warning("custom_id %r occurs more than once", result.duplicate_id)
        return result

    async def _session(
        self,
        settings: config.Settings,
        plan: _Plan,
        outbox: Outbox | None,
        observers: Sequence[Observer],
    ) -> Result:
        with contextlib.ExitStack() as stack:
            endpoints = await standing_in_thread(settings.endpoints, stack, _tell)
            settings = replace(settings, endpoints=endpoints)
            progress = self._progress
            if progress is not None:
                observers = [*observers, stack.enter_context(progress).observer]
            result = await assemble.session(
                settings,
                plan.environment,
                find=self._find(),
                changes=plan.changes,
                switch=self.switch,
                say=_tell,
                outbox=outbox,
                observers=observers,
                judges=judges_of(settings, plan.environment, stack, _tell),
            )
            if progress is not None:
                progress.ended(result.summary)
            return result

    async def _together(self, plan: _Plan, spread: Spread) -> Result:
        """Run it in other processes, which send the notifications themselves."""
        from batchrun.fleet import called

        progress, handed = (
            self._progress,
            called.Handed(plan.settings, plan.environment, plan.changes),
        )
        with progress or contextlib.nullcontext():
            observers = [] if progress is None else [progress.observer]
            result = await called.run(
                spread, handed, switch=self.switch, observers=observers, say=_relayed
            )
            if progress is not None and result.summary:
                progress.ended(result.summary)
        if result.stop is not None:
            _warn(result.stop.message)
        return result

    def _find(self) -> Callable[[], Input] | None:
        rows, settings = self._plan.rows, self._plan.settings
        if rows is None:
            return None
        plan, reading = prompts.plan(settings), reading_of(settings, self._plan.changes)
        return partial(memory.find, rows, settings.format, plan, reading)

    def summary(self, result: Result) -> Summary:
        """The summary of a session."""
        message = in_keywords(result.stop.message) if result.stop else None
        return Summary.of(result.summary, self._plan.settings.dir, message)


@public()
def score(
    directory: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    scores: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    gates: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Summary:
    """Compute scores, metrics and gates of a run directory again, from its files. Sends nothing.

    A config or the keywords replace the recorded scores, metrics and gates; without either, the
    recorded SQL is computed again. Returns the new summary, with ``metrics`` and the verdicts in
    ``gates``; a failing gate does not raise. Raises ``UsageError``, ``RunLockedError`` while a run
    is live, or ``ScoringError`` if a score cannot be computed.
    """
    from batchrun.rundir.evaluate import score as scoring
    from batchrun.rundir.evaluate.settings import evaluation_of

    asked = None
    if any(given is not None for given in (config, scores, metrics, gates)):
        asked = evaluation_of(config, directory, scores=scores, metrics=metrics, gates=gates)
    folder = at_home(os.fspath(directory))
    place = None if checkpoint is None else at_home(os.fspath(checkpoint))
    found = scoring.score(folder, place, asked, _tell)
    for text in found.left_out:
        _warn(text)
    if found.failed is not None:
        raise found.failed
    return Summary.of(found.summary, folder, None)


@public()
def judge(
    directory: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str],
    name: str | None = None,
    against: str | os.PathLike[str] | None = None,
    both_orders: bool = False,
    agreement: str | None = None,
    score: str | None = None,
    allow_self: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    restart: bool = False,
    retry_failed: bool = False,
    repair: bool = False,
    **options: Any,
) -> Summary:
    """Have a second model judge the answers of a finished run. Returns the new summary of that
    run, with ``judges``, ``metrics`` and ``gates``.

    ``config`` has the judge's prompt, JSON Schema, model and endpoint; other keywords of ``run``
    win over it. Judging again sends only what is new or changed. ``against`` is a run to
    compare the answers with, ``agreement`` a column of human labels. A judge stopped by a guard is
    not an error: see ``judges[name]["pending"]``.

    Raises ``UsageError`` if the run is not finished or the judge is the model that gave the
    answers, ``RunLockedError`` while a run is live, and the errors of ``run``.
    """
    from batchrun import judging
    from batchrun.core.evaluation.judges import Judge
    from batchrun.rundir.judges.prepare import Pairing, prepare

    require_known(options, [setting.keyword for setting in OF_JUDGES])
    file = at_home(os.fspath(config))
    judge_ = Judge.checked(
        PurePath(file).stem if name is None else name, file, score, agreement, allow_self=allow_self
    )
    given = {
        KEYWORDS[keyword]: _plain(value, KEYWORDS[keyword])
        for keyword, value in options.items()
        if value is not None
    }
    pairs = None if against is None else Pairing(at_home(os.fspath(against)), both_orders)
    folder = at_home(os.fspath(directory))
    place = None if checkpoint is None else at_home(os.fspath(checkpoint))
    environment, switch = read_environment(), StopSwitch()
    run_, warnings = prepare(judge_, folder, place, environment, given, pairs)
    for warning in warnings:
        _warn(warning)

    def run_session(*given: Any, **more: Any) -> Result:
        going = partial(assemble.session, *given, find=None, switch=switch, **more)
        return _in_own_thread(going, switch)

    changes = Changes(restart=restart, retry_failed=retry_failed, repair=repair)
    found = judging.judge(folder, place, run_, environment, changes, served(run_session), _tell)
    for result in found.results:
        if result.stop is not None:
            _warn(result.stop.message)
    if found.scored.failed is not None:
        raise found.scored.failed
    return Summary.of(found.scored.summary, folder, None)


@public()
def compare(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    scores: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    gates: Mapping[str, Any] | None = None,
    key: str | None = None,
    rows: int = 10,
) -> Comparison:
    """Compare run ``b`` with run ``a``, row by row. Nothing is sent and nothing is written.

    Scores, metrics and gates come from a config or the keywords; without either, from ``b``'s
    recorded settings. ``key`` is the column that pairs rows, instead of ``custom_id``. Up to
    ``rows`` rows that got worse are read, and as many that got better. A failing gate does not
    raise: see ``Comparison.exit_code`` and ``gates``. Raises ``UsageError`` for runs whose rows
    cannot be paired, ``ScoringError`` or ``DamagedError``.
    """
    from batchrun.rundir.evaluate.settings import evaluation_of
    from batchrun.views.compare import compare as comparing

    asked = None
    if any(given is not None for given in (config, scores, metrics, gates)):
        asked = evaluation_of(config, b, scores=scores, metrics=metrics, gates=gates)
    one, other = (at_home(os.fspath(directory)) for directory in (a, b))
    return comparing.compare(one, other, asked, key=key, rows=rows)


def _plan(rows: Rows | None, options: Mapping[str, Any]) -> _Plan:
    """Check the keywords and lay the settings over each other: keyword, environment, file."""
    if isinstance(rows, Summary) and options.get("from_") is None:
        rows, options = None, {**options, "from_": rows}
    file = options.get("config")
    raw = {} if file is None else read_config(at_home(os.fspath(file)))
    given = {
        KEYWORDS[name]: _plain(value, KEYWORDS[name])
        for name, value in options.items()
        if name in KEYWORDS and value is not None
    }
    if options.get("output") is not None:
        given["output.dir"] = os.fspath(options["output"])
    if rows is not None:
        given["input.files"] = _names(rows)
    if options.get("endpoints") is not None:
        raw = _with_endpoints(raw, options["endpoints"])
    environment = read_environment()
    raw, warnings = config.lay_over(raw, environment, located(given))
    for warning in warnings:
        _warn(warning)
    settings = config.resolve(read_schema(raw), limit=options.get("limit"))
    classes = options.get("retry_class")
    changes = Changes(
        retry_classes=parse_classes(classes) if classes else (),
        **{name: bool(options.get(name)) for name in _CHANGES},
    )
    return _Plan(settings, environment, rows, changes, _spread(rows, options))


def _spread(rows: Rows | None, options: Mapping[str, Any]) -> Spread | None:
    """How the call is spread over processes. Raises ``UsageError`` for rows that only this process
    has.
    """
    shard, workers = options.get("shard"), options.get("workers")
    if shard is None and workers is None:
        return None
    from batchrun.fleet.called import Spread

    spread = Spread(workers, shard)
    spread.places()
    if rows is not None and not _are_paths(rows):
        message = (
            f"{spread.shown.partition(' ')[0]} needs rows that every process can read itself: a "
            f"path or a list of paths, not a {type(rows).__name__}. Write the rows to a file first"
        )
        raise UsageError(message)
    return spread


def require_known(options: Mapping[str, Any], known: Collection[str] = ()) -> None:
    """Raise ``TypeError`` for an unknown keyword, naming the nearest one. ``known`` are the valid
    keywords, by default those of ``run``.
    """
    known = known or [*_OTHERS, *KEYWORDS]
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            hint = keyword_hint(name, value) or hint
            message = f"unknown keyword {name!r}; {hint}"
            raise TypeError(message)


def _with_endpoints(raw: config.Raw, tables: Sequence[Mapping[str, Any]]) -> config.Raw:
    """The raw values with these endpoints in place of the config file's."""
    kept = {name: value for name, value in raw.items() if not name.startswith("endpoint")}
    own = [setting.key for setting in TABLE if setting.section == "endpoint"]
    found = []
    for table in tables:
        for key in table:
            if key not in own:
                message = f"endpoints: unknown key {key!r}; known are {', '.join(own)}"
                raise TypeError(message)
        named = {f"endpoint.{key}": value for key, value in table.items() if value is not None}
        found.append(located({name: _plain(value, name) for name, value in named.items()}))
    if not found:
        message = "endpoints is empty: give at least one, or leave it out"
        raise UsageError(message)
    return kept | ({"endpoints": found} if len(found) > 1 else found[0])


def _plain(value: Any, name: str) -> Any:
    """A keyword's value in the form of the config file."""
    kind = BY_NAME[name].kind
    if isinstance(value, Summary):
        value = value.path
    if kind == "schema":
        value = _schema(value)
    if kind == "dirs":
        several = [value] if isinstance(value, (str, os.PathLike)) else value
        return [os.fspath(each) if isinstance(each, os.PathLike) else each for each in several]
    if kind in ("path", "schema") and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind in ("object", "headers", "schema", "measures", "labels") and isinstance(value, Mapping):
        return dict(value)
    if kind == "models" and not isinstance(value, str):
        return dict(value) if isinstance(value, Mapping) else list(value)
    if kind in ("columns", "names") and isinstance(value, tuple):
        return list(value)
    if name == "request.messages" and not isinstance(value, str):
        return [dict(message) if isinstance(message, Mapping) else message for message in value]
    return value


def _schema(value: Any) -> Any:
    """The JSON Schema of a Pydantic class, or of its ``TypeAdapter``; any other value unchanged.
    Raises ``UsageError`` for another class.
    """
    if isinstance(value, (str, os.PathLike, Mapping)):
        return value
    name = getattr(value, "__name__", "answer")
    for method in ("model_json_schema", "json_schema"):
        if callable(made := getattr(value, method, None)):
            return strict_document(made(), name)
    kind = f"the class {name}" if isinstance(value, type) else f"a {type(value).__name__}"
    message = (
        f"request.schema is {kind}; expected a file, a dict with a JSON Schema, or a Pydantic "
        "model (pydantic.TypeAdapter makes one of a dataclass or a TypedDict)"
    )
    raise UsageError(message)


def _are_paths(rows: Any) -> bool:
    """Whether the rows are in files, or are those of another run."""
    paths = (str, os.PathLike)
    if isinstance(rows, (list, tuple)):
        return all(isinstance(item, paths) for item in rows)
    return isinstance(rows, paths)


def _names(rows: Any) -> list[str]:
    """The name of the input in the summary."""
    if isinstance(rows, (str, os.PathLike)):
        return [os.fspath(rows)]
    if isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], (str, os.PathLike)):
        return [os.fspath(item) for item in rows if isinstance(item, (str, os.PathLike))]
    if isinstance(rows, (list, tuple)) and not rows:
        message = "the input is an empty list; nothing to run"
        raise UsageError(message)
    return [f"<{type(rows).__name__}>"]
