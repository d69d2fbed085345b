"""Budgets: the real command against a server that keeps its own books."""

import asyncio
import json
import os
import random
import sys
import threading
import time

import pytest
from aiohttp import web

COMMAND = (sys.executable, "-m", "batchrun")
INPUT_PD, OUTPUT_PD = 1_000_000, 4_000_000
"""Picodollars a token: 1 and 4 USD per million."""
PRICES = '[prices."m"]\ninput = 1\noutput = 4\n'
SEEDS = range(int(os.environ.get("BATCHRUN_BUDGET_SEEDS", "1")))


class Billing:
    """A server that bills every request as it comes, whether its answer arrives or not.

    It needs a random share of the tokens that a request allows. A share of requests is never
    answered, and some are answered without saying what they used.
    """

    def __init__(self, seed, *, unanswered=0.1, untold=0.0, latency_s=0.05):
        self.billed_pd = self.billed_tokens = self.requests = 0
        self._dice = random.Random(seed)
        self._unanswered, self._untold, self._latency_s = unanswered, untold, latency_s
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self):
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _answer(self, request):
        text = await request.read()
        body = json.loads(text)
        prompt = len(body["messages"][0]["content"].encode())  # a token for each byte
        completion = self._dice.randint(0, body["max_tokens"]) * body.get("n", 1)
        self.requests += 1
        self.billed_tokens += prompt + completion
        self.billed_pd += prompt * INPUT_PD + completion * OUTPUT_PD
        if self._dice.random() < self._unanswered:
            await asyncio.sleep(3600)
        await asyncio.sleep(self._dice.expovariate(1 / self._latency_s))
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        told = {} if self._dice.random() < self._untold else {
            "usage": usage | {"total_tokens": prompt + completion}
        }  # fmt: skip
        choice = {"index": 0, "message": {"role": "assistant", "content": "."}}
        choice["finish_reason"] = "stop"
        return web.json_response({"id": "x", "model": body["model"], "choices": [choice]} | told)


def _rows(path, count, seed=0, **fields):
    dice = random.Random(seed)
    with path.open("w") as file:
        for n in range(count):
            message = {"role": "user", "content": f"{n} " + "word " * dice.randint(1, 40)}
            row = {"messages": [message], "max_tokens": dice.randint(20, 400)} | fields
            file.write(json.dumps(row) + "\n")


def _arguments(cli, url, *more, prices=PRICES):
    (cli.folder / "c.toml").write_text(prices)
    return (
        *("run", "rows.jsonl", "-o", "run", "-c", "c.toml", "--model", "m", "--base-url", url),
        *("--no-progress", "--timeout", 1, *more),
    )


def _summary(cli):
    return json.loads((cli.folder / "run" / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_server_never_counts_more_than_the_cap(cli, seed):
    """256 in flight, random latencies, a tenth of the requests timed out, three kill -9: what the
    server billed stays within the cap at every moment, and the cap is used.
    """
    dice = random.Random(seed)
    cap_pd = 800_000_000_000
    _rows(cli.folder / "rows.jsonl", 20_000, seed)
    with Billing(seed) as server:
        command = _arguments(
            cli, server.url, "--max-cost", cap_pd / 1e12, "--concurrency", 256, "--shard-rows", 200
        )
        for _ in range(3):
            live = cli.start(*command)
            before = server.requests
            deadline_s = time.monotonic() + 30
            while server.requests < before + 100 and live.process.poll() is None:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            time.sleep(dice.uniform(0, 0.3))
            live.kill()
            assert server.billed_pd <= cap_pd
        done = cli(*command)
        assert done.code == 3, done.err
        billed_pd = server.billed_pd
        assert billed_pd <= cap_pd
        again = cli(*command)  # at most a small request still fits
        assert again.code == 3
        assert server.billed_pd <= cap_pd
        billed_pd = server.billed_pd
    told = _summary(cli)
    assert told["stopped_by"] == "max_cost"
    assert told["rows"]["pending"] > 0
    charged = told["budget"]["charged_usd"]
    assert billed_pd / 1e12 <= charged <= cap_pd / 1e12
    assert charged >= 0.95 * cap_pd / 1e12
    line = {"seed": seed, "cap_usd": cap_pd / 1e12, "server_usd": billed_pd / 1e12}
    sys.stdout.write(f"{json.dumps(line | {'charged_usd': charged})}\n")
    cli.verified("run")


@pytest.mark.slow
def test_a_quiet_run_uses_its_cap(cli):
    """Without losses at least 95 % of the cap is spent, and a raised cap goes on from there."""
    cap_usd = 0.4
    _rows(cli.folder / "rows.jsonl", 5000)
    with Billing(1, unanswered=0, latency_s=0.02) as server:
        done = cli(*_arguments(cli, server.url, "--max-cost", cap_usd))
        assert done.code == 3, done.err
        assert 0.95 * cap_usd <= server.billed_pd / 1e12 <= cap_usd
        assert "the budget of $0.4000 (--max-cost) has no room for the next request" in done.err
        told = _summary(cli)
        assert told["totals"]["cost_usd"] == server.billed_pd / 1e12
        assert told["budget"]["charged_usd"] == told["totals"]["cost_usd"]
        projected, per_row = told["projected"], told["totals"]["cost_usd"] / told["rows"]["ok"]
        assert projected["low_usd"] < projected["cost_usd"] < projected["high_usd"]
        assert projected["cost_usd"] == pytest.approx(per_row * 5000)
        assert "budget: charged $0." in done.err and " of $0.40 (9" in done.err
        assert f"{told['rows']['pending']:,} pending" in done.err
        assert "pending rows: about $" in done.err
        more = cli(*_arguments(cli, server.url, "--max-cost", 2 * cap_usd))
        assert more.code == 3, more.err
        assert 1.95 * cap_usd <= server.billed_pd / 1e12 <= 2 * cap_usd
    cli.verified("run")


def test_a_model_with_a_dearer_name_at_an_endpoint_keeps_within_the_cap(cli):
    """What is set aside goes by the name that is sent, not only by the row's."""
    _rows(cli.folder / "rows.jsonl", 2000)
    prices = PRICES.replace('"m"', '"big"') + '[prices."m"]\ninput = 0.1\noutput = 0.4\n'
    with Billing(9, unanswered=0, latency_s=0.02) as server:
        table = f'[[endpoint]]\nbase_url = "{server.url}"\nmodels = {{ m = "big" }}\n'
        arguments = _arguments(cli, server.url, "--max-cost", 0.1, prices=prices + table)
        done = cli(*arguments)
        assert done.code == 3, done.err
        assert 0.09 <= server.billed_pd / 1e12 <= 0.1
    assert "more than its worst case" not in done.err


def test_what_is_spent_without_a_budget_counts_too(cli):
    """A session without one in between; the lifetime of the directory is what counts."""
    _rows(cli.folder / "rows.jsonl", 3000)
    with Billing(1, unanswered=0, latency_s=0.005) as server:
        first = cli(*_arguments(cli, server.url, "--max-cost", 0.1))
        assert first.code == 3, first.err
        free = cli(*_arguments(cli, server.url, "--limit", 1000))
        assert free.code == 0, free.err
        spent_pd = server.billed_pd
        last = cli(*_arguments(cli, server.url, "--max-cost", spent_pd / 1e12 + 0.05))
        assert last.code == 3, last.err
        assert 0.04e12 <= server.billed_pd - spent_pd <= 0.05e12


def test_answers_that_do_not_say_what_they_used_stay_charged(cli):
    """With their worst case: the server may count anything up to it."""
    _rows(cli.folder / "rows.jsonl", 3000)
    with Billing(2, unanswered=0, untold=0.3, latency_s=0.005) as server:
        done = cli(*_arguments(cli, server.url, "--max-cost", 0.3))
        assert done.code == 3, done.err
        assert server.billed_pd <= 0.3e12
        budget = _summary(cli)["budget"]
        assert budget["held_usd"] > 0
        assert server.billed_pd / 1e12 <= budget["charged_usd"] <= 0.3
        assert "got no whole answer" in done.err


def test_tokens_have_a_budget_where_no_price_is_known(cli):
    """In the server's own count, with several choices for each request."""
    _rows(cli.folder / "rows.jsonl", 2000, n=3)
    with Billing(3, unanswered=0, latency_s=0.005) as server:
        done = cli(*_arguments(cli, server.url, "--max-total-tokens", 200_000, prices=""))
        assert done.code == 3, done.err
        assert 0.95 * 200_000 <= server.billed_tokens <= 200_000
        told = _summary(cli)
        assert told["stopped_by"] == "max_total_tokens"
        assert told["budget"]["charged_tokens"] == server.billed_tokens


def test_a_budget_that_is_not_reached_changes_nothing(cli):
    """All rows are ok, and the charge is the bill."""
    _rows(cli.folder / "rows.jsonl", 200)
    with Billing(4, unanswered=0) as server:
        done = cli(*_arguments(cli, server.url, "--max-cost", 50, "--max-total-tokens", 10**7))
    assert done.code == 0, done.err
    told = _summary(cli)
    assert told["budget"]["charged_usd"] == told["totals"]["cost_usd"] == server.billed_pd / 1e12
    assert told["budget"]["charged_tokens"] == server.billed_tokens


@pytest.mark.parametrize(
    ("fields", "flags", "prices", "words"),
    [
        ({"max_tokens": None}, ["--max-cost", 1], PRICES, ["line 1", "--max-tokens N"]),
        ({"model": "other"}, ["--max-cost", 1], PRICES, ["line 1", "'other'", '[prices."other"]']),
        ({}, ["--max-cost", 1], "", ["no price is known", '[prices."m"]', "--max-total-tokens"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            ["--max-total-tokens", 1000], "", ["line 1", "'input_audio'"],
        ),
    ],
    ids=["limit", "row's model", "price", "audio"],
)  # fmt: skip
def test_what_has_no_bound_is_refused_before_anything_is_sent(cli, fields, flags, prices, words):
    """Exit 2, naming the row and the remedy, though it is the last of the rows."""
    _rows(cli.folder / "rows.jsonl", 30)
    lines = (cli.folder / "rows.jsonl").read_text().splitlines()
    last = json.loads(lines.pop()) | fields
    (cli.folder / "rows.jsonl").write_text("\n".join([*lines, json.dumps(last)]))
    with Billing(5) as server:
        done = cli(*_arguments(cli, server.url, *flags, prices=prices))
        assert server.requests == 0
    assert done.code == 2
    wanted = [word if word != "line 1" else "line 30" for word in words]
    assert all(word in done.err for word in wanted), done.err


def test_a_limit_for_all_rows_is_bound_enough(cli):
    """``--param`` sets it where rows do not."""
    _rows(cli.folder / "rows.jsonl", 20)
    text = (cli.folder / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        del row["max_tokens"]
    (cli.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with Billing(6, unanswered=0) as server:
        arguments = _arguments(cli, server.url, "--max-cost", 1, "--param", "max_tokens=50")
        done = cli(*arguments)
    assert done.code == 0, done.err


def test_rows_of_a_pipe_are_looked_at_as_they_come(cli):
    """It cannot be read twice: a row without a bound is a bad row, and the others are answered."""
    _rows(cli.folder / "rows.jsonl", 10)
    text = (
        cli.folder / "rows.jsonl"
    ).read_bytes() + b'{"messages":[{"role":"user","content":"x"}]}\n'
    with Billing(7, unanswered=0) as server:
        arguments = list(_arguments(cli, server.url, "--max-cost", 1))
        arguments[1] = "-"
        done = cli(*arguments, stdin=text)
    assert done.code == 1, done.err
    assert _summary(cli)["errors"] == {"invalid_row": 1}
    assert "nothing limits the answer" in done.err
