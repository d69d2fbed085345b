"""`batchrun report`: one page about a run."""

import html
import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchrun.simulator.latency import FixedLatency
from batchrun.views.report import report
from batchrun.views.report.limits import PAGE_BYTES_MAX, Limits

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onx='\x00\x1b[31m\u202eevil"
)
SECTIONS = {
    "metrics-and-gates": "Metrics and gates",
    "comparison": "Comparison",
    "over-time": "Over time",
    "latency-and-tokens": "Latency and tokens",
    "tokens-and-cost": "Tokens and cost",
    "errors": "Errors",
    "slowest-dearest-longest-rows": "Slowest, dearest, longest rows",
    "sample": "Sample",
    "settings-and-versions": "Settings and versions",
}


def _sections(page):
    return re.findall(r'<section id="([^"]+)"', page)


def _text(page):
    """What a reader sees, in one line."""
    body = re.sub(r"<(style|script)[^>]*>.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture
def nightly(cli, scripted, answer, jsonl, chat):
    """A run of 60 rows of which some fail, and the text of its report."""

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].removeprefix("question "))
        if number % 20 == 3:
            return 400, {}, {"error": {"message": f"refused {number}: {HOSTILE}"}}
        return 200, {}, answer(f"answer {number}: {HOSTILE}")

    endpoint = scripted(reply)
    rows = [
        chat(n, custom_id=f"id-{n}{HOSTILE if n % 7 == 0 else ''}", topic=HOSTILE)
        for n in range(60)
    ]
    command = (jsonl(rows), "--base-url", endpoint.base_url, "--no-progress")

    def run(folder, *flags):
        done = cli.run(*command, "-o", folder, *flags)
        assert done.code in (0, 1), done.err
        made = cli("report", folder)
        assert made.code == 0, made.err
        return (cli.folder / folder / "report.html").read_text("utf-8")

    return run


def test_the_report_tells_of_the_run(cli, nightly):
    """Outcome, errors with examples and remedies, percentiles, sample and settings."""
    page = nightly("run")
    text = _text(page)
    for words in (
        "complete, with errors: 57 of 60 rows ok, 3 failed",
        "invalid_request 3",
        "refused 3: </script><script>alert(1)",
        "correct the rows, then --resend-changed",
        "30 of 60 rows, drawn by a hash",
        "batchrun verify run",
        "output.shard_rows 10,000",
    ):
        assert words in text, words
    assert _sections(page) == [n for n in SECTIONS if n not in ("metrics-and-gates", "comparison")]
    assert stat.S_IMODE((cli.folder / "run" / "report.html").stat().st_mode) == 0o600
    cli.verified("run")


def test_hostile_rows_stay_text(nightly):
    """No tag, attribute or script of theirs, no control character, nothing from elsewhere."""
    page = nightly("run")
    assert page.count("<script") == page.count("</script>") == 3
    assert "<img" not in page and "\x00" not in page and "\x1b" not in page
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", page)
    assert not re.search(r"<[^>]*\s(src|href|on\w+|style)\s*=", page)
    assert len(re.findall(r"<meta http-equiv", page)) == 1


def test_the_sample_is_the_same_every_night(nightly):
    """Drawn by the rows' names: another run over the same rows shows the same ones."""
    drawn = r"<summary><b>row (\d+)</b>"
    first, second = (re.findall(drawn, nightly(name)) for name in ("monday", "tuesday"))
    assert first == second and len(first) == 30 and len(set(first)) == 30


def test_a_run_of_giants_keeps_to_its_bytes(cli, scripted, answer, jsonl):
    """Answers of 10 MB of what grows when it is escaped, long ids, messages and settings."""
    big = "<'\"\x00" * 2_600_000

    def reply(body, _headers, _nth):
        number = int(body["messages"][1]["content"].split()[-1])
        if number % 2:
            return 400, {}, {"error": {"message": "'" * 4000, "code": "c" * 100}}
        return 200, {}, answer(big if number == 0 else "'" * 20_000)

    endpoint = scripted(reply)
    rows = [
        {
            "n": n,
            "id": "'" * 5_000 + str(n),
            **{f"c{k}{'<' * 100}": "\u0600" * 3_000 for k in range(9)},
        }
        for n in range(80)
    ]
    (cli.folder / "c.toml").write_text(
        f"[request]\nmodel = 'm'\nsystem = {json.dumps('<' * 100_000)}\nprompt = 'q {{{{ n }}}}'\n"
        f"[[endpoint]]\nbase_url = '{endpoint.base_url}'\n"
        "[input]\nid = 'id'\n[prices.m]\ninput = 1\noutput = 1\n"
    )
    done = cli("run", jsonl(rows), "-c", "c.toml", "-o", "run", "--no-progress")
    assert done.code == 1, done.err
    found = cli("report", "run", "--json")
    assert found.code == 0, found.err
    page = (cli.folder / "run" / "report.html").read_bytes()
    assert found.json["bytes"] == len(page) <= PAGE_BYTES_MAX
    assert found.json["rows"] == 80
    assert "(10,400,000 characters)" in _text(page.decode())


def test_what_does_not_fit_is_cut_until_it_does(cli, nightly, monkeypatch):
    """With room for little, texts and tables shrink; the outcome stays."""
    nightly("run")
    whole = report.make(str(cli.folder / "run"))
    monkeypatch.setattr(report, "PAGE_BYTES_MAX", len(whole.page) - 20_000)
    less = report.make(str(cli.folder / "run")).page
    assert len(less) <= len(whole.page) - 20_000
    assert b"57 of 60 rows ok" in less
    assert Limits().smaller().cards == Limits().cards // 2


def test_a_live_run_and_a_killed_one_have_reports(cli, simulator, jsonl, until):
    """Before the first part, while the run goes on, and after a kill."""
    endpoint = simulator(latency=FixedLatency(0.05))
    command = ("run", jsonl(2000), "--model", "m", "-o", "run", "--base-url", endpoint.base_url)
    live = cli.start(*command, "--no-progress", "--concurrency", 4, "--shard-rows", 20)
    until((cli.folder / "run" / "checkpoint" / "series.json").exists)
    assert cli("report", "run").code == 0
    until(lambda: len(list((cli.folder / "run" / "results").glob("part-*"))) > 3)
    found = cli("report", "run", "--json")
    assert found.json["live"] and found.json["rows"] >= 60
    page = (cli.folder / "run" / "report.html").read_text("utf-8")
    assert "running: process" in _text(page) and "--watch" in _text(page)
    assert {"over-time", "latency-and-tokens", "sample"} <= set(_sections(page))
    live.kill()
    assert cli("report", "run", "-o", "-").out.startswith("<!doctype html>")
    assert cli("report", "run").code == 0
    text = _text((cli.folder / "run" / "report.html").read_text("utf-8"))
    assert "killed: the run left no exit record" in text and "resumes the run" in text


def test_a_directory_of_an_earlier_version_has_a_report(cli, tmp_path):
    """Without examples and the later columns; the section over time is there if a series is."""
    folders = sorted(p.parent for p in GOLDEN.rglob("summary.json"))
    assert folders
    for folder in folders:
        target = tmp_path / "-".join([*folder.relative_to(GOLDEN).parts, "page.html"])
        done = cli("report", folder, "-o", target)
        assert done.code == 0, done.err
        drawn = "over-time" in _sections(target.read_text("utf-8"))
        assert not drawn or (folder / "checkpoint" / "series.json").exists(), folder


def test_metrics_and_gates_are_shown(cli, nightly):
    """As summary.json has them, verdicts first; what is none of that is passed over."""
    nightly("run")
    path = cli.folder / "run" / "summary.json"
    summary = json.loads(path.read_text("utf-8"))
    summary["metrics"] = {
        "accuracy": {"value": 0.81, "n": 57, "low": 0.7, "high": 0.9,
                     "as_if_errors_wrong": 0.77, "as_if_errors_right": 0.82},
        "by topic": {"groups": {"<b>": {"value": 0.5, "n": 2, "low": None, "high": None}}},
        "odd": 3,
    }  # fmt: skip
    summary["gates"] = {
        "accuracy": {"rule": ">= 0.80", "value": 0.81, "verdict": "pass", "why": ""}
    }
    summary["scores"] = {"correct": {"scored": 57, "null": 0, "error_rows": 3}}
    path.write_text(json.dumps(summary))
    page = report.make(str(cli.folder / "run")).page.decode()
    text = _text(page)
    assert _sections(page)[0] == "metrics-and-gates"
    assert "pass accuracy >= 0.80 0.81" in text and "0.7 to 0.9" in text
    assert "by topic: <b> 0.5" in text and '<td class="good">pass</td>' in page


def test_another_night_stands_beside_it(cli, nightly):
    """`--against`: totals of both, and what differs; a run without an end is exit 2."""
    nightly("monday")
    nightly("tuesday", "--param", "temperature=0")
    done = cli("report", "tuesday", "--against", "monday")
    assert done.code == 0, done.err
    page = (cli.folder / "tuesday" / "report.html").read_text("utf-8")
    assert "comparison" in _sections(page)
    assert "a is monday, b is this run. Differs in: params." in _text(page)
    assert "rows ok 57 57" in _text(page)
    assert re.search(r"60 rows are in both runs; \d+ answers changed", _text(page))
    missing = cli("report", "tuesday", "--against", "nowhere")
    assert missing.code == 2 and "nowhere is not a run directory" in missing.err


def test_a_report_replaces_reports_alone(cli, nightly):
    """A file of another kind, a folder and the run's own places are refused."""
    nightly("run")
    (cli.folder / "mine.html").write_text("<p>mine")
    for place in ("mine.html", "run", "run/results/page.html", "nowhere/page.html"):
        done = cli("report", "run", "-o", place)
        assert done.code in (2, 5), (place, done.code)
        assert "-o" in done.err
    assert (cli.folder / "mine.html").read_text() == "<p>mine"
    for _ in range(2):
        assert cli("report", "run", "-o", "page.html").code == 0
    assert (cli.folder / "page.html").stat().st_size > 10_000
    assert cli("report", "nowhere").code == 2


def test_a_report_needs_neither_lock_nor_writing_elsewhere(cli, nightly):
    """Only the page is written; `-o -` writes nothing at all."""
    nightly("run")
    (cli.folder / "run" / "report.html").unlink()

    def tree():
        return {
            p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (cli.folder / "run").rglob("*")
        }

    before = tree()
    done = subprocess.run(
        [sys.executable, "-m", "batchrun", "report", "run", "-o", "-"],
        cwd=cli.folder, env=cli._environment(None), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith(b"<!doctype html>")
    assert tree() == before
    assert pq.read_table(cli.folder / "run" / "results").num_rows == 60


@pytest.mark.slow
def test_a_run_in_a_store_has_its_report_there(cli, simulator, jsonl, store):
    """Uploaded next to the results; the checkpoint, with the figures over time, is named."""
    address = f"s3://{store.bucket}/run"
    endpoint = simulator()
    command = ("run", jsonl(5), "--model", "m", "-o", address, "--checkpoint", "cp")
    flags = ("--base-url", endpoint.base_url, "--no-progress")
    assert cli(*command, *flags, env=store.env).code == 0
    done = cli("report", address, "--checkpoint", "cp", "--json", env=store.env)
    assert done.code == 0, done.err
    assert done.json["file"] == f"{address}/report.html" and done.json["rows"] == 5
    assert store.get("run/report.html").startswith(b"<!doctype html>")
    again = cli("report", address, "--checkpoint", "cp", "-o", "-", env=store.env)
    assert "over-time" in _sections(again.out)
