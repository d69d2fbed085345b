"""How much room a run needs on its disks, and when there is too little to go on.

Two kinds of file grow. The log of a shard takes every answer as it comes and goes away once the
shard's parts are written; parts stay. So the most is needed while the last shard is published: all
parts, and that shard's log beside them. What a row takes is measured in this session, in its logs
and in its parts. Until a part is written, a forecast takes it to be a quarter of its log, as is
usual: a warning that turns out wrong is worse than a late one. What must be free at once takes it
to be as large as its log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from batchrun.core.text.byte_sizes import format_bytes
from batchrun.core.text.wording import counted, verb

ROWS_MIN = 100
"""A forecast takes so many finished rows."""
USUAL = 0.25
"""What a part is of its log, about: compressed text, that stands in the log twice."""
PART_OVERHEAD_BYTES = 256 * 1024
"""Heads and ends of the files that publishing a shard writes, those of the summary, the state
file's own log: what does not grow with the rows."""


class Disk(NamedTuple):
    """A file system that the run writes to. ``path`` is the folder on it that the user named;
    ``logs`` and ``parts`` say which of the two kinds stay there, ``drafts`` whether parts are
    written there.
    """

    path: str
    free_bytes: int
    logs: bool
    drafts: bool
    parts: bool


class Written(NamedTuple):
    """What this session has written, and what waits to be written.

    ``log_bytes`` are in the logs now, ``logged_bytes`` were ever written to logs in this session;
    ``part_bytes`` and ``part_rows`` are the parts that it published. ``publish_bytes`` is the most
    that writing the parts of one shard in the journal may take, ``in_flight`` the requests whose
    answers are still to come. ``rows_left`` is None where nobody knows.
    """

    at_s: float
    rows_done: int
    rows_left: int | None
    log_bytes: int
    logged_bytes: int
    part_bytes: int
    part_rows: int
    publish_bytes: int
    in_flight: int


@dataclass(slots=True)
class Grown:
    """What was published since the parts were opened: rows and bytes of parts, bytes of the logs
    they were made from.
    """

    rows: int = 0
    part_bytes: int = 0
    log_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes that the rest of a run takes, at the most it will ever hold at a time: in all parts,
    in the largest of them, in the logs.
    """

    parts_bytes: float
    draft_bytes: float
    logs_bytes: float

    def on(self, disk: Disk) -> int:
        """What of it lands on this disk."""
        stays = disk.parts * self.parts_bytes + disk.logs * self.logs_bytes
        return round(stays + (self.draft_bytes if disk.drafts and not disk.parts else 0.0))


def forecast(written: Written, shard_rows: int) -> Forecast | None:
    """What is still to be written; None while too little is known."""
    if written.rows_left is None or written.rows_done < ROWS_MIN or not written.logged_bytes:
        return None
    log_row = written.logged_bytes / written.rows_done
    part_row = written.part_bytes / written.part_rows if written.part_rows else USUAL * log_row
    open_rows = written.log_bytes / log_row
    to_come = written.rows_left + open_rows
    last = min(to_come, shard_rows)
    logs = max(0.0, last * log_row - written.log_bytes)
    return Forecast(to_come * part_row, last * part_row, logs)


class FreeDisk:
    """Holds samples of the disks against the bound, and warns once of what will not fit."""

    def __init__(self, bound_bytes: int, shard_rows: int) -> None:
        self._bound = bound_bytes
        self._shard_rows = shard_rows
        self._before: Written | None = None
        self._warned = False

    def check(
        self, disks: Sequence[Disk], written: Written, ahead_s: float = 0.0
    ) -> tuple[str | None, str | None]:
        """What to tell the user where the run cannot go on, and what to warn of; None and None
        where there is room.

        Beside the bound there must be room so that a stop now can keep everything: on the logs'
        disk for the answers that are out, and for what comes in the next ``ahead_s`` seconds at the
        rate since the last check; where parts are written, for publishing the journal too.
        """
        coming = self._coming(written, ahead_s)
        publishing = written.publish_bytes + coming + PART_OVERHEAD_BYTES
        need = forecast(written, self._shard_rows)
        for disk in disks:
            reserve = disk.drafts * publishing or disk.logs * coming
            if disk.free_bytes < self._bound + reserve:
                return self._shortage(disk, reserve, need), None
        if need is None or self._warned:
            return None, None
        for disk in disks:
            if need.on(disk) > disk.free_bytes - self._bound:
                self._warned = True
                return None, self._warning(disk, need, written.rows_left or 0)
        return None, None

    def _coming(self, written: Written, ahead_s: float) -> int:
        before, self._before = self._before or written, written
        span_s = written.at_s - before.at_s
        grown = max(0, written.logged_bytes - before.logged_bytes)
        coming = ahead_s * grown / span_s if span_s > 0 else 0.0
        if written.rows_done >= ROWS_MIN:
            coming += written.in_flight * written.logged_bytes / written.rows_done
        return round(coming)

    def _shortage(self, disk: Disk, reserve: int, need: Forecast | None) -> str:
        more = f" The rows left need about {format_bytes(need.on(disk))} more." if need else ""
        return (
            f"the disk of {disk.path} has {format_bytes(disk.free_bytes)} free "
            f"({disk.free_bytes:,} bytes): less than --min-free-disk {format_bytes(self._bound)} "
            f"and the {format_bytes(reserve)} that writing the answers at hand "
            f"may take.{more} Make room, or lower --min-free-disk"
        )

    def _warning(self, disk: Disk, need: Forecast, rows_left: int) -> str:
        left = f"{counted(rows_left, 'row')} left {verb(rows_left, 'needs', 'need')}"
        return (
            f"warning: the {left} about {format_bytes(need.on(disk))} more on the "
            f"disk of {disk.path}, and {format_bytes(disk.free_bytes)} are free. It stops before "
            f"less than {format_bytes(self._bound)} is left (--min-free-disk); make room meanwhile"
        )
