"""What a program meets besides rows and settings: errors, progress, and results as tables."""

import asyncio
import contextlib
import dataclasses
import inspect
import logging
import os
import pty
import re
import runpy
import sys
import traceback
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pydantic
import pytest

import batchrun
from batchrun.simulator.latency import FixedLatency
from batchrun.views.notebook import Bar

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert(1)</script>&\x1b[31m\u202e"
DEAD = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """A folder and an environment of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def _rows(count=4):
    return [{"messages": [{"role": "user", "content": f"question {n}"}]} for n in range(count)]


def _stream(*args, **options):
    async def all_of_it():
        async with contextlib.aclosing(batchrun.stream(*args, **options)) as outcomes:
            return [outcome async for outcome in outcomes]

    return asyncio.run(all_of_it())


def _arun(*args, **options):
    return asyncio.run(batchrun.arun(*args, **options))


CALLS = {"run": batchrun.run, "arun": _arun, "stream": _stream}


# Errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "hi"}, "no run directory: give one with output=DIR"),
        ({"output": "x", "limit": 0}, "limit is 0"),
        ({"output": "x", "temperature": 0, "params": {"temperature": 1}}, "and params="),
        ({"output": "x", "min_concurrency": 9, "max_concurrency": 3}, "max_concurrency, 3: raise"),
        ({"output": "x", "keep_done": True, "restart": True}, "restart=True and keep_done=True"),
        ({"output": "x", "rpm": -1}, "rpm is -1"),
        ({"output": "x", "model": None}, "name one with model="),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", CALLS)
def test_errors_speak_of_keywords(call, options, words):
    """No message of a wrong call names a flag of the command."""
    with pytest.raises(batchrun.UsageError) as caught:
        CALLS[call](_rows(), **{"model": "m", "base_url": DEAD} | options)
    assert words in str(caught.value)
    assert not re.search(r"(?<!\w)--?[a-z]", str(caught.value))


@pytest.mark.parametrize("call", CALLS)
def test_a_traceback_ends_at_the_call(call):
    """It has no frame of batchrun's insides and no second traceback above it."""
    with pytest.raises(batchrun.BatchrunError) as caught:
        CALLS[call]("missing.jsonl", output="x", model="m", base_url=DEAD)
    error = caught.value
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "/batchrun/" in frame.filename]
    assert len(inside) <= 2, inside
    assert error.__cause__ is None and error.__suppress_context__
    shown = "".join(traceback.format_exception(error))
    assert shown.count("Traceback") == 1


def test_the_callers_own_error_stays_the_cause():
    """Rows that break off show where in the caller's code, without batchrun's frames between."""

    def rows():
        yield from _rows(1)
        raise KeyError("mine")

    with pytest.raises(batchrun.BatchrunError, match="KeyError: 'mine'") as caught:
        batchrun.run(rows(), output="x", model="m", provider="simulator")
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)] == ["rows"]


def test_the_whole_traceback_is_in_the_log_for_debugging(caplog):
    """What is left out of the traceback is logged, at the level for that."""
    with caplog.at_level(logging.DEBUG, "batchrun"), pytest.raises(batchrun.InputError):
        batchrun.run("missing.jsonl", output="x", model="m", base_url=DEAD)
    (record,) = (r for r in caplog.records if r.exc_info and r.name == "batchrun")
    assert "/batchrun/" in caplog.text and record.levelno == logging.DEBUG


def test_a_stop_speaks_of_keywords(scripted, caplog):
    """So do the summary, the log and the exception of a run that a guard stopped."""
    endpoint = scripted(lambda *_: (429, {"retry-after": "5000"}, {"error": {"message": "later"}}))
    options = {"model": "m", "base_url": endpoint.base_url}
    done = batchrun.run(_rows(), output="one", **options)
    assert "longer than max_wait_s" in done.stop_message
    assert "longer than max_wait_s" in caplog.text and "--max-wait" not in caplog.text
    with pytest.raises(batchrun.RunStoppedError, match="longer than max_wait_s"):
        _stream(_rows(), output="two", **options)


@pytest.mark.parametrize("call", [batchrun.run, batchrun.arun, batchrun.stream])
def test_a_request_parameter_is_told_where_it_goes(call):
    """An unknown keyword that servers know is not a typing mistake."""

    def start():
        found = call(_rows(), output="x", frequency_penalty=1)
        if inspect.isawaitable(found):
            asyncio.run(found)

    with pytest.raises(TypeError, match=r"params=\{'frequency_penalty': 1\}"):
        start()


# What is no rows


@pytest.mark.parametrize(
    "rows",
    [
        ["What is a shard?", "What is a ledger?"],
        ("cat", "dog"),
        "Tell me about shards, please",
        ["x" * 5000],
        (text for text in ["one", "two"]),
        {"one", "two"},
        pd.Series(["one"]).to_numpy(),
    ],
    ids="list words one long generator set array".split(),
)
def test_texts_are_no_rows(rows):
    """The error has the call that works, and nothing is made."""
    with pytest.raises(batchrun.UsageError) as caught:
        batchrun.run(rows, output="x", model="m", provider="simulator")
    assert '[{"text": text} for text in texts], prompt="{{ text }}"' in str(caught.value)
    assert not Path("x").exists()


def test_the_call_that_is_advised_works():
    """It is copied out of the message and run."""
    with pytest.raises(batchrun.UsageError) as caught:
        batchrun.run(["a b", "c d"], output="x", model="m", provider="simulator")
    call = re.search(r"batchrun\.run\((.*)\.\.\.\)", str(caught.value))[1]
    options = 'output="x", model="m", provider="simulator"'
    done = eval(f"batchrun.run({call}{options})", {"batchrun": batchrun, "texts": ["a b", "c d"]})  # noqa: S307
    assert done.ok == 2


@pytest.mark.parametrize("missing", ["rows.jsonl", "my rows.jsonl", "rows", ["a.jsonl", "b.jsonl"]])
def test_a_missing_file_is_called_one(missing):
    """What looks like a path is never taken for a text."""
    with pytest.raises(batchrun.InputError, match=r"No such file|suffix"):
        batchrun.run(missing, output="x", model="m", base_url=DEAD)


@dataclasses.dataclass
class Question:
    """A row as a program may have it."""

    question: str
    number: int = 0


class Asked(pydantic.BaseModel):
    """The same with Pydantic."""

    question: str
    number: int = 0


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        (pd.Series(["one", "two"], name="question"), "question"),
        (pd.Series(["one", "two"]), "value"),
        (pl.Series("question", ["one", "two"]), "question"),
        (pl.Series(["one", "two"]), "value"),
        (pa.array(["one", "two"]), "value"),
        (pa.chunked_array([["one"], ["two"]]), "value"),
        ([Question("one"), Question("two", 3)], "question"),
        ([Asked(question="one"), Asked(question="two")], "question"),
        (iter([Question("one"), Question("two")]), "question"),
    ],
    ids="pandas unnamed polars nameless array chunks dataclass pydantic iterator".split(),
)
def test_a_series_is_a_column_and_objects_are_rows(scripted, answer, rows, column):
    """The column is called as the series is, else ``value``; fields are columns."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    options = {"model": "m", "base_url": endpoint.base_url, "concurrency": 1}
    done = batchrun.run(rows, output="x", prompt=f"say {{{{ {column} }}}}", **options)
    asked = [body["messages"][0]["content"] for _, _, body in endpoint.requests]
    assert (done.ok, asked) == (2, ["say one", "say two"])
    assert done.to_arrow().column(column).to_pylist() == ["one", "two"]


# Schemas


class Mood(pydantic.BaseModel):
    """What is asked for."""

    mood: str
    why: str | None = None


@pytest.mark.parametrize("schema", [Mood, pydantic.TypeAdapter(Mood)], ids=["class", "adapter"])
def test_a_pydantic_class_is_a_schema(scripted, answer, schema):
    """It is sent as a strict schema, answers are checked against it, and they fit the class."""
    texts = ['{"mood": "good", "why": null}', '{"mood": 5}']
    endpoint = scripted(lambda _body, _headers, nth: (200, {}, answer(texts[(nth - 1) % 2])))
    options = {"model": "m", "base_url": endpoint.base_url, "max_attempts": 1, "concurrency": 1}
    done = batchrun.run(_rows(2), output="x", schema=schema, **options)
    assert (done.ok, done.error, dict(done.errors)) == (1, 1, {"invalid_output": 1})
    asked = endpoint.requests[0][2]["response_format"]["json_schema"]
    assert asked["strict"] is True and asked["schema"]["required"] == ["mood", "why"]
    assert asked["name"] == ("Mood" if schema is Mood else "answer")
    (content,) = filter(None, done.to_arrow().column("content").to_pylist())
    assert Mood.model_validate_json(content).mood == "good"
    again = batchrun.run(_rows(2), output="x", schema=schema, **options)
    assert again.ok == 1 and len(endpoint.requests) == 2


@pytest.mark.parametrize("schema", [Question, int, 5])
def test_another_class_is_no_schema(schema):
    """The error says what is."""
    with pytest.raises(batchrun.UsageError, match=r"schema is .*a Pydantic model"):
        batchrun.run(_rows(), output="x", model="m", base_url=DEAD, schema=schema)


# Signatures


def test_the_signatures_are_those_of_the_settings():
    """calls.py has every keyword of ``Options`` with its type: `make docs` was run."""
    script = runpy.run_path(str(ROOT / "docs" / "make_signatures.py"))
    calls, options = (script[name].read_text("utf-8") for name in ("CALLS", "OPTIONS"))
    assert script["filled"](calls, options) == calls
    for call in (batchrun.run, batchrun.arun, batchrun.stream):
        names = set(inspect.signature(call).parameters)
        assert names == {"rows", *batchrun.Options.__annotations__}
    assert inspect.iscoroutinefunction(batchrun.arun)


@pytest.mark.parametrize("call", [batchrun.score, batchrun.compare])
def test_the_other_functions_name_settings_alike(call):
    """A keyword that is a setting has the type that it has in ``run``."""
    shared = batchrun.Options.__annotations__
    for name, parameter in inspect.signature(call).parameters.items():
        if name in shared and name != "rows":
            assert parameter.annotation == f"{shared[name].__forward_arg__} | None"


# The summary


@pytest.fixture
def failing(scripted, answer):
    """A finished run of ten rows with a failure, a price, a score and a gate."""

    def reply(body, _headers, _nth):
        if "question 3" in body["messages"][0]["content"]:
            return 400, {}, {"error": {"message": f"no {HOSTILE}"}}
        return 200, {}, answer(f"A {HOSTILE}")

    endpoint = scripted(reply)
    return batchrun.run(
        [{**row, "topic": HOSTILE} for row in _rows(10)],
        output="a\nb",
        model="m",
        base_url=endpoint.base_url,
        shard_rows=4,
        prices={"m": {"input": 1, "output": 2}},
        scores={"good": "content LIKE 'A%'"},
        metrics={"good": {"value": "avg(good)", "by": "topic"}},
        gates={"good": ">= 0.99"},
    )


def test_a_summary_is_one_line(failing):
    """Whatever the name of the directory is."""
    shown = repr(failing)
    assert "\n" not in shown
    assert shown.startswith("<Summary complete_with_errors: 9 of 10 rows ok, 1 failed; $0.00")
    assert shown.endswith("; 'a\\nb'>")


def test_a_summary_is_a_table_in_notebooks(failing):
    """Small, with rows, cost, metrics and gates; what servers and rows say is escaped."""
    page = failing._repr_html_()
    for words in ("9 of 10 rows ok, 1 failed", "invalid_request 1", "good: 0.9", "gates: 0 of 1"):
        assert words in page, page
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "\x1b" not in page and "\u202e" not in page and len(page) < 10_000


def test_results_are_tables(failing):
    """As Arrow, pandas and Polars: all rows in order, of all columns or of some, with scores."""
    table = failing.to_arrow()
    assert table.column("row").to_pylist() == list(range(10))
    assert "good" not in table.column_names
    some = failing.to_arrow(["content", "status"], scores=True)
    assert some.column_names == ["content", "status", "good"]
    assert some.column("good").to_pylist() == [n != 3 for n in range(10)]
    frame = failing.to_pandas(["row"], scores=True)
    assert isinstance(frame, pd.DataFrame) and frame.good.sum() == 9
    other = failing.to_polars(["row"], scores=True)
    assert isinstance(other, pl.DataFrame) and other["good"].sum() == 9
    assert failing.cost_usd == failing.totals["cost_usd"] > 0
    assert failing.metrics["good"]["groups"]
    with pytest.raises(batchrun.UsageError, match="no column 'contents'; did you mean 'content'"):
        failing.to_arrow(["contents"])


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_a_library_that_is_missing_is_named(failing, monkeypatch, name):
    """With the line that installs it; Arrow needs none."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(batchrun.UsageError, match=f"pip install {name}"):
        getattr(failing, f"to_{name}")()
    assert failing.to_arrow().num_rows == 10


# Progress


def test_plain_lines_without_a_terminal(capsys):
    """A run that is asked for progress says on stderr how it ended; others are silent."""
    options = {"model": "m", "provider": "simulator"}
    batchrun.run(_rows(), output="one", **options)
    assert capsys.readouterr() == ("", "")
    batchrun.run(_rows(), output="two", progress=True, **options)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("complete: 4 of 4 rows ok, 0 failed\n4 attempts in ")
    batchrun.run(_rows(), output="two", progress=True, **options)
    assert capsys.readouterr().err.startswith("complete: 4 of 4 rows ok")


@pytest.mark.parametrize("call", CALLS)
def test_a_display_on_a_terminal(call, simulator, monkeypatch):
    """On a terminal it is the display of the command."""
    endpoint = simulator(latency=FixedLatency(0.4))
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        options = {"base_url": endpoint.base_url, "model": "m", "progress": True}
        CALLS[call](_rows(6), output="run", concurrency=2, **options)
        monkeypatch.undo()
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(leader, 65536):
            shown += piece
    os.close(leader)
    text = shown.decode()
    assert "━" in text and "in flight" in text and "complete: 6 of 6 rows ok" in text


def test_a_bar_escapes_what_it_shows():
    """In HTML; as text it is what it is, and without the whole the bar has no length."""
    bar = Bar(3, 10, f"3 of 10 {HOSTILE}", [f"auth, row 1: {HOSTILE}"])
    assert "<script" not in bar.html() and bar.html().count("&lt;script&gt;") == 2
    assert 'max="10" value="3"' in bar.html() and "max=" not in Bar(3, None, "3 of ? rows").html()
    assert repr(bar).startswith("3 of 10 <script>")
