"""Runs against llama.cpp's real server: what it sends is what no test of ours has made up."""

import datetime as dt
import json
from collections import Counter

import openai
import pyarrow.compute as pc
import pytest
from openai.types.chat import ChatCompletion

ROWS = 200
OWN = {
    "response_id",
    "created",
    "started_at",
    "latency_s",
    "ttft_s",
    "request_hash",
    "response",
    "attempts",
    "cached_tokens",  # what the request before left in the server's cache
}
SYSTEM = {"role": "system", "content": "Be brief."}


def _asks(count, **more):
    """Short questions whose answers differ, and do not depend on chance."""
    fields = {"max_tokens": 3, "temperature": 0, "seed": 1} | more
    for number in range(count):
        user = {"role": "user", "content": f"Count on from {number}"}
        yield {"custom_id": f"row-{number}", "messages": [SYSTEM, user], **fields}


def _run(cli, source, folder, base_url, *flags, **more):
    return cli.run(
        source, "-o", folder, "--base-url", base_url, "--no-progress", *flags, timeout_s=240, **more
    )


def _check(table, count):
    """Every row once, answered, with a usage that adds up."""
    assert table["row"].to_pylist() == list(range(count))
    assert set(table["status"].to_pylist()) == {"ok"}
    assert set(table["finish_reason"].to_pylist()) <= {"length", "stop"}
    assert all(table["content"].to_pylist())
    added = pc.add(table["prompt_tokens"], table["completion_tokens"])
    assert added.equals(table["total_tokens"])
    assert pc.min(table["completion_tokens"]).as_py() >= 1
    assert pc.max(table["completion_tokens"]).as_py() <= 3
    assert pc.min(table["prompt_tokens"]).as_py() > 10
    cached = table["cached_tokens"].to_pylist()
    assert all(
        0 <= hit <= sent
        for hit, sent in zip(cached, table["prompt_tokens"].to_pylist(), strict=True)
    )
    now = dt.datetime.now(dt.UTC)
    assert all(now - when < dt.timedelta(hours=1) for when in table["created"].to_pylist())


def test_streamed_or_not_the_answers_are_the_same(cli, llama, jsonl, published):
    """200 rows each way: all answered, and equal in every column that is the answer's."""
    source = jsonl(_asks(ROWS))
    tables = {}
    for folder, flag in (("plain", "--no-stream"), ("streamed", "--stream")):
        done = _run(cli, source, folder, llama(), flag, "--concurrency", 4)
        assert done.code == 0, done.err
        checked = cli("verify", folder)
        assert checked.code == 0, checked.err
        tables[folder] = published(cli.folder / folder)
        _check(tables[folder], ROWS)
    plain, streamed = tables["plain"], tables["streamed"]
    for name in plain.column_names:
        if name not in OWN:
            assert streamed[name].equals(plain[name]), name
    assert len(set(plain["content"].to_pylist())) > ROWS // 4
    assert plain["ttft_s"].null_count == ROWS
    for first_s, whole_s in zip(
        streamed["ttft_s"].to_pylist(), streamed["latency_s"].to_pylist(), strict=True
    ):
        assert 0 < first_s <= whole_s


def test_each_answer_costs_one_attempt(cli, llama, jsonl, published):
    """The server closes a connection after each stream, and says that it would not: that is found
    out by a few requests, which go out again at once, and costs no other any.
    """
    done = _run(cli, jsonl(_asks(40)), "run", llama(), "--stream", "--concurrency", 1)
    assert done.code == 0, done.err
    ends = Counter(published(cli.folder / "run", "attempts")["error_code"].to_pylist())
    assert ends.pop("reset", 0) <= 2
    assert ends == {None: 40}


@pytest.mark.parametrize("flag", ["--no-stream", "--stream"])
def test_the_official_client_reads_the_same(cli, llama, jsonl, published, flag):
    """Text, finish reason, log probabilities and usage, as OpenAI's client has them from it."""
    asks = list(_asks(5, logprobs=True, top_logprobs=2, max_tokens=8, model="m"))
    done = _run(cli, jsonl(asks), "run", llama(), flag)
    assert done.code == 0, done.err
    rows = published(cli.folder / "run").to_pylist()
    with openai.OpenAI(base_url=llama(), api_key="any", max_retries=0) as client:
        for row, ask in zip(rows, asks, strict=True):
            body = {key: value for key, value in ask.items() if key != "custom_id"}
            asked = client.chat.completions.create(**body)
            kept = ChatCompletion.model_validate_json(row["response"])
            for told in (asked, kept):
                choice = told.choices[0]
                assert row["content"] == choice.message.content
                assert row["finish_reason"] == choice.finish_reason
                assert row["model"] == told.model
                assert row["prompt_tokens"] == told.usage.prompt_tokens
                assert row["completion_tokens"] == told.usage.completion_tokens
            assert row["response_id"] == kept.id
            entries = json.loads(row["choices"][0]["logprobs"])["content"]
            assert entries == [
                entry.model_dump(mode="json") for entry in kept.choices[0].logprobs.content
            ]
            spoken = b"".join(bytes(entry["bytes"]) for entry in entries).decode()
            assert spoken.startswith(row["content"])
            assert [entry["token"] for entry in entries] == [
                entry.token for entry in asked.choices[0].logprobs.content
            ]


@pytest.mark.parametrize("flag", ["--no-stream", "--stream"])
def test_a_killed_run_goes_on(cli, llama, jsonl, published, until, flag):
    """SIGKILL in its middle; the same command ends with every row once."""
    source = jsonl(_asks(60))
    command = (
        *("run", source, "-o", "run", "--model", "m", "--base-url", llama(), flag),
        *("--no-progress", "--shard-rows", 20, "--concurrency", 4),
    )
    live = cli.start(*command)
    until(lambda: any((cli.folder / "run" / "results").glob("part-*.parquet")), 60)
    live.kill()
    before = published(cli.folder / "run")
    assert 20 <= before.num_rows < 60
    done = cli(*command, timeout_s=120)
    assert done.code == 0, done.err
    after = published(cli.folder / "run")
    _check(after, 60)
    assert cli("verify", "run").code == 0
    # What was published is not asked again.
    assert after["response_id"].to_pylist()[:20] == before["response_id"].to_pylist()[:20]


def test_a_wrong_key_stops_and_loses_nothing(cli, llama, jsonl, summary, published):
    """Exit 3, every row pending, the reason `auth`; with the right key the run goes on."""
    command = (jsonl(_asks(10)), "run", llama("sk-the-right-one"))
    stopped = _run(cli, *command, env={"OPENAI_API_KEY": "sk-a-wrong-one"})
    assert stopped.code == 3
    assert "auth (HTTP 401): Invalid API Key; check the key" in stopped.err
    told = summary(cli.folder / "run")
    assert (told["stopped_by"], told["rows"]["pending"]) == ("auth", 10)
    assert set(published(cli.folder / "run", "attempts")["error_class"].to_pylist()) == {"auth"}
    done = _run(cli, *command, env={"OPENAI_API_KEY": "sk-the-right-one"})
    assert done.code == 0, done.err
    _check(published(cli.folder / "run"), 10)


@pytest.mark.parametrize("flag", ["--no-stream", "--stream"])
def test_bad_requests_are_rows_of_their_own_class(cli, llama, jsonl, published, flag):
    """A prompt beyond the context and parameters that cannot be are errors, others answers."""
    asks = list(_asks(5))
    asks[1]["messages"] = [{"role": "user", "content": "word " * 900}]
    asks[2]["response_format"] = {"type": "nonsense"}
    asks[3]["n"] = 3
    done = _run(cli, jsonl(asks), "run", llama(), flag)
    assert done.code == 1, done.err
    rows = published(cli.folder / "run").to_pylist()
    assert [row["error_class"] for row in rows] == [
        None,
        "context_length",
        "invalid_request",
        "invalid_request",
        None,
    ]
    assert [row["http_status"] for row in rows] == [200, 400, 400, 400, 200]
    assert [row["attempts"] for row in rows[1:4]] == [1, 1, 1]
    assert "exceeds the available context size" in rows[1]["error_message"]
    assert rows[1]["error_code"] == "exceed_context_size_error"
    assert "response_format" in rows[2]["error_message"]
    assert "Field 'n'" in rows[3]["error_message"]
    assert cli("verify", "run").code == 0


def test_a_wrong_path_stops(cli, llama, jsonl, summary):
    """404 for a path that is not there is no row's fault."""
    wrong = llama().removesuffix("/v1") + "/elsewhere"
    stopped = _run(cli, jsonl(_asks(3)), "run", wrong)
    assert stopped.code == 3
    assert "File Not Found" in stopped.err
    assert summary(cli.folder / "run")["rows"]["pending"] == 3
