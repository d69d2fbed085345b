"""Makes the pictures of docs/pictures/ and the terminals of docs/live.md: `make pictures`.

A real run of 800 rows against the simulated endpoint, with throttling and rows that fail: its live
page and its terminal while it works, and its report afterwards, by Debian's Chromium.
``--png FOLDER`` keeps the pictures as PNG too.
"""
# ruff: noqa: INP001, S603 - a script next to the pages that it makes pictures for

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from batchrun.simulator.embedded import EmbeddedSimulator
from batchrun.simulator.latency import FixedLatency
from batchrun.simulator.plan import SimulatorOptions

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
BYTES_MAX = 60_000
COMMAND = (sys.executable, "-m", "batchrun")
ROWS = 800
COLUMNS = (120, 80, 40)
CONFIG = """\
[request]
model = "gpt-4o-mini"
prompt = "{{ question }} Answer with a letter."
[scores]
correct = "coalesce(letter(content), 'B') = expected OR row % 4 < 2"
length = { sql = "len(content)", errors = "skip" }
[metrics]
accuracy = "avg(correct)"
by_topic = { value = "avg(correct)", by = "topic" }
median_length = "median(length)"
[gates]
accuracy = ">= 0.45"
error_rate = "<= 0.01"
"""
TOPICS = ("geography", "history", "biology", "physics")
WEBP = """([data, quality]) => new Promise(done => {
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = image.width; canvas.height = image.height;
    canvas.getContext("2d").drawImage(image, 0, 0);
    done(canvas.toDataURL("image/webp", quality).split(",")[1]);
  };
  image.src = "data:image/png;base64," + data;
})"""


class Pictures:
    """Takes pictures of pages, each of at most ``BYTES_MAX`` bytes."""

    def __init__(self, browser: Browser, png: Path | None) -> None:
        self._browser = browser
        self._png = png
        PICTURES.mkdir(exist_ok=True)

    def take(self, name: str, address: str, *, height: int = 900, **options: Any) -> None:
        """A picture of the top of a page."""
        width = options.pop("width", 1100)
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, device_scale_factor=1, **options
        )
        page = context.new_page()
        page.goto(address)
        page.wait_for_timeout(1500)
        shot = page.screenshot()
        context.close()
        if self._png is not None:
            (self._png / f"{name}.png").write_bytes(shot)
        (PICTURES / f"{name}.webp").write_bytes(self._small(shot))

    def _small(self, shot: bytes) -> bytes:
        page = self._browser.new_page()
        data = base64.b64encode(shot).decode()
        for percent in range(92, 20, -4):
            found = base64.b64decode(page.evaluate(WEBP, [data, percent / 100]))
            if len(found) <= BYTES_MAX:
                page.close()
                return found
        raise AssertionError(len(found))


class Terminal:
    """A run on a terminal of so many columns: what it shows is read as it comes."""

    def __init__(self, columns: int, *arguments: str, folder: Path) -> None:
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*COMMAND, "run", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=follower,
            env=environment | {"TERM": "xterm-256color"},
        )
        os.close(follower)
        self._shown = b""
        self._thread = threading.Thread(target=self._read, args=(leader,))
        self._thread.start()

    def _read(self, leader: int) -> None:
        with contextlib.suppress(OSError):
            while piece := os.read(leader, 65_536):
                self._shown += piece
        os.close(leader)

    def frames(self) -> list[str]:
        """What the display showed, one after the other, without colours."""
        self._thread.join()
        text = self._shown.decode().replace("\r\n", "\n")
        pieces = re.split(r"\r?(?:\x1b\[1A|\x1b\[2K|\r)+", text)
        frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece).strip("\n") for piece in pieces]
        return [frame for frame in frames if "ok " in frame and "━" in frame]


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--png", type=Path)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    simulated = SimulatorOptions(
        latency=FixedLatency(0.25), error_rates={"429": 0.08, "400": 0.02, "503": 0.02}, seed=3
    )
    with (
        tempfile.TemporaryDirectory() as place,
        EmbeddedSimulator(simulated) as endpoint,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pictures = Pictures(browser, options.png)
        folder = Path(place)
        _write_input(folder)
        flags = ("rows.jsonl", "-c", "c.toml", "--base-url", endpoint.base_url)
        flags = (*flags, "--concurrency", "10", "--shard-rows", "200", "--max-attempts", "2")
        runs = {
            columns: Terminal(columns, *flags, "-o", f"night-{columns}", folder=folder)
            for columns in COLUMNS
        }
        with _served(folder, "night-120") as address:
            _wait(folder, "night-120", ROWS // 2)
            pictures.take("live", address, height=860)
        for run in runs.values():
            run.process.wait(600)
        _put_terminals({columns: run.frames() for columns, run in runs.items()})
        subprocess.run([*COMMAND, "report", "night-120"], cwd=folder, check=True)
        report = (folder / "night-120" / "report.html").as_uri()
        pictures.take("report-light", report)
        pictures.take("report-dark", report, color_scheme="dark")
        pictures.take("report-phone", report, width=390, height=844)
        plots = f"{report}#over-time"
        pictures.take("report-no-script", plots, java_script_enabled=False)
        browser.close()


def _write_input(folder: Path) -> None:
    rows = (
        {
            "custom_id": f"eval-{n:04}",
            "question": f"Question {n} about {TOPICS[n % 4]}: A, B, C or D?",
            "expected": "ABCD"[n % 4],
            "topic": TOPICS[n % 4],
        }
        for n in range(ROWS)
    )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "c.toml").write_text(CONFIG)


def _wait(folder: Path, run: str, rows: int) -> None:
    """Wait until so many rows are done."""
    status = folder / run / "checkpoint" / "status.json"
    until_s = time.monotonic() + 300
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(status.read_text())["ok"] >= rows:
                return
        time.sleep(0.1)
    raise TimeoutError(run)


@contextlib.contextmanager
def _served(folder: Path, run: str) -> Iterator[str]:
    """The address of a run's live page."""
    _wait(folder, run, 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([*COMMAND, "status", run, "--serve", str(port)], cwd=folder)
    try:
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


def _put_terminals(frames: dict[int, list[str]]) -> None:
    """Put a frame of each width, from two thirds of the run, into docs/live.md."""
    page = DOCS / "live.md"
    text = page.read_text("utf-8")
    for columns, shown in frames.items():
        frame = shown[len(shown) * 2 // 3]
        block = "\n".join(line.rstrip() for line in frame.splitlines())
        text = re.sub(
            rf"(?ms)^```text {columns}\n.*?^```$",
            lambda _, c=columns, b=block: f"```text {c}\n{b}\n```",
            text,
        )
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
