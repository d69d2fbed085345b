"""The served status in Chromium: it renews itself, and stays what it is when the run is over."""

import socket
import threading

import pytest

HOSTILE = "</div><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202e"


@pytest.fixture
def followed(cli, scripted, answer, jsonl, until):
    """A live run whose last rows wait, its status page, and what lets them go."""
    gate = threading.Event()

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].removeprefix("question "))
        if number == 3:
            return 400, {}, {"error": {"message": HOSTILE}}
        if number >= 20:
            gate.wait(120)
        return 200, {}, answer("fine")

    endpoint = scripted(reply)
    command = ("run", jsonl(24), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    live = cli.start(*command, "--no-progress", "--concurrency", 8)
    until(lambda: cli("status", "run", "--json").json.get("errors"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = cli.start("status", "run", "--serve", port)

    def listens():
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    until(listens)
    yield f"http://127.0.0.1:{port}/", live, gate, server
    gate.set()


@pytest.mark.slow
def test_the_page_renews_itself(visit, followed):
    """From live to ended without a click, narrow and dark too; no script of a row runs; it says
    so when the server is gone.
    """
    address, live, gate, server = followed
    seen = visit(address)
    narrow = visit(address, width=390, scheme="dark")
    plain = visit(address, scripts=False)
    for each in (seen, narrow, plain):
        assert "running: process" in each.page.inner_text("h1")
        assert "<script>alert(1)" in each.page.inner_text(".text")
    assert seen.overflow() <= 0 and narrow.overflow() <= 0
    assert seen.page.locator("figure svg").count() >= 1
    gate.set()
    assert live.wait().code == 1
    for each in (seen, narrow, plain):
        heading = each.page.locator("h1", has_text="complete, with errors: 23 of 24 rows ok")
        heading.wait_for(timeout=30_000)
        assert each.page.title().startswith("complete, with errors")
        assert each.dialogs == []
        assert {a for a in each.asked if not a.endswith("favicon.ico")} == {address}
    server.kill()
    seen.page.locator("footer", has_text="does not answer any more").wait_for(timeout=30_000)
    assert "complete, with errors" in seen.page.inner_text("h1")
