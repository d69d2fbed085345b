"""How failures and flawed answers read."""

import dataclasses
import io
import itertools
import random
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from batchrun.core.request import remedies
from batchrun.views import failures, progress, run_status, text
from tests.harness.snapshots import snapshot

LONG = "the server refused it because " + "of this and that " * 40


def displayed(width, **given):
    """The lines of the live display at a width."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, legacy_windows=False)
    with progress.LiveProgress(console) as live:
        live(snapshot(**given))
        shown = console.file.getvalue()
    return [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in shown.splitlines()]


FAILED = {
    "error": 16,
    "errors": {"content_filter": 12, "timeout": 4},
    "examples": {
        "content_filter": {"row": 4711, "message": LONG},
        "timeout": {"row": 7, "message": "no reply\x1b[2J within 600 s"},
    },
    "outputs": {"answers": 1000, "truncated": 950, "empty": 0},
    "ok": 1000,
    "rows_input": 2000,
}


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_display_has_failures_and_cuts_no_word(width):
    """Classes, an example and the remedy of each; every line ends at a word, none is too long."""
    lines = displayed(width, **FAILED)
    assert max(map(len, lines)) <= width
    shown = "\n".join(lines)
    assert "failed by class: content_filter 12 timeout 4" in " ".join(shown.split())
    assert "content_filter, row 4,711: the server" in shown
    assert "timeout, row 7: no reply\N{REPLACEMENT CHARACTER}[2J within 600 s" in " ".join(
        shown.split()
    )
    assert "truncated 950 of 1,000 answers (95%)" in shown
    known = " ".join([LONG, *remedies.ADVICE.values(), "..."]).split()
    told = lines[lines.index(next(n for n in lines if n.startswith("content_filter, row"))) :]
    words = " ".join(told[:4]).partition("4,711:")[2].split()
    assert len(words) > 8 and set(words) <= set(known)


@pytest.mark.parametrize("width", [40, 80])
def test_a_message_without_spaces_is_shown_too(width):
    """Chinese has none, and its letters take two columns each."""
    said = "\u8bf7\u6c42\u53c2\u6570\u9519\u8bef" * 12
    lines = displayed(width, **(FAILED | {"examples": {"timeout": {"row": 7, "message": said}}}))
    shown = next(line for line in lines if line.startswith("timeout, row 7:"))
    after = lines[lines.index(shown) + 1]
    assert said[:6] in shown + after
    assert all(cell_len(line) <= width for line in lines)


def test_no_text_is_wider_than_the_display():
    """Whatever words it is made of, at any width."""
    dice = random.Random(1)
    for _ in range(300):
        words = (
            "\u9519" * dice.randint(1, 9) if dice.random() < 0.2 else "x" * dice.randint(1, 30)
            for _ in range(dice.randint(1, 60))
        )
        width = dice.randint(12, 90)
        lines = list(progress._texts(" ".join(words), width))
        assert len(lines) <= progress.TEXT_LINES
        assert all(line.cell_len <= width for line in lines), width


def test_the_bar_takes_the_width_that_there_is():
    """At 120 columns the bar is no shorter than the terminal but for one column."""
    for width in (40, 80, 120):
        bar = next(
            line
            for line in displayed(width, **FAILED)
            if "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in line
        )
        assert len(bar) == width - 1


def test_plain_lines_get_rarer_and_tell_of_a_new_class_at_once(monkeypatch):
    """A run of a day writes a few hundred lines; a class that appears is told with its example."""
    now, said = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    plain = progress.PlainProgress(said.append)
    times = []
    while now[0] < 86_400:
        before = len(said)
        plain(snapshot(rows_input=10, eta_s=None))
        times += [now[0]] * (len(said) - before)
        now[0] += 0.5
    gaps = [after - then for then, after in itertools.pairwise(times)]
    assert 50 < len(times) < 400 and gaps[0] <= 5.5 and gaps[-1] >= 600
    assert all(later >= sooner - 0.5 for sooner, later in itertools.pairwise(gaps))
    del said[:]
    for _ in range(3):
        plain(snapshot(rows_input=10, eta_s=None, **{k: FAILED[k] for k in ("errors", "examples")}))
    assert len(said) == 2
    assert said[0].startswith("failed: ") and "row" in said[0] and "\x1b" not in "".join(said)


def test_a_dead_run_has_no_eta():
    """What a killed run left is shown as the past: no rates, no time left, no bound."""
    live = dataclasses.asdict(snapshot(**FAILED, eta_s=60.0, requests=1016))
    live |= {"updated_at": "2026-01-02T03:04:05Z", "pid": 1, "host": "here", "bound_by": "rpm"}
    dead = "\n".join(run_status.lines({"state": "killed", "live": live}, "run"))
    alive = "\n".join(run_status.lines({"state": "running", "live": live}, "run"))
    for word in ("ETA", "/s", "in flight", "bound by"):
        assert word not in dead and word in alive
    for words in ("1,016 of 2,000", "failed by class: content_filter 12", "timeout, row 7"):
        assert words in dead and words in alive
    assert "what to do:" in alive


@pytest.mark.parametrize(
    ("line", "label", "colour"),
    [
        ("complete: 3 of 3 rows ok", "complete:", "green"),
        ("complete, with errors: 2 of 3", "complete, with errors:", "yellow"),
        ("complete, but most answers are truncated: 3", "complete, but most answers are truncated:",
         "yellow"),
        ("stopped by auth: 0 of 3", "stopped by auth:", "red"),
        ("results: run/results", "", None),
    ],
)  # fmt: skip
def test_a_verdict_has_a_colour(line, label, colour):
    """Up to the first colon; other lines have none."""
    found = text.verdict(line)
    assert (found[0], found[2]) == (label, colour) and found[0] + found[1] == line


@pytest.mark.parametrize(
    ("outputs", "flaw"),
    [
        ({"truncated": 51, "empty": 0}, "truncated"),
        ({"truncated": 50, "empty": 50}, None),
        ({"truncated": 0, "empty": 100}, "empty"),
        ({}, None),
    ],
)
def test_a_run_says_what_most_answers_are(outputs, flaw):
    """More than half of the answers."""
    assert failures.mostly(outputs, 100) == flaw
