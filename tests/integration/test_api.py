"""``batchrun.run`` and ``batchrun.arun``: the same job from a program, over any kind of rows."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import dataset

import batchrun
from batchrun.simulator.latency import FixedLatency

ROOT = Path(__file__).resolve().parents[2]
ROWS = 25


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """A folder and an environment of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def _rows(count=ROWS):
    return [
        {
            "custom_id": f"id-{n}",
            "messages": [{"role": "user", "content": f"question {n}"}],
            "ticket": n,
            "name": f"customer {n}",
        }
        for n in range(count)
    ]


class Exporter:
    """Something of an unknown library that exports Arrow's C stream."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def _hugging_face():
    datasets = pytest.importorskip("datasets")
    # A selection leaves the table behind it as it was, and only names other indices.
    return datasets.Dataset.from_list([*_rows()[::-1], *_rows()]).select(range(ROWS - 1, -1, -1))


def _written(name):
    path = Path(name)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(_rows()), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in _rows()))
    return path


def _two_files():
    lines = [json.dumps(row) + "\n" for row in _rows()]
    Path("a.jsonl").write_text("".join(lines[:9]))
    Path("b.jsonl").write_text("".join(lines[9:]))
    return ["a.jsonl", Path("b.jsonl")]


def _batches(rows):
    table = pa.Table.from_pylist(rows)
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=4))


KINDS = {
    "list": _rows,
    "tuple": lambda: tuple(_rows()),
    "generator": lambda: (row for row in _rows()),
    "path": lambda: _written("rows.jsonl"),
    "text": lambda: str(_written("rows.parquet")),
    "paths": _two_files,
    "table": lambda: pa.Table.from_pylist(_rows()),
    "record batch": lambda: pa.RecordBatch.from_pylist(_rows()),
    "batches": lambda: _batches(_rows()),
    "data set": lambda: dataset.dataset(_written("rows.parquet")),
    "exporter": lambda: Exporter(pa.Table.from_pylist(_rows())),
    "pandas": lambda: pd.DataFrame(_rows()),
    "Polars": lambda: pl.DataFrame(_rows()),
    "Hugging Face": _hugging_face,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_kind(simulator, published, cli, tmp_path, kind):
    """Each kind of input gives the same results, carried columns and names of rows."""
    endpoint = simulator()
    done = batchrun.run(
        KINDS[kind](), output=tmp_path / "run", model="m", base_url=endpoint.base_url, shard_rows=10
    )
    assert (done.status, done.rows, done.ok, done.pending) == ("complete", ROWS, ROWS, 0)
    table = published(done.path)
    assert table.column("custom_id").to_pylist() == [f"id-{n}" for n in range(ROWS)]
    assert table.column("ticket").to_pylist() == list(range(ROWS))
    assert table.schema.field("ticket").type == pa.int64()
    assert table.column("name").to_pylist() == [f"customer {n}" for n in range(ROWS)]
    contents = table.column("content").to_pylist()
    assert all(f"question {n}" in text for n, text in enumerate(contents))
    cli.verified(done.path)


@pytest.mark.parametrize(
    "made",
    [list, iter, pa.Table.from_pylist, _batches, pd.DataFrame, pl.DataFrame],
    ids=["list", "iterator", "table", "batches", "pandas", "Polars"],
)
def test_the_same_rows_go_on_and_others_are_refused(simulator, tmp_path, made):
    """Rows in memory are fingerprinted like files: a stopped run goes on with the same ones."""
    endpoint = simulator()

    def go(rows, **more):
        return batchrun.run(
            rows,
            output=tmp_path / "run",
            model="m",
            base_url=endpoint.base_url,
            shard_rows=10,
            **more,
        )

    begun = go(made(_rows()), limit=13)
    assert (begun.rows, begun.ok, begun.pending) == (13, 13, 0)
    others = _rows()
    others[12]["messages"][0]["content"] = "another question"
    with pytest.raises(batchrun.RunChangedError, match="difference is within rows 10 to"):
        go(made(others))
    assert endpoint.stats()["requests_total"] == 13
    done = go(made(_rows()))
    assert (done.status, done.rows, done.ok) == ("complete", ROWS, ROWS)
    assert endpoint.stats()["requests_total"] == ROWS
    assert go(made(_rows())).ok == ROWS
    assert endpoint.stats()["requests_total"] == ROWS


def test_a_generator_is_asked_for_each_row_once(simulator, tmp_path):
    """However often rows are looked at, whoever makes them is asked once, and to the end."""
    made = []

    def rows():
        for row in _rows():
            made.append(row["ticket"])
            yield row

    options = {"model": "m", "base_url": simulator().base_url, "shard_rows": 10}
    batchrun.run(rows(), output=tmp_path / "run", limit=15, **options)
    made.clear()
    assert batchrun.run(rows(), output=tmp_path / "run", **options).ok == ROWS
    assert made == list(range(ROWS))


def test_a_generator_that_fails_loses_nothing(simulator, tmp_path, monkeypatch, published):
    """Rows before the failure are answered and kept; the error names the row and its cause."""
    monkeypatch.setattr("batchrun.core.request.carried.SAMPLE_ROWS", 5)

    def rows():
        yield from _rows()
        raise KeyError("gone")

    endpoint = simulator()
    options = {"output": tmp_path / "run", "model": "m", "base_url": endpoint.base_url}
    with pytest.raises(batchrun.InputLostError, match=r"row 25: KeyError: 'gone'") as caught:
        batchrun.run(rows(), **options)
    assert isinstance(caught.value.__cause__, KeyError)
    assert published(tmp_path / "run").num_rows == ROWS
    assert batchrun.run(_rows(), **options).status == "complete"
    assert endpoint.stats()["requests_total"] == ROWS


def test_bad_rows_are_error_rows(simulator, tmp_path, published):
    """A dict that cannot be sent ends as a failed row that says which, and stops nothing."""
    rows = [*_rows(2), "no dict", {"messages": []}, {**_rows(1)[0], "seed": float("nan")}]
    done = batchrun.run(rows, output=tmp_path / "run", model="m", base_url=simulator().base_url)
    assert (done.status, done.ok, done.error) == ("complete_with_errors", 2, 3)
    assert (done.exit_code, dict(done.errors)) == (1, {"invalid_row": 3})
    messages = published(done.path).column("error_message").to_pylist()
    assert messages[2] == "rows[2]: the row is a str, not a dict"
    assert messages[3].startswith("rows[3]: `messages` must be a list")
    assert messages[4].startswith("rows[4]: `seed` holds NaN")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"messages": []}, "one dict"),
        (42, "a int, which is neither"),
        (b"rows.jsonl", "neither files nor rows"),
        ([], "empty list"),
        (iter(()), "not a single row"),
        (pa.table({"messages": pa.array([], pa.string())}), "not a single row"),
        ("missing.jsonl", "No such file"),
        (pl.LazyFrame({"a": [1]}), "collect"),
        (pd.DataFrame({"a": [1, "x", {"b": 1}]}), "cannot become Arrow"),
    ],
    ids="dict int bytes list iterator table missing lazy mixed".split(),
)
def test_what_is_no_input_is_refused(tmp_path, rows, said):
    """A clear error before anything is made or sent."""
    with pytest.raises(batchrun.BatchrunError, match=said) as caught:
        batchrun.run(rows, output=tmp_path / "run", model="m", base_url="http://127.0.0.1:9/v1")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_settings_come_from_everywhere(simulator, tmp_path, monkeypatch):
    """A keyword wins over the environment, which wins over the file."""
    endpoint = simulator()
    config = tmp_path / "c.toml"
    config.write_text(
        '[input]\nfiles = ["rows.jsonl"]\n[output]\ndir = "here"\nshard_rows = 10\n'
        '[request]\nmodel = "of the file"\nparams = { temperature = 0, seed = 1 }\n'
    )
    _written("rows.jsonl")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.base_url)
    done = batchrun.run(config=config, model="mine", params={"seed": 2}, limit=3)
    assert (done.path, done.rows) == (tmp_path / "here", 3)
    settings = done.to_dict()["settings"]
    assert settings["request.model"] == "mine"
    assert settings["request.params"] == {"temperature": 0, "seed": 2}
    assert settings["output.shard_rows"] == 10
    assert settings["endpoint"][0]["base_url"] == endpoint.base_url


def test_a_prompt_and_the_choices_are_keywords(scripted, answer, tmp_path):
    """Templates, changed rows and failed rows, as the flags of the command have them."""
    broken = {"2 of 5: bad"}

    def reply(body, _headers, _nth):
        refused = body["messages"][-1]["content"] in broken
        return (400, {}, {"error": {"message": "no"}}) if refused else (200, {}, answer())

    endpoint = scripted(reply)

    def go(rows, **more):
        done = batchrun.run(
            rows,
            output=tmp_path / "run",
            model="m",
            system="Judge.",
            prompt="{{ stars }} of 5: {{ text }}",
            base_url=endpoint.base_url,
            **more,
        )
        asked = sorted(body["messages"][-1]["content"] for _, _, body in endpoint.requests)
        endpoint.requests.clear()
        return done, asked

    rows = [{"stars": 5, "text": "good"}, {"stars": 2, "text": "bad"}, {"stars": 3, "text": "so"}]
    done, asked = go(rows)
    assert (done.error, asked) == (1, ["2 of 5: bad", "3 of 5: so", "5 of 5: good"])
    broken.clear()
    assert go(rows, retry_class="invalid_request")[1] == ["2 of 5: bad"]
    rows[2]["text"] = "all right"
    with pytest.raises(batchrun.RunChangedError):
        go(rows)
    assert go(rows, resend_changed=True)[1] == ["3 of 5: all right"]
    assert go(rows, retry_failed=True)[1] == []
    with pytest.raises(batchrun.UsageError, match="no row fails with 'nonsense'"):
        go(rows, retry_class=["nonsense"])
    examples = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    said = batchrun.run(
        rows,
        output=tmp_path / "few",
        model="m",
        messages=examples,
        base_url=endpoint.base_url,
    )
    assert said.ok == 3 and endpoint.requests[0][2]["messages"] == examples


@pytest.mark.parametrize("call", [batchrun.run, batchrun.arun, batchrun.stream])
def test_an_unknown_keyword_names_the_nearest(call):
    """A typing mistake is a TypeError at once, as for any other function."""

    def start(call):
        if call is batchrun.arun:
            asyncio.run(call(_rows(), output="run", concurency=3))
        else:
            call(_rows(), output="run", concurency=3)

    with pytest.raises(TypeError, match=r"'concurency'.*did you mean concurrency\?"):
        start(call)


def test_the_summary_is_the_file(simulator, tmp_path, summary):
    """The summary says what summary.json says, cannot be changed, and leads to the results."""
    done = batchrun.run(_rows(), output=tmp_path / "run", model="m", base_url=simulator().base_url)
    assert done.to_dict() == summary(tmp_path / "run")
    assert pq.read_table(done.results_path).num_rows == ROWS
    assert pq.read_table(done.attempts_path).num_rows == ROWS
    assert done.totals["attempts"] == ROWS
    with pytest.raises(AttributeError):
        done.ok = 7
    with pytest.raises(TypeError):
        done.totals["attempts"] = 7
    done.to_dict()["rows"]["ok"] = 7
    assert done.to_dict()["rows"]["ok"] == ROWS


def test_run_inside_a_running_loop(simulator, tmp_path):
    """In a notebook, where a loop runs already, ``run`` works as anywhere."""

    async def cell():
        return batchrun.run(
            _rows(), output=tmp_path / "run", model="m", base_url=simulator().base_url
        )

    assert asyncio.run(cell()).ok == ROWS


def test_a_guard_ends_the_run_without_an_exception(scripted, tmp_path):
    """A refused key stops the run; the summary says so and what to do."""
    endpoint = scripted(lambda *_: (401, {}, {"error": {"message": "who are you?"}}))
    done = batchrun.run(_rows(), output=tmp_path / "run", model="m", base_url=endpoint.base_url)
    assert (done.status, done.stopped_by, done.exit_code) == ("stopped", "auth", 3)
    assert done.pending == ROWS
    assert "who are you?" in done.stop_message


def test_cancelling_stops_in_order(simulator, tmp_path, cli, published, until):
    """Cancelled, ``arun`` lets requests in flight finish, keeps every answer and frees the
    directory; signal handlers and threads are as before.
    """
    endpoint = simulator(latency=FixedLatency(0.02))
    options = {"output": tmp_path / "run", "model": "m", "base_url": endpoint.base_url}

    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def play():
        before = handlers()
        task = asyncio.create_task(batchrun.arun(_rows(400), concurrency=4, **options))
        await asyncio.to_thread(until, lambda: endpoint.stats()["requests_total"] >= 20)
        assert handlers() == before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(play())
    sent = endpoint.stats()["requests_total"]
    table = published(tmp_path / "run")
    assert 20 <= sent == table.num_rows < 400
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (found["status"], found["stopped_by"]) == ("interrupted", "cancelled")
    assert batchrun.run(_rows(400), **options).ok == 400
    assert endpoint.stats()["requests_total"] == 400
    cli.verified(tmp_path / "run")
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"batchrun", "journal", "source"}


def test_cancelling_twice_does_not_wait(scripted, answer, tmp_path):
    """The second cancellation gives up requests in flight; their rows stay pending."""
    held = threading.Event()
    arrived = threading.Event()

    def slow(*_):
        arrived.set()
        held.wait(30)
        return 200, {}, answer()

    endpoint = scripted(slow)
    options = {"output": tmp_path / "run", "model": "m", "base_url": endpoint.base_url}

    async def play():
        task = asyncio.create_task(batchrun.arun(_rows(3), **options))
        await asyncio.to_thread(arrived.wait, 10)
        task.cancel()
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
        async with asyncio.timeout(5):
            await asyncio.wait((task,))
        assert task.cancelled()

    asyncio.run(play())
    held.set()
    assert batchrun.run(_rows(3), **options).ok == 3


def test_cancelling_while_the_directory_is_opened(tmp_path, simulator):
    """Whenever the cancellation comes, the lock does not stay behind."""
    options = {"output": tmp_path / "run", "model": "m", "base_url": simulator().base_url}
    going, reading = threading.Event(), threading.Event()

    def rows():
        reading.set()
        going.wait(10)
        yield from _rows()

    async def play():
        task = asyncio.create_task(batchrun.arun(rows(), **options))
        await asyncio.to_thread(reading.wait, 10)
        task.cancel()
        await asyncio.sleep(0.05)
        going.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(play())
    assert batchrun.run(_rows(), **options).ok == ROWS


@pytest.mark.parametrize("when", ["opening", "sending"])
def test_a_loop_that_ends_leaves_the_directory_free(simulator, tmp_path, cli, until, when):
    """A program that ends its loop without waiting for the run loses nothing that was durable, and
    the same call goes on in the same process.
    """
    endpoint = simulator(latency=FixedLatency(0.02))
    options = {"output": tmp_path / "run", "model": "m", "base_url": endpoint.base_url}
    going, reading = threading.Event(), threading.Event()

    def rows():
        reading.set()
        going.wait(10)
        yield from _rows(200)

    async def play():
        task = asyncio.create_task(batchrun.arun(rows(), concurrency=2, **options))
        await asyncio.to_thread(reading.wait, 10)
        if when == "sending":
            going.set()
            await asyncio.to_thread(until, lambda: endpoint.stats()["requests_total"] >= 20)
        threading.Timer(0.2, going.set).start()
        return task

    assert asyncio.run(play()).cancelled()
    assert batchrun.run(_rows(200), **options).ok == 200
    assert endpoint.stats()["requests_total"] <= 200 + 2
    cli.verified(tmp_path / "run")


CTRL_C = """
import sys, batchrun
rows = [{"messages": [{"role": "user", "content": str(n)}]} for n in range(2000)]
try:
    batchrun.run(rows, output="run", model="m", base_url=sys.argv[1], concurrency=4)
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(9)
"""


def test_ctrl_c_in_a_program(simulator, tmp_path, until, published):
    """An interrupt reaches the caller as KeyboardInterrupt, after an orderly stop."""
    endpoint = simulator(latency=FixedLatency(0.02))
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, endpoint.base_url],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    until(lambda: endpoint.stats()["requests_total"] > 20)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=240)
    assert (process.returncode, out) == (9, "interrupted\n")
    assert published(tmp_path / "run").num_rows == endpoint.stats()["requests_total"]
