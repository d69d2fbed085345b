"""Runs with `--stream`: the columns of the plain run, and what becomes of streams that fail."""

import json
import signal

import pyarrow.compute as pc
import pytest

from batchrun.simulator.latency import FixedLatency, PerTokenLatency

QUIET = ("--no-progress",)
OWN = {"created", "request_id", "started_at", "latency_s", "ttft_s", "request_hash", "response"}


def _ledger(published, folder):
    return published(folder, "attempts").to_pylist()


def _rows(chat, count, **more):
    return [chat(number, custom_id=f"id-{number}", **more) for number in range(count)]


def test_streamed_or_not_the_columns_are_the_same(cli, simulator, jsonl, chat, published):
    """All columns but times, ids of the exchange and raw texts are equal, whatever the framing."""
    rows = _rows(chat, 30) + _rows(chat, 10, n=3) + _rows(chat, 10, max_tokens=7)
    source = jsonl(rows)
    tables = []
    for flags, options in (
        ((), {}),
        (("--stream",), {}),
        (("--stream",), {"odd_framing_rate": 0.5, "no_done_rate": 0.5}),
    ):
        endpoint = simulator(**options)
        folder = f"run-{len(tables)}"
        done = cli.run(source, "-o", folder, *QUIET, "--base-url", endpoint.base_url, *flags)
        assert done.code == 0, done.err
        cli.verified(folder)
        assert endpoint.stats()["requests_total"] == len(rows)
        tables.append(published(cli.folder / folder))
    plain, *streamed = tables
    for table in streamed:
        for name in plain.column_names:
            if name not in OWN:
                assert table[name] == plain[name], name
        assert pc.min(table["ttft_s"]).as_py() > 0
        raw = json.loads(table["response"][0].as_py())
        assert raw["object"] == "chat.completion"
        assert raw["choices"][0]["message"]["content"] == table["content"][0].as_py()
    assert plain["ttft_s"].null_count == len(rows)
    assert plain["choices"].null_count == 40


def test_what_is_asked_for(cli, scripted, answer, jsonl):
    """A streaming run asks for a stream and its usage; a plain one for neither; a row's own word
    does not count, but its options do.
    """
    endpoint = scripted(lambda *_: (200, {}, answer()))
    source = jsonl(3, stream=True)
    where = ("--base-url", endpoint.base_url, *QUIET)
    assert cli.run(source, "-o", "plain", *where).code == 0
    assert cli.run(source, "-o", "streamed", *where, "--stream").code == 0
    options = ("--param", "stream_options=null")
    assert cli.run(source, "-o", "bare", *where, "--stream", *options).code == 0
    asked = [
        (body.get("stream"), body.get("stream_options", "absent"))
        for _, _, body in endpoint.requests
    ]
    assert asked == (
        [(None, "absent")] * 3
        + [(True, {"include_usage": True})] * 3
        + [(True, "absent")] * 3
    )  # fmt: skip


def test_streaming_shapes_requests(cli, simulator, jsonl):
    """A run may not become a streaming one in its middle, unless it is told to."""
    endpoint = simulator()
    command = (jsonl(5), "-o", "run", *QUIET, "--base-url", endpoint.base_url)
    assert cli.run(*command).code == 0
    changed = cli.run(*command, "--stream")
    assert changed.code == 2
    assert "request.stream: was false, is true" in changed.err
    assert cli.run(*command, "--stream", "--keep-done").code == 0
    assert cli.run(*command, "--stream").code == 0
    assert cli.run(*command, "--no-stream").code == 2
    assert endpoint.stats()["requests_total"] == 5


def test_the_config_file_knows_it(cli, simulator, jsonl, published):
    """`stream = true` in the file is the flag; the other flag wins over it."""
    endpoint = simulator()
    source = jsonl(3)
    (cli.folder / "c.toml").write_text(
        f'[input]\nfiles = ["{source}"]\n[request]\nmodel = "m"\nstream = true\n'
        f'[[endpoint]]\nbase_url = "{endpoint.base_url}"\n'
    )
    assert cli("run", "-c", "c.toml", "-o", "a", *QUIET).code == 0
    assert cli("run", "-c", "c.toml", "-o", "b", *QUIET, "--no-stream").code == 0
    assert published(cli.folder / "a")["ttft_s"].null_count == 0
    assert published(cli.folder / "b")["ttft_s"].null_count == 3
    (cli.folder / "c.toml").write_text('[request]\nstream = "yes"\n')
    refused = cli("run", source, "-c", "c.toml", "-o", "d")
    assert refused.code == 2
    assert "request.stream is 'yes'; expected true or false" in refused.err


def test_the_first_token_comes_before_the_last(cli, simulator, jsonl, published):
    """With a server that writes slowly, the time to the first token is the server's."""
    endpoint = simulator(latency=PerTokenLatency(0.1, 0.005))
    source = jsonl(4)
    done = cli.run(source, "-o", "run", *QUIET, "--base-url", endpoint.base_url, "--stream")
    assert done.code == 0
    table = published(cli.folder / "run")
    for ttft_s, latency_s in zip(
        table["ttft_s"].to_pylist(), table["latency_s"].to_pylist(), strict=True
    ):
        assert ttft_s > 0.09 and latency_s - ttft_s > 0.1


@pytest.mark.parametrize("fault", ["cut_rate", "stream_end_rate", "stream_stall_rate"])
def test_half_an_answer_is_none(cli, simulator, jsonl, published, fault):
    """A stream that ends early is tried again, and ends as an error whose partial text stands in
    the raw column only; its attempts may have been billed.
    """
    endpoint = simulator(**{fault: 1.0})
    done = cli.run(
        *(jsonl(3), "-o", "run", *QUIET, "--base-url", endpoint.base_url, "--stream"),
        *("--max-attempts", 2, "--timeout", 0.5),
    )
    assert done.code == 1
    error_class = "timeout" if fault == "stream_stall_rate" else "incomplete_stream"
    for row in published(cli.folder / "run").to_pylist():
        assert (row["status"], row["error_class"], row["attempts"]) == ("error", error_class, 2)
        assert row["content"] is None and row["http_status"] == 200
        assert row["request_id"] and row["ttft_s"] > 0
        partial = json.loads(row["response"])["choices"][0]["message"]["content"]
        assert partial.startswith('Re: "question ')
    ledger = _ledger(published, cli.folder / "run")
    assert [line["unanswered"] for line in ledger] == [True] * 6
    report = cli.verified("run")
    assert report["attempts"] == 6 == endpoint.stats()["requests_total"]


def test_an_error_in_the_middle_of_a_stream(cli, simulator, jsonl, published):
    """It is the error that its code says, and is tried again."""
    endpoint = simulator(stream_error_rate=1.0)
    done = cli.run(
        *(jsonl(2), "-o", "run", *QUIET, "--base-url", endpoint.base_url, "--stream"),
        *("--max-attempts", 2),
    )
    assert done.code == 1
    for row in published(cli.folder / "run").to_pylist():
        assert (row["error_class"], row["error_code"]) == ("server_error", "500")
        assert row["error_message"] == "The model broke down while it answered."
        raw = json.loads(row["response"])
        assert raw["error"]["code"] == 500
        assert raw["choices"][0]["message"]["content"].startswith('Re: "question ')


def test_half_an_answer_that_told_its_usage(cli, scripted, jsonl, published):
    """What a broken stream said of its cost is in the ledger."""
    chunk = {
        "choices": [{"index": 0, "delta": {"content": "half"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
    body = b"data: %b\n\n" % json.dumps(chunk).encode()
    endpoint = scripted(lambda *_: (200, {"Content-Type": "text/event-stream"}, body))
    done = cli.run(
        *(jsonl(1), "-o", "run", *QUIET, "--base-url", endpoint.base_url, "--stream"),
        *("--max-attempts", 1),
    )
    assert done.code == 1
    [line] = _ledger(published, cli.folder / "run")
    assert (line["error_class"], line["total_tokens"]) == ("incomplete_stream", 6)
    assert line["unanswered"] is False
    cli.verified("run")


@pytest.mark.slow
def test_all_faults_of_streams_at_once(cli, simulator, jsonl, published):
    """Nothing is lost, and the ledger has every request that the server saw."""
    endpoint = simulator(
        stream_end_rate=0.1, stream_stall_rate=0.03, stream_error_rate=0.1, no_done_rate=0.1,
        odd_framing_rate=0.2, cut_rate=0.05, drop_rate=0.05, error_200_rate=0.05,
        error_rates={"500": 0.05, "429": 0.05}, retry_after_s=0.05,
    )  # fmt: skip
    done = cli.run(
        *(jsonl(80), "-o", "run", *QUIET, "--base-url", endpoint.base_url, "--stream"),
        *("--max-attempts", 30, "--timeout", 0.5),
    )
    assert done.code == 0, done.err
    stats = endpoint.stats()
    assert cli.verified("run")["attempts"] == stats["requests_total"]
    ledger = _ledger(published, cli.folder / "run")
    whole = [line for line in ledger if line["error_class"] is None]
    assert len(whole) == 80
    assert sum(line["completion_tokens"] for line in whole) == stats["completion_tokens"]
    broken = sum(line["error_class"] == "incomplete_stream" for line in ledger)
    assert broken == stats["cut"]


def test_killed_in_the_middle_of_streams(cli, simulator, jsonl, published, until):
    """A kill loses no answer; the streams that were cut are sent again."""
    endpoint = simulator(latency=PerTokenLatency(0.01, 0.002))
    source = jsonl(40)
    command = ("run", source, "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    flags = ("--stream", "--concurrency", 4, *QUIET)
    live = cli.start(*command, *flags)
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 8)
    live.signal(signal.SIGKILL)
    live.wait()
    until(lambda: endpoint.stats()["in_flight"] == 0)
    done = cli(*command, *flags)
    assert done.code == 0, done.err
    table = published(cli.folder / "run")
    assert table["row"].to_pylist() == list(range(40))
    assert table["ttft_s"].null_count == 0
    # A request is noted before it goes out: the kill may come in between.
    assert 0 <= cli.verified("run")["attempts"] - endpoint.stats()["requests_total"] <= 4


def test_interrupted_in_the_middle_of_streams(cli, simulator, jsonl, published, summary, until):
    """A stop cuts off streams that do not end; they are in the ledger, and their rows pending."""
    endpoint = simulator(latency=FixedLatency(0), stream_stall_rate=1.0)
    command = ("run", jsonl(4), "-o", "run", "--model", "m", "--base-url", endpoint.base_url)
    live = cli.start(*command, "--stream", "--grace", "0.1", *QUIET)
    until(lambda: endpoint.stats()["in_flight"] == 4)
    live.signal(signal.SIGINT)
    assert live.wait().code == 130
    cli.verified("run")
    assert summary(cli.folder / "run")["rows"]["pending"] == 4
    assert len(_ledger(published, cli.folder / "run")) == 4
