"""``batchrun status --watch``: the status of a run in a terminal, redrawn until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from batchrun.views import run_status
from batchrun.views.layout import wrap
from batchrun.views.progress import line_interval_s
from batchrun.views.text import verdict

REDRAW_S = 1.0
"""Seconds between two checks."""
LOOK_SHARE = 0.1
"""A look that takes longer may take this share of the time: where several processes do a run
together, it reads what they have not published yet.
"""


def looks(
    folder: str, checkpoint: str | None, sleep: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, Any]]:
    """What ``run_status.read`` finds, once a second while the run is live; last, how it ended.
    Raises ``UsageError`` for what is not a run directory.
    """
    while True:
        began_s = time.monotonic()
        found = run_status.read(folder, checkpoint)
        took_s = time.monotonic() - began_s
        yield found
        if found["state"] != "running":
            return
        sleep(max(REDRAW_S, took_s / LOOK_SHARE - took_s))


def redraw(
    folder: str, checkpoint: str | None, write: Callable[[str], None], *, coloured: bool
) -> None:
    """Show a live run on the terminal in one place, until it ends; then ``write`` gets its last
    lines.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(no_color=not coloured, highlight=False)
    found: dict[str, Any] = {}
    with Live(
        console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
    ) as live:
        for found in looks(folder, checkpoint):
            text = Text(no_wrap=True, overflow="ellipsis")
            for line in run_status.lines(found, folder, checkpoint):
                shown = "\n".join(wrap(line, max(20, console.width - 1), hang=2))
                label, rest, colour = verdict(shown)
                text.append(label, f"bold {colour}" if colour else "").append(f"{rest}\n")
            if found["state"] == "running":
                live.update(text, refresh=True)
    for line in run_status.lines(found, folder, checkpoint):
        write(line)


def follow(folder: str, checkpoint: str | None, write: Callable[[str], None]) -> None:
    """The same where no terminal is: all lines at the start and at the end, and in between how far
    the run is, less often as it gets longer.
    """
    began_s = next_s = time.monotonic()
    found: dict[str, Any] = {}
    for found in looks(folder, checkpoint):
        now_s = time.monotonic()
        if found["state"] != "running" or now_s < next_s:
            continue
        told = run_status.lines(found, folder, checkpoint)
        for line in told if next_s == began_s else told[1:3]:
            write(line)
        next_s = now_s + line_interval_s(now_s - began_s)
    for line in run_status.lines(found, folder, checkpoint):
        write(line)
