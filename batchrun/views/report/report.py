"""Making the report of a run directory, and writing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun import __version__
from batchrun.adapters.environment import series_file
from batchrun.adapters.storage import files
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.object_store import ObjectStore
from batchrun.adapters.storage.store import KINDS, USAGE, StoreReader, part_names
from batchrun.core.run.series import Series
from batchrun.core.settings.addresses import format_address, local_path
from batchrun.errors import StorageError, UsageError
from batchrun.rundir import inspect
from batchrun.views import run_status
from batchrun.views.pages.rendering import render
from batchrun.views.published import Results
from batchrun.views.report import comparison
from batchrun.views.report.gathering import gather
from batchrun.views.report.heading import heading
from batchrun.views.report.limits import PAGE_BYTES_MAX, Limits
from batchrun.views.report.sections import Facts, Writer, sections

NAME = "report.html"
STYLES = ("uplot/uPlot.min.css", "style.css")
SCRIPTS = ("uplot/uPlot.iife.min.js", "plots.js")
MARK = b'content="batchrun report"'
"""What a report holds within its first bytes: such a file is replaced, any other one is not."""
_HEAD_BYTES = 2048

KEYS = {
    "file": "Where the report is.",
    "bytes": "Its size.",
    "rows": "Rows of the published results that it was made from.",
    "live": "Whether the run was still working.",
}
"""What the keys of ``report --json`` mean, for the reference."""


@dataclass(frozen=True, slots=True)
class Report:
    """A page, and what it was made from."""

    page: bytes
    rows: int
    live: bool


def make(folder: str, checkpoint: str | None = None, against: str | None = None) -> Report:
    """The report of a run directory, live or ended. Takes no lock and writes nothing.

    Raises ``UsageError`` if it is not a run directory, ``DamagedError`` if a part cannot be read.
    """
    facts = _facts(folder, checkpoint, against)
    rows = 0 if facts.gathered is None else facts.gathered.rows
    limits = Limits()
    while len(page := _page(facts, limits).encode()) > PAGE_BYTES_MAX:
        limits = limits.smaller()
    return Report(page, rows, facts.found["state"] == "running")


def _facts(folder: str, checkpoint: str | None, against: str | None) -> Facts:
    found = run_status.read(folder, checkpoint)
    look = inspect.look_at(folder, checkpoint)
    gathered = None
    if part_names(look.store, "results"):
        with Results(look.store) as results:
            gathered = gather(results)
    recorded = None
    if look.checkpoint is not None:
        recorded = files.read_json(look.checkpoint / series_file.NAME)
    other = None
    if against is not None:
        other = comparison.compared(against, folder, found.get("summary") or {})
    return Facts(
        format_address(folder), found, gathered, _usage(look.store), Series.of(recorded), other
    )


def _usage(store: StoreReader) -> list[dict[str, Any]]:
    """The lines of ``usage.parquet``; none where there is no such file yet."""
    try:
        with store.open(USAGE) as file:
            lines: list[dict[str, Any]] = pq.read_table(file, use_threads=False).to_pylist()
            return lines
    except (OSError, pa.ArrowException):
        return []


def _page(facts: Facts, limits: Limits) -> str:
    writer = Writer(limits)
    made = sections(facts, writer)
    values = heading(facts) | {
        "sections": made,
        "footer": f"Made by batchrun {__version__}. Nothing on this page comes from the network.",
    }
    data = {"charts": writer.charts} if writer.charts else None
    drawn = bool(writer.charts)
    return render(
        "report.html",
        values,
        styles=STYLES if drawn else STYLES[1:],
        scripts=SCRIPTS if drawn else (),
        data=data,
    )


def write(report: Report, folder: str, target: str | None) -> str:
    """Write a report to ``target``, by default ``report.html`` in its run directory; returns the
    path. It appears whole or not at all, and replaces an older report, but no other file.

    Raises ``UsageError`` for a place that is not free, ``StorageError`` where it cannot be written.
    """
    local = local_path(folder)
    try:
        if target is None and local is None:
            return _upload(report, folder)
        path = Path(local or "", NAME) if target is None else Path(target)
        _require_free(path, None if local is None else Path(local))
        draft = files.Draft(path, foreign=target is not None)
        with draft:
            draft.write(report.page)
            draft.sync()
            draft.rename()
        files.sync_folder(path.parent)
    except OSError as error:
        shown = target or f"{NAME} into {format_address(folder)}"
        message = f"cannot write {shown}: {error.strerror or error}; name another place with -o"
        raise StorageError(message) from None
    return str(path)


def _upload(report: Report, folder: str) -> str:
    store = inspect.look_at(folder, None).store
    assert isinstance(store, (ObjectStore, DiskStore))
    with store.draft(NAME) as draft:
        draft.write(report.page)
        store.publish([draft])
    return store.where(NAME)


def _require_free(path: Path, folder: Path | None) -> None:
    """Raises ``UsageError`` if the place has a file other than a report, or is reserved for the
    run.
    """
    if path.is_dir():
        message = f"{path} is a folder; name a file with -o"
        raise UsageError(message)
    ours = [] if folder is None else [(folder / name).resolve() for name in (*KINDS, "checkpoint")]
    if path.resolve().parent in ours:
        message = f"{path} lies among the run's own files; name another place with -o"
        raise UsageError(message)
    if path.exists():
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head and MARK not in head:
            message = f"{path} exists and is not a batchrun report; choose another file with -o"
            raise UsageError(message)
