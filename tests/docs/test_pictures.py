"""Pictures of the pages: they are there, small, and what they are called; terminals fit."""

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
BYTES_MAX = 60_000
LINK = re.compile(r"!\[([^\]]+)\]\((pictures/[^)]+)\)")


def test_every_picture_is_used_and_small():
    """Each file is on a page, with words for who cannot see it, and is a WebP image in fact."""
    named = {
        place: words
        for page in DOCS.glob("*.md")
        for words, place in LINK.findall(page.read_text("utf-8"))
    }
    files = {f"pictures/{path.name}": path.read_bytes() for path in (DOCS / "pictures").iterdir()}
    assert named.keys() == files.keys() and len(files) == 5
    for place, data in files.items():
        assert len(data) <= BYTES_MAX, place
        assert data[:4] == b"RIFF" and data[8:12] == b"WEBP", place
        assert len(named[place].split()) >= 4


def test_terminals_fit_their_width():
    """No line is wider than the terminal that it was shown on, and each shows rows that failed."""
    page = (DOCS / "live.md").read_text("utf-8")
    shown = re.findall(r"^```text (\d+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert [columns for columns, _ in shown] == ["120", "80", "40"]
    for columns, text in shown:
        widest = max(map(len, text.splitlines()))
        assert int(columns) // 2 < widest <= int(columns)
        assert "failed by class:" in text and "/800 rows" in text
