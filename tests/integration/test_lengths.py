"""``--lengths-from``: a run starts the rows first that took long in an earlier one."""

import itertools
import json
import signal
import threading

import pyarrow.parquet as pq
import pytest

import batchrun
from batchrun.records import Request
from batchrun.rundir.reuse.lengths import LengthsFrom
from batchrun.simulator.latency import FixedLatency


@pytest.fixture
def timed(scripted, answer):
    """An endpoint that answers with so many tokens as the row asks for, and notes the order."""
    order, lock = [], threading.Lock()

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].split()[-1])
        with lock:
            order.append(number)
        completion = json.loads(json.dumps(answer("x")))
        completion["usage"] = {
            "prompt_tokens": 5,
            "completion_tokens": (number * 7919) % 1000 + 1,
            "total_tokens": 0,
        }
        return 200, {}, completion

    endpoint = scripted(reply)
    endpoint.order = order
    return endpoint


def _length(number):
    return (number * 7919) % 1000 + 1


def _rows(numbers, **fields):
    return [
        {
            "custom_id": f"row-{number}",
            "messages": [{"role": "user", "content": f"row {number}"}],
            **fields,
        }
        for number in numbers
    ]


def _run(cli, endpoint, data, folder, *flags):
    return cli(
        *("run", data, "-o", folder, "--model", "m", "--base-url", endpoint.base_url),
        *("--no-progress", "--concurrency", 1, *flags),
    )


def _inversions(order):
    """Neighbours of which the shorter one was sent first."""
    return sum(_length(a) < _length(b) for a, b in itertools.pairwise(order))


@pytest.mark.slow
def test_long_rows_start_first_and_results_stay_in_order(cli, timed, jsonl, published):
    """Last night's lengths decide the order of the requests, not that of the results."""
    data = jsonl(_rows(range(200)))
    assert _run(cli, timed, data, "first").code == 0
    assert timed.order == list(range(200))
    timed.order.clear()
    done = _run(cli, timed, data, "second", "--lengths-from", "first")
    assert done.code == 0, done.err
    assert sorted(timed.order) == list(range(200))
    # The first rows go out while the others are being read.
    assert _inversions(timed.order[20:]) <= 2
    table = published(cli.folder / "second")
    assert table["row"].to_pylist() == list(range(200))
    assert table["custom_id"].to_pylist() == [f"row-{number}" for number in range(200)]
    assert not (cli.folder / "second/checkpoint/lengths").exists()
    cli.verified("second")


@pytest.mark.slow
def test_rows_whose_request_changed_are_found_by_their_custom_id(cli, timed, jsonl):
    """Another prompt, another model: the length is that of the row of the same id."""
    assert _run(cli, timed, jsonl(_rows(range(100))), "first").code == 0
    timed.order.clear()
    changed = jsonl(_rows(range(100), temperature=0.5))
    done = _run(cli, timed, changed, "second", "--lengths-from", "first")
    assert done.code == 0, done.err
    assert _inversions(timed.order[20:]) <= 2


def test_lengths_are_looked_up_by_request_then_by_id(cli, timed, jsonl, tmp_path):
    """The request's own length comes before that of its id; of neither, nothing is known."""
    assert _run(cli, timed, jsonl(_rows(range(10))), "first").code == 0
    folder = tmp_path / "index"
    lengths = LengthsFrom(str(cli.folder / "first"), folder)

    def request(row, digest, custom_id):
        return Request(row, custom_id, b"{}", digest, "m", 1)

    table = pq.read_table(cli.folder / "first/results")
    hashes = table["request_hash"].to_pylist()
    found = lengths.look_up(
        [
            request(0, hashes[3], "row-5"),
            request(1, "00" * 32, "row-5"),
            request(2, "00" * 32, "row-99"),
            request(3, "00" * 32, None),
        ]
    )
    assert found == {0: _length(3), 1: _length(5)}
    assert lengths.count == 20
    lengths.close()
    before = (folder / "index").stat().st_ino
    LengthsFrom(str(cli.folder / "first"), folder).close()
    assert (folder / "index").stat().st_ino == before  # it still fits


def test_answers_without_usage_have_the_length_of_their_text(cli, scripted, answer, jsonl):
    """A server that reports no usage: the content's size stands for it."""

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].split()[-1])
        completion = json.loads(json.dumps(answer("y" * 4 * (number + 1))))
        completion.pop("usage", None)
        return 200, {}, completion

    endpoint = scripted(reply)
    assert _run(cli, endpoint, jsonl(_rows(range(5))), "first").code == 0
    lengths = LengthsFrom(str(cli.folder / "first"), cli.folder / "index")
    ids = [Request(n, f"row-{n}", b"", "00" * 32, "m", 1) for n in range(5)]
    assert lengths.look_up(ids) == {n: n + 1 for n in range(5)}
    lengths.close()


def test_a_directory_that_cannot_be_used_is_named_before_anything_is_sent(cli, timed, jsonl):
    """None, one without results, and a file: exit code 2, and no request."""
    data = jsonl(_rows(range(3)))
    (cli.folder / "empty").mkdir()
    (cli.folder / "file").write_text("x")
    for name in ("nothing", "empty", "file"):
        done = _run(cli, timed, data, "out", "--lengths-from", name)
        assert done.code == 2, done.err
        assert f"--lengths-from {name}" in done.err
    assert timed.order == []


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_or_without_lengths(cli, simulator, jsonl, until, summary):
    """Lengths shape no request: they may come and go between sessions, and no row is sent twice."""
    endpoint = simulator(latency=FixedLatency(0.02))
    data = jsonl(300)
    common = ("--model", "m", "--base-url", endpoint.base_url, "--no-progress")
    assert cli("run", data, "-o", "first", *common).code == 0
    endpoint.reset_stats()
    flags = ("--concurrency", 4, "--shard-rows", 50)
    live = cli.start("run", data, "-o", "run", *common, *flags, "--lengths-from", "first")
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 100)
    live.signal(signal.SIGINT)
    live.wait()
    assert summary(cli.folder / "run")["settings"]["input.lengths_from"].endswith("first")
    done = cli("run", data, "-o", "run", *common, *flags)
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 300
    cli.verified("run")


@pytest.mark.slow
def test_lengths_in_python(cli, timed, jsonl):
    """The keyword of the same name takes a path."""
    data = jsonl(_rows(range(60)))
    options = {"model": "m", "base_url": timed.base_url, "concurrency": 1}
    batchrun.run(data, output=cli.folder / "first", **options)
    timed.order.clear()
    batchrun.run(data, output=cli.folder / "second", lengths_from=cli.folder / "first", **options)
    assert _inversions(timed.order[20:]) <= 2
