"""Refuses the results of a run as ordinary input of another.

Their columns are named like parameters and like answers, and parts that change during a run cannot
be input. The right way is ``--from``, which reads answers as answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from pyarrow import fs as arrow_fs

from batchrun.adapters.sources.files import storage
from batchrun.adapters.storage.store import PART_KINDS, SUMMARY, USAGE
from batchrun.core.settings.addresses import local_path
from batchrun.core.text.legible import shell_word
from batchrun.errors import InputError

_PART = re.compile(rf"(.*)/(?:{'|'.join(PART_KINDS)})/part-[0-9]{{8}}\.parquet")


def refuse(named: str, files: Iterable[str]) -> None:
    """Raise ``InputError`` if ``named`` is a run directory, a folder of its parts, or one of them;
    ``files`` are the files that it stands for.
    """
    folder = local_path(named)
    if folder is not None and Path(folder).is_dir():
        here = Path(folder).resolve()
        for place in (here, here.parent) if here.name in PART_KINDS else (here,):
            if _is_run(place):
                raise _refused(named, str(Path(folder).parent) if place != here else folder)
    known: set[str] = set()
    for file in files:
        local = local_path(file)
        path = file if local is None else str(Path(local).resolve())
        found = _PART.fullmatch(path.partition("?")[0])
        if found is None or found[1] in known:
            continue
        known.add(found[1])
        if _is_run(Path(found[1])) if local is not None else _is_remote_run(file):
            raise _refused(named, found[1])


def _is_run(folder: Path) -> bool:
    if (folder / "checkpoint" / "journal.db").exists():
        return True
    others = (SUMMARY, USAGE, "attempts")
    return (folder / "results").is_dir() and any((folder / name).exists() for name in others)


def _is_remote_run(part: str) -> bool:
    there = storage.place(part)
    base = there.path.rpartition("/")[0].rpartition("/")[0]
    infos = there.system.get_file_info([f"{base}/{name}" for name in (SUMMARY, USAGE, "attempts")])
    return any(info.type != arrow_fs.FileType.NotFound for info in infos)


def _refused(named: str, directory: str) -> InputError:
    shown = storage.Stamp(named, 0, 0).name
    return InputError(
        f"input {shown}: these are the results of a run, {storage.Stamp(directory, 0, 0).name}. To "
        f"use its answers as input, name that run with --from: batchrun run --from "
        f"{shell_word(directory)} --prompt 'Summarize: {{{{ row.content }}}}' -o OUT. "
        "`batchrun export` writes them into a file"
    )
