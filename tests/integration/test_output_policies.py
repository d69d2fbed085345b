"""Answers that do not do are asked for again in another way: with a higher limit, of another model,
or in a later run that keeps the better one.
"""

import threading

import pytest

from tests.harness.slow import rest_slow

QUICK = ("--no-progress", "--shard-rows", 10)
PRICES = """
[prices.m]
input = 1.0
output = 1.0
[prices.other]
input = 1000.0
output = 1000.0
"""


def number_of(body):
    """The number of the row that asks."""
    return int(body["messages"][-1]["content"].split()[1])


def said(content, finish_reason="stop", *, model="m", **message):
    """A completion."""
    message = {"role": "assistant", "content": content, **message}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
    }


@pytest.fixture
def found(cli, published, summary):
    """Results, ledger and summary of a run whose accounting holds."""

    def read(folder="run"):
        cli.verified(folder)
        path = cli.folder / folder
        tables = [published(path, kind).to_pylist() for kind in ("results", "attempts")]
        return *tables, summary(path)

    return read


@pytest.fixture
def rambling(scripted):
    """An endpoint whose answers need so many tokens, and are cut off below that."""

    def start(needs):
        def reply(body, _, __):
            limits = [body[n] for n in ("n_predict", "max_completion_tokens", "max_tokens")
                      if n in body]  # fmt: skip
            cut = bool(limits) and limits[0] < needs
            return 200, {}, said("half" if cut else "whole", "length" if cut else "stop")

        return scripted(reply)

    return start


# A higher limit


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_the_limit_of_a_further_try_is_raised(here, rambling, jsonl, chat, found, name):
    """Each try has twice the limit of the one before, up to N, under the name that the row uses;
    all else of the body, and the hash of the request, stay as they are.
    """
    endpoint = rambling(35)
    source = jsonl([chat(0, seed=3) | {name: 10}])
    command = (source, *QUICK, "--base-url", endpoint.base_url, "--on-truncation", "retry")
    done = here(*command, "-o", "run", "--truncation-limit", 38)
    assert done.code == 0, done.err
    bodies = [body for *_, body in endpoint.requests]
    assert [body.pop(name) for body in bodies] == [10, 20, 38]
    assert bodies[0] == bodies[1] == bodies[2]
    (row,), ledger, summed = found()
    assert (row["content"], row["attempts"]) == ("whole", 3)
    assert [line["error_class"] for line in ledger] == ["truncated_output"] * 2 + [None]
    assert summed["settings"]["output.truncation_limit"] == 38
    assert here(*command, "-o", "plain", "--max-attempts", 1).code == 1
    assert found("plain")[0][0]["request_hash"] == row["request_hash"]


def test_what_cannot_be_raised_is_sent_as_it_was(here, rambling, jsonl, chat, found):
    """A limit that is N or more stays, and a body without one gets none; where a body has two, both
    are raised, since nobody knows which one counts.
    """
    endpoint = rambling(10**6)
    rows = [chat(0, max_tokens=50), chat(1), chat(2, max_tokens=5, max_completion_tokens=30)]
    done = here(jsonl(rows), "-o", "run", *QUICK, "--base-url", endpoint.base_url,
                "--on-truncation", "retry", "--truncation-limit", 40,
                "--max-attempts", 2)  # fmt: skip
    assert done.code == 1, done.err
    sent = {number: [] for number in range(3)}
    for *_, body in endpoint.requests:
        limits = {key: value for key, value in body.items() if key.startswith("max_")}
        sent[number_of(body)].append(limits)
    assert sent[0] == [{"max_tokens": 50}] * 2 and sent[1] == [{}]
    assert sent[2] == [
        {"max_tokens": 5, "max_completion_tokens": 30},
        {"max_tokens": 10, "max_completion_tokens": 40},
    ]
    results, *_ = found()
    assert [row["error_class"] for row in results] == ["truncated_output", None, "truncated_output"]


def test_a_budget_covers_the_raised_limit(here, rambling, jsonl, chat):
    """The worst case is that of the highest limit: what does not fit it is not begun."""
    endpoint = rambling(10)
    source = jsonl([chat(0, max_tokens=20)])
    command = (source, *QUICK, "--base-url", endpoint.base_url, "--on-truncation", "retry",
               "--max-total-tokens", 5000)  # fmt: skip
    done = here(*command, "-o", "dear", "--truncation-limit", 10_000)
    assert done.code == 3 and not endpoint.requests, done.err
    assert here(*command, "-o", "cheap", "--truncation-limit", 2000).code == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--truncation-limit", 100),
        ("--truncation-limit", 100, "--on-truncation", "fail"),
        ("--truncation-limit", 0, "--on-truncation", "retry"),
        ("--truncation-limit", -5, "--on-truncation", "retry"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(here, jsonl, flags):
    """Without retries of truncated answers, or below 1: exit code 2, naming the setting."""
    done = here(jsonl(1), "-o", "run", "--base-url", "http://127.0.0.1:9/v1", *flags)
    assert done.code == 2 and "truncation" in done.err


# Kept answers that are sent again


@pytest.fixture
def flawed(here, scripted, jsonl, found):
    """A complete run of 24 rows in three parts: 1 and 12 were cut off, 2 is empty, 3 is both, 4
    failed. ``replies`` has what a row is answered from now on.
    """
    replies = {
        1: said("half", "length"),
        12: said("half", "length"),
        2: said(" "),
        3: said("", "length"),
        4: None,
    }

    def reply(body, _, __):
        found = replies.get(number_of(body), said("fine"))
        return (400, {}, {"error": {"message": "no"}}) if found is None else (200, {}, found)

    endpoint = scripted(reply)
    endpoint.replies = replies
    command = (jsonl(24), "-o", "run", *QUICK, "--base-url", endpoint.base_url)
    assert here(*command).code == 1
    assert found()[2]["outputs"] == {"truncated": 3, "empty": 2}
    endpoint.requests.clear()
    return command, endpoint


def asked(endpoint):
    """The rows that asked since the last look."""
    numbers = sorted(number_of(body) for *_, body in endpoint.requests)
    endpoint.requests.clear()
    return numbers


def test_a_better_answer_replaces_a_kept_one(here, flawed, found):
    """Only the rows meant are sent; what is better takes the place of the old answer, and what is
    not leaves it as it was and is in the ledger alone.
    """
    command, endpoint = flawed
    before = found()[0]
    endpoint.replies.update({1: said("whole"), 3: said("", "length")})
    done = here(*command, "--retry-class", "truncated")
    assert done.code == 1 and "3 truncated rows are sent again" in done.err
    assert asked(endpoint) == [1, 3, 12]
    after, ledger, summed = found()
    changed = [n for n in range(24) if after[n] != before[n]]
    assert changed == [1, 3, 12] and [after[n]["attempts"] for n in changed] == [2, 2, 2]
    assert (after[1]["content"], after[1]["finish_reason"]) == ("whole", "stop")
    for number in (3, 12):
        assert after[number] == before[number] | {"attempts": 2}
    lines = {(line["row"], line["attempt"]): line["error_class"] for line in ledger}
    assert (lines[1, 2], lines[3, 2], lines[12, 2]) == (None, *["truncated_output"] * 2)
    assert summed["rows"] == {"input": 24, "ok": 23, "error": 1, "pending": 0}
    assert summed["outputs"] == {"truncated": 2, "empty": 2}


def test_an_answer_with_another_flaw_is_no_better(here, flawed, found):
    """An empty answer does not replace half of one; a failure replaces nothing."""
    command, endpoint = flawed
    before = found()[0]
    endpoint.replies.update({1: said(""), 12: None, 3: said("")})
    assert here(*command, "--retry-class", "truncated").code == 1
    after, ledger, _ = found()
    for number in (1, 12):
        assert after[number] == before[number] | {"attempts": 2}
    assert (after[3]["finish_reason"], after[3]["attempts"]) == ("stop", 2)  # empty as before
    lines = {(line["row"], line["attempt"]): line["error_class"] for line in ledger}
    assert (lines[1, 2], lines[12, 2]) == ("empty_output", "invalid_request")
    why = {(line["row"], line["attempt"]): line["decided_by"] for line in ledger}
    assert (why[1, 2], why[12, 2]) == ("empty_output>kept_answer", "invalid_request")
    assert (why[3, 2], why[1, 1]) == ("completion", "completion")


def test_classes_and_flaws_go_together(here, flawed, found):
    """Both flaws and an error class in one go: every row once, counted once, all of them mended;
    --retry-failed alone takes failures alone.
    """
    command, endpoint = flawed
    endpoint.replies.clear()
    done = here(*command, "--retry-failed")
    assert done.code == 0 and asked(endpoint) == [4]
    endpoint.replies[4] = None
    done = here(*command, "--retry-class", "truncated,empty,invalid_request")
    assert done.code == 0 and asked(endpoint) == [1, 2, 3, 12]
    assert "4 failed or truncated or empty rows" in done.err
    results, ledger, summed = found()
    assert {row["content"] for row in results} == {"fine"} and len(ledger) == 29
    assert summed["outputs"] == {"truncated": 0, "empty": 0}
    none = here(*command, "--retry-class", "empty")
    assert none.code == 0 and "there are no empty rows" in none.err and not endpoint.requests


def test_empty_rows_below_a_limit(here, flawed, found):
    """Rows beyond --limit are left alone; the empty ones below it are sent."""
    command, endpoint = flawed
    endpoint.replies.clear()
    done = here(*command, "--retry-class", "empty,truncated", "--limit", 3)
    assert asked(endpoint) == [1, 2], done.err
    results, *_ = found()
    assert [results[n]["content"] for n in (1, 2, 3, 12)] == ["fine", "fine", "", "half"]


def test_a_raised_limit_mends_truncated_rows(here, rambling, jsonl, chat, found):
    """Rows of a finished run that a limit cut off are mended without changing their request."""
    endpoint = rambling(100)
    command = (jsonl([chat(n, max_tokens=40) for n in range(12)]), "-o", "run", *QUICK,
               "--base-url", endpoint.base_url)  # fmt: skip
    assert here(*command).code == 0
    hashes = [row["request_hash"] for row in found()[0]]
    done = here(*command, "--retry-class", "truncated", "--on-truncation", "retry",
                "--truncation-limit", 160)  # fmt: skip
    assert done.code == 0, done.err
    results, ledger, _ = found()
    assert [row["content"] for row in results] == ["whole"] * 12 and len(ledger) == 12 * 4
    assert [row["request_hash"] for row in results] == hashes


def test_a_kill_leaves_the_kept_answers(cli, here, flawed, found, until):
    """Killed in the middle of sending kept rows again: nothing is pending, nothing is lost, and the
    next run has nothing to send.
    """
    command, endpoint = flawed
    before = found()[0]
    live = cli.start("run", "--model", "m", *command, "--retry-class", "truncated,empty",
                     "--concurrency", 1)  # fmt: skip
    until(lambda: len(endpoint.requests) >= 2 or live.process.poll() is not None)
    live.kill()
    endpoint.requests.clear()
    done = here(*command)
    assert done.code == 1 and not endpoint.requests, done.err
    after, _, summed = found()
    assert summed["rows"] == {"input": 24, "ok": 23, "error": 1, "pending": 0}
    for old, new in zip(before, after, strict=True):
        assert new == old | {"attempts": new["attempts"]}


def test_a_changed_row_takes_what_it_gets(here, flawed, found):
    """A row whose request changed is replaced by any outcome, also where it is truncated too."""
    command, endpoint = flawed
    endpoint.replies[12] = said("other half", "length")
    done = here(*command, "--param", "seed=1", "--resend-changed", "--retry-class", "truncated")
    assert done.code == 1, done.err
    assert found()[0][12]["content"] == "other half"


# Another model


FILTERED = {
    "an error": (400, {}, {"error": {"message": "flagged", "code": "content_filter"}}),
    "a finish reason": (200, {}, said(None, "content_filter")),
    "another name of it": (200, {}, said("", "SAFETY")),
    "a refusal": (200, {}, said(None, refusal="I cannot help with that.")),
}


@pytest.fixture
def prudish(scripted):
    """An endpoint where ``m`` refuses row 0 like this, and ``other`` replies like that."""

    def start(refusing, other):
        def reply(body, _, __):
            if body["model"] == "other":
                return other
            return refusing if number_of(body) == 0 else (200, {}, said("fine"))

        return scripted(reply)

    return start


@pytest.mark.parametrize("kind", FILTERED)
def test_another_model_is_asked_for_what_was_filtered(here, prudish, jsonl, found, kind):
    """However the filter or refusal is told, the row is sent once more, to the other model, whose
    answer decides; other rows are not, and the request's hash is that of the original.
    """
    endpoint = prudish(FILTERED[kind], (200, {}, said("willingly", model="other-1")))
    command = (jsonl(3), *QUICK, "--base-url", endpoint.base_url)
    here(*command, "-o", "plain")
    endpoint.requests.clear()
    done = here(*command, "-o", "run", "--fallback-model", "other")
    assert done.code == 0, done.err
    bodies = [body for *_, body in endpoint.requests]
    assert sorted((number_of(b), b["model"]) for b in bodies) == [
        (0, "m"), (0, "other"), (1, "m"), (2, "m"),
    ]  # fmt: skip
    first, second = (b for b in bodies if number_of(b) == 0)
    assert first | {"model": "other"} == second
    results, ledger, summed = found()
    plain, *_ = found("plain")
    row = results[0]
    assert (row["status"], row["content"], row["attempts"]) == ("ok", "willingly", 2)
    assert [r["model_asked"] for r in results] == ["other", "m", "m"]
    assert row["model"] == "other-1" and row["request_hash"] == plain[0]["request_hash"]
    assert [line["model"] for line in ledger if line["row"] == 0][1] == "other-1"
    assert summed["settings"]["output.fallback_model"] == "other"
    assert here(*command, "-o", "run", "--fallback-model", "other").code == 0
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize("kind", rest_slow(FILTERED, 4))
@pytest.mark.parametrize(
    "other",
    [
        FILTERED["an error"],
        (404, {}, {"error": {"message": "no such model", "code": "model_not_found"}}),
        (403, {}, {"error": {"message": "not for you"}}),
        (500, {}, {"error": {"message": "oops"}}),
    ],
    ids=["filtered", "unknown", "forbidden", "broken"],
)
def test_where_the_other_model_fails_the_first_outcome_stands(
    here, prudish, jsonl, found, kind, other
):
    """The row ends as it would have without, and so does the run; every exchange is booked."""
    endpoint = prudish(FILTERED[kind], other)
    command = (jsonl(3), *QUICK, "--base-url", endpoint.base_url, "--max-attempts", 2)
    code = here(*command, "-o", "plain").code
    endpoint.requests.clear()
    done = here(*command, "-o", "run", "--fallback-model", "other")
    assert done.code == code, done.err
    (row, *_), ledger, _ = found()
    (plain, *_), *_ = found("plain")
    names = ("status", "content", "refusal", "finish_reason", "error_class", "error_message",
             "model_asked", "request_hash", "response")  # fmt: skip
    assert [row[name] for name in names] == [plain[name] for name in names]
    sent = [b for *_, b in endpoint.requests if number_of(b) == 0]
    assert row["attempts"] == len(sent) == len([x for x in ledger if x["row"] == 0]) >= 2


def test_nothing_else_falls_back(here, scripted, jsonl, chat, found):
    """An answer beside a filter's word, a tool call, an empty answer, another failure, and a row of
    the other model itself are not sent again.
    """
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    replies = [
        (200, {}, said("so far", "content_filter")),
        (200, {}, said(None, "content_filter", tool_calls=[call])),
        (200, {}, said("")),
        (400, {}, {"error": {"message": "bad", "code": "invalid_value"}}),
        FILTERED["an error"],
    ]
    endpoint = scripted(lambda body, *_: replies[number_of(body)])
    rows = [chat(n) for n in range(4)] + [chat(4, model="other")]
    done = here(jsonl(rows), "-o", "run", *QUICK, "--base-url", endpoint.base_url,
                "--fallback-model", "other")  # fmt: skip
    assert done.code == 1 and len(endpoint.requests) == 5, done.err
    results, *_ = found()
    assert [r["model_asked"] for r in results] == ["m"] * 4 + ["other"]


def test_many_filtered_rows_stop_nothing(here, scripted, jsonl, found):
    """A hundred rows that are filtered, and another model that nobody has, are no guard's
    business: the run comes to its end.
    """

    def reply(body, _, __):
        if body["model"] == "other":
            return 404, {}, {"error": {"message": "no such model", "code": "model_not_found"}}
        return (200, {}, said("fine")) if number_of(body) < 5 else FILTERED["an error"]

    endpoint = scripted(reply)
    done = here(jsonl(150), "-o", "run", "--no-progress", "--base-url", endpoint.base_url,
                "--fallback-model", "other")  # fmt: skip
    assert done.code == 1, done.err
    assert found()[2]["errors"] == {"content_filter": 145}


def test_a_budget_covers_the_dearer_model(cli, here, prudish, jsonl, chat):
    """The worst case is the dearer of both models: what does not fit it is not begun; a model
    without a price is refused before anything is sent.
    """
    endpoint = prudish(FILTERED["an error"], (200, {}, said("willingly")))
    (cli.folder / "prices.toml").write_text(PRICES, "utf-8")
    command = (jsonl([chat(0, max_tokens=10)]), *QUICK, "--base-url", endpoint.base_url,
               "-c", "prices.toml", "--max-cost", 0.5)  # fmt: skip
    done = here(*command, "-o", "dear", "--fallback-model", "other")
    assert done.code == 3 and not endpoint.requests, done.err
    done = here(*command, "-o", "unknown", "--fallback-model", "nameless")
    assert done.code == 2 and "'nameless'" in done.err and not endpoint.requests
    done = here(*command, "-o", "rich", "--fallback-model", "other", "--max-cost", 5)
    assert done.code == 0, done.err


def test_the_other_model_has_endpoints_of_its_own(cli, here, scripted, jsonl, found):
    """It is asked where it is served, by the name that it has there; one that nobody serves is
    refused at the start.
    """
    first = scripted(lambda *_: FILTERED["an error"])
    second = scripted(lambda *_: (200, {}, said("willingly")))
    (cli.folder / "c.toml").write_text(
        f"""
[[endpoint]]
name = "a"
base_url = "{first.base_url}"
models = ["m"]
[[endpoint]]
name = "b"
base_url = "{second.base_url}"
models = {{ other = "other-there" }}
""",
        "utf-8",
    )
    command = (jsonl(2), *QUICK, "-c", "c.toml")
    done = here(*command, "-o", "run", "--fallback-model", "other")
    assert done.code == 0, done.err
    assert [body["model"] for *_, body in second.requests] == ["other-there"] * 2
    results, *_ = found()
    assert [(r["endpoint"], r["model_asked"]) for r in results] == [("b", "other")] * 2
    done = here(*command, "-o", "no", "--fallback-model", "nobody")
    assert done.code == 2 and "--fallback-model" in done.err


def test_a_kill_while_the_other_model_is_asked(cli, here, scripted, jsonl, found, until):
    """The row is pending, both exchanges booked; the next run asks both models anew."""
    gone = threading.Event()

    def reply(body, _, __):
        if body["model"] != "other":
            return FILTERED["a refusal"]
        gone.wait(20)
        return 200, {}, said("willingly")

    endpoint = scripted(reply)
    command = (jsonl(1), "-o", "run", *QUICK, "--base-url", endpoint.base_url,
               "--fallback-model", "other")  # fmt: skip
    live = cli.start("run", "--model", "m", *command)
    until(lambda: len(endpoint.requests) == 2 or live.process.poll() is not None)
    live.kill()
    gone.set()
    done = here(*command)
    assert done.code == 0, done.err
    (row,), ledger, _ = found()
    assert (row["content"], row["model_asked"], row["attempts"]) == ("willingly", "other", 4)
    assert ledger[1]["unanswered"] and not ledger[3]["unanswered"]


def test_the_policies_from_python(rambling, tmp_path):
    """The keywords are those of the config file."""
    import batchrun

    endpoint = rambling(30)
    rows = [{"messages": [{"role": "user", "content": "q 1"}], "max_tokens": 20}]
    options = {"model": "m", "base_url": endpoint.base_url, "output": tmp_path / "run"}
    assert batchrun.run(rows, **options).outputs["truncated"] == 1
    summary = batchrun.run(
        rows,
        retry_class="truncated",
        on_truncation="retry",
        truncation_limit=64,
        fallback_model="other",
        **options,
    )
    assert summary.outputs["truncated"] == 0 and summary.ok == 1
