"""What stops a run or holds it, by the real command over real HTTP."""

import json
import time
from urllib.request import urlopen

import pytest

from batchrun.simulator.latency import FixedLatency
from tests.harness.slow import rest_slow

QUICK = ("--no-progress", "--model", "m")
WRONG = {"error": {"message": "unknown parameter: 'top_q'", "code": "unknown_parameter"}}


def _answer(model="m-1", content="Yes.", reason="stop"):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": reason,
    }
    return 200, {}, json.dumps({"id": "x", "model": model, "choices": [choice]}).encode()


def _wrong(_, __, ___):
    return 400, {}, json.dumps(WRONG).encode()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_costs_no_row(
    cli, jsonl, until, summary, published, served
):
    """Killed in mid-run, gone for some seconds, back: every row is ok, with two attempts allowed;
    the user hears of both.
    """
    process, port = served()
    live = cli.start(
        *("run", jsonl(3000), "-o", "run", *QUICK, "--base-url", f"http://127.0.0.1:{port}/v1"),
        *("--concurrency", 16, "--max-attempts", 2, "--shard-rows", 500),
    )

    def asked():
        with urlopen(f"http://127.0.0.1:{port}/stats") as answer:
            return json.load(answer)["requests_total"]

    until(lambda: asked() > 300)
    process.kill()
    process.wait()
    until(lambda: "default does not answer (" in live.err)
    time.sleep(3)  # as an outage takes: nothing is to happen meanwhile
    assert live.process.poll() is None
    served(port)
    done = live.wait()
    assert done.code == 0, done.err
    assert summary(cli.folder / "run")["rows"] == {
        "input": 3000, "ok": 3000, "error": 0, "pending": 0
    }  # fmt: skip
    assert "default does not answer (" in done.err and "default answers again, after" in done.err
    failed = [c for c in published(cli.folder / "run", "attempts")["error_class"].to_pylist() if c]
    assert 16 <= len(failed) < 120  # those in flight, and a few probes
    cli.verified("run")


def test_a_server_that_was_never_there_stops_the_run(cli, jsonl, summary):
    """A wrong port: after --max-wait exit 3, all rows pending, and a sentence that says so."""
    done = cli.run(
        *(jsonl(200), "-o", "run", *QUICK, "--base-url", "http://127.0.0.1:9/v1"),
        *("--max-wait", 2, "--concurrency", 8),
    )
    assert done.code == 3, done.err
    found = summary(cli.folder / "run")
    assert (found["stopped_by"], found["rows"]["pending"]) == ("connection", 200)
    assert "has not answered once" in done.err and "check the base URL" in done.err
    assert "Nothing has answered yet" in done.err
    cli.verified("run")


def test_a_mistake_in_every_request_stops_early(cli, scripted, jsonl, summary, published):
    """The first 20 rows fail alike: the rest is not sent, and goes on after --retry-failed."""
    mended = []
    endpoint = scripted(lambda *given: _answer() if mended else _wrong(*given))
    command = (jsonl(400), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    done = cli.run(*command, "--concurrency", 4)
    assert done.code == 3, done.err
    found = summary(cli.folder / "run")
    assert found["stopped_by"] == "misconfiguration"
    assert found["errors"] == {"invalid_request": found["rows"]["error"]}
    assert 20 <= found["rows"]["error"] <= 40
    assert found["rows"]["pending"] == 400 - found["rows"]["error"]
    assert "unknown parameter: 'top_q'" in done.err and "--retry-failed" in done.err
    assert published(cli.folder / "run").num_rows == found["rows"]["error"]
    mended.append(True)
    again = cli.run(*command, "--retry-failed")
    assert again.code == 0, again.err
    assert summary(cli.folder / "run")["rows"]["ok"] == 400
    cli.verified("run")


def test_a_guard_that_leaves_nothing_pending_is_no_stop(cli, scripted, jsonl, summary):
    """Twenty rows that all fail are a finished run with errors."""
    endpoint = scripted(_wrong)
    done = cli.run(jsonl(20), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    found = summary(cli.folder / "run")
    assert (found["status"], found["stopped_by"]) == ("complete_with_errors", None)


@pytest.mark.parametrize(
    ("flag", "bad"),
    [
        (("--max-failures", "5"), _wrong),
        (("--max-failures", "2%"), _wrong),
        (("--max-truncated", "2%"), lambda *_: _answer(reason="length")),
        (("--max-empty", "2%"), lambda *_: _answer(content="")),
    ],
    ids=["failures", "share of failures", "truncated", "empty"],
)
def test_too_many_bad_rows_stop_the_run(cli, scripted, jsonl, summary, flag, bad):
    """One in ten is bad: stopped soon after there are too many, the rest pending."""
    endpoint = scripted(
        lambda body, headers, nth: bad(body, headers, nth) if nth % 10 == 5 else _answer()
    )
    done = cli.run(
        jsonl(1000), "-o", "run", *QUICK, "--base-url", endpoint.base_url, *flag, "--concurrency", 4
    )
    assert done.code == 3, done.err
    found = summary(cli.folder / "run")
    assert found["stopped_by"] == flag[0].removeprefix("--").replace("-", "_")
    assert found["settings"][f"guards.{found['stopped_by']}"] == flag[1]
    assert f"more than {flag[0]} {flag[1]}" in done.err
    finished = found["rows"]["ok"] + found["rows"]["error"]
    assert (50 if flag[1] == "5" else 99) < finished < 300
    cli.verified("run")


def test_a_deadline_stops_the_run(cli, simulator, jsonl, summary):
    """So many seconds after the start; what is in flight is kept, the rest goes on later."""
    endpoint = simulator(latency=FixedLatency(0.3))
    command = (jsonl(400), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    began_s = time.monotonic()
    done = cli.run(*command, "--concurrency", 2, "--deadline", 2.5)
    assert time.monotonic() - began_s < 30, "without a deadline it takes 60 s"
    assert done.code == 3, done.err
    found = summary(cli.folder / "run")
    assert found["stopped_by"] == "deadline" and "--deadline" in done.err
    assert 0 < found["rows"]["ok"] < 400 and found["rows"]["error"] == 0
    assert found["rows"]["ok"] == endpoint.stats()["requests_total"]
    over = cli.run(*command, "--deadline", 0)
    assert over.code == 3
    assert endpoint.stats()["requests_total"] == found["rows"]["ok"]


@pytest.mark.slow
def test_another_model_that_answers_is_told_of(cli, scripted, jsonl):
    """In mid-run, and when the run goes on with another: a warning, and nothing else."""
    endpoint = scripted(lambda _, __, nth: _answer("m-1" if nth < 30 else "m-2"))
    command = (jsonl(60), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    done = cli.run(*command, "--limit", 50, "--concurrency", 1)
    assert done.code == 0, done.err
    assert done.err.count("answered by another: model 'm-1' until now, 'm-2'") == 1
    endpoint.requests.clear()
    again = cli.run(*command)
    assert again.code == 0


@pytest.mark.parametrize("stream", rest_slow([False, True]), ids=["plain", "streamed"])
@pytest.mark.parametrize(
    "refusal",
    [
        (400, {"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}}),
        (200, {"choices": None, "base_resp": {"status_code": 1026, "status_msg": "sensitive"}}),
        (400, {"error": {"code": "context_length_exceeded", "message": "m"}}),
    ],
    ids=["DeepSeek", "MiniMax", "too long"],
)
def test_sorted_rows_that_are_refused_for_what_they_say_stop_nothing(
    cli, scripted, tmp_path, summary, refusal, stream
):
    """Forty refused rows at the start, asked once each; the good rows behind them are answered."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "Yes."}, "finish_reason": "stop"}]}
    events = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode()

    def answer(body, _headers, _nth):
        if body["messages"][-1]["content"].startswith("bad"):
            return refusal[0], {"Content-Type": "application/json"}, refusal[1]
        return (200, {"Content-Type": "text/event-stream"}, events) if stream else _answer()

    endpoint = scripted(answer)
    said = [*(f"bad {n}" for n in range(40)), *(f"good {n}" for n in range(10))]
    path = tmp_path / "sorted.jsonl"
    path.write_text(
        "".join(json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n"
                for text in said)
    )  # fmt: skip
    flags = ("--stream",) if stream else ()
    done = cli.run(
        path, "-o", "run", *QUICK, "--base-url", endpoint.base_url, "--concurrency", 1, *flags
    )
    assert done.code == 1, done.err
    found = summary(cli.folder / "run")
    assert (found["rows"]["ok"], found["rows"]["error"]) == (10, 40)
    assert len(endpoint.requests) == 50
    cli.verified("run")


@pytest.mark.parametrize(
    ("reply", "by"),
    [
        ((429, {"error": {"message": "账户余额不足，请充值", "type": "rate_limit"}}), "billing"),
        ((400, {"error": {"code": "Arrearage", "message": "m", "type": "Arrearage"}}), "billing"),
        ((200, {"base_resp": {"status_code": 1008, "status_msg": "m"}}), "billing"),
        ((429, {"error": {"message": "Budget has been exceeded!", "code": "429"}}), "quota"),
    ],
)
def test_an_empty_account_stops_the_run_at_once(cli, scripted, jsonl, summary, reply, by):
    """Whatever status it is told under, with a wait or not: no row fails, none is waited for."""
    endpoint = scripted(lambda *_: (reply[0], {"Retry-After": "30"}, reply[1]))
    done = cli.run(
        jsonl(30), "-o", "run", *QUICK, "--base-url", endpoint.base_url, "--concurrency", 2
    )
    assert done.code == 3, done.err
    found = summary(cli.folder / "run")
    assert (found["stopped_by"], found["rows"]["pending"]) == (by, 30)
    assert len(endpoint.requests) <= 2


@pytest.mark.parametrize(
    ("reply", "by"),
    [
        ((200, {}, {"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
         "not_found"),
        ((404, {}, b"404 page not found"), "not_found"),
        ((405, {}, b"<h1>Method Not Allowed</h1>"), "config"),
        ((200, {"Content-Type": "text/html"}, b"<!doctype html><title>Web UI</title>"),
         "misconfiguration"),
    ],
    ids=["LM Studio", "Go", "405", "a web page"],
)  # fmt: skip
def test_a_base_url_without_its_version_is_told(cli, scripted, jsonl, summary, reply, by):
    """The message names the URL that was asked and the one that was likely meant."""
    endpoint = scripted(lambda *_: reply)
    server = endpoint.base_url.removesuffix("/v1")
    done = cli.run(
        *(jsonl(60), "-o", "run", *QUICK, "--base-url", f"{server}/chat/completions"),
        *("--concurrency", 4, "--max-attempts", 1),
    )
    assert done.code == 3, done.err
    assert summary(cli.folder / "run")["stopped_by"] == by
    told = " ".join(done.err.split())
    assert f"asked {server}/chat/completions" in told
    assert f"the base URL may have to be {server}/v1" in told


SIGN_IN = b"<!DOCTYPE html><html><body>Please <a href='/login'>sign in</a></body></html>"
BREAKS = {
    "login page": (200, {"Content-Type": "text/html"}, SIGN_IN),
    "empty reply": (200, {}, b""),
    "empty object": (200, {}, b"{}"),
    "unprocessable": (422, {}, b'{"detail": [{"msg": "no such deployment", "type": "missing"}]}'),
    "unknown code": (
        400,
        {},
        b'{"error": {"message": "plan ended on Monday", "code": "plan_ended"}}',
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BREAKS)
def test_an_endpoint_that_fails_all_alike_stops_the_run(cli, scripted, jsonl, summary, how):
    """Forty answers, then the same failure for ever: exit 3, rows pending and not failed; the same
    command finishes once the endpoint is well again.
    """
    well = []
    endpoint = scripted(lambda _, __, nth: _answer() if well or nth <= 40 else BREAKS[how])
    command = (
        *(jsonl(150), "-o", "run", *QUICK, "--base-url", endpoint.base_url),
        *("--max-attempts", 2, "--shard-rows", 50),
    )
    done = cli.run(*command, "--concurrency", 1)
    assert done.code == 3, done.err
    found = summary(cli.folder / "run")
    assert found["stopped_by"] == "repeated_failure"
    assert found["rows"]["error"] == 0
    assert 30 <= found["rows"]["ok"] <= 45 and found["rows"]["pending"] >= 105
    assert "stay pending" in done.err and "--no-repeated-failure" in done.err
    cli.verified("run")
    well.append(True)
    again = cli.run(*command)
    assert again.code == 0, again.err
    assert summary(cli.folder / "run")["rows"] == {
        "input": 150, "ok": 150, "error": 0, "pending": 0
    }  # fmt: skip
    cli.verified("run")


def test_a_run_may_go_on_past_repeated_failures(cli, scripted, jsonl, summary):
    """With --no-repeated-failure every row that fails is an error row."""
    endpoint = scripted(lambda _, __, nth: _answer() if nth <= 40 else BREAKS["unknown code"])
    command = (jsonl(200), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    done = cli.run(*command, "--concurrency", 4, "--no-repeated-failure")
    assert done.code == 1, done.err
    found = summary(cli.folder / "run")
    assert (found["rows"]["error"], found["stopped_by"]) == (160, None)
    cli.verified("run")


def test_thirty_bad_rows_in_a_row_are_error_rows(cli, scripted, jsonl, summary, published):
    """So many may be bad, also at the end of the input, where nothing is answered after them."""
    endpoint = scripted(
        lambda body, *_: (
            BREAKS["unknown code"]
            if int(body["messages"][0]["content"].split()[-1]) >= 170
            else _answer()
        )
    )
    done = cli.run(jsonl(200), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    assert summary(cli.folder / "run")["rows"]["error"] == 30
    table = published(cli.folder / "run")
    assert set(table["error_code"].to_pylist()) == {None, "plan_ended"}
    cli.verified("run")
