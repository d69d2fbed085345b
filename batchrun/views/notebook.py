"""A progress bar in the output of a notebook cell: Jupyter, VS Code, Colab.

IPython is never imported unless the process is a kernel already. Texts of servers and rows are
escaped.
"""

from __future__ import annotations

import contextvars
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from batchrun.core.text.wording import counted
from batchrun.engine.observe.monitor import Snapshot
from batchrun.views import ending, failures, funds
from batchrun.views.text import duration, rate


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar with figures next to it, and lines below. ``whole`` is None while it is not known."""

    done: int
    whole: int | None
    figures: str
    lines: Sequence[str] = ()

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """The bar as IPython asks for it: HTML, and text where there is none."""
        return {"text/plain": repr(self), "text/html": self.html()}

    def __repr__(self) -> str:
        return "\n".join([self.figures, *self.lines])

    def html(self) -> str:
        """The bar as HTML without styles or scripts of its own."""
        place = "" if self.whole is None else f' max="{max(1, self.whole)}" value="{self.done}"'
        rest = "".join(f"<br>{escape(line)}" for line in self.lines)
        return (
            f'<div><progress{place} style="width: 20em; vertical-align: middle"></progress> '
            f"{escape(self.figures)}{rest}</div>"
        )


class NotebookProgress:
    """An observer that keeps one bar up to date. Make it in the thread that runs the cell: its
    context says which cell an output belongs to.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._handle: Any = None

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        if isinstance(event, Snapshot):
            self._show(_of_snapshot(event))

    def ended(self, summary: Mapping[str, Any], folder: str) -> None:
        """Show how the run ended."""
        rows = summary["rows"]
        head = ending.lines(summary, folder, resume="")[0]
        told = _failed(summary["errors"], summary.get("examples") or {})
        self._show(Bar(rows["ok"] + rows["error"], rows["input"], head, told))

    def _show(self, bar: Bar) -> None:
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = self._context.run(display, bar, display_id=True)
        else:
            self._context.run(self._handle.update, bar)


def _of_snapshot(s: Snapshot) -> Bar:
    """The bar of a run that is going on."""
    whole = "? rows" if s.rows_input is None else counted(s.rows_input, "row")
    figures = [
        f"{s.done:,} of {whole}",
        *([f"{s.error:,} failed"] if s.error else []),
        f"{rate(s.requests_per_s)} requests",
        *funds.costs(s.cost_usd, None),
        f"ETA {duration(s.eta_s)}",
    ]
    if s.state != "running":
        figures.insert(0, s.state)
    return Bar(s.done, s.rows_input, ", ".join(figures), _failed(s.errors, s.examples))


def _failed(errors: Mapping[str, int], examples: Mapping[str, Any]) -> list[str]:
    """Failed rows by class, and an example of each; nothing where no row failed."""
    if not errors:
        return []
    return [
        f"failed by class: {failures.class_counts(errors)}",
        *failures.example_lines(examples, errors),
    ]
