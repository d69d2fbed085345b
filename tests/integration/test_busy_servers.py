"""How much of a busy server a run uses, over real HTTP: `simulate --capacity` and the command, each
a process of its own. The second half of a run is what counts; finding out takes the first.
"""

import math
import resource
import statistics
import subprocess
import sys

import pytest

from batchrun.simulator.latency import FixedLatency
from tests.harness import courses


def _lognormal(mean, sigma=0.9):
    """Draws lengths of answers."""
    mu = math.log(mean) - sigma**2 / 2
    return lambda dice: max(1, int(math.exp(dice.gauss(mu, sigma))))


def _course(folder, server, rows, for_s, *flags, max_tokens=None, name="run"):
    source = courses.rows(folder / f"{name}.jsonl", rows, max_tokens)
    with courses.serving(*server) as url:
        return courses.run(source, url, folder / name, flags, for_s)


def _second_half(course):
    last_s = max(exchange.back_s for exchange in course.exchanges) - 0.5
    return last_s / 2, last_s


@pytest.mark.quiet
@pytest.mark.parametrize("page", ["--metrics", "--no-metrics"])
def test_auto_settles_at_the_slots_of_a_server(tmp_path, page):
    """Four slots that answer in 0.1 s: the concurrency is 4 or next to it, found by replies alone
    as well as with the server's own figures, and as much comes out as with the best fixed one. The
    summary says what was found, and one notice that more is no use.
    """
    server = ("--capacity", "slots:4:1000", page)
    course = _course(tmp_path, server, 6000, 90)
    late = _second_half(course)
    assert statistics.median(course.concurrency(*late)) in {3, 4, 5}
    assert course.answers(*late) >= 0.95 * _best(tmp_path, server, (4, 5))
    window = course.summary["endpoints"]["default"]["window"]
    assert window["concurrency"] <= 8
    assert window["rows_per_s"] >= 30
    [notice] = [said for said in course.summary["notices"] if "slows down under load" in said]
    assert course.said.count(notice) == 1


def _best(folder, server, fixed, for_s=10, max_tokens=None, *, tokens=False):
    """What the best of these fixed concurrencies delivers, once it is under way."""
    found = []
    for number in fixed:
        course = _course(
            *(folder, server, 100 * for_s * 4, for_s, "--concurrency", number),
            max_tokens=max_tokens,
            name=f"fixed-{number}",
        )
        assert course.windows == [], "it is fixed"
        late = _second_half(course)
        found.append(course.tokens(*late) if tokens else course.answers(*late))
    return max(found)


@pytest.mark.quiet
@pytest.mark.parametrize(
    ("latency_s", "for_s", "share"), [(0.5, 100, 0.95), (5, 240, 0.95)], ids=["0.5 s", "5 s"]
)
def test_a_knee_is_found(tmp_path, latency_s, for_s, share):
    """Past 64 requests at once the server slows down faster than it takes more: the best fixed
    concurrency is 64, and answers 64 in the time that one takes.
    """
    server = ("--capacity", "knee:64:2", "--latency", f"fixed:{latency_s}", "--no-metrics")
    course = _course(tmp_path, server, int(for_s * 70 / latency_s), for_s)
    assert course.answers(*_second_half(course)) >= share * 64 / latency_s


@pytest.mark.quiet
def test_a_server_that_batches_is_filled(tmp_path):
    """A token takes 10 ms and 0.04 ms for each running request: what is delivered grows to the
    largest concurrency that there is, 1,024, where it is 20,000 tokens a second.
    """
    server = ("--capacity", "batching:10:0.04:300000", "--no-metrics")
    course = _course(tmp_path, server, 40_000, 140, max_tokens=_lognormal(200))
    assert course.tokens(*_second_half(course)) >= 0.95 * 1024 / (10 + 0.04 * 1024) * 1000


@pytest.mark.quiet
def test_a_rate_that_nobody_reports_is_found(tmp_path):
    """100 a second by 429s without a word: at least 97 % of it is used, with one refusal for each
    100 answers at most.
    """
    server = ("--rpm", 6000, "--bare-429", "--limit-headers", "none", "--latency", "fixed:0.3")
    course = _course(tmp_path, server, 12_000, 90)
    late = _second_half(course)
    assert course.answers(*late) >= 0.97 * 100
    assert course.waste(*late) <= 0.01


@pytest.mark.slow
def test_a_concurrency_that_is_given_stays(tmp_path):
    """`--concurrency 16` at a server of four slots: 16 are in flight from the first to the last,
    and nothing is looked for.
    """
    source = courses.rows(tmp_path / "rows.jsonl", 800)
    with courses.serving("--capacity", "slots:4:1000", "--latency", "fixed:0.05") as url:
        course = courses.run(source, url, tmp_path / "run", ["--concurrency", 16], 60)
        stats = courses.stats(url)
    assert course.summary["rows"]["ok"] == 800
    assert stats["in_flight_max"] == 16
    assert course.windows == []
    assert "window" not in course.summary["endpoints"]["default"]
    assert "slows down under load" not in course.said


@pytest.mark.quiet
def test_ten_thousand_requests_are_in_flight(tmp_path):
    """`--concurrency 10000` at 30 s for an answer: the server has as many at once, each costs the
    client 30 KB at most, and what holds the run back is not the reading of its input.
    """
    many = 10_000
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit < many + 200:
        pytest.skip(f"needs {many + 200:,} open files, and may have {limit:,} (ulimit -n)")
    courses_of = {}
    for number, rows in ((64, 3000), (many, 12_000)):
        source = courses.rows(tmp_path / f"{number}.jsonl", rows)
        with courses.serving("--latency", f"fixed:{30 if number == many else 0.05}") as url:
            folder = tmp_path / f"run-{number}"
            course = courses.run(source, url, folder, ["--concurrency", number], 200)
            stats = courses.stats(url)
        assert course.summary["rows"]["ok"] == rows
        assert stats["in_flight_max"] >= 0.99 * number
        courses_of[number] = course
    more_kb = courses_of[many].peak_kb - courses_of[64].peak_kb
    assert more_kb / (many - 64) <= 30
    assert courses_of[many].bound_by in {"concurrency", "this machine's CPU"}


@pytest.mark.slow
def test_a_limit_of_open_files_that_binds_is_told_once(cli, simulator, jsonl, summary):
    """The concurrency grows as far as files may be open: what bounds it, and how to raise that, is
    on stderr and in the summary, once.
    """
    endpoint = simulator(latency=FixedLatency(0.2))
    command = [
        *(sys.executable, "-m", "batchrun", "run", jsonl(6000), "-o", "run", "--model", "m"),
        *("--base-url", endpoint.base_url, "--no-progress"),
    ]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 200; exec "$@"', "bash", *map(str, command)],
        cwd=cli.folder,
        env=courses.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = summary(cli.folder / "run")
    [notice] = [said for said in found["notices"] if "files open" in said]
    assert "may have 200 files open" in notice
    assert "ulimit -n " in notice
    assert done.stderr.count(notice) == 1
    window = found["endpoints"]["default"]["window"]
    assert window["high"] < 200
    assert f"the concurrency at {window['high']}" in notice
    assert endpoint.stats()["in_flight_max"] <= window["high"]


@pytest.mark.slow
def test_a_bound_that_is_a_setting_is_no_news(cli, simulator, jsonl, summary):
    """`--max-concurrency 80` is reached: the user set it, and is told nothing."""
    endpoint = simulator(latency=FixedLatency(0.1))
    done = cli.run(
        *(jsonl(1500), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--max-concurrency", 80),
    )
    assert done.code == 0, done.err
    assert endpoint.stats()["in_flight_max"] == 80
    assert not [said for said in summary(cli.folder / "run")["notices"] if "files" in said]
