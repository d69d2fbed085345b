"""One of two endpoints is killed in mid-run and started again: who sent how much, and when.

Runs the real command against two `batchrun simulate` processes, reads the ledger, prints what the
other kept of its throughput, and draws requests per second (`--svg FILE`). Unlike the other
benchmarks this one loads pyarrow: it measures no memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pyarrow.dataset as ds
from harness import ROOT, make_input

LATENCY_S = 0.05
CONCURRENCY = 8
KILL_S, BACK_S, END_S = 6.0, 12.0, 22.0
BIN_S = 0.5
OUT_S = 3.0
"""From so many seconds after the kill on, the dead endpoint is to be left alone."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 260, 46, 34, 24
COLOURS = ("#b3432b", "#2b6cb3")


def main() -> None:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--svg", type=Path, help="draw the rates into this file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="failover-") as folder:
        started_s, killed_s, back_s = _run(Path(folder))
        lines = ds.dataset(Path(folder) / "run" / "attempts").to_table().to_pylist()
        told = json.loads((Path(folder) / "run" / "summary.json").read_text())
    sent = [(line["endpoint"], line["started_at"].timestamp() - started_s) for line in lines]
    killed_s, back_s = killed_s - started_s, back_s - started_s
    found = _figures(sent, killed_s, back_s) | {"rows": told["rows"]}
    if options.svg:
        options.svg.write_text(_svg(sent, killed_s, back_s), "utf-8")
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<34} {value}")


def _run(folder: Path) -> tuple[float, float, float]:
    """One run; returns when it began, and when the endpoint was killed and came back."""
    rows = int((2 * END_S - (BACK_S - KILL_S)) * CONCURRENCY / LATENCY_S * 0.9)
    make_input(folder / "rows.jsonl", rows)
    with ExitStack() as stack:
        mortal, port = _simulator(stack, 0)
        _, other = _simulator(stack, 0)
        config = "".join(
            f'[[endpoint]]\nname = "{name}"\nbase_url = "http://127.0.0.1:{at}/v1"\n'
            f"concurrency = {CONCURRENCY}\n"
            for name, at in (("mortal", port), ("other", other))
        )
        (folder / "run.toml").write_text(config)
        command = [sys.executable, "-m", "batchrun", "run", "rows.jsonl", "-c", "run.toml"]
        command += ["-o", "run", "--model", "m", "--no-progress", "--max-attempts", "1"]
        run = subprocess.Popen(command, cwd=folder, env=_environment(), stderr=subprocess.DEVNULL)
        stack.callback(run.kill)
        while not (folder / "run" / "checkpoint" / "status.json").exists():
            time.sleep(0.01)
        started_s = time.time()
        time.sleep(KILL_S)
        mortal.kill()
        mortal.wait()
        killed_s = time.time()
        time.sleep(BACK_S - KILL_S)
        _simulator(stack, port)
        back_s = time.time()
        run.wait()
    return started_s, killed_s, back_s


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT)}


def _simulator(stack: ExitStack, port: int) -> tuple[subprocess.Popen[bytes], int]:
    command = [sys.executable, "-m", "batchrun", "simulate", "--json", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--latency", f"fixed:{LATENCY_S}", "--no-detail"],
        stdout=subprocess.PIPE,
        env=_environment(),
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["port"]


def _figures(sent: list[tuple[str, float]], killed_s: float, back_s: float) -> dict[str, object]:
    def rate(name: str, start_s: float, end_s: float) -> float:
        count = sum(name == own and start_s <= at_s < end_s for own, at_s in sent)
        return count / (end_s - start_s)

    before = rate("other", 1.0, killed_s)
    during = rate("other", killed_s, back_s)
    after = rate("mortal", back_s + OUT_S, back_s + OUT_S + 2)
    late = sum(own == "mortal" and killed_s + OUT_S < at_s < back_s for own, at_s in sent)
    return {
        "other_before_per_s": round(before, 1),
        "other_while_alone_per_s": round(during, 1),
        "other_kept": f"{during / before:.0%}",
        f"mortal_sent_later_than_{OUT_S:.0f}_s": late,
        "mortal_after_its_return_per_s": round(after, 1),
    }


def _svg(sent: list[tuple[str, float]], killed_s: float, back_s: float) -> str:
    """Requests per second of each endpoint over time."""
    counts = Counter((name, int(at_s / BIN_S)) for name, at_s in sent if at_s >= 0)
    last = max(number for _, number in counts)  # the last bin is not whole
    names = sorted({name for name, _ in counts})
    top = max(counts.values()) / BIN_S * 1.1
    wide, high = WIDTH - LEFT - 10, HEIGHT - TOP - BOTTOM

    def x(at_s: float) -> float:
        return LEFT + wide * at_s / (last * BIN_S)

    def y(per_s: float) -> float:
        return TOP + high * (1 - per_s / top)

    def text(at_x: float, at_y: float, said: str, more: str = "") -> str:
        return f'<text x="{at_x:.0f}" y="{at_y:.0f}" {more}>{said}</text>'

    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="12" fill="#333">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        (
            f'<rect x="{x(killed_s):.0f}" y="{TOP}" width="{x(back_s) - x(killed_s):.0f}" '
            f'height="{high}" fill="#f3ece9"/>'
        ),
        text((x(killed_s) + x(back_s)) / 2, TOP + 14, "mortal is gone", 'text-anchor="middle"'),
        text(LEFT, 14, "requests per second"),
        text(WIDTH - 10, HEIGHT - 4, "seconds", 'text-anchor="end"'),
    ]
    for per_s in range(0, int(top) + 1, 50):
        grid = f'<path d="M{LEFT} {y(per_s):.1f}H{WIDTH - 10}" stroke="#ddd"/>'
        out += [grid, text(LEFT - 6, y(per_s) + 4, str(per_s), 'text-anchor="end"')]
    seconds = range(0, int(last * BIN_S) + 1, 2)
    out += [text(x(at), HEIGHT - BOTTOM + 16, str(at), 'text-anchor="middle"') for at in seconds]
    for place, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
        points = " ".join(
            f"{x((number + 0.5) * BIN_S):.1f},{y(counts[name, number] / BIN_S):.1f}"
            for number in range(last)
        )
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out.append(text(LEFT + 180 + 90 * place, 14, name, f'fill="{colour}" font-weight="bold"'))
    return "\n".join([*out, "</svg>\n"])


if __name__ == "__main__":
    main()
