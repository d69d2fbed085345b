"""What ``batchrun ctl`` asks of a whole fleet: a chain of records that every process follows.

``controls/NUMBER`` can only be created if it is absent, so two people who change a fleet at once do
so one after the other. Records never change. Each process reads the next one whenever it renews its
lease on the limits (``quota.py``), and a book says up to which record its limits were changed: so
nobody computes a share by limits that are older than those of the book before.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from batchrun.core.fleet.quota import CONCURRENCY, RPM, TPM, Limit
from batchrun.core.run.controls import ACTIONS, Values, checked_values, key_of
from batchrun.errors import UsageError

if TYPE_CHECKING:
    from batchrun.ports import ClaimStore

FOLDER = "controls"
"""Where a fleet keeps these records."""
SETTABLE = (CONCURRENCY, RPM, TPM)
"""The keys of ``set`` that processes can change together."""
DRAIN, PAUSE, RESUME, SET = "drain", "pause", "resume", "set"


class Control(NamedTuple):
    """One thing that was asked for. Numbers count from 1."""

    number: int
    do: str
    values: Values
    at: str
    """When the operation was requested: UTC, by the requester's clock."""
    id: str = ""
    """What tells this record from any other's of the same number."""

    @property
    def name(self) -> str:
        """What the record is called in the store."""
        return record_name(self.number)

    def as_bytes(self) -> bytes:
        """The content of the record."""
        return json.dumps(
            {"do": self.do, "values": self.values, "at": self.at, "id": self.id}
        ).encode()

    def as_history(self) -> dict[str, Any]:
        """How the summary tells of it: the same as for a run of one process."""
        done: dict[str, Any] = dict(self.values)
        if self.do == DRAIN:
            done = {DRAIN: True}
        elif self.do in (PAUSE, RESUME):
            done = {"paused": self.do == PAUSE}
        return {"at": self.at, "set": done}


def record_name(number: int) -> str:
    """What the record with this number is called in the store."""
    return f"{FOLDER}/{number:08d}"


def parse(number: int, content: bytes) -> Control:
    """The record with this content. Raises ``ValueError`` for what is none."""
    try:
        value = json.loads(content)
        do = value["do"]
        values = checked_values(value["values"]) if do == SET else {}
        found = Control(number, do, values, str(value["at"]), str(value["id"]))
        if do in ACTIONS:
            return found
        wrong: Exception | None = None
    except (ValueError, KeyError, TypeError, UsageError) as error:
        wrong = error
    message = f"{record_name(number)} is no change of a fleet: {content[:80]!r}"
    raise ValueError(message) from wrong


def read_after(store: ClaimStore, number: int) -> list[Control]:
    """The records that follow a number, in order. Raises ``ValueError`` for one that is none, and
    ``StorageError``.
    """
    found: list[Control] = []
    while True:
        following = number + len(found) + 1
        content = store.read(record_name(following))
        if content is None:
            return found
        found.append(parse(following, content))


def added(store: ClaimStore, control: Control) -> Control | None:
    """Make a record behind those that are there, whatever its number is so far. None: the fleet
    has ended. Raises as ``read_after`` does.
    """
    while True:
        latest = control.number - 1 + len(read_after(store, control.number - 1))
        control = control._replace(number=latest + 1)
        if store.create(control.name, control.as_bytes()):
            return control
        if store.read(control.name) is None:
            return None


def state_after(controls: Iterable[Control]) -> str:
    """What a fleet does after these: it is ``running``, ``paused`` or ``stopping``."""
    state = "running"
    for control in controls:
        if control.do == DRAIN:
            return "stopping"
        if control.do != SET:
            state = "paused" if control.do == PAUSE else "running"
    return state


def limits_under(limits: Sequence[Limit], control: Control) -> tuple[Limit, ...]:
    """The limits of the whole fleet once a change is made."""
    totals = {(limit.endpoint, limit.kind): limit for limit in limits}
    endpoints = list(dict.fromkeys(limit.endpoint for limit in limits))
    for name, value in control.values.items():
        endpoint, kind = key_of(name)
        if kind not in SETTABLE:
            continue
        for each in endpoints if endpoint is None else [endpoint]:
            if value is None or not math.isfinite(value):
                totals.pop((each, kind), None)
            elif each in endpoints:
                totals[each, kind] = Limit(each, kind, float(value))
    return tuple(totals.values())


def fixes_concurrency(control: Control, endpoint: str) -> bool:
    """Whether a change sets how many requests an endpoint has in flight."""
    return any(key_of(name) in ((None, CONCURRENCY), (endpoint, CONCURRENCY))
               for name in control.values)  # fmt: skip


def require_settable(values: Values, endpoints: Sequence[str]) -> None:
    """Raise ``UsageError`` for a key that processes cannot change together, and for an endpoint
    that they do not have.
    """
    for name in values:
        endpoint, key = key_of(name)
        if endpoint is not None and endpoint not in endpoints:
            message = f"{name}: no endpoint is called {endpoint}; there are {', '.join(endpoints)}"
            raise UsageError(message)
        if key not in SETTABLE:
            message = (
                f"{key} cannot be changed while several processes do the run together; "
                f"{', '.join(SETTABLE)} can. Drain it (`batchrun ctl DIR drain`), and start the "
                "processes again with the other value"
            )
            raise UsageError(message)
