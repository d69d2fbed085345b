"""The figures of clients.py on disk, and the page and the plots made of them."""

import html
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness import HERE
from roster import CLIENTS, FLOOR

PAGE = HERE / "RESULTS.md"
FOLDER = HERE / "results"
STORE = FOLDER / "figures.json"

Run = dict[str, Any]
Situation = dict[str, Any]
Figure = Callable[[Run], float]

NONE = "\u2013"  # in a cell without a figure
COLOURS = ("#2f6f9f", "#d98a2b", "#5b8c5a", "#a94f6d", "#7d7aa8")
WIDTH, LEFT, BAR, GAP = 720, 130, 13, 10


@dataclass(slots=True)
class Figures:
    """Everything that has been measured, by situation."""

    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    start_up: dict[str, Situation] = field(default_factory=dict)
    throughput: dict[str, Situation] = field(default_factory=dict)
    pace: dict[str, Situation] = field(default_factory=dict)

    @classmethod
    def load(cls) -> "Figures":
        """Those on disk; none if there is no file yet."""
        return cls(**json.loads(STORE.read_text("utf-8"))) if STORE.exists() else cls()

    def save(self) -> None:
        """Put them on disk."""
        FOLDER.mkdir(exist_ok=True)
        kept = STORE.with_suffix(".new")
        kept.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")
        kept.replace(STORE)


def done(run: Run) -> float:
    """Rows that a run finished: those in its output, or those the server answered until it was
    killed.
    """
    answered = run["answered"]
    return float(run["server"]["answered"] if answered is None else answered)


def server_s(run: Run) -> float:
    """Seconds between the first request and the last answer, as the server saw them."""
    return float(run["server"]["last_answer_s"] - run["server"]["first_request_s"])


def cpu_per_1000_s(run: Run) -> float:
    """CPU seconds per 1,000 rows, start-up included."""
    return float(run["cpu_s"]) / max(1.0, done(run)) * 1000


def rate(run: Run) -> float:
    """Answers per second, as the server saw them."""
    return float(run["server"]["answered"]) / max(1e-9, server_s(run))


def memory_mb(run: Run) -> float:
    """Peak resident memory."""
    return float(run["rss_max_bytes"]) / 1e6


def requests(run: Run) -> float:
    """Requests that arrived at the server."""
    return float(run["server"]["requests"])


def median(runs: list[Run], figure: Figure) -> float:
    """The median over the runs."""
    return statistics.median(map(figure, runs))


def write(figures: Figures) -> None:
    """Write RESULTS.md and the plots."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in made(figures).items():
        path.write_text(text, "utf-8")


def made(figures: Figures) -> dict[Path, str]:
    """The text of the page and of each plot that there are figures for."""
    situations = sorted(
        figures.throughput.values(),
        key=lambda one: (one["rows"], one["latency_ms"], one["connection"] == "TLS"),
    )
    plots = [*_plots(situations, figures)]
    shown = {name: f"![{title}](results/{name})\n" for name, title, _ in plots}
    out = [INTRODUCTION, *_circumstances(figures)]
    if situations:
        out += ["## CPU, rate and memory\n", THROUGHPUT]
        out += [shown[name] for name in ("cpu.svg", "memory.svg") if name in shown]
        for one in situations:
            out += [*_throughput(one, figures)]
    if figures.pace:
        out += ["## Servers with limits\n", PACE]
        out += [shown[name] for name in ("pace.svg",) if name in shown]
        for one in figures.pace.values():
            out += [*_pace(one)]
    return {PAGE: "\n".join(out)} | {FOLDER / name: drawn for name, _, drawn in plots}


INTRODUCTION = """\
# Results: batchrun and other clients

Made by `make bench` ([README.md](README.md) has the other benchmarks). Every client runs the same
rows against the same server, each in its own environment, one after the other in shuffled order.
The client has one core and the server another. The scripts are in [peers/](peers/); the figures of
every run are in [results/figures.json](results/figures.json).
"""

THROUGHPUT = """\
The server answers every request with the same 2 KB. **CPU** is user and system time of the whole
process, start-up included, for 1,000 rows. **Ratio** divides it by that of the bare loop: a ratio
of medians, with the range of the rounds. **Net** is that ratio after the CPU of a run over a single
row is taken off both. **Rate**, **in flight** (most, and mean) and **requests** are the server's
account. **Lost** rows have no answer in the output of a run that ended by itself; this server
refuses nothing. Peak memory is the largest of the runs.
"""

PACE = """\
The server is `batchrun simulate` with a latency of 0.3 s. **Used** is the share of the limit that
was used: the least time that it allows for the work, divided by the time from the first exchange to
the last answer. **Refused** counts replies with status 429. A client takes part if it can keep the
limit by itself, or if no client is told any; the bare loop, which never asks twice, does not. A
client that needs too much CPU to reach the limit uses less of it, and is refused nothing.
"""


def _circumstances(figures: Figures) -> Iterator[str]:
    measured = [
        *figures.start_up.values(),
        *figures.throughput.values(),
        *figures.pace.values(),
    ]
    loads = [run["load"] for one in measured for runs in one["runs"].values() for run in runs]
    machines = sorted({" · ".join(one["machine"].values()) for one in measured})
    dates = sorted({one["date"] for one in measured})
    commands = sorted({one["command"] for one in measured})
    yield f"- Machine: {'; '.join(machines)}"
    yield f"- Date: {' and '.join(dict.fromkeys((dates[0], dates[-1])))}" if dates else ""
    if loads:
        yield (
            f"- Load average at the start of a run: {min(loads):.1f} to {max(loads):.1f}, median "
            f"{statistics.median(loads):.1f}. A quiet machine shows 1 to 2 during these runs; "
            "above that, other work took part of both cores: compare ratios, not seconds."
        )
    yield f"- Commands: {', '.join(f'`{command}`' for command in commands)}\n"
    yield "| client | versions |\n|---|---|"
    for name, one in figures.clients.items():
        versions = one.get("versions")
        said = (
            ", ".join(f"{package} {version}" for package, version in versions.items())
            if versions
            else f"not installed: {one['missing']}"
        )
        yield f"| {name} | {said} |"
    yield ""


def _throughput(one: Situation, figures: Figures) -> Iterator[str]:
    runs_of = one["runs"]
    count = max(map(len, runs_of.values()), default=0)
    yield f"### {one['title']}\n"
    yield (
        f"{_runs(count)} of each client, {one['concurrency']} in flight at most, "
        f"{one['limit_s']:.0f} s per run at most, {one['date']}.\n"
    )
    yield (
        "| client | CPU s | ratio | net | rows/s | in flight | peak MB | requests | lost rows |\n"
        "|---|-|-|-|-|-|-|-|-|"
    )
    starts = figures.start_up.get("start-up", {"runs": {}})["runs"]
    notes = []
    for name in _in_order(runs_of):
        runs = runs_of[name]
        late = sum(not run["ended"] for run in runs)
        if late:
            finished = min(done(run) for run in runs if not run["ended"])
            notes.append(
                f"{name}: {late} of {_runs(len(runs))} killed at the limit, after {finished:,.0f} "
                "rows or more."
            )
        yield (
            "| "
            + " | ".join(
                (
                    f"{name}{' †' if late else ''}",
                    f"{median(runs, cpu_per_1000_s):.2f}",
                    _ratio(name, runs_of),
                    _net(name, runs_of, starts),
                    f"{median(runs, rate):,.0f}",
                    _in_flight(one, runs),
                    f"{max(map(memory_mb, runs)):.0f}",
                    f"{median(runs, lambda run: float(run['server']['requests'])):,.0f}",
                    _lost(runs, one["rows"]),
                )
            )
            + " |"
        )
    for name, why in one["failed"].items():
        yield f"| {name} | failed: {_cell(why)} | | | | | | | |"
    yield ""
    if notes:
        yield "† " + " ".join(notes) + "\n"


def _pace(one: Situation) -> Iterator[str]:
    yield f"### {one['title']}\n"
    count = max(map(len, one["runs"].values()), default=0)
    yield (
        f"About {one['seconds']} s at the limit, {_runs(count)} of each "
        f"client, killed after {3 * one['seconds'] + 30} s; medians, {one['date']}.\n"
    )
    yield (
        "| client | used | refused | requests | in flight, most | lost rows | seconds |\n"
        "|---|-|-|-|-|-|-|"
    )
    late = False
    for name in _in_order(one["runs"]):
        runs = one["runs"][name]
        killed = any(not run["ended"] for run in runs)
        late = late or killed
        figures = (
            f"{name}{' †' if killed else ''}",
            f"{median(runs, lambda run: float(run['used'])):.1%}",
            f"{median(runs, lambda run: float(run['refused'])):,.0f}",
            f"{median(runs, lambda run: float(run['requests'])):,.0f}",
            f"{max(run['in_flight_max'] for run in runs)}",
            _lost(runs, runs[0]["rows"]),
            f"{median(runs, lambda run: float(run['took_s'])):.1f}",
        )
        yield f"| {' | '.join(figures)} |"
    for name, why in one["failed"].items():
        yield f"| {name} | failed: {_cell(why)} | | | | | |"
    yield ""
    if late:
        yield "† Killed at the limit.\n"


def _in_order(names: dict[str, Any]) -> list[str]:
    """The clients in the order of the roster."""
    return [name for name in CLIENTS if name in names]


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")[:200]


def _ratio(name: str, runs_of: dict[str, list[Run]]) -> str:
    """The ratio of medians, and the range of the rounds' own ratios."""
    if FLOOR.name not in runs_of:
        return NONE
    own, floor = runs_of[name], runs_of[FLOOR.name]
    whole = median(own, cpu_per_1000_s) / median(floor, cpu_per_1000_s)
    each = [
        cpu_per_1000_s(mine) / cpu_per_1000_s(least)
        for mine, least in zip(own, floor, strict=False)
    ]
    if name == FLOOR.name:
        return "1"
    spread = f" ({min(each):.2f} to {max(each):.2f})" if len(each) > 1 else ""
    return f"{whole:.2f}{spread}"


def _net(name: str, runs_of: dict[str, list[Run]], starts: dict[str, list[Run]]) -> str:
    """The ratio without the CPU of a run over one row."""
    if name == FLOOR.name or not {name, FLOOR.name} <= starts.keys() or FLOOR.name not in runs_of:
        return NONE

    def net(which: str) -> float:
        start_s = median(starts[which], lambda run: float(run["cpu_s"]))
        return median(
            runs_of[which], lambda run: (run["cpu_s"] - start_s) / max(1.0, done(run) - 1)
        )

    floor = net(FLOOR.name)
    return f"{net(name) / floor:.2f}" if floor > 0 else NONE


def _in_flight(one: Situation, runs: list[Run]) -> str:
    """The most and the mean; without a latency a request is answered as soon as it is read."""
    if not one["latency_ms"]:
        return NONE
    most = max(run["server"]["in_flight_max"] for run in runs)
    mean = median(runs, rate) * one["latency_ms"] / 1000
    return f"{most:.0f}, {mean:.1f}"


def _lost(runs: list[Run], rows: int) -> str:
    ended = [run for run in runs if run["ended"]]
    return f"{max(rows - run['answered'] for run in ended):,}" if ended else NONE


# Plots

Bar = tuple[str, str, float, str]  # the group, the series, the value, and what is written beside it


def _plots(situations: list[Situation], figures: Figures) -> Iterator[tuple[str, str, str]]:
    """File name, title and text of each plot there are figures for."""
    most = max((one["rows"] for one in situations), default=0)
    cpu = [
        (name, one["connection"], median(runs, cpu_per_1000_s), "s")
        for one in situations
        if one["rows"] == most and one["latency_ms"] == min(s["latency_ms"] for s in situations)
        for name, runs in one["runs"].items()
    ]
    if cpu:
        title = f"CPU seconds per 1,000 rows ({most:,} rows, logarithmic)"
        yield "cpu.svg", title, bars(title, cpu, form="{:.2f}", log=True)
    memory = [
        (name, f"{one['rows']:,} rows", max(map(memory_mb, runs)), "MB")
        for one in situations
        if one["connection"] == "plain"
        and one["latency_ms"] == min(s["latency_ms"] for s in situations)
        for name, runs in one["runs"].items()
    ]
    if memory:
        title = "Peak memory, MB"
        yield "memory.svg", title, bars(title, memory, form="{:.0f}")
    used = [
        (name, key, 100 * median(runs, lambda run: float(run["used"])), _refusals(runs))
        for key, one in figures.pace.items()
        for name, runs in one["runs"].items()
    ]
    if used:
        title = "Share of the limit that was used, per cent; refusals for each answer"
        yield "pace.svg", title, bars(title, used, form="{:.0f} %")


def _refusals(runs: list[Run]) -> str:
    share = median(runs, lambda run: run["refused"] / max(1, run["accepted"]))
    return f"({share:.3f} refused)" if share else "(none refused)"


def bars(title: str, drawn: list[Bar], *, form: str, log: bool = False) -> str:
    """An SVG of horizontal bars, grouped by client in the order of the roster."""
    series = list(dict.fromkeys(bar[1] for bar in drawn))
    values = [bar[2] for bar in drawn if bar[2] > 0]
    low, high = (min(values) / 2, max(values)) if log else (0.0, max(values, default=1.0))

    def length(value: float) -> float:
        in_logs = log and math.log(max(value, low) / low) / math.log(high / low)
        return (WIDTH - LEFT - 170) * (in_logs if log else value / high)

    parts, top = [], 50
    for group in _in_order(dict.fromkeys(bar[0] for bar in drawn)):
        own = [bar for bar in drawn if bar[0] == group]
        middle = top + BAR * len(own) / 2 + 4
        parts.append(_text(LEFT - 8, middle, group, 'text-anchor="end"'))
        for _, one, value, unit in own:
            colour = COLOURS[series.index(one) % len(COLOURS)]
            wide = length(value)
            parts.append(
                f'<rect x="{LEFT}" y="{top}" width="{wide:.1f}" height="{BAR - 2}" '
                f'fill="{colour}"/>'
            )
            said = form.format(value) + ("" if unit in {"s", "MB"} else f" {unit}")
            parts.append(_text(LEFT + wide + 5, top + BAR - 3, said, 'font-size="10"'))
            top += BAR
        top += GAP
    legend = [
        _text(LEFT + 120 * place, 38, one, f'fill="{COLOURS[place % len(COLOURS)]}"')
        for place, one in enumerate(series)
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" '
        'font-family="sans-serif" font-size="12" fill="#333">'
    )
    ground = f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>'
    heading = _text(10, 18, title, 'font-weight="bold"')
    return "\n".join([head, ground, heading, *legend, *parts, "</svg>\n"])


def _text(x: float, y: float, said: str, more: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{html.escape(said)}</text>'
