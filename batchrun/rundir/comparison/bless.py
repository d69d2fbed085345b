"""``batchrun bless``: moves the baseline link to a run, atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchrun.adapters.storage import disk, files
from batchrun.core.evaluation.gates import GATE_FAILED
from batchrun.core.evaluation.judges import JUDGES
from batchrun.core.settings.addresses import local_path
from batchrun.core.text.legible import legible
from batchrun.errors import StorageError, UsageError
from batchrun.rundir.comparison.side import Side, open_side


@dataclass(frozen=True, slots=True)
class Blessed:
    """The link, the run that it points to now, and what it pointed to before."""

    link: str
    run: str
    before: str | None


def bless(directory: str, target: str | None, *, force: bool = False) -> Blessed:
    """Point the baseline link at a run. ``target`` is the link; None takes the baseline that the
    run recorded. ``force`` blesses a run that is unfinished, or whose gates failed.

    The link is relative, so a folder of runs can be moved; it names the run itself, not a link to
    it. Raises ``UsageError`` if the run cannot be blessed, ``StorageError`` if the link cannot be
    written.
    """
    if local_path(directory) is None:
        message = (
            f"{directory} is in an object store, where there are no links: write its address as "
            "gates.compare.baseline"
        )
        raise UsageError(message)
    side = open_side(directory)
    if not side.summary:
        message = f"{side.shown} has no summary.json: no run ended there in an orderly way"
        raise UsageError(message)
    if not force:
        _require_good(side)
    recorded = _recorded_baseline(side.settings)
    link = target or recorded
    if link is None:
        message = "no baseline is named: give --as PATH, or -c FILE with gates.compare.baseline"
        raise UsageError(message)
    local = local_path(link)
    if local is None:
        message = f"the baseline {link} is in an object store, where there are no links"
        raise UsageError(message)
    run = Path(local_path(directory) or directory)
    return _linked(run, Path(local) if target else _from_where_it_ran(run, side, Path(local)))


def _require_good(side: Side) -> None:
    if not side.is_finished:
        why = "it is still running" if side.live else f"it is {side.summary.get('status')}"
        message = f"{side.shown} is not finished ({why}); --force blesses it anyway"
        raise UsageError(message)
    judges = side.summary.get(JUDGES)
    for name, one in judges.items() if isinstance(judges, Mapping) else ():
        if one.get("pending"):
            message = f"the judge {name} of {side.shown} is not finished; --force blesses it anyway"
            raise UsageError(message)
    gates = side.summary.get("gates")
    table: Mapping[str, Any] = gates if isinstance(gates, Mapping) else {}
    failed = [name for name, gate in table.items() if gate.get("verdict") == "fail"]
    if failed or side.summary.get("exit_code") == GATE_FAILED:
        named = failed or [n for n, gate in table.items() if gate.get("verdict") == "inconclusive"]
        message = f"the gates of {side.shown} failed: {', '.join(named)}; --force blesses it anyway"
        raise UsageError(message)


def _recorded_baseline(settings: Mapping[str, Any]) -> str | None:
    gates = settings.get("gates")
    compared = gates.get("compare") if isinstance(gates, Mapping) else None
    baseline = compared.get("baseline") if isinstance(compared, Mapping) else None
    return baseline if isinstance(baseline, str) else None


def _from_where_it_ran(run: Path, side: Side, link: Path) -> Path:
    """The recorded path of a link, which counts from the folder that the run was started in."""
    given = side.settings.get("output.dir")
    local = local_path(given) if isinstance(given, str) else None
    if local is None or Path(local).is_absolute() or link.is_absolute():
        return link
    parts = Path(os.path.normpath(local)).parts
    real = run.resolve()
    folder = Path(*real.parts[: -len(parts)])
    if ".." in parts or real.parts[-len(parts) :] != parts or folder == Path.cwd():
        return link  # the run was moved since, or this is the folder
    return Path(os.path.relpath(folder / link))


def _linked(run: Path, link: Path) -> Blessed:
    """Make the link, or replace it."""
    shown = legible(str(link))
    if link.exists() and not link.is_symlink():
        what = "a directory" if link.is_dir() else "a file"
        message = (
            f"{shown} is {what}, not a link, and bless never replaces it: move it away, or name "
            "another link with --as"
        )
        raise UsageError(message)
    if not link.parent.is_dir():
        message = f"the folder of {shown} does not exist"
        raise UsageError(message)
    real = run.resolve()
    before = str(link.readlink()) if link.is_symlink() else None
    text = os.path.relpath(real, link.parent.resolve())
    fresh = files.aside(link, foreign=True)
    try:
        if fresh.is_symlink():  # a kill left it
            disk.unlink(fresh)
        disk.symlink(text, fresh)
        disk.rename(fresh, link)
        files.sync_folder(link.parent)
    except OSError as error:
        message = f"cannot write the link {shown}: {error.strerror}"
        raise StorageError(message) from error
    return Blessed(str(link), text, before)
