"""Which of a row's fields are sent and which are carried, as readers are told."""

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
"""The columns of a table of which at least one is there if its rows are requests."""


Splitter = Callable[[JsonObject], Split]
"""Tells a row's fields apart: what is sent, what is carried (``body.split`` is one)."""


def needs_of(splitter: Splitter) -> frozenset[str]:
    """The columns that have to be among the fields, whether they are sent, carried or neither."""
    needs: frozenset[str] = getattr(splitter, "needs", frozenset())
    return needs


def reserved_by(splitter: Splitter) -> frozenset[str]:
    """Columns that the run's results have of their own, besides those that all runs have."""
    reserved: frozenset[str] = getattr(splitter, "reserved", frozenset())
    return reserved


def roles_of(splitter: Splitter) -> Roles | None:
    """What says what columns are for; None where ``body.split`` or earlier reading rules do."""
    if isinstance(splitter, Roles):
        return splitter
    roles: Roles | None = getattr(splitter, "roles", None)
    return roles


def splitter_of(kind: str, plan: Plan | None, reading: Reading) -> Splitter:
    """How rows of a format are told apart before anything is rendered."""
    if not reading.columns_are_data:
        return split
    prompted = plan is not None and bool(plan.messages)
    send, identity = (None, None) if plan is None else (plan.send, plan.identity)
    if kind in JSON and not prompted and identity is None and send in (None, ALL):
        return split
    return Roles(kind, prompted=prompted, send=send, identity=identity)


def sent_columns(names: Sequence[str], splitter: Splitter) -> frozenset[str]:
    """Which columns of a table are told apart as parameters; every other one is data."""
    roles = roles_of(splitter)
    if roles is not None:
        return roles.consumed(names)
    # Rows that may bring messages have their parameters where they are expected.
    data: frozenset[str] = getattr(splitter, "data", frozenset())
    return cells.sent_columns(names, () if "messages" in names else data)


def schema_splitter(splitter: Splitter) -> Splitter:
    """A splitter for finding out what is carried: no template is rendered, no file read."""
    apart: Splitter = getattr(splitter, "apart", splitter)
    return apart
