"""Servers of one's own are asked for their load at `/metrics`; nothing depends on the answer."""

import asyncio
import contextlib
import json
import statistics
import threading
import time

import aiohttp
import pytest

from batchrun.adapters.http import load_reports
from batchrun.core.reply.server_load import Load
from batchrun.core.settings.urls import Address, address, may_be_private, metrics_url
from batchrun.engine.tasks import cancelled
from tests.harness import courses

QUEUE = b"vllm:num_requests_running 4\nvllm:num_requests_waiting 60\n"


@pytest.mark.slow
def test_a_reported_queue_is_left_within_seconds(tmp_path):
    """A server of four slots, a second each: by its replies alone that takes minutes. The status
    says what it reports.
    """
    rows = courses.rows(tmp_path / "rows.jsonl", 200)
    with courses.serving("--capacity", "slots:4:1000", "--latency", "fixed:1") as url:
        course = courses.run(rows, url, tmp_path / "run", [], 16)
    late = [found for at_s, found in course.windows if at_s >= 10]
    assert {found["concurrency"] for found in late} <= {4, 5, 6}
    # All four end at the same moment, and then none runs.
    assert statistics.median(found["server_running"] for found in late) == 4


@pytest.mark.slow
def test_without_the_page_the_climb_goes_by_replies(tmp_path):
    """`--no-metrics`: nothing is reported, and the window comes down all the same."""
    rows = courses.rows(tmp_path / "rows.jsonl", 60_000)
    flags = ("--capacity", "slots:4:1000", "--latency", "fixed:0.02", "--no-metrics")
    seen = []

    def is_down(window):
        seen.append(window["concurrency"])
        return max(seen) > 8 >= seen[-1]

    with courses.serving(*flags) as url:
        course = courses.run(rows, url, tmp_path / "run", [], 240, is_down)
    assert max(seen) > 8 >= min(seen), seen
    assert {found["server_waiting"] for _, found in course.windows} == {None}


def _reports(heard, where, until):
    """Ask the address until ``until(heard)``, quickly."""

    async def run():
        enough = asyncio.Event()

        def hear(load):
            heard.append(load)
            if until(heard):
                enough.set()

        asking = asyncio.create_task(load_reports._ask(where, None, hear))
        waiting = asyncio.create_task(enough.wait())
        await asyncio.wait({asking, waiting}, timeout=30, return_when="FIRST_COMPLETED")
        ended = asking.done()
        await cancelled((asking, waiting))
        return ended

    return asyncio.run(run())


HOSTILE = {
    "ten megabytes": (200, {}, b"a 1\n" * 2_500_000),
    "too long, and right": (200, {}, QUEUE + b"#\n" * 600_000),
    "other names": (200, {}, b"go_threads 9\n"),
    "not a number": (200, {}, QUEUE.replace(b"60", b"NaN")),
    "a redirect": (302, {"Location": "/elsewhere"}, QUEUE),
    "no access": (401, {"WWW-Authenticate": "Bearer"}, QUEUE),
    "switched off": (501, {}, b"{}"),
    "compressed": (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b rubbish"),
    "a web page": (200, {"Content-Type": "text/html"}, b"<html>404</html>"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_page_that_is_no_report_is_soon_left_alone(scripted, monkeypatch, name):
    """Three tries, no exception, no redirect followed, and nothing heard but that."""
    monkeypatch.setattr(load_reports, "EVERY_S", 0.01)
    endpoint = scripted(lambda *_: HOSTILE[name], reports_load=True)
    heard = []
    assert _reports(heard, address(endpoint.base_url), lambda _: False), "it goes on asking"
    assert heard == [None] * load_reports.FAILURES_MAX
    assert [path for path, _, _ in endpoint.requests] == ["/metrics"] * load_reports.FAILURES_MAX


def test_it_is_asked_without_key_or_headers(scripted, monkeypatch):
    """What a monitoring system would send: the URL's query and the endpoint's headers stay away."""
    monkeypatch.setattr(load_reports, "EVERY_S", 0.01)
    endpoint = scripted(lambda *_: (200, {}, QUEUE), reports_load=True)
    heard = []
    where = Address(endpoint.base_url + "/chat/completions?key=secret")
    _reports(heard, where, lambda found: len(found) >= 2)
    assert heard[:2] == [Load(4, 60)] * 2
    for path, headers, _ in endpoint.requests:
        assert path == "/metrics"
        assert {name.lower() for name in headers} <= {
            *("host", "accept", "accept-encoding", "user-agent", "connection")
        }


def test_a_server_that_fails_now_and_then_is_asked_again(scripted, monkeypatch):
    """Only failures in a row count."""
    monkeypatch.setattr(load_reports, "EVERY_S", 0.01)
    endpoint = scripted(
        lambda _, __, nth: (200 if nth % 3 == 0 else 503, {}, QUEUE), reports_load=True
    )
    heard = []
    assert not _reports(heard, address(endpoint.base_url), lambda found: len(found) >= 9)
    assert heard[:6] == [None, None, Load(4, 60)] * 2


@pytest.mark.parametrize("status", [503, 429, None], ids=["503", "429", "it hangs up"])
def test_a_server_that_is_busy_is_asked_later(scripted, monkeypatch, status):
    """No answer, or one that says to come back, does not mean that there is no such page."""
    monkeypatch.setattr(load_reports, "EVERY_S", 0.01)
    busy = 2 * load_reports.FAILURES_MAX

    def reply(_body, _headers, nth):
        if nth > busy:
            return 200, {}, QUEUE
        return None if status is None else (status, {}, b"busy")

    endpoint = scripted(reply, reports_load=True)
    heard = []
    _reports(heard, address(endpoint.base_url), lambda found: found[-1] is not None)
    assert set(heard[:-1]) == {None}
    assert len(heard) > load_reports.FAILURES_MAX
    assert heard[-1] == Load(4, 60)


def test_the_pause_after_no_answer_has_a_bound(scripted, monkeypatch):
    """It doubles up to a minute, and the first report ends it."""
    pauses, sleep = [], asyncio.sleep

    async def slept(pause_s):
        pauses.append(pause_s)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", slept)
    endpoint = scripted(lambda _, __, nth: (200 if nth > 8 else 503, {}, QUEUE), reports_load=True)
    heard = []
    _reports(heard, address(endpoint.base_url), lambda found: found.count(None) < len(found) - 1)
    assert pauses[:10] == [2, 4, 8, 16, 32, 60, 60, 60, 60, 2]


@pytest.mark.parametrize("running", [0, 4])
def test_its_connection_is_kept_by_a_server_at_work_alone(monkeypatch, running):
    """A server with a single thread reports that nothing runs, since it serves this connection: it
    would serve no other until that is closed.
    """
    monkeypatch.setattr(load_reports, "EVERY_S", 0.01)
    page = QUEUE.replace(b"running 4", b"running %d" % running)
    heard, asked_on = [], []

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked_on.append(writer)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(page) + page)
                await writer.drain()
                if b"connection: close" in head.lower():
                    break
        writer.close()

    async def run():
        enough = asyncio.Event()

        def hear(load):
            heard.append(load)
            if len(heard) == 5:
                enough.set()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            where = Address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
            async with load_reports.asking(where, None, hear), asyncio.timeout(30):
                await enough.wait()

    asyncio.run(run())
    assert heard[:5] == [Load(running, 60)] * 5
    kept = len(set(map(id, asked_on[1:5]))) == 1
    assert kept is (running > 0)


def test_a_request_waits_its_turn_at_a_busy_server(scripted, monkeypatch):
    """A late report is told as none, and is taken when it comes: the request keeps its place among
    the connections that the server will read.
    """
    monkeypatch.setattr(load_reports, "EVERY_S", 0.01)
    monkeypatch.setattr(load_reports, "LATE_S", 0.05)
    missed = threading.Event()

    def reply(*_):
        missed.wait(30)
        return 200, {}, QUEUE

    endpoint = scripted(reply, reports_load=True)
    heard = []

    def until(found):
        missed.set()
        return found[-1] is not None

    _reports(heard, address(endpoint.base_url), until)
    assert heard[:2] == [None, Load(4, 60)]
    assert endpoint.requests[0][0] == "/metrics"


@pytest.mark.slow
def test_a_run_sends_its_key_to_requests_alone(cli, scripted, answer, jsonl):
    """A whole run with a key and a header of its own against a server whose page asks for both."""

    def reply(body, _headers, _nth):
        if body is None:
            return 401, {}, b"who are you?"
        time.sleep(0.2)
        return 200, {}, answer("ok")

    endpoint = scripted(reply, reports_load=True)
    (cli.folder / "c.toml").write_text(
        f'[[endpoint]]\nbase_url = "{endpoint.base_url}"\nheaders = {{ "X-Team" = "mine" }}\n'
        "max_concurrency = 4\n"
    )
    env = {"OPENAI_API_KEY": "sk-a-secret-key"}
    done = cli.run(jsonl(200), "-o", "run", "--model", "m", "-c", "c.toml", env=env)
    assert done.code == 0, done.err
    pages = [headers for path, headers, _ in endpoint.requests if path == "/metrics"]
    assert 1 <= len(pages) <= load_reports.FAILURES_MAX
    assert not any("sk-a-secret-key" in value for headers in pages for value in headers.values())
    assert not any("X-Team" in headers for headers in pages)
    summary = json.loads((cli.folder / "run/summary.json").read_text())
    assert not any("metrics" in notice for notice in summary["notices"])


@pytest.mark.slow
def test_a_given_concurrency_asks_for_nothing(cli, scripted, answer, jsonl):
    """`--concurrency 4` is not looked for, so nobody is asked."""

    def reply(body, _headers, _nth):
        time.sleep(0.1)
        return (404, {}, b"") if body is None else (200, {}, answer("ok"))

    endpoint = scripted(reply, reports_load=True)
    done = cli.run(
        *(jsonl(120), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--concurrency", 4),
    )
    assert done.code == 0, done.err
    assert {path for path, _, _ in endpoint.requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("base_url", "own"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://192.168.0.9/v1", True),
        ("http://[fd00::1]/v1", True),
        ("http+unix://%2Frun%2Fllm.sock/v1", True),
        ("http://gpu-box:8000/v1", True),  # resolved before it is asked
        ("http://8.8.8.8/v1", False),
        ("http://169.254.169.254/v1", False),
        ("http://[::ffff:8.8.8.8]/v1", False),
        ("http://[2001:4860:4860::8888]/v1", False),
    ],
)
def test_only_servers_of_ones_own_are_asked(base_url, own):
    """Loopback, private addresses and Unix sockets; names are resolved first."""
    assert may_be_private(address(base_url)) is own


def test_a_name_that_is_public_is_never_connected_to(monkeypatch):
    """The name of a hosted provider: no connection is made."""
    monkeypatch.setattr(load_reports, "EVERY_S", 0.01)
    asked = []

    async def resolve(_resolver, host, port, _family):
        asked.append(host)
        return [
            {"hostname": host, "host": ip, "port": port, "family": 2, "proto": 0, "flags": 0}
            for ip in ("127.0.0.1", "8.8.8.8")
        ]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    heard = []
    assert _reports(heard, address("http://api.provider.example:9/v1"), lambda _: False)
    assert heard == [None] * load_reports.FAILURES_MAX
    assert set(asked) == {"api.provider.example"}


@pytest.mark.parametrize(
    ("url", "page"),
    [
        ("http://h:1/v1/chat/completions?key=k", "http://h:1/metrics"),
        ("https://h/llm/v1/chat/completions", "https://h/llm/metrics"),
        ("http://h/api/chat/completions", "http://h/api/metrics"),
        ("http://h/v1beta/openai/chat/completions", "http://h/metrics"),
    ],
)
def test_where_the_page_is(url, page):
    """Beside the API, without its version and query."""
    assert metrics_url(url) == page
