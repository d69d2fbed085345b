"""Servers that batchrun starts for a run: simulators, and small local models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.providers import LOCAL, LOCAL_MODEL, SIMULATOR
from batchrun.core.settings.resolve import Settings

if TYPE_CHECKING:  # loaded only by runs with judges
    from batchrun.core.run.changes import Changes
    from batchrun.judging import RunSession
    from batchrun.rundir.judges.prepare import JudgeRun
    from batchrun.session import Result


def standing_in(
    endpoints: Sequence[Endpoint], stack: contextlib.ExitStack, say: Callable[[str], None]
) -> tuple[Endpoint, ...]:
    """The endpoints with their URLs: each of a built-in provider gets its own server until the
    stack is left. Notifies the user. Blocks while a model loads.

    Raises ``UsageError`` if the packages for ``--provider local`` are not installed, and
    ``LocalServerError`` if its server does not begin to serve.
    """
    found = []
    for endpoint in endpoints:
        if endpoint.provider == SIMULATOR:
            from batchrun.simulator.embedded import EmbeddedSimulator

            url = stack.enter_context(EmbeddedSimulator()).base_url
            say(f"answers come from the built-in simulator at {url}, not from a model")
            found.append(replace(endpoint, base_url=url))
        elif endpoint.provider == LOCAL:
            from batchrun.adapters.local_model.server import LocalServer

            server = stack.enter_context(LocalServer())
            say(f"started a llama.cpp server with {LOCAL_MODEL} at {server.base_url}")
            started = replace(endpoint, base_url=server.base_url, failure=server.failure)
            found.append(started)
        else:
            found.append(endpoint)
    return tuple(found)


def served(run_session: RunSession) -> RunSession:
    """The machinery with a server for each endpoint of a session that has a built-in provider."""

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


async def standing_in_thread(
    endpoints: Sequence[Endpoint], stack: contextlib.ExitStack, say: Callable[[str], None]
) -> tuple[Endpoint, ...]:
    """``standing_in`` for a caller's loop, which is not blocked while a model loads."""
    if all(endpoint.provider != LOCAL for endpoint in endpoints):
        return standing_in(endpoints, stack, say)
    import asyncio

    return await asyncio.to_thread(standing_in, endpoints, stack, say)


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
