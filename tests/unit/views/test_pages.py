"""Texts, data and charts on pages."""

import html
import json
import re

import pytest

from batchrun.core.run.series import Point, Series
from batchrun.views.pages import charts, rendering

HOSTILE = "</script><img src=x onerror=alert(1)>'\"& \x00\x1b[2J\u202e\u2028 \ud800"


@pytest.mark.parametrize("text", [HOSTILE, "<" * 5000, "\N{PILE OF POO}" * 900, "a" * 10, ""])
@pytest.mark.parametrize("bytes_max", [0, 1, 25, 300])
def test_a_text_takes_no_more_of_the_page_than_it_may(text, bytes_max):
    """Counted as it is escaped; a text that was cut says how long it is."""
    from minijinja import escape

    shown = rendering.fitted(text, bytes_max)
    kept, cut, _ = shown.partition("\N{HORIZONTAL ELLIPSIS} (")
    assert len(str(escape(kept)).encode()) <= bytes_max
    assert bool(cut) == (kept != rendering.safe(text))
    assert not cut or f"({len(text):,} characters)" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2028]", shown)


def test_flags_stay_on_one_line_and_text_stays_escaped():
    """Every flag has an element of its own; nothing else of a text becomes markup."""
    text = f"then --keep-done --retry-class x, a--b ---c {HOSTILE.replace(chr(0xD800), '')}"
    shown = str(rendering._unbroken(text))
    assert re.findall(r'<span class="flag">(.*?)</span>', shown) == ["--keep-done", "--retry-class"]
    assert html.unescape(re.sub(r'<span class="flag">|</span>', "", shown)) == text
    assert "<img" not in shown and "</script" not in shown


def test_data_for_scripts_ends_no_script():
    """No markup stands in it, and it reads back as it was."""
    value = {"a": [HOSTILE.replace("\ud800", ""), 1.5, None]}
    block = rendering.json_block(value)
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == value


def test_the_policy_names_what_runs():
    """The hashes of the page's own styles and scripts, and nothing else."""
    page = rendering.render(
        "report.html",
        {"title": HOSTILE, "place": HOSTILE, "verdict": HOSTILE, "tone": "good",
         "remarks": [HOSTILE],
         "tiles": [(HOSTILE, "1")], "next": [], "sections": [], "footer": ""},
        styles=("style.css",), scripts=("plots.js",), data={"charts": {HOSTILE[:60]: 1}},
    )  # fmt: skip
    (found,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    policy = html.unescape(found)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    inline = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
    assert len(inline) == 2 == policy.count("sha256-")
    for text in inline:
        assert rendering._digest(text) in policy
    assert page.count("<script") == 2 and "<img" not in page


def test_a_line_breaks_where_a_session_ends():
    """Pauses take no room, and no line leads over them; a lone point is a dot."""
    series = Series()
    series.points = [
        Point(at_s, 1.0, requests=2, in_flight=1.0) for at_s in (0.0, 1.0, 2.0, 900.0, 901.0)
    ]
    throughput, _ = charts.charts(series)
    assert throughput["data"]["x"] == [0, 1, 2, 3, 4] and throughput["end"] == "5s"
    assert [line["name"] for line in throughput["lines"]] == ["sent"]
    drawn = throughput["lines"][0]["path"]
    assert drawn.count("M") == 2 and drawn.count("L") == 3
    series.points = series.points[:1]
    assert charts.charts(series)[0]["lines"][0]["path"].count("h.1") == 1
    assert charts.charts(Series()) == []


def test_what_held_a_run_back_is_a_share_of_its_time():
    """The most first."""
    series = Series()
    series.points = [
        Point(0.0, 6.0, bound_by="rpm", bound_s=6.0),
        Point(6.0, 3.0, bound_by="cpu", bound_s=1.0),
        Point(9.0, 1.0),
    ]
    assert charts.held_back(series) == [("rpm", 0.6), ("cpu", 0.1)]
