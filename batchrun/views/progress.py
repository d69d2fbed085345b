"""Progress on the terminal: a live display, or plain lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Self

from batchrun.core.text.wording import counted
from batchrun.engine.observe.monitor import EndpointSnapshot, Snapshot
from batchrun.views import failures, funds
from batchrun.views.layout import columns_of
from batchrun.views.text import BOUND, HEALTH, duration, in_flight, rate, safe, share

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

LINE_EVERY_S, LINE_EVERY_MAX_S = 5.0, 600.0
"""The least and the most time between two plain lines."""
CLASSES_SHOWN = 3
"""Error classes of which the live display has an example."""
TEXT_LINES = 2
"""Lines of the live display for one text: an example, or what to do about it."""
_INDENT, _MORE = "  ", " ..."
ENDPOINTS_SHOWN = 8
"""Lines of the live display for endpoints, where there are several: those in trouble first."""


def line(s: Snapshot) -> str:
    """A snapshot as one line."""
    parts = [
        f"{s.done:,}/{_whole(s)} {share(s.done, s.rows_input)}".rstrip(),
        f"ok {s.ok:,}",
        f"failed {s.error:,}",
        f"retried {s.retries:,}",
        f"{rate(s.requests_per_s)} requests",
        f"{rate(s.tokens_per_s)} tokens",
        in_flight(s.in_flight, s.waiting, s.waiting_for),
        f"throttled {s.throttled:,}",
        f"ETA {duration(s.eta_s)}",
    ]
    known = asdict(s.money) if s.money else None
    parts += [f"failed by class: {failures.class_counts(s.errors)}"] if s.errors else []
    parts += failures.flaw_pieces(s.outputs, s.outputs["answers"]) if s.outputs else []
    parts[8:8] = [*funds.costs(s.cost_usd, known), *funds.charged(known)]
    if s.state != "running":
        parts.insert(0, s.state)
    if s.bound_by is not None:
        parts.append(f"bound by {s.bound_by}")
    parts += [f"{safe(e.name)} {e.state}" for e in s.endpoints if e.state in ("down", "closed")]
    return " | ".join(parts)


def _whole(s: Snapshot) -> str:
    return "? rows" if s.rows_input is None else counted(s.rows_input, "row")


class PlainProgress:
    """An observer that writes a line every few seconds, less often as the run gets longer; and one
    at once for each error class that appears.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._began_s = time.monotonic()
        self._next_s = self._began_s + LINE_EVERY_S
        self._state = "running"
        self._classes: set[str] = set()

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        if not isinstance(event, Snapshot):
            return
        now = time.monotonic()
        if now >= self._next_s or event.state != self._state:
            self._next_s = now + line_interval_s(now - self._began_s)
            self._state = event.state
            self._write(line(event))
        for name in event.errors.keys() - self._classes:
            self._classes.add(name)
            for told in failures.example_lines(event.examples, {name: event.errors[name]}):
                self._write(f"failed: {told}")


def line_interval_s(elapsed_s: float) -> float:
    """Seconds from one line to the next: a tenth of what the run took so far, within bounds."""
    return min(LINE_EVERY_MAX_S, max(LINE_EVERY_S, elapsed_s / 10))


class LiveProgress:
    """An observer that keeps a small display up to date. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._live: Live = Live(console=console, auto_refresh=False, transient=True)

    @classmethod
    def on_stderr(cls) -> Self:
        """The display on stderr, which is a terminal."""
        from rich.console import Console

        return cls(Console(stderr=True))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def __call__(self, event: object) -> None:
        """See ``ports.Observer``."""
        if isinstance(event, Snapshot):
            self._live.update(_display(event, self._console.width), refresh=True)


def _display(s: Snapshot, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    head = f"{s.done:,}/{_whole(s)} {share(s.done, s.rows_input)}".rstrip()
    ok = Text.assemble(("ok ", "green"), f"{s.ok:,}")
    failed = Text.assemble(("failed ", "red" if s.error else ""), f"{s.error:,}")
    times = (f"ETA {duration(s.eta_s)}", f"elapsed {duration(s.elapsed_s)}")
    rates = [f"{rate(s.requests_per_s)} requests", f"{rate(s.tokens_per_s)} tokens"]
    known = asdict(s.money) if s.money else None
    spent = [funds.costs(s.cost_usd, known), funds.charged(known)]
    return Group(
        *_flow([Text(head, "bold"), *times], width),
        _bar(s, max(10, width - 1)),
        *_flow([ok, failed, f"retried {s.retries:,}", f"throttled {s.throttled:,}"], width),
        *_flow([*rates, in_flight(s.in_flight, s.waiting, s.waiting_for)], width),
        *(line for pieces in spent if pieces for line in _flow(pieces, width)),
        *_flaws(s, width),
        *_failures(s, width),
        *_endpoints(s.endpoints, width),
        *_texts(_last_line(s), width, "dim"),
    )


def _flaws(s: Snapshot, width: int) -> Iterator[Text]:
    """How many answers are cut off or empty; in red where most are."""
    from rich.text import Text

    if not s.outputs:
        return
    answers = s.outputs["answers"]
    if pieces := failures.flaw_pieces(s.outputs, answers):
        colour = "yellow" if failures.mostly(s.outputs, answers) is None else "bold red"
        yield from _flow([Text(piece, colour) for piece in pieces], width)


def _failures(s: Snapshot, width: int) -> Iterator[Text]:
    """The classes with most failed rows: how many, an example, and what to do."""
    from rich.text import Text

    if not s.errors:
        return
    shown = dict(list(s.errors.items())[:CLASSES_SHOWN])
    remedies = dict(failures.advice(shown))
    counts = [Text(f"{safe(name)} {rows:,}", "red") for name, rows in s.errors.items()]
    yield from _flow([Text("failed by class:"), *counts], width)
    for name, rows in shown.items():
        for told in failures.example_lines(s.examples, {name: rows}):
            yield from _texts(told, width)
        if name in remedies:
            yield from _texts(f"  {remedies[name]}", width, "dim")


def _texts(text: str, width: int, style: str = "") -> Iterator[Text]:
    """A text on at most ``TEXT_LINES`` lines that end at words, or within one that is too long for
    a line, as a sentence without spaces is.
    """
    from rich.console import Console
    from rich.text import Text

    room = max(8, width - len(_INDENT))
    lines = Text(text.strip(), style).wrap(Console(width=room), room)
    for line in lines[:TEXT_LINES]:
        line.rstrip()
    if len(lines) > TEXT_LINES:
        last = lines[TEXT_LINES - 1]
        while last.cell_len + len(_MORE) > room:
            words = last.plain.rpartition(" ")[0]
            last.truncate(columns_of(words) if words else room - len(_MORE))
        last.append(_MORE)
    for n, line in enumerate(lines[:TEXT_LINES]):
        yield Text.assemble(_INDENT if n or text.startswith(_INDENT) else "", line)


def _endpoints(endpoints: Sequence[EndpointSnapshot], width: int) -> Iterator[Text]:
    """A line for each of several endpoints, and one for those that have no line of their own."""
    from rich.text import Text

    if len(endpoints) < 2:
        return
    first = endpoints
    if len(endpoints) > ENDPOINTS_SHOWN:
        rank = list(HEALTH)
        first = sorted(endpoints, key=lambda e: rank.index(e.state), reverse=True)
        first = first[: ENDPOINTS_SHOWN - 1]
    for each in first:
        yield _endpoint(each, width)
    if left := len(endpoints) - len(first):
        yield Text(f"and {left} more", style="dim")


def _endpoint(e: EndpointSnapshot, width: int) -> Text:
    """One of several endpoints, on one line."""
    from rich.text import Text

    state = Text(HEALTH[e.state], {"up": "green", "throttled": "yellow"}.get(e.state, "red"))
    numbers = f"{rate(e.requests_per_s)}  in flight {e.in_flight}  answered {e.answers:,}"
    name = Text(safe(e.name))
    name.truncate(max(8, width // 2), overflow="ellipsis")
    line = Text.assemble(name, "  ", state, "  ", numbers)
    line.truncate(width, overflow="ellipsis")
    return line


def _flow(pieces: Sequence[str | Text], width: int) -> Iterator[Text]:
    """The pieces on as many lines as they need; none is broken in two."""
    from rich.text import Text

    line = Text()
    for piece in pieces:
        size = columns_of(piece) if isinstance(piece, str) else piece.cell_len
        if line and line.cell_len + 2 + size > width:
            yield line
            line = Text()
        if line:
            line.append("  ")
        line.append(piece)
    yield line


def _bar(s: Snapshot, width: int) -> RenderableType:
    """The share done as a line; empty while the whole is not known."""
    from rich.text import Text

    filled = width * s.done // s.rows_input if s.rows_input else 0
    return Text.assemble(("━" * filled, "green"), ("━" * (width - filled), "dim"))


def _last_line(s: Snapshot) -> str:
    if s.state == "stopping":
        return "stopping: requests in flight may finish; another one stops immediately"
    if s.bound_by is not None:
        return f"bound by {BOUND[s.bound_by]}"
    return s.state
