"""Built-in simulators for the endpoints of a run that are one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.providers import SIMULATOR


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
