"""Limits on tokens over real HTTP: the real command, against a server that counts."""

import asyncio
import contextlib
import json
import threading

import pytest

from batchrun.core.settings.charge import Charge
from tests.harness.metered_server import Bucket, EmptyBucket, Metered, MeteredApart

PER_S = 4000
TPM = PER_S * 60


@contextlib.contextmanager
def _serving(meter):
    """Serve in a thread of its own; yields the base URL."""
    loop = asyncio.new_event_loop()
    url, stop = loop.run_until_complete(meter.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield url
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _rows(folder, count, max_tokens, large=0):
    lines = []
    for number in range(count):
        words = large if large and number % 10 == 5 else 5 + number % 8
        content = " ".join(["market"] * words)
        message = {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}
        lines.append(json.dumps(message))
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def _run(cli, meter, rows, *more):
    with _serving(meter) as url:
        done = cli.run(*(rows, "-o", "run", "--base-url", url, "--model", "m", "--tpm", TPM, *more))
    assert done.code == 0, done.err
    return done, _notices(cli)


def _notices(cli):
    """The notices in the summary about what a limit reserves."""
    summary = json.loads((cli.folder / "run/summary.json").read_text())
    return [notice for notice in summary["notices"] if "reserves" in notice]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Bucket, EmptyBucket])
def test_a_stated_limit_is_used_up(cli, kind):
    """Answers as long as their limit: nearly all of it is used, and next to nothing refused."""
    meter = Metered(TPM, kind=kind)
    _, notices = _run(cli, meter, _rows(cli.folder, 600, 20))
    assert meter.used() >= 0.95
    assert meter.refused_share <= 0.005
    assert notices == []


@pytest.mark.slow
def test_what_answers_use_is_learned_and_told_once(cli):
    """The server counts what is used: 50 answers later so does the run. The summary has the notice
    that was printed.
    """
    meter = Metered(TPM, Charge.REAL)
    done, notices = _run(cli, meter, _rows(cli.folder, 900, 400))
    assert meter.used(after=120) >= 0.9
    assert meter.refused_share <= 0.005
    [notice] = notices
    assert "max_tokens 400 reserves 20 times" in notice
    assert done.err.count("reserves 20 times") == 1


@pytest.mark.quiet
def test_large_rows_among_small_ones(cli):
    """Rows worth 0.9 s of the limit cost the run no more than their tokens."""
    meter = Metered(TPM)
    _run(cli, meter, _rows(cli.folder, 60, 20, large=int(0.9 * PER_S) - 25))
    assert meter.took_s <= 1.15 * meter.work_s


@pytest.mark.slow
def test_a_rule_in_the_config_file(cli):
    """``charge`` of an endpoint counts from the first request on: no trial, and no notice."""
    meter = Metered(TPM, Charge.INPUT)
    with _serving(meter) as url:
        (cli.folder / "c.toml").write_text(
            f'[[endpoint]]\nbase_url = "{url}"\ntpm = {TPM}\ncharge = "input"\n'
        )
        done = cli.run(*(_rows(cli.folder, 1500, 400), "-o", "run", "--model", "m", "-c", "c.toml"))
    assert done.code == 0, done.err
    assert _notices(cli) == []
    assert meter.used(after=50) >= 0.9
    assert meter.refused_share <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("binds", ["input", "output"])
def test_limits_on_input_and_output_are_paced_apart(cli, binds):
    """The server reports both, as Anthropic does, and the user states none: the one that binds is
    used up, whichever it is, and few requests are refused.
    """
    tokens, other = {"input": (14, 20), "output": (20, 14)}[binds]
    tpm = TPM / 2
    meter = MeteredApart(tpm, burst_s=10, binds=binds, other_tpm=3 * tpm * other / tokens)
    rows = _rows(cli.folder, int(tpm / 60 * 20 / tokens), 20)
    with _serving(meter) as url:
        done = cli.run(*(rows, "-o", "run", "--base-url", url, "--model", "m"))
    assert done.code == 0, done.err
    assert meter.used() >= 0.95
    assert meter.refused_share <= 0.03


@pytest.mark.parametrize("wrong", ['"both"', "3", "true", '["sum"]'])
def test_a_rule_that_does_not_exist(cli, wrong):
    """A wrong ``charge`` is a usage error that names the setting, and nothing is sent."""
    (cli.folder / "c.toml").write_text(f"[[endpoint]]\ncharge = {wrong}\n")
    done = cli.run(_rows(cli.folder, 1, 5), "-o", "run", "--model", "m", "-c", "c.toml")
    assert done.code == 2
    assert "endpoint.charge" in done.err
