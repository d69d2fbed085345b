"""The recording of the README: small, harmless, and of a session that the pages show."""

import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "recording.svg"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def maker():
    """The script that makes the recording."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "make_recording.py")))


def shown(picture, frame):
    """The lines of a frame, from top to bottom."""
    tree = ET.fromstring(picture)  # noqa: S314 - made by the script of this repository
    lines = {
        group.get("id"): " ".join(text.text for text in group.iter(f"{SVG}text"))
        for group in tree.iter(f"{SVG}g")
        if group.get("id")
    }
    frames = {}
    uses = [
        (float(use.get("y")), use.get("href").removeprefix("#")) for use in tree.iter(f"{SVG}use")
    ]
    height = float(tree.find(f"{SVG}svg").get("height"))
    for y, name in uses:
        frames.setdefault(int(y // height), []).append(lines[name])
    return frames[sorted(frames)[frame]]


def test_it_is_small_and_refers_to_nothing(maker):
    """One file of text with neither scripts nor addresses, which every page may show."""
    text = PICTURE.read_text("utf-8")
    assert len(text.encode()) <= maker.BYTES_MAX
    assert "<script" not in text and "@import" not in text and "url(" not in text
    assert re.findall(r"\b(?:href|src)=\"[^#]", text) == []
    for page in ("README.md", "README.zh-CN.md"):
        assert "(docs/recording.svg)" in (ROOT / page).read_text("utf-8")


def test_it_ends_with_every_row_accounted_for(maker):
    """The last frame has the kill, the resume by the same command, and what `verify` found."""
    last = "\n".join(shown(PICTURE.read_text("utf-8"), -1))
    assert last.count(maker.RUN) == 2 and "Killed" in last and maker.VERIFY in last
    assert "complete: 60 of 60 rows ok, 0 failed" in last
    assert "verified: every row is accounted for" in last


def test_a_display_that_is_drawn_again_leaves_one(maker):
    """What a program writes over is gone; colours stay with their words."""
    screen = maker.Screen()
    screen.feed("$ run\n1 of 3\nslow")
    screen.feed("\r\x1b[2K\x1b[1A\x1b[2K\x1b[32m3 of 3\x1b[0m\ndone\n")
    assert screen.shown() == ("$ run", "\x1b[32m3 of 3\x1b[0m", "done", "")
    picture = maker.svg([maker.Frame(0.0, screen.shown())], "a <title>")
    assert shown(picture, 0) == ["$ run", "3 of 3", "done"]
    assert f"fill:{maker.COLOURS[2]}" in picture and "a &lt;title&gt;" in picture
