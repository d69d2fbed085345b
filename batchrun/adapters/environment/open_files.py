"""How many files this process may have open, sockets among them: enough, or a clear word before
anything is sent. In mid-run the want of them would look like a network that fails.
"""

from __future__ import annotations

from batchrun.adapters.system import platform
from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.settings.providers import SIMULATOR
from batchrun.core.settings.resolve import Settings
from batchrun.engine.session.row_window import OPEN_ROWS_MAX, OPEN_ROWS_PER_PERMIT
from batchrun.errors import UsageError

SPARE = 48
"""Beside sockets and logs: input, state file, drafts, event loop, name look-ups."""


def needed(settings: Settings) -> int:
    """Files that a run has open at once, those of this process included, with a socket for each
    request in flight: two with a built-in simulator, which is the other end.
    """
    sockets = [e.concurrency * _sockets(e) for e in settings.endpoints]
    return _open_now() + sum(sockets) + SPARE


def within(endpoint: Endpoint, settings: Settings) -> tuple[int, int] | None:
    """The bounds of an endpoint's concurrency, as far as this process may have files open."""
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
    """What to tell the user once the concurrency has reached its upper bound, where that is the
    number of files this process may have open; None where it is the setting.
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
    """Sockets for each request in flight: a built-in simulator is the other end, too."""
    return 2 if endpoint.provider == SIMULATOR else 1


def raise_limit(settings: Settings) -> None:
    """Raise this process's own limit, as far as it may, to what the run may come to need: each
    shard that has open rows keeps a log open, too. Only for processes of our own.
    """
    soft, most = platform.open_files_limit()
    more = sum((e.concurrency_max - e.concurrency) * _sockets(e) for e in settings.endpoints)
    permits = sum(endpoint.concurrency_max for endpoint in settings.endpoints)
    rows = max(OPEN_ROWS_MAX, OPEN_ROWS_PER_PERMIT * permits)
    need = needed(settings) + more + rows // settings.shard_rows
    if soft is not None and soft < need:
        platform.raise_open_files(need if most is None else min(need, most))


def require(settings: Settings) -> None:
    """Raises ``UsageError`` naming both numbers where the limit is too low."""
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
    """Why this process cannot have so many more requests in flight; None where it can. Its limit is
    raised as far as it may be.
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
