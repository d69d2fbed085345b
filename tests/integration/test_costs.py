"""What a run costs, from the replies to the summary: real runs against real endpoints.

Expected figures are computed here from the tokens in the ledger, in fractions, by rules of this
file's own.
"""

import json
from datetime import UTC, datetime
from fractions import Fraction

import pytest

from batchrun.adapters.journal.journal import Journal
from batchrun.rundir.spent import spent
from batchrun.testing import samples
from batchrun.testing.samples import completion_body

CONFIG = """
[prices."own"]
input = 0.15
output = 0.60
cached_input = 0.075
reasoning = 0.7
batch_input = 0.075001
batch_output = 0.3
"""
RATES = {  # input, cached, output, reasoning: USD per million
    "default": ("0.15", "0.075", "0.60", "0.7"),
    "flex": ("0.075001", "0.075", "0.3", "0.7"),
}


@pytest.fixture(autouse=True)
def _here(cli, monkeypatch):
    """Run directories are named as the command names them."""
    monkeypatch.chdir(cli.folder)


def _expected(line, rates=RATES):
    """The cost of a line of the ledger, in USD."""
    prompt, cached, completion, reasoning = (
        line[f"{name}_tokens"] for name in ("prompt", "cached", "completion", "reasoning")
    )
    if prompt is None:
        return None
    given, from_cache, said, thought = map(Fraction, rates[line["service_tier"]])
    return (
        (prompt - cached) * given
        + cached * from_cache
        + (completion - reasoning) * said
        + reasoning * thought
    ) / 10**6


def _body(number):
    body = {"messages": [{"role": "system", "content": "Read with care. " * 40},
                         {"role": "user", "content": f"question {number}"}]}  # fmt: skip
    if number % 3 == 0:
        body["service_tier"] = "flex"
    if number % 4 == 0:
        body["reasoning_effort"] = "low"
    return body


def _assert_accounted(cli, published, summary, rates=RATES, folder="run"):
    """Ledger, results, usage and summary say what the tokens say, to the last digit."""
    ledger = published(folder, "attempts").to_pylist()
    known = [(line, _expected(line, rates)) for line in ledger]
    for line, usd in known:
        assert line["cost_usd"] == (None if usd is None else float(usd)), line
    bill = sum(usd for _, usd in known if usd is not None)
    last = {line["row"]: usd for line, usd in known}
    kept = sum(last[row["row"]] for row in published(folder).to_pylist() if row["status"] == "ok")
    totals = summary(folder)["totals"]
    assert totals["cost_usd"] == float(bill) and totals["wasted_cost_usd"] == float(bill - kept)
    days = {}
    for line, usd in known:
        day = line["started_at"].astimezone(UTC).date().isoformat()
        days[day] = days.get(day, 0) + (usd or 0)
    assert {day: sums["cost_usd"] for day, sums in totals["by_day"].items()} == {
        day: float(usd) for day, usd in days.items()
    }
    assert sum(sums["attempts"] for sums in totals["by_day"].values()) == totals["attempts"]
    for row in published(folder).to_pylist():
        assert row["cost_usd"] == (None if last[row["row"]] is None else float(last[row["row"]]))
    cli.verified(folder)
    return totals


def test_a_run_with_prices(cli, simulator, jsonl, published, summary):
    """Cached, reasoning and flex tokens, with faults in between: every figure is exact, and a
    refusal that tells no usage costs nothing that is known.
    """
    endpoint = simulator(error_rates={"500": 0.2}, seed=3)
    (cli.folder / "c.toml").write_text(CONFIG)
    rows = jsonl([_body(n) for n in range(60)])
    done = cli("run", rows, "-o", "run", "-c", "c.toml", "--model", "own", "--shard-rows", 7,
               "--base-url", endpoint.base_url, "--max-attempts", 2, "--no-progress")  # fmt: skip
    assert done.code in (0, 1), done.err
    totals = _assert_accounted(cli, published, summary)
    assert totals["cached_tokens"] >= 0 < totals["reasoning_tokens"]
    assert totals["unpriced_attempts"] == 0
    assert f"cost ${totals['cost_usd']:.4f}" in done.err and "no price" not in done.err
    live = json.loads((cli.folder / "run" / "checkpoint" / "status.json").read_text())
    assert (live["cost_usd"] or 0.0) <= totals["cost_usd"]  # it may be from before the first


def test_sessions_keep_adding(cli, here, simulator, jsonl, published, summary):
    """A resume and --retry-failed add to the bill; what an earlier attempt cost stays."""
    (cli.folder / "c.toml").write_text(CONFIG)
    rows = jsonl([_body(n) for n in range(30)])
    command = (rows, "-o", "run", "-c", "c.toml", "--model", "own", "--shard-rows", 7,
               "--max-attempts", 1, "--on-truncation", "fail", "--no-progress")  # fmt: skip
    cut = simulator(seed=1)
    here(*command, "--limit", 10, "--param", "max_tokens=3", "--base-url", cut.base_url)
    first = _assert_accounted(cli, published, summary)
    assert first["cost_usd"] == first["wasted_cost_usd"] > 0  # each answer was cut off
    again = (*command, "--param", "max_tokens=3", "--base-url", cut.base_url)
    assert here(*again).code == 1
    second = _assert_accounted(cli, published, summary)
    assert second["cost_usd"] > first["cost_usd"]
    live = json.loads((cli.folder / "run" / "checkpoint" / "status.json").read_text())
    assert live["cost_usd"] <= second["cost_usd"] and live["cost_usd"] >= first["cost_usd"]
    kept = tuple(word for word in again if word not in ("--on-truncation", "fail"))
    assert here(*kept, "--retry-failed").code == 0
    third = _assert_accounted(cli, published, summary)
    assert third["attempts"] == 60 and third["wasted_cost_usd"] == second["cost_usd"]
    status = cli("status", "run")
    assert "wasted" in status.out


def test_list_prices(cli, here, simulator, jsonl, published, summary):
    """A model that a list knows is priced by it, and where that is a guess it is said, once."""
    endpoint = simulator()
    rows = jsonl([{k: v for k, v in _body(n).items() if k != "service_tier"} for n in range(20)])
    done = here(rows, "-o", "run", "--model", "gpt-4o", "--base-url", endpoint.base_url,
               "--no-progress")  # fmt: skip
    assert done.code == 0, done.err
    rates = {"default": ("2.50", "1.25", "10", "10")}
    _assert_accounted(cli, published, summary, rates)
    assert done.err.count("maker's list price") == 1
    assert '[prices."gpt-4o"]' in done.err


def test_a_model_that_nobody_knows(cli, here, simulator, jsonl, published, summary):
    """Its cost is null, in every file, and said once; a price that comes later counts from then."""
    endpoint = simulator()
    rows = jsonl([_body(n) for n in range(12)])
    command = (rows, "-o", "run", "--model", "own", "--shard-rows", 5,
               "--base-url", endpoint.base_url, "--no-progress")  # fmt: skip
    done = here(*command, "--limit", 6)
    assert done.err.count("no price is known for model 'own'") == 1
    assert '[prices."own"]' in done.err
    totals = summary("run")["totals"]
    assert totals["cost_usd"] is None is totals["wasted_cost_usd"]
    assert totals["unpriced_attempts"] == 6
    assert set(published("run", "attempts")["cost_usd"].to_pylist()) == {None}
    cli.verified("run")
    (cli.folder / "c.toml").write_text(CONFIG)
    done = here(*command, "-c", "c.toml")
    assert "6 attempts have no known price" in done.err
    lines = published("run", "attempts").to_pylist()
    assert [line["cost_usd"] is None for line in lines] == [True] * 6 + [False] * 6
    known = sum(_expected(line) for line in lines if line["cost_usd"] is not None)
    assert summary("run")["totals"]["cost_usd"] == float(known)
    cli.verified("run")


@pytest.mark.parametrize("stream", [False, True])
def test_the_providers_own_figure_wins(cli, here, scripted, jsonl, published, summary, stream):
    """What the reply says that it cost counts, streamed or not, and junk falls to the price."""
    told = {"q0": 0.00014, "q1": -1, "q2": 0}

    def answer(body, *_):
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110,
                 "cost": told[body["messages"][0]["content"]]}  # fmt: skip
        if not stream:
            return 200, {}, completion_body(model="own", usage=usage)
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "own"}
        delta = {"index": 0, "delta": {"content": "Hi."}, "finish_reason": "stop"}
        events = [chunk | {"choices": [delta]}, chunk | {"choices": [], "usage": usage}, "[DONE]"]
        text = "".join(
            f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n"
            for event in events
        )
        return 200, {"Content-Type": "text/event-stream"}, text.encode()

    endpoint = scripted(answer)
    (cli.folder / "c.toml").write_text(CONFIG)
    rows = jsonl([{"messages": [{"role": "user", "content": name}]} for name in told])
    done = here(rows, "-o", "run", "-c", "c.toml", "--model", "own", "--no-progress",
               "--base-url", endpoint.base_url, *(["--stream"] if stream else []))  # fmt: skip
    assert done.code == 0, done.err
    assert published("run")["cost_usd"].to_pylist() == [0.00014, 0.000021, 0.0]
    assert summary("run")["totals"]["cost_usd"] == 0.000161
    cli.verified("run")


def test_an_answer_that_was_refused_is_billed_at_its_tier(
    cli, here, scripted, jsonl, published, summary
):
    """What fails its schema is waste, under the model and tier that gave it."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    said = completion_body("no JSON", model="own", service_tier="flex", usage=usage)
    endpoint = scripted(lambda *_: (200, {}, said))
    (cli.folder / "c.toml").write_text(CONFIG)
    (cli.folder / "s.json").write_text('{"type": "object"}')
    rows = jsonl([{"messages": [{"role": "user", "content": "q"}]}])
    done = here(rows, "-o", "run", "-c", "c.toml", "--model", "alias", "--no-progress",
               "--base-url", endpoint.base_url, "--schema", "s.json",
               "--max-attempts", 2)  # fmt: skip
    assert done.code == 1, done.err
    lines = published("run", "attempts").to_pylist()
    assert [(line["model"], line["service_tier"], line["cost_usd"]) for line in lines] == [
        ("own", "flex", 0.0000105001)
    ] * 2
    totals = summary("run")["totals"]
    assert totals["cost_usd"] == totals["wasted_cost_usd"] == 0.0000210002
    cli.verified("run")


def test_an_answer_that_broke_off_is_billed_at_its_tier(
    cli, here, scripted, jsonl, published, summary
):
    """What the server gave up half-way is no completion, and told its model, tier and usage."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choice = {"index": 0, "message": {"content": "Hal"}, "finish_reason": "error"}
    said = completion_body(model="own", service_tier="flex", usage=usage, choices=[choice])
    endpoint = scripted(lambda *_: (200, {}, said))
    (cli.folder / "c.toml").write_text(CONFIG)
    rows = jsonl([{"messages": [{"role": "user", "content": "q"}]}])
    done = here(rows, "-o", "run", "-c", "c.toml", "--model", "alias", "--no-progress",
                "--base-url", endpoint.base_url, "--max-attempts", 1)  # fmt: skip
    assert done.code == 1, done.err
    (line,) = published("run", "attempts").to_pylist()
    told = (line["model"], line["service_tier"], line["cost_usd"])
    assert told == ("own", "flex", 0.0000105001)
    assert summary("run")["totals"]["wasted_cost_usd"] == 0.0000105001
    cli.verified("run")


def test_what_a_killed_session_spent_is_known(tmp_path):
    """Before its logs are published, the bill counts them: answers, waste, and what had no cost."""
    journal = Journal(tmp_path, 10)
    try:
        assert spent(journal)[:2] == (None, 0)
        kept, failed = samples.answered(0, 2), samples.failed(1)
        journal.write([
            samples.attempt(0, 1, cost_pd=5),
            kept._replace(attempt=kept.attempt._replace(cost_pd=7)),
            failed._replace(attempt=failed.attempt._replace(cost_pd=11)),
            samples.attempt(2, 1),
        ])  # fmt: skip
        assert spent(journal)[:2] == (23, 16)
    finally:
        journal.close()


def test_days(here, simulator, jsonl, summary):
    """The day is the one on which the attempt was sent, UTC."""
    before = datetime.now(UTC).date().isoformat()
    endpoint = simulator()
    here(jsonl([_body(1)]), "-o", "run", "--base-url", endpoint.base_url, "--no-progress")
    days = set(summary("run")["totals"]["by_day"])
    assert days <= {before, datetime.now(UTC).date().isoformat()} and len(days) == 1


def test_prices_of_a_program(tmp_path, simulator):
    """The Python API takes the same tables."""
    import batchrun

    endpoint = simulator()
    rows = [{"messages": [{"role": "user", "content": "Hi."}]}]
    done = batchrun.run(rows, output=tmp_path / "run", model="own", base_url=endpoint.base_url,
                        prices={"own": {"input": 0.1, "output": 0.2}})  # fmt: skip
    totals = done.totals
    cost = Fraction("0.1") * totals["prompt_tokens"] + Fraction("0.2") * totals["completion_tokens"]
    assert totals["cost_usd"] == float(cost / 10**6)
