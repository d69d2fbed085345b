"""Makes docs/recording.svg, the session that the README shows: `make recording`.

A real run of the sample rows on a terminal of its own, killed with SIGKILL when a part of its rows
is done, then resumed by the same command and verified. What the commands print is kept with its
times and colours and becomes one SVG of plain text, animated by CSS: no script, no font, no
reference to anything else. Readers who ask for less motion see the last picture alone.
"""
# ruff: noqa: INP001, S603 - a script next to the page that shows its picture

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
RECORDING = ROOT / "docs" / "recording.svg"
BYTES_MAX = 60_000
COLUMNS, LINES = 92, 24
RUN = "batchrun run samples/batch_lines.jsonl -o walk --provider simulator --rpm 400"
VERIFY = "batchrun verify walk"
KILLED_AT_ROWS = 24
PAUSE_MAX_S, LAST_S, KEY_S = 1.6, 6.0, 0.05
"""The longest pause that is kept, how long the last picture stays, and the time to type three
characters.
"""
FRAMES_EVERY_S = 0.35
"""The least time between two pictures while a command prints."""
PROMPT = "\x1b[32m$\x1b[0m "
CHAR, LINE, PAD, BAR = 8.0, 18, 16, 28
COLOURS = ("#5c6773", "#f2777a", "#7ec699", "#e6c07b", "#6cb6ff", "#d19ad1", "#66cccc", "#d8dee9")
"""The eight colours of a terminal, in their order; the bright ones look the same."""
PIECE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Screen:
    """A terminal for programs that write lines, go up, and write lines again: as much of one as a
    progress display needs. Colours stay in the lines as they came.
    """

    def __init__(self) -> None:
        self._lines = [""]
        self._at = 0
        self._returned = False

    def feed(self, text: str) -> None:
        """Take what a program wrote."""
        for piece in PIECE.finditer(text):
            count, final = piece[1], piece[2]
            if self._returned and (final == "m" or (final is None and piece[0] not in "\r\n")):
                self._lines[self._at] = ""
            if final == "A":
                self._at = max(0, self._at - int(count or 1))
            elif final == "K":
                self._lines[self._at] = ""
            elif final == "m" or (final is None and piece[0] not in "\r\n"):
                self._lines[self._at] += piece[0]
            elif piece[0] == "\n":
                self._at += 1
                if self._at == len(self._lines):
                    self._lines.append("")
            self._returned = piece[0] == "\r"

    def shown(self) -> tuple[str, ...]:
        """The lines that are in sight."""
        return tuple(self._lines[-LINES:])


@dataclass(frozen=True)
class Frame:
    """What is in sight from some moment on, in seconds from the beginning."""

    at_s: float
    lines: tuple[str, ...]


class Recorder:
    """Runs commands on a terminal, and keeps what is seen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._screen = Screen()
        self._now_s = 0.0
        self.frames: list[Frame] = []

    def _keep(self, pause_s: float) -> None:
        self._now_s += min(pause_s, PAUSE_MAX_S)
        shown = self._screen.shown()
        if not self.frames or self.frames[-1].lines != shown:
            self.frames.append(Frame(self._now_s, shown))

    def type(self, command: str) -> None:
        """Show a command being typed."""
        self._screen.feed(PROMPT)
        self._keep(0.4)
        for start in range(0, len(command), 3):
            self._screen.feed(command[start : start + 3])
            self._keep(KEY_S)
        self._screen.feed("\n")
        self._keep(0.5)

    def run(self, command: str, *, killed_at_rows: int | None = None) -> int:
        """Run a command, and kill it once so many rows are done. Returns its exit code."""
        self.type(command)
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        process = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=follower,
            stderr=follower,
            env=kept | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        )
        os.close(follower)
        if killed_at_rows is not None:
            status = self._folder / "walk" / "checkpoint" / "status.json"
            threading.Thread(target=_kill, args=(process, status, killed_at_rows)).start()
        self._watch(leader)
        code = process.wait(60)
        if code == -signal.SIGKILL:
            self._screen.feed("\n\x1b[31mKilled\x1b[0m\n")
            self._keep(0.8)
        return code

    def _watch(self, leader: int) -> None:
        """Keep what comes, until the program is gone."""
        seen_s = time.monotonic()
        with contextlib.suppress(OSError):
            while piece := os.read(leader, 65_536):
                self._screen.feed(piece.decode(errors="replace"))
                now_s = time.monotonic()
                if now_s - seen_s >= FRAMES_EVERY_S:
                    self._keep(now_s - seen_s)
                    seen_s = now_s
        os.close(leader)
        self._keep(time.monotonic() - seen_s)


def _kill(process: subprocess.Popen[bytes], status: Path, rows: int) -> None:
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(status.read_text())["ok"] >= rows:
                process.kill()
                return
        time.sleep(0.02)


def _looks(style: Style) -> str:
    """A style of the terminal as CSS."""
    out = "font-weight:bold;" if style.bold else ""
    if style.dim:
        out += "opacity:.6;"
    if style.color is None or style.color.is_default:
        return out
    number = style.color.number
    known = number is not None and number < 2 * len(COLOURS)
    colour = COLOURS[number % len(COLOURS)] if known else style.color.get_truecolor().hex
    return f"{out}fill:{colour};"


def _runs(line: str) -> list[str]:
    """A line as text elements, one for each run of one style."""
    text = Text.from_ansi(line.rstrip())
    out = []
    ends = sorted({0, len(text), *(edge for s in text.spans for edge in (s.start, s.end))})
    for start, end in itertools.pairwise(ends):
        plain = text.plain[start:end]
        if not plain.strip():
            continue
        looks = ""
        for span in text.spans:
            if span.start <= start < span.end and isinstance(span.style, Style):
                looks += _looks(span.style)
        style = f' style="{looks}"' if looks else ""
        lead = len(plain) - len(plain.lstrip())
        place = f'x="{(start + lead) * CHAR:g}" textLength="{len(plain.strip()) * CHAR:g}"'
        out.append(f"<text {place}{style}>{escape(plain.strip())}</text>")
    return out


def svg(frames: Sequence[Frame], title: str) -> str:
    """The animated picture of a session. Lines that several frames have are in it once."""
    whole_s = frames[-1].at_s + LAST_S
    names: dict[str, str] = {}
    films, steps = [], []
    height = LINES * LINE + 6
    for number, frame in enumerate(frames):
        uses = []
        for row, line in enumerate(frame.lines):
            if not _runs(line):
                continue
            name = names.setdefault(line, f"l{len(names)}")
            uses.append(f'<use href="#{name}" y="{number * height + row * LINE}"/>')
        films.append("".join(uses))
        percent = 100 * frame.at_s / whole_s
        steps.append(f"{percent:.2f}%{{transform:translateY({-number * height}px)}}")
    defs = "".join(f'<g id="{name}">{"".join(_runs(line))}</g>' for line, name in names.items())
    width = COLUMNS * CHAR + 2 * PAD
    last = -(len(frames) - 1) * height
    film = "\n".join(films)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height + BAR + PAD}" role="img">
<title>{escape(title)}</title>
<style>
text{{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;\
fill:#d8dee9;white-space:pre}}
.film{{animation:film {whole_s:.1f}s steps(1,end) infinite}}
@keyframes film{{{"".join(steps)}100%{{transform:translateY({last}px)}}}}
@media (prefers-reduced-motion:reduce){{.film{{animation:none;transform:translateY({last}px)}}}}
</style>
<defs>{defs}</defs>
<rect width="100%" height="100%" rx="8" fill="#1b2028"/>
<g fill="#4a5260"><circle cx="18" cy="15" r="5"/><circle cx="36" cy="15" r="5"/>\
<circle cx="54" cy="15" r="5"/></g>
<svg x="{PAD}" y="{BAR}" width="{width - 2 * PAD:g}" height="{height}">
<g class="film" transform="translate(0 0)"><g transform="translate(0 14)">
{film}
</g></g>
</svg>
</svg>
"""


def main() -> None:
    """Record the session, and write the picture."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(ROOT / "samples", folder / "samples")
        recorder = Recorder(folder)
        codes = [
            recorder.run(RUN, killed_at_rows=KILLED_AT_ROWS),
            recorder.run(RUN),
            recorder.run(VERIFY),
        ]
    if codes != [-signal.SIGKILL, 0, 0]:
        raise SystemExit(f"the session did not go as it should: exit codes {codes}")
    title = "A run is killed, the same command resumes it, and verify checks every row"
    picture = svg(recorder.frames, title)
    if len(picture.encode()) > BYTES_MAX:
        raise SystemExit(f"{len(picture.encode()):,} bytes are more than {BYTES_MAX:,}")
    RECORDING.write_text(picture, "utf-8")


if __name__ == "__main__":
    main()
