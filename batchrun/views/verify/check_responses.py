"""The files of ``responses/``, beside the rows that name them. It shares no code with what wrote
them: see ``verify``.
"""

from __future__ import annotations

import hashlib
import re

import pyarrow as pa

from batchrun.adapters.storage import files
from batchrun.adapters.storage.store import RESPONSES, StoreReader
from batchrun.core.text.wording import counted, verb
from batchrun.views.verify.findings import Report
from batchrun.views.verify.part_reader import PartReader

_NAME = re.compile(r"[0-9a-f]{64}")
COUNT = b"batchrun.references"
"""Key of a part's metadata: how many files its rows name; absent for none."""


class Responses:
    """Checks the files that rows name, each once."""

    def __init__(self, store: StoreReader, report: Report) -> None:
        self._store = store
        self._report = report
        self._there = set(store.names(RESPONSES))
        self._named: dict[str, bool] = {}

    def check(self, part: PartReader) -> None:
        """Every file that a part of results names is there, and is what it was. Raises
        ``UnreadableError``.
        """
        told = part.metadata.get(COUNT)
        if told is None and part.vouched:
            return
        count = 0
        for row, name in part.named_files():
            count += 1
            self._check_file(row, name)
        said = int(told) if told is not None and told.isdigit() else 0
        self._report.claim(
            count == said,
            "response_count",
            f"{part.where} says that its rows name {said} files of {RESPONSES}/, they name {count}",
        )

    def _check_file(self, row: int, name: str) -> None:
        if name not in self._named:
            self._named[name] = self._is_sound(name)
        self._report.claim(
            self._named[name],
            "response_file",
            f"row {row} names {RESPONSES}/{name}, which is "
            f"{'not what was written' if name in self._there else 'missing'}",
        )

    def _is_sound(self, name: str) -> bool:
        try:
            with self._store.open(f"{RESPONSES}/{name}") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == name
        except (OSError, pa.ArrowException):
            return False

    def check_others(self, *, live: bool) -> None:
        """What else is in the folder."""
        unnamed = 0
        for name in sorted(self._there - self._named.keys()):
            if _NAME.fullmatch(name):
                unnamed += 1
            elif not name.endswith(files.TEMPORARY):
                self._report.found("stray", f"{RESPONSES}/{name} is not a file of a run; remove it")
            elif not live:
                text = f"{RESPONSES}/{name} is a leftover of a kill; run again"
                self._report.found("left_over", text)
        if unnamed:
            left = f"{counted(unnamed, 'file')} of {RESPONSES}/ {verb(unnamed, 'is', 'are')}"
            self._report.notes.append(
                f"{left} named by no row: answers that a later one replaced, or that a kill came "
                "before"
            )
