"""Wires an engine from settings, with parts made by the ``Machinery`` (``machinery.py``).

Opens the directory for a session (``session.py``: wire, run, publish, sum up). ``run`` has its own
loop and handles signals; ``session`` is a coroutine for the caller's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.adapters.environment import open_files
from batchrun.adapters.environment.clock import new_loop
from batchrun.adapters.sources.opening import Input
from batchrun.core.request import body
from batchrun.core.run import summary
from batchrun.core.settings.addresses import local_path
from batchrun.core.settings.resolve import Settings
from batchrun.core.settings.table import LABELS
from batchrun.engine.outbox import Outbox
from batchrun.engine.row_order import Lengths
from batchrun.engine.session.guards import Stop, StopSwitch
from batchrun.errors import UsageError
from batchrun.machinery import REAL, Machinery
from batchrun.ports import Observer
from batchrun.rundir import claim, free_space, open_run
from batchrun.rundir.claim import Settle
from batchrun.rundir.compare import Changes
from batchrun.rundir.lock import Held
from batchrun.rundir.open_run import RunDirectory
from batchrun.session import Result, Session

if TYPE_CHECKING:  # loaded only by runs with scores, metrics, gates or judges
    from batchrun.core.evaluation.judges import Asked
    from batchrun.rundir.evaluate.evaluator import Evaluator, Prepared
    from batchrun.rundir.judges.end_of_run import Judging
    from batchrun.rundir.judges.prepare import JudgeRun


def run(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    changes: Changes = Changes(),  # noqa: B008 - frozen
    observers: Sequence[Observer] = (),
    say: Callable[[str], None] = lambda _: None,
    started_s: float | None = None,
    machinery: Machinery = REAL,
    judges: Sequence[JudgeRun] = (),
    find: Callable[[], Input] | None = None,
    stop: Stop | None = None,
) -> Result:
    """Run one session to its end. Blocks; handles SIGINT, SIGTERM and SIGHUP meanwhile.

    ``started_s`` (``time.monotonic``; None: now) is when a deadline begins to count; ``judges``
    judge the answers at its end; ``find`` opens the input, if it is not that of the settings. With
    a ``stop`` nothing is sent; existing outcomes are published and summed up. Raises
    ``BatchrunError`` as described by its subclasses.
    """
    started_s = machinery.monotonic_s() if started_s is None else started_s
    opening = open_session(settings, environment, find, changes, observers, say, machinery, judges)
    with opening as opened:
        return opened if isinstance(opened, Result) else run_session(opened, started_s, stop)


def run_session(opened: Session, started_s: float, stop: Stop | None = None) -> Result:
    """Run an opened session to its end, as ``run`` does."""

    async def go() -> Result:
        switch = StopSwitch()
        if stop is not None:
            switch.stop(stop)
        return await opened.go(switch, started_s, signals=True)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(go())


async def session(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    find: Callable[[], Input] | None,
    changes: Changes,
    switch: StopSwitch,
    say: Callable[[str], None],
    outbox: Outbox | None = None,
    observers: Sequence[Observer] = (),
    machinery: Machinery = REAL,
    judges: Sequence[JudgeRun] = (),
) -> Result:
    """Run one session in the running loop; no signal is handled.

    ``find`` opens the input, if ``settings.files`` only names it. To end it early, throw
    ``switch``; cancelling leaves at once, without publishing the journal. ``outbox`` gets every
    outcome once it is durable.
    """
    started_s = machinery.monotonic_s()
    opening = contextlib.ExitStack()
    entering = asyncio.ensure_future(
        asyncio.to_thread(
            opening.enter_context,
            open_session(settings, environment, find, changes, observers, say, machinery, judges),
        )
    )
    try:
        opened = await asyncio.shield(entering)
        if isinstance(opened, Result):
            return opened
        return await opened.go(switch, started_s, outbox=outbox)
    finally:
        # Cancelled while the directory is being opened: the lock must be released.
        await asyncio.wait((entering,))
        entering.exception()  # it was raised above, unless this was cancelled
        opening.close()


def _settle(folder: Path, checkpoint: Path, say: Callable[[str], None]) -> None:
    """A fleet works or worked in this run directory."""
    from batchrun.rundir.fleet import folding

    folding.settle(folder, checkpoint, say)


def _take_shared(shared: claim.SharedDirectory) -> Held:
    """Several processes share this run directory in an object store."""
    from batchrun.rundir.fleet import folding

    return folding.take_shared(shared)


@contextlib.contextmanager
def open_session(
    settings: Settings,
    environment: Mapping[str, str],
    find: Callable[[], Input] | None,
    changes: Changes,
    observers: Sequence[Observer],
    say: Callable[[str], None],
    machinery: Machinery,
    judges: Sequence[JudgeRun] = (),
    *,
    settle: Settle | None = None,
    take_shared: claim.TakeShared | None = None,
    taken: open_run.Taken | None = None,
) -> Iterator[Session | Result]:
    """The run directory opened for a session, or a result if there is nothing left to do.
    ``settle`` and ``taken`` are those of ``open_run``; without ``settle`` a fleet that ended is
    folded.
    """
    accesses = machinery.accesses(settings.endpoints, environment)
    settings = _with_recorded_judges(settings)
    judging = None
    if judges:
        once = find is not None or "-" in settings.files
        judging = _judging(settings, environment, judges, say, machinery, once=once)
    free_space.require_room(settings)
    open_files.require(settings)
    build = body.builder(settings)
    if settings.reuse:
        from batchrun.rundir.reuse import lookup

        lookup.require(settings, changes)
    with ExitStack() as stack:
        evaluates = _Evaluates(settings, stack, judges)
        given = find() if find else _chained(settings)
        opened = open_run.open_run(
            settings,
            changes,
            build,
            given,
            parts_of=machinery.parts,
            require=evaluates.require,
            settle=settle or _settle,
            take_shared=take_shared or _take_shared,
            taken=taken,
            say=say,
        )
        stack.callback(opened.close)
        settings = settings.recorded_by(opened.journal.states.get("settings"))
        evaluator = evaluates.over(opened)
        labels = _labelled(opened, settings.labels)
        found = None
        if opened.is_finished and not changes.repair:
            found = open_run.summary_of(opened.store)
        wall_s, shaping = opened.wall_s_before, settings.shaping()
        in_step = (
            found is not None
            and summary.in_step(found, opened.totals(), wall_s, shaping)
            and (evaluator is None or evaluator.is_in_step(found))
        )
        in_step = in_step and judging is None  # whether a judge has something to do, it says itself
        if found is not None and in_step and found.get(LABELS, {}) == labels:
            if changes.resend_changed and settings.limit is None:
                opened.all_resent()
            yield Result(found, None, None, 0, sent_nothing=True)
        else:
            answers = None
            if settings.reuse:
                answers = stack.enter_context(lookup.taken(settings, opened, say))
            yield Session(
                settings,
                opened,
                changes,
                accesses,
                observers,
                say,
                machinery,
                answers,
                stack.enter_context(lengths_of(settings, opened, say)),
                evaluator,
                judging,
            )


def _with_recorded_judges(settings: Settings) -> Settings:
    """The settings with the judges of the run directory added to those of the config."""
    local = local_path(settings.dir)
    if local is not None and not Path(local, "judges").is_dir():
        return settings
    if local is None and not settings.evaluation:
        return settings
    from batchrun.rundir.judges.standing import with_recorded

    return replace(settings, evaluation=with_recorded(settings.evaluation, settings.dir))


def _judging(
    settings: Settings,
    environment: Mapping[str, str],
    judges: Sequence[JudgeRun],
    say: Callable[[str], None],
    machinery: Machinery,
    *,
    once: bool,
) -> Judging:
    """The judges of a run, with keys, prices and models checked before anything is sent. ``once``
    is whether the input of the run can be read only once.
    """
    from batchrun.rundir.judges import prepare
    from batchrun.rundir.judges.end_of_run import Judging

    for one in judges:
        try:
            machinery.accesses(one.settings.endpoints, environment)
        except UsageError as error:
            raise prepare.fault_of(one.judge, error) from None
        prepare.require_other(one, [settings.one_model])
        prepare.require_messages(one, settings, once=once)
        if settings.max_cost_pd is not None:
            prepare.require_bounded(one)

    def judged(one: JudgeRun, switch: StopSwitch) -> Coroutine[Any, Any, Result]:
        return session(
            one.settings,
            environment,
            find=None,
            changes=prepare.changes_for(one),
            switch=switch,
            say=lambda text: say(f"judge {one.judge.name}: {text}"),
            machinery=machinery,
        )

    return Judging(judges, judged, settings.dir, Path(settings.checkpoint), say)


def _chained(settings: Settings) -> Input | None:
    """The results of the run that the settings name as input; None if files are the input."""
    if settings.source is None:
        return None
    from batchrun.rundir.chain import inputs

    return inputs.find_chained(settings)


class _Evaluates:
    """Scores, metrics and gates, if the settings have any: checked when the columns of the results
    are known, computed once the directory is open.
    """

    def __init__(
        self, settings: Settings, stack: ExitStack, judges: Sequence[JudgeRun] = ()
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._judges = judges
        self._prepared: Prepared | None = None
        if settings.evaluation:
            from batchrun.rundir.evaluate.evaluator import Prepared

            self._prepared = Prepared(settings.evaluation, asked=_asked(settings, judges))
            stack.callback(self._prepared.close)

    def require(self, schema: Any) -> None:
        """See ``Prepared.require``."""
        if self._prepared is not None:
            self._prepared.require(schema)
        for one in self._judges:
            from batchrun.rundir.judges import prepare

            prepare.require_templates(one, schema)

    def over(self, opened: RunDirectory) -> Evaluator | None:
        """The evaluator of an opened run directory."""
        if self._prepared is None:
            return None
        from batchrun.rundir.evaluate.evaluator import Evaluator

        state = _judge_states(self._settings, opened)
        evaluator = Evaluator(self._prepared, opened.store, opened.results_sha256, state)
        evaluator.compare_with_baseline(self._settings.dir)
        return self._stack.enter_context(evaluator)


def _asked(settings: Settings, judges: Sequence[JudgeRun]) -> dict[str, Asked]:
    """What the judges of a run are asked: according to their configs, or else as recorded."""
    found = {one.judge.name: one.asked for one in judges}
    others = [judge for judge in settings.evaluation.judges if judge.name not in found]
    if others:
        from batchrun.rundir.judges.standing import asked_in

        found |= asked_in(settings.dir, others)
    return found


def _judge_states(settings: Settings, opened: RunDirectory) -> Callable[[str], str]:
    """What identifies the verdicts in the folder of a judge."""

    def state(folder: str) -> str:
        from batchrun.rundir.judges.prepare import place_of
        from batchrun.rundir.judges.standing import state_of

        name = folder.rpartition("/")[2]
        place = place_of(settings.dir, opened.checkpoint, name)
        return state_of(opened.store, place, folder)

    return state


def _labelled(opened: RunDirectory, given: Mapping[str, str]) -> Mapping[str, str]:
    """The labels of a run: the recorded ones and those of this session."""
    before: Mapping[str, str] = opened.journal.states.get(LABELS) or {}
    labels = {**before, **given}
    if labels != before:
        opened.journal.states.put(**{LABELS: labels})
    return labels


@contextlib.contextmanager
def lengths_of(
    settings: Settings,
    opened: RunDirectory,
    say: Callable[[str], None],
    checkpoint: Path | None = None,
) -> Iterator[Lengths | None]:
    """The lengths of an earlier run, if the settings name one. Their index is in the folder of
    another ``checkpoint`` if several processes share it.
    """
    if settings.lengths_from is None:
        yield None
        return
    from batchrun.rundir.reuse import lengths, lookup

    folder = (checkpoint or opened.checkpoint) / lengths.FOLDER
    with lengths.taken(settings.lengths_from, folder, say) as found:
        yield found
    if opened.is_complete:
        lookup.forget(folder)
