"""What a run does to a server with limits, over time, drawn as SVG.

Each scene starts `batchrun simulate` and the real command as processes of their own, reads the
ledger and the status file, prints what was used and refused in the second half, and with
`--svg FOLDER` draws requests sent, accepted and refused per second, the window and the goodput.

With `--virtual`, the scenes that are about the window alone are played on virtual time instead, by
the climb and a model of the server: the machine's other work does not show in the picture.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from batchrun.engine.pace.climb import Climb
from tests.harness import courses
from tests.harness.capacity import Batching, Server, Timed, knee
from tests.harness.courses import Course, Exchange

REFUSED = 429
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 200, 52, 52, 26, 34
SENT, ACCEPTED, TURNED_AWAY, WINDOW = "#9aa5b1", "#2b6cb3", "#b3432b", "#5b8c3e"
BINS = 90
POINTS = tuple[Sequence[tuple[float, float]], str, str]
"""A line: its points, its name and its colour."""


@dataclass(frozen=True)
class Scene:
    """A server, and a run against it."""

    title: str
    server: tuple[object, ...]
    rows: int
    seconds: float
    best: float | None = None
    """Answers (or tokens) a second that the server can do at most, where that is known."""
    max_tokens: Callable[[random.Random], int] | None = None
    run: tuple[object, ...] = ()
    tokens: bool = False
    model: Server | None = None
    """Such a server on virtual time, for a scene that is about the window alone."""
    model_s: float = 60.0


def lengths(dice: random.Random) -> int:
    """The tokens of an answer: lognormal around 200."""
    return max(1, int(math.exp(dice.gauss(math.log(200) - 0.405, 0.9))))


BARE = ("--bare-429", "--limit-headers", "none", "--latency", "fixed:0.3")
SCENES = {
    "told": Scene(
        "100 requests a second, which the server reports",
        ("--rpm", 6000, "--latency", "fixed:0.3"),
        *(6000, 40, 100),
    ),
    "untold": Scene(
        "100 requests a second, which nobody reports",
        ("--rpm", 6000, *BARE),
        *(9000, 60, 100),
    ),
    "tokens": Scene(
        "120,000 tokens a minute, --tpm 120000",
        ("--tpm", 120_000, "--charge", "sum", "--latency", "fixed:0.2", "--limit-headers", "none"),
        *(4000, 40, 2000 / 29),  # a row is 9 tokens and 20
        max_tokens=lambda _: 20,
        run=("--tpm", 120_000),
    ),
    "knee": Scene(
        "a server that slows down past 64 requests at once",
        ("--capacity", "knee:64:2", "--latency", "fixed:0.5", "--no-metrics"),
        *(12_000, 60, 128),
        model=Timed(knee(64, 0.5)),
    ),
    "batching": Scene(
        "a server that batches: a token takes 10 ms + 0.04 ms for each running request",
        ("--capacity", "batching:10:0.04:300000", "--no-metrics"),
        *(30_000, 90, 1024 / (10 + 0.04 * 1024) * 1000),
        max_tokens=lengths,
        tokens=True,
        model=Batching(0.01, 0.00004, memory=1e9),
        model_s=180,
    ),
}


class Watched:
    """The climb, and what it sees and finds."""

    def __init__(self, climb: Climb) -> None:
        self._climb = climb
        self.exchanges: list[Exchange] = []
        self.windows: list[tuple[float, dict[str, float | None]]] = []

    @property
    def window(self) -> int:
        """That of the climb."""
        return self._climb.window

    def answered(
        self, sent_at_s: float, now_s: float, latency_s: float, tokens: int | None, in_flight: int
    ) -> bool:
        """See ``Climb``."""
        moved = self._climb.answered(sent_at_s, now_s, latency_s, tokens, in_flight)
        self.exchanges.append(Exchange(sent_at_s, now_s, 200, tokens or 0))
        found = self._climb.goodput
        rate = None if found is None else found.rows.per_s
        self.windows.append((now_s, {"concurrency": self.window, "rows_per_s": rate}))
        return moved

    def overloaded(self, sent_at_s: float, now_s: float) -> bool:
        """See ``Climb``."""
        return self._climb.overloaded(sent_at_s, now_s)


def on_virtual_time(scene: Scene) -> Course:
    """What becomes of a scene that has a model of its server."""
    assert scene.model is not None
    watched = Watched(Climb(64, 1, 1024))
    scene.model.serve(watched, scene.model_s, seed=1)
    summary = {"endpoints": {"default": {"window": watched.windows[-1][1]}}}
    return Course(watched.exchanges, watched.windows, summary, "", time.time(), 0, None)


def played(scene: Scene) -> Course:
    """What becomes of a scene with real processes."""
    with tempfile.TemporaryDirectory(prefix="pace-") as folder:
        source = courses.rows(Path(folder) / "rows.jsonl", scene.rows, scene.max_tokens)
        with courses.serving(*scene.server) as url:
            return courses.run(source, url, Path(folder) / "run", scene.run, scene.seconds)


def measure(name: str, svg: Path | None, *, virtual: bool) -> None:
    """Play one scene, print its figures, draw it."""
    scene = SCENES[name]
    course = on_virtual_time(scene) if virtual else played(scene)
    last_s = max(exchange.back_s for exchange in course.exchanges) - 0.5
    per_s = course.tokens if scene.tokens else course.answers
    used = per_s(last_s / 2, last_s)
    share = "" if scene.best is None else f" ({used / scene.best:.1%} of the most)"
    window = course.summary["endpoints"]["default"].get("window") or {}
    print(
        f"{name:9} {used:,.1f} {'tokens' if scene.tokens else 'answers'} a second{share}, "
        f"{course.waste(last_s / 2, last_s):.3f} refusals for each answer, "
        f"concurrency {window.get('concurrency')}",
        flush=True,
    )
    if svg is not None:
        (svg / f"pace-{name}.svg").write_text(draw(scene, course, last_s), "utf-8")


def draw(scene: Scene, course: Course, last_s: float) -> str:
    """Two panels over the same time: requests per second, and window with goodput."""
    step_s = last_s / BINS

    def rates(moments: Iterable[float]) -> list[tuple[float, float]]:
        counts = Counter(int(at_s / step_s) for at_s in moments if 0 <= at_s < last_s)
        return [((n + 0.5) * step_s, counts[n] / step_s) for n in range(BINS)]

    def back(wanted: Callable[[Exchange], bool]) -> list[float]:
        return [e.back_s for e in course.exchanges if wanted(e)]

    upper = [
        (rates(e.sent_s for e in course.exchanges), "sent", SENT),
        (rates(back(lambda e: e.status == 200)), "accepted", ACCEPTED),
        (rates(back(lambda e: e.status == REFUSED)), "refused", TURNED_AWAY),
    ]
    found = [(at_s, window) for at_s, window in course.windows if 0 <= at_s < last_s]
    goodput = [(at, w["rows_per_s"]) for at, w in found if w["rows_per_s"] is not None]
    lower = [
        ([(at_s, window["concurrency"]) for at_s, window in found], "window", WINDOW),
        (goodput, "goodput in answers per second", ACCEPTED),
    ]
    high = 2 * HEIGHT + 20
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" '
            'font-family="sans-serif" font-size="12" fill="#333">'
        ),
        f'<rect width="{WIDTH}" height="{high}" fill="#fff"/>',
        f'<text x="{LEFT}" y="16" font-weight="bold">{scene.title}</text>',
        *panel(upper, last_s, 20, "requests per second"),
        *panel(lower, last_s, 20 + HEIGHT, "found"),
        "</svg>\n",
    ]
    return "\n".join(parts)


def panel(lines: Sequence[POINTS], last_s: float, down: int, title: str) -> list[str]:
    """One picture of lines over time, with a grid and a legend."""
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    most = max([y for points, _, _ in lines for _, y in points], default=0) or 1.0
    unit = 10 ** math.floor(math.log10(most))
    unit = next(unit * by for by in (0.2, 0.5, 1, 2) if most / (unit * by) <= 5.5)
    top = most * 1.05

    def x(at_s: float) -> float:
        return LEFT + wide * at_s / last_s

    def y(value: float) -> float:
        return down + TOP + high * (1 - value / top)

    out = [f'<text x="{LEFT}" y="{down + 18}">{title}</text>']
    for number in range(int(top / unit) + 1):
        at = y(number * unit)
        out.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        label = f"{number * unit:,g}" if unit < 1 else f"{number * unit:,.0f}"
        out.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    tick_s = 5 if last_s <= 50 else 10
    foot = down + HEIGHT - BOTTOM + 16
    out += [
        f'<text x="{x(at):.0f}" y="{foot}" text-anchor="middle">{at} s</text>'
        for at in range(0, int(last_s) + 1, tick_s)
    ]
    place = LEFT + 160
    for points, name, colour in lines:
        if not points:
            continue
        drawn = " ".join(f"{x(at_s):.0f},{y(value):.0f}" for at_s, value in _thinned(points))
        out.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        out.append(
            f'<text x="{place}" y="{down + 18}" fill="{colour}" font-weight="bold">{name}</text>'
        )
        place += 40 + 7 * len(name)
    return out


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without those that stand between two of the same height."""
    return [
        point
        for before, point, behind in zip(
            [None, *points[:-1]], points, [*points[1:], None], strict=True
        )
        if before is None or behind is None or not before[1] == point[1] == behind[1]
    ]


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(SCENES)} [default: all]")
    parser.add_argument("--virtual", action="store_true", help="play them on virtual time")
    parser.add_argument("--svg", type=Path, help="draw into this folder")
    options = parser.parse_args()
    able = [name for name, scene in SCENES.items() if scene.model or not options.virtual]
    names = options.names or able
    if unable := [name for name in names if name not in able]:
        parser.error(f"not among {', '.join(able)}: {', '.join(unable)}")
    for name in names:
        measure(name, options.svg, virtual=options.virtual)


if __name__ == "__main__":
    main()
