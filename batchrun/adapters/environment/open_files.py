"""Checks before anything is sent that this process may open enough files, including sockets. In
mid-run a lack of them would look like a network failure.
"""

from __future__ import annotations

from batchrun.adapters.system import platform
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.providers import SIMULATOR
from batchrun.core.settings.resolve import Settings
from batchrun.engine.session.row_window import OPEN_ROWS_MAX, OPEN_ROWS_PER_PERMIT
from batchrun.errors import UsageError

SPARE = 48
"""Files besides sockets and logs: input, state file, drafts, event loop, name look-ups."""


def needed(settings: Settings) -> int:
    """Files that a run has open at once, including those of this process, with a socket for each
    request in flight, or two with a built-in simulator, which is the other end.
    """
    sockets = [e.concurrency * _sockets(e) for e in settings.endpoints]
    return _open_now() + sum(sockets) + SPARE


def within(endpoint: Endpoint, settings: Settings) -> tuple[int, int] | None:
    """The bounds of an endpoint's concurrency, limited by the files this process may open."""
    if endpoint.bounds is None:
        return None
    low, high = endpoint.bounds
    limit, _ = platform.open_files_limit()
    if limit is not None:
        others = [e for e in settings.endpoints if e.bounds is not None]
        spare = max(0, limit - needed(settings)) // len(others) // _sockets(endpoint)
        high = min(high, endpoint.concurrency + spare)
    return low, max(low, high)


def bound_notice(endpoint: Endpoint, bounds: tuple[int, int] | None) -> str | None:
    """What to tell the user once the concurrency has reached its upper bound, if that comes from
    the number of files this process may open; None if it is the setting.
    """
    if bounds is None or bounds[1] >= endpoint.concurrency_max:
        return None
    limit, _ = platform.open_files_limit()
    if limit is None:
        return None
    raised = limit + (endpoint.concurrency_max - bounds[1]) * _sockets(endpoint)
    return (
        f"this process may have {limit:,} files open, which holds the concurrency at "
        f"{bounds[1]:,} (--max-concurrency allows {endpoint.concurrency_max:,}): raise the limit "
        f"with `ulimit -n {raised}` before the run, or in the service's or container's settings"
    )


def _sockets(endpoint: Endpoint) -> int:
    """Sockets for each request in flight: with a built-in simulator, this process has both ends."""
    return 2 if endpoint.provider == SIMULATOR else 1


def raise_limit(settings: Settings) -> None:
    """Raise this process's own limit, as far as allowed, to what the run may need: each shard with
    open rows also keeps a log open. Only for our own processes.
    """
    soft, most = platform.open_files_limit()
    more = sum((e.concurrency_max - e.concurrency) * _sockets(e) for e in settings.endpoints)
    permits = sum(endpoint.concurrency_max for endpoint in settings.endpoints)
    rows = max(OPEN_ROWS_MAX, OPEN_ROWS_PER_PERMIT * permits)
    need = needed(settings) + more + rows // settings.shard_rows
    if soft is not None and soft < need:
        platform.raise_open_files(need if most is None else min(need, most))


def require(settings: Settings) -> None:
    """Raises ``UsageError`` naming both numbers if the limit is too low."""
    limit, _ = platform.open_files_limit()
    need = needed(settings)
    if limit is not None and limit < need:
        concurrency = sum(endpoint.concurrency for endpoint in settings.endpoints)
        message = (
            f"a concurrency of {concurrency:,} needs {need:,} open files, and "
            f"this process may have {limit:,} (`ulimit -n`). Nothing was sent: raise that limit, "
            "or lower --concurrency"
        )
        raise UsageError(message)


def lacking(more: int) -> str | None:
    """Why this process cannot have this many more requests in flight; None if it can. Its limit is
    raised as far as allowed.
    """
    soft, most = platform.open_files_limit()
    need = _open_now() + 2 * more + SPARE
    if soft is None or need <= soft:
        return None
    if most is None or need <= most:
        platform.raise_open_files(need)
        return None
    return (
        f"{more:,} more requests at once need {need:,} open files, and this process may have "
        f"{most:,} (`ulimit -n`). Nothing was changed"
    )


def _open_now() -> int:
    found = platform.open_descriptors()
    return SPARE if found is None else found
