"""What ``progress=True`` shows: a bar in a notebook, the live display on a terminal, and plain
lines on stderr elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self

from batchrun.ports import Observer
from batchrun.views import ending, notebook
from batchrun.views.progress import LiveProgress, PlainProgress
from batchrun.views.text import safe


class Progress(AbstractContextManager["Progress"]):
    """Wraps a run: ``observer`` watches it, ``ended`` takes its summary. Make it in the thread of
    the caller. ``folder`` is the run directory.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._notebook = notebook.NotebookProgress() if notebook.in_notebook() else None
        self._ended: Mapping[str, Any] | None = None
        self.observer: Observer = self._notebook or PlainProgress(_write)

    def __enter__(self) -> Self:
        if self._notebook is None and sys.stderr.isatty():
            self.observer = self._stack.enter_context(LiveProgress.on_stderr())
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
        if self._ended is None:
            return
        if self._notebook is not None:
            self._notebook.ended(self._ended, self._folder)
            return
        for line in ending.lines(self._ended, self._folder, resume="")[:2]:
            _write(line)

    def ended(self, summary: Mapping[str, Any]) -> None:
        """The run ended, with this summary."""
        self._ended = summary


def _write(line: str) -> None:
    print(safe(line), file=sys.stderr, flush=True)  # noqa: T201 - the caller asked for it
