"""Built-in simulators for the endpoints of a run that are one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.providers import SIMULATOR
from batchrun.core.settings.resolve import Settings

if TYPE_CHECKING:  # loaded by runs that have judges alone
    from batchrun.assemble import Result
    from batchrun.core.run.changes import Changes
    from batchrun.judging import RunSession
    from batchrun.rundir.judges.prepare import JudgeRun


def standing_in(
    endpoints: Sequence[Endpoint], stack: contextlib.ExitStack, say: Callable[[str], None]
) -> tuple[Endpoint, ...]:
    """The endpoints with their URLs: a simulator of its own serves each that has that provider,
    until the stack is left. Says so.
    """
    found = []
    for endpoint in endpoints:
        if endpoint.provider == SIMULATOR:
            from batchrun.simulator.embedded import EmbeddedSimulator

            url = stack.enter_context(EmbeddedSimulator()).base_url
            say(f"answers come from the built-in simulator at {url}, not from a model")
            found.append(replace(endpoint, base_url=url))
        else:
            found.append(endpoint)
    return tuple(found)


def served(run_session: RunSession) -> RunSession:
    """The same with built-in simulators for the endpoints of each session that are one."""

    def run(
        settings: Settings,
        environment: Mapping[str, str],
        *,
        changes: Changes,
        say: Callable[[str], None],
    ) -> Result:
        with contextlib.ExitStack() as stack:
            endpoints = standing_in(settings.endpoints, stack, say)
            own = replace(settings, endpoints=endpoints)
            return run_session(own, environment, changes=changes, say=say)

    return run


def judges_of(
    settings: Settings,
    environment: Mapping[str, str],
    stack: contextlib.ExitStack,
    say: Callable[[str], None],
) -> Sequence[JudgeRun]:
    """The judges of a run (``[judge.NAME]``), ready to judge until the stack is left. Raises
    ``UsageError`` naming the judge.
    """
    if not settings.evaluation.judges:
        return ()
    from batchrun.rundir.judges.prepare import prepare

    found = []
    for judge in settings.evaluation.judges:
        run, warnings = prepare(judge, settings.dir, settings.checkpoint, environment)
        for warning in warnings:
            say(f"warning: {judge.key}: {warning}")
        endpoints = standing_in(run.settings.endpoints, stack, say)
        found.append(replace(run, settings=replace(run.settings, endpoints=endpoints)))
    return found
