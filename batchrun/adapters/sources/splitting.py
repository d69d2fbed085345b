"""Tells readers which of a row's fields are sent and which are carried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from batchrun.core.request import cells
from batchrun.core.request.body import Split, split
from batchrun.core.request.column_roles import ALL, JSON, Roles
from batchrun.core.settings.reading import Reading
from batchrun.records import JsonObject

if TYPE_CHECKING:
    from batchrun.core.request.prompt import Plan

MESSAGE_COLUMNS = frozenset(("messages", "body", "extra_body"))
"""A table whose rows are requests has at least one of these columns."""


Splitter = Callable[[JsonObject], Split]
"""Splits a row's fields into those sent and those carried (``body.split`` is one)."""


def needs_of(splitter: Splitter) -> frozenset[str]:
    """The columns that must be read, whether they are sent, carried or neither."""
    needs: frozenset[str] = getattr(splitter, "needs", frozenset())
    return needs


def reserved_by(splitter: Splitter) -> frozenset[str]:
    """Additional columns of this run's results, besides those of all runs."""
    reserved: frozenset[str] = getattr(splitter, "reserved", frozenset())
    return reserved


def roles_of(splitter: Splitter) -> Roles | None:
    """The plan that assigns columns; None if ``body.split`` or earlier reading rules do."""
    if isinstance(splitter, Roles):
        return splitter
    roles: Roles | None = getattr(splitter, "roles", None)
    return roles


def splitter_of(kind: str, plan: Plan | None, reading: Reading) -> Splitter:
    """The splitter for rows of a format before anything is rendered."""
    if not reading.columns_are_data:
        return split
    prompted = plan is not None and bool(plan.messages)
    send, identity = (None, None) if plan is None else (plan.send, plan.identity)
    if kind in JSON and not prompted and identity is None and send in (None, ALL):
        return split
    return Roles(kind, prompted=prompted, send=send, identity=identity)


def sent_columns(names: Sequence[str], splitter: Splitter) -> frozenset[str]:
    """Which columns of a table are parameters; every other one is data."""
    roles = roles_of(splitter)
    if roles is not None:
        return roles.consumed(names)
    # In rows that may have messages, parameters are columns as usual.
    data: frozenset[str] = getattr(splitter, "data", frozenset())
    return cells.sent_columns(names, () if "messages" in names else data)


def schema_splitter(splitter: Splitter) -> Splitter:
    """A splitter for finding the carried columns: no template is rendered, no file read."""
    apart: Splitter = getattr(splitter, "apart", splitter)
    return apart
