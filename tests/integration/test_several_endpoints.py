"""Runs over several endpoints: the real command, real servers, one of them killed."""

import json
import shlex
import signal
import time
from collections import Counter
from urllib.request import urlopen

import pyarrow.dataset as ds
import pytest

from batchrun.simulator.latency import FixedLatency


def _config(cli, *tables, more=""):
    text = "".join("[[endpoint]]\n" + table + "\n" for table in tables)
    (cli.folder / "run.toml").write_text(text + more)
    return ("-c", "run.toml", "--no-progress", "-o", "run")


def _stats(url):
    with urlopen(url.removesuffix("/v1") + "/stats") as answer:  # noqa: S310 - a loopback URL
        return json.load(answer)


def _ledger(cli):
    found = ds.dataset(cli.folder / "run" / "attempts").to_table().to_pylist()
    return sorted(found, key=lambda line: line["started_at"])


@pytest.mark.slow
def test_one_of_two_fails_everything_from_some_moment_on(
    cli, jsonl, summary, scripted, simulator, answer
):
    """A login page where answers used to be: it is left out, and no row fails for it."""
    page = b"<html><body>Please sign in</body></html>"
    broken = scripted(
        lambda _, __, nth: (
            (200, {}, answer("Yes.")) if nth <= 4 else (200, {"Content-Type": "text/html"}, page)
        )
    )
    other = simulator(latency=FixedLatency(0.05))
    done = cli.run(
        jsonl(400),
        *_config(
            cli,
            f'name = "broken"\nbase_url = "{broken.base_url}"\nconcurrency = 1',
            f'name = "other"\nbase_url = "{other.base_url}"\nconcurrency = 4',
        ),
        *("--max-attempts", 1),
    )
    assert done.code == 0, done.err
    assert "broken is left out from now on" in done.err
    assert summary(cli.folder / "run")["rows"]["ok"] == 400
    cli.verified("run")


@pytest.mark.slow
def test_one_of_two_is_killed_and_comes_back(cli, jsonl, until, summary, served):
    """All rows are ok with one attempt allowed, the dead one is out within 3 s, the other keeps
    working, and the one that came back works again; each server counted what the ledger says.
    """
    first, port = served(0, "--latency", "fixed:0.05")
    _, other = served(0, "--latency", "fixed:0.05")
    live = cli.start(
        *("run", jsonl(4000), "--model", "m", "--max-attempts", 1),
        *_config(
            cli,
            f'name = "mortal"\nbase_url = "http://127.0.0.1:{port}/v1"\nconcurrency = 8',
            f'name = "other"\nbase_url = "http://127.0.0.1:{other}/v1"\nconcurrency = 8',
        ),
    )
    until(lambda: _stats(f"http://127.0.0.1:{port}/v1")["requests_total"] > 300)
    first.kill()
    first.wait()
    killed_at_s = time.time()
    until(lambda: time.time() > killed_at_s + 3 and "mortal: down" in cli("status", "run").out)
    seen = _stats(f"http://127.0.0.1:{other}/v1")["requests_total"]
    until(lambda: _stats(f"http://127.0.0.1:{other}/v1")["requests_total"] > seen + 80)
    shown = cli("status", "run")
    served(port, "--latency", "fixed:0.05")
    back_at_s = time.time()
    done = live.wait()
    assert done.code == 0, done.err
    assert "mortal does not answer" in done.err
    assert "its rows go to the other endpoints" in done.err
    assert "mortal answers again" in done.err
    assert "mortal: down, probed" in shown.out
    assert "other: up" in shown.out
    told = summary(cli.folder / "run")
    assert told["rows"] == {"input": 4000, "ok": 4000, "error": 0, "pending": 0}
    assert set(told["endpoints"]) == {"mortal", "other"}
    assert sum(own["rows_ok"] for own in told["endpoints"].values()) == 4000
    sent = Counter()
    for line in _ledger(cli):
        at_s = line["started_at"].timestamp()
        when = "out" if killed_at_s + 3 < at_s < back_at_s else "late" if at_s > back_at_s else "in"
        sent[line["endpoint"], when] += 1
    assert sent["mortal", "out"] <= 3  # probes
    assert sent["mortal", "late"] > 20
    assert sent["other", "out"] > 50
    assert _stats(f"http://127.0.0.1:{other}/v1")["requests_total"] == sum(
        count for (name, _), count in sent.items() if name == "other"
    )
    cli.verified("run")


def test_one_that_refuses_slows_only_itself(cli, jsonl, simulator, summary):
    """An endpoint whose limit is 60 a minute does its share and no more; the other is not held."""
    slow, quick = simulator(rpm=60), simulator()
    done = cli(
        *("run", jsonl(600), "--model", "m"),
        *_config(
            cli,
            f'name = "slow"\nbase_url = "{slow.base_url}"\nconcurrency = 8',
            f'name = "quick"\nbase_url = "{quick.base_url}"\nconcurrency = 8',
        ),
    )
    assert done.code == 0, done.err
    told = summary(cli.folder / "run")
    assert told["rows"]["ok"] == 600
    assert told["endpoints"]["quick"]["rows_ok"] > 500
    assert told["wall_s"] < 15
    assert "quick: " in done.err
    cli.verified("run")


def test_rows_go_to_the_endpoint_that_serves_their_model(cli, chat, scripted, answer, published):
    """By the name it has there; a model that nobody serves is a bad row."""
    there = scripted(lambda *_: (200, {}, answer()))
    here = scripted(lambda *_: (200, {}, answer()))
    rows = cli.folder / "rows.jsonl"
    names = ["small", "large", "huge"]
    rows.write_text("".join(json.dumps(chat(n) | {"model": names[n % 3]}) + "\n" for n in range(9)))
    done = cli(
        *("run", rows),
        *_config(
            cli,
            f'name = "a"\nbase_url = "{there.base_url}"\nmodels = {{ small = "org/small-v2" }}',
            f'name = "b"\nbase_url = "{here.base_url}"\nmodels = ["large"]',
        ),
    )
    assert done.code == 1, done.err
    assert {body["model"] for _, _, body in there.requests} == {"org/small-v2"}
    assert {body["model"] for _, _, body in here.requests} == {"large"}
    found = published(cli.folder / "run").to_pylist()
    assert [row["endpoint"] for row in found] == ["a", "b", None] * 3
    assert "'huge', and no endpoint serves it" in found[2]["error_message"]
    cli.verified("run")


def test_each_endpoint_is_asked_with_its_own_key_and_headers(cli, jsonl, scripted, answer):
    """No key, no header and no organisation of one reaches the other."""
    seen = [[], []]

    def endpoint(number):
        def reply(_, headers, __):
            seen[number].append({name.lower(): value for name, value in headers.items()})
            return 200, {}, answer()

        return scripted(reply)

    first, second = endpoint(0), endpoint(1)
    done = cli(
        *("run", jsonl(40), "--model", "m"),
        *_config(
            cli,
            f'base_url = "{first.base_url}"\napi_key_env = "KEY_A"\nheaders = {{ X-A = "a" }}',
            f'base_url = "{second.base_url}"\napi_key_env = "KEY_B"\nheaders = {{ X-B = "b" }}',
        ),
        env={"KEY_A": "sk-secret-a", "KEY_B": "sk-secret-b"},
    )
    assert done.code == 0, done.err
    for own, foreign, heard in (("a", "b", seen[0]), ("b", "a", seen[1])):
        assert heard
        for headers in heard:
            assert headers["authorization"] == f"Bearer sk-secret-{own}"
            assert headers[f"x-{own}"] == own
            assert f"x-{foreign}" not in headers
    assert "sk-secret" not in (cli.folder / "run" / "summary.json").read_text() + done.err


@pytest.mark.parametrize("missing", ["KEY", "file"])
def test_what_is_wrong_with_one_of_them_is_said_by_its_name(cli, jsonl, missing):
    """Nothing is sent, and the message names the endpoint."""
    wrong = {"KEY": 'provider = "groq"', "file": 'base_url = "http://x/v1"\napi_key_file = "nope"'}
    done = cli(
        *("run", jsonl(4), "--model", "m"),
        *_config(cli, 'base_url = "http://127.0.0.1:9/v1"', f'name = "bad"\n{wrong[missing]}'),
    )
    assert done.code == 2
    assert "endpoint bad: " in done.err
    assert not (cli.folder / "run").exists()


def test_the_doctor_looks_at_all_of_them(cli, simulator):
    """One that cannot be reached is said to be, beside one that can."""
    good = simulator()
    arguments = _config(
        cli,
        f'name = "good"\nbase_url = "{good.base_url}"',
        'name = "gone"\nbase_url = "http://127.0.0.1:9/v1"',
    )[:2]
    done = cli("doctor", *arguments, "--model", "m")
    assert done.code == 1
    assert done.out.index("good: ") < done.out.index("gone: ")
    assert "not ready" in done.out
    listed = cli("doctor", *arguments, "--model", "m", "--json").json["endpoints"]
    assert [one["name"] for one in listed] == ["good", "gone"]


@pytest.mark.slow
def test_attempts_that_a_kill_cut_off_keep_their_endpoints_name(cli, jsonl, until, served):
    """Though the tables stand in another order when the run goes on."""
    ports = [served(0, "--latency", "fixed:0.6")[1] for _ in range(2)]
    tables = [
        f'name = "{name}"\nbase_url = "http://127.0.0.1:{port}/v1"\nconcurrency = {count}'
        for name, port, count in zip("ab", ports, (2, 5), strict=True)
    ]
    urls = [f"http://127.0.0.1:{port}/v1" for port in ports]
    rows = jsonl(60)
    live = cli.start("run", rows, "--model", "m", *_config(cli, *tables))
    until(lambda: all(_stats(url)["requests_total"] for url in urls))
    live.process.send_signal(signal.SIGKILL)
    live.process.wait()
    _config(cli, *reversed(tables))
    done = cli("run", rows, "--model", "m", *_config(cli, *reversed(tables)))
    assert done.code == 0, done.err
    cut = Counter(line["endpoint"] for line in _ledger(cli) if line["error_code"] == "interrupted")
    assert cut["a"] <= 2
    assert cut["b"] > 2
    counted = Counter(line["endpoint"] for line in _ledger(cli))
    for name, url in zip("ab", urls, strict=True):
        assert counted[name] >= _stats(url)["requests_total"] > 0
    cli.verified("run")


def test_two_simulators_may_stand_in(cli, jsonl, summary):
    """Each table with that provider starts one, for trying a configuration out."""
    table = 'provider = "simulator"\nconcurrency = 4'
    done = cli("run", jsonl(30), "--model", "m", *_config(cli, table, table))
    assert done.code == 0, done.err
    assert done.err.count("built-in simulator") == 2
    assert set(summary(cli.folder / "run")["endpoints"]) == {"simulator", "simulator-2"}
    again = shlex.split(done.err.split("next: ")[1].splitlines()[0])
    assert again[:2] == ["batchrun", "verify"]
