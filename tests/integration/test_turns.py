"""Conversations: rows with a list of user turns, sent one after the other."""

import csv
import hashlib
import json
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PRICES = '[prices."m"]\ninput = 1\noutput = 4\n'
FLAGS = ("--turns", "turns", "--no-progress", "--concurrency", 4)


def _last(body):
    return body["messages"][-1]["content"]


@pytest.fixture
def talker(scripted, answer):
    """An endpoint that answers turn ``hello 3`` with ``re: hello 3``, unless ``instead(body)`` has
    another reply: status and body.
    """

    def start(instead=lambda _: None):
        def reply(body, _headers, nth):
            status, said = instead(body) or (200, answer(f"re: {_last(body)}"))
            if status == 200 and "usage" in said:
                prompt = sum(len(str(m["content"])) for m in body["messages"])
                used = {"prompt_tokens": prompt, "completion_tokens": 3 + nth % 2}
                said = said | {"usage": used | {"total_tokens": sum(used.values())}}
            return status, {}, said

        return scripted(reply)

    return start


def _rows(*lists, **more):
    return [{"turns": turns, "note": n} | more for n, turns in enumerate(lists)]


def _asked(endpoint):
    return [[m["content"] for m in body["messages"]] for _, _, body in endpoint.requests]


def _run(here, rows, endpoint, *flags):
    return here(rows, "-o", "run", "--base-url", endpoint.base_url, *FLAGS, *flags)


def test_each_turn_is_sent_with_the_answers_so_far(here, cli, talker, jsonl, published):
    """Three turns are three requests; one row of results holds the exchange, its last answer and
    the sums, and the ledger says which turn each attempt was of.
    """
    (cli.folder / "c.toml").write_text(PRICES)
    endpoint = talker()
    rows = jsonl(_rows(["a", "b", {"role": "user", "content": "c"}], ["only"]))
    done = _run(
        here, rows, endpoint, "--system", "be {{ note }}", "-c", "c.toml", "--max-tokens", 9
    )
    assert done.code == 0, done.err
    assert _asked(endpoint) == [
        ["be 0", "a"],
        ["be 0", "a", "re: a", "b"],
        ["be 0", "a", "re: a", "b", "re: b", "c"],
        ["be 1", "only"],
    ] or sorted(map(len, _asked(endpoint))) == [2, 2, 4, 6]
    first, second = published("run").to_pylist()
    assert [m["role"] for m in json.loads(first["messages"])] == ["system"] + 3 * [
        "user",
        "assistant",
    ]
    assert json.loads(first["messages"])[-1]["content"] == first["content"] == "re: c"
    assert second["content"] == "re: only" and second["attempts"] == 1
    ledger = published("run", "attempts").to_pylist()
    assert [(a["row"], a["attempt"], a["turn"]) for a in ledger] == [
        (0, 1, 1),
        (0, 2, 2),
        (0, 3, 3),
        (1, 1, 1),
    ]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert first[name] == sum(a[name] for a in ledger[:3]), name
    assert first["cost_usd"] == pytest.approx(sum(a["cost_usd"] for a in ledger[:3]))
    whole = {
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "be 0"}],
        "model": "m",
        "turns": [{"role": "user", "content": text} for text in "abc"],
    }
    text = json.dumps(whole, separators=(",", ":"))
    assert first["request_hash"] == hashlib.sha256(text.encode()).hexdigest()
    totals = json.loads((cli.folder / "run" / "summary.json").read_text("utf-8"))["totals"]
    assert totals["attempts"] == 4 and totals["wasted_cost_usd"] == 0
    assert totals["cost_usd"] == pytest.approx(sum(a["cost_usd"] for a in ledger))
    cli.verified("run")


def _as_parquet(folder, turns):
    pq.write_table(
        pa.table({"turns": pa.array(turns, pa.list_(pa.string()))}), folder / "r.parquet"
    )
    return "r.parquet"


def _as_structs(folder, turns):
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    said = [[{"content": text} for text in each] for each in turns]
    pq.write_table(pa.table({"turns": pa.array(said, kind)}), folder / "r.parquet")
    return "r.parquet"


def _as_csv(folder, turns):
    with (folder / "r.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["turns"])
        lines.writerows([json.dumps(each)] for each in turns)
    return "r.csv"


def _as_chat(folder, turns):
    rows = [{"messages": [{"role": "system", "content": "s"}], "turns": each} for each in turns]
    (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "r.jsonl"


def _as_batch(folder, turns):
    body = {"model": "m", "messages": [{"role": "system", "content": "s"}]}
    rows = [{"custom_id": "x", "body": body, "turns": each} for each in turns]
    (folder / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "r.jsonl"


@pytest.mark.parametrize("write", [_as_parquet, _as_structs, _as_csv, _as_chat, _as_batch])
def test_lists_of_every_input(here, cli, talker, published, write):
    """A list in Parquet, of texts or messages, JSON text in CSV, a chat row and a Batch line."""
    endpoint = talker()
    done = _run(here, write(cli.folder, [["é", "b"], ["c"]]), endpoint)
    assert done.code == 0, done.err
    assert published("run").column("content").to_pylist() == ["re: b", "re: c"]
    assert max(len(asked) for asked in _asked(endpoint)) >= 3
    assert cli.verified("run")["rows"] == 2


BAD = {
    "null": (None, "holds no turns"),
    "an empty list": ([], "holds no turns"),
    "an empty text": ("", "holds no turns"),
    "text": ("hello", "not a JSON list"),
    "a JSON object": ('{"a": 1}', "holds an object, not a list"),
    "a number": (7, "holds a number, not a list"),
    "a blank turn": (["a", "  "], "turns[1] is blank"),
    "a null turn": ([None], "turns[0] is null"),
    "a number for a turn": (["a", 3], "turns[1] is a number"),
    "an answer": (["a", {"role": "assistant", "content": "b"}], "has role 'assistant'"),
    "no content": ([{"role": "user"}], "turns[0] is blank"),
    "content of no kind": ([{"content": {"text": "a"}}], "has an object as its `content`"),
}


def test_what_is_no_list_of_turns_is_a_bad_row(here, talker, jsonl, published):
    """Each is an ``invalid_row`` that names the column and the place; no turn of it is sent."""
    endpoint = talker()
    rows = [{"turns": turns} for turns, _ in BAD.values()] + [{"note": "absent"}, {"turns": ["x"]}]
    done = _run(here, jsonl(rows), endpoint)
    assert done.code == 1, done.err
    *bad, absent, good = published("run").to_pylist()
    for name, (row, (_, message)) in zip(BAD, zip(bad, BAD.values(), strict=True), strict=True):
        assert row["error_class"] == "invalid_row", name
        assert message in row["error_message"] and "turns" in row["error_message"], name
        assert row["messages"] is None and row["attempts"] == 0
    assert "holds no turns" in absent["error_message"]
    assert good["content"] == "re: x" and len(endpoint.requests) == 1


def test_a_column_that_is_not_there(here, talker, jsonl):
    """It is named, with the nearest one; nothing is sent."""
    endpoint = talker()
    done = _run(here, jsonl([{"turn": ["a"]}]), endpoint)
    assert done.code == 2 and "--turns" in done.err and "turn" in done.err
    done = _run(here, jsonl([{"messages": ["a"]}]), endpoint, "--turns", "messages")
    assert done.code == 2 and "another name" in done.err
    assert endpoint.requests == []


def test_each_turn_has_its_own_tries(here, cli, talker, jsonl, published):
    """A turn that fails is tried again, as often as the row's first one was; numbers go on."""
    failures = {"a": 2, "b": 2}

    def instead(body):
        if failures.get(_last(body), 0):
            failures[_last(body)] -= 1
            return 500, {"error": {"message": "not now"}}
        return None

    endpoint = talker(instead)
    done = _run(here, jsonl(_rows(["a", "b"])), endpoint, "--max-attempts", 3)
    assert done.code == 0, done.err
    [row] = published("run").to_pylist()
    assert row["attempts"] == 6 and row["content"] == "re: b"
    ledger = published("run", "attempts")
    assert ledger.column("turn").to_pylist() == [1, 1, 1, 2, 2, 2]
    assert ledger.column("error_class").to_pylist().count("server_error") == 4
    cli.verified("run")


def test_a_conversation_that_fails(here, cli, talker, jsonl, published, summary):
    """Its row is an error with the exchange so far; what the answered turns cost is waste. Sent
    again, it begins with its first turn.
    """
    (cli.folder / "c.toml").write_text(PRICES)
    broken = {"c0"}

    def instead(body):
        return (413, {"error": {"message": "too long"}}) if _last(body) in broken else None

    endpoint = talker(instead)
    rows = jsonl(_rows(["a0", "b0", "c0"], ["a1", "b1"]))
    done = _run(here, rows, endpoint, "-c", "c.toml")
    assert done.code == 1, done.err
    failed, good = published("run").to_pylist()
    assert failed["status"] == "error" and failed["content"] is None
    said = json.loads(failed["messages"])
    assert [m["content"] for m in said] == ["a0", "re: a0", "b0", "re: b0", "c0"]
    ledger = published("run", "attempts").to_pylist()
    spent = sum(a["cost_usd"] or 0 for a in ledger)
    wasted = sum(a["cost_usd"] for a in ledger if a["row"] == 0 and a["cost_usd"])
    assert failed["cost_usd"] == pytest.approx(wasted)
    totals = summary("run")["totals"]
    assert totals["cost_usd"] == pytest.approx(spent)
    assert totals["wasted_cost_usd"] == pytest.approx(wasted) and wasted > 0
    cli.verified("run")

    broken.clear()
    before = len(endpoint.requests)
    done = _run(here, rows, endpoint, "-c", "c.toml", "--retry-failed")
    assert done.code == 0, done.err
    assert len(endpoint.requests) - before == 3
    again, same = published("run").to_pylist()
    assert again["content"] == "re: c0" and again["attempts"] == 6
    assert same == good
    mine = [a for a in published("run", "attempts").to_pylist() if a["row"] == 0]
    assert [a["turn"] for a in mine] == [1, 2, 3, 1, 2, 3]
    assert again["cost_usd"] == pytest.approx(sum(a["cost_usd"] for a in mine[3:]))
    assert summary("run")["totals"]["wasted_cost_usd"] == pytest.approx(wasted)
    cli.verified("run")


@pytest.mark.parametrize("policy", ["keep", "fail"])
def test_an_answer_that_is_cut_off_midway(here, cli, talker, answer, jsonl, published, policy):
    """Kept, the conversation goes on with what there is; with ``fail`` it ends at that turn."""

    def instead(body):
        if _last(body) != "a":
            return None
        said = answer("half of")
        said["choices"][0]["finish_reason"] = "length"
        return 200, said

    endpoint = talker(instead)
    done = _run(here, jsonl(_rows(["a", "b"])), endpoint, "--on-truncation", policy)
    [row] = published("run").to_pylist()
    if policy == "keep":
        assert done.code == 0 and _asked(endpoint)[-1] == ["a", "half of", "b"]
    else:
        assert done.code == 1 and row["error_class"] == "truncated_output"
        assert len(endpoint.requests) == 1 and json.loads(row["messages"])[-1]["content"] == "a"
    cli.verified("run")


def test_what_of_an_answer_goes_back(here, cli, talker, answer, jsonl, published):
    """Text and tool calls do, a refusal as text, an empty answer as empty text; reasoning, which
    servers drop or refuse, does not.
    """
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = {
        "calls": {"content": None, "tool_calls": [call]},
        "refuses": {"content": None, "refusal": "I cannot"},
        "says nothing": {"content": ""},
        "thinks": {"content": "so", "reasoning_content": "hm"},
    }

    def instead(body):
        if _last(body) not in messages:
            return None
        said = answer()
        said["choices"][0]["message"] = {"role": "assistant"} | messages[_last(body)]
        return 200, said

    endpoint = talker(instead)
    done = _run(here, jsonl(_rows(*([name, "on"] for name in messages))), endpoint)
    assert done.code == 0, done.err
    back = {
        body["messages"][0]["content"]: body["messages"][1]
        for _, _, body in endpoint.requests
        if len(body["messages"]) == 3
    }
    assert back == {
        "calls": {"role": "assistant", "content": None, "tool_calls": [call]},
        "refuses": {"role": "assistant", "content": "I cannot"},
        "says nothing": {"role": "assistant", "content": ""},
        "thinks": {"role": "assistant", "content": "so"},
    }
    assert published("run").column("content").to_pylist() == ["re: on"] * 4
    cli.verified("run")


def test_the_schema_is_the_last_answers(here, cli, talker, answer, jsonl, published):
    """Earlier turns are asked, and answered, without it; a row's own ``response_format`` is sent
    with each turn.
    """
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    (cli.folder / "s.json").write_text(json.dumps(schema))

    def instead(body):
        return (200, answer('{"ok": true}')) if "response_format" in body else None

    endpoint = talker(instead)
    own = {"type": "json_object"}
    rows = [{"turns": ["a", "b"]}, {"turns": ["c", "d"], "response_format": own}]
    done = _run(here, jsonl(rows), endpoint, "--schema", "s.json")
    assert done.code == 0, done.err
    formats = {_last(body): body.get("response_format") for _, _, body in endpoint.requests}
    assert formats["a"] is None and formats["b"]["type"] == "json_schema"
    assert formats["c"] == formats["d"] == own
    assert published("run").column("content").to_pylist() == ['{"ok": true}'] * 2


def test_a_stream_of_each_turn(here, cli, simulator, jsonl, published):
    """Streamed or not, the exchange and the sums are there."""
    endpoint = simulator()
    done = _run(here, jsonl(_rows(["a", "b"], ["c"])), endpoint, "--stream")
    assert done.code == 0, done.err
    rows = published("run").to_pylist()
    assert [len(json.loads(row["messages"])) for row in rows] == [4, 2]
    assert json.loads(rows[0]["messages"])[-1]["content"] == rows[0]["content"]
    cli.verified("run")


def test_a_stop_between_turns(here, cli, scripted, answer, jsonl, published):
    """Of the pending conversations nothing that was answered is asked again, however often the run
    is stopped, also where only the checkpoint knows it.
    """
    refused, answered = set(), []

    def reply(body, _headers, _nth):
        if _last(body)[0] in refused:
            return 401, {}, {"error": {"message": "no such key"}}
        answered.append(_last(body))
        return 200, {}, answer(f"re: {_last(body)}")

    endpoint = scripted(reply)
    rows = jsonl(_rows(*([f"a{n}", f"b{n}", f"c{n}"] for n in range(5))))
    flags = ("--concurrency", 1, "--shard-rows", 2)
    for stop, known in (("b", "a0"), ("b", "a0"), ("c", "b0")):
        refused.clear()
        refused.update({"b", "c"} if stop == "b" else {"c"})
        done = _run(here, rows, endpoint, *flags)
        assert done.code == 3, done.err
        assert answered.count(known) == 1
        report = cli("verify", "run", "--json").json
        assert report["problems"] == [] and any("conversations" in n for n in report["notes"])
        assert cli("status", "run").code == 0
    refused.clear()
    done = _run(here, rows, endpoint, *flags)
    assert done.code == 0, done.err
    wanted = sorted(f"{turn}{n}" for turn in "abc" for n in range(5))
    assert sorted(answered) == wanted, "a durable turn was asked again"
    assert published("run").column("content").to_pylist() == [f"re: c{n}" for n in range(5)]
    assert published("run", "attempts").num_rows == len(endpoint.requests)
    assert not list((cli.folder / "run" / "checkpoint").glob("shard-*.log"))
    cli.verified("run")


def test_the_column_of_turns_is_compared(here, talker, jsonl):
    """Another column, or none, needs a new start; nothing is sent."""
    endpoint = talker()
    rows = jsonl(_rows(["a"], others=["b"]))
    assert _run(here, rows, endpoint).code == 0
    done = _run(here, rows, endpoint, "--turns", "others")
    assert done.code == 2 and "request.turns" in done.err and "others" in done.err
    done = _run(here, rows, endpoint, "--turns", "others", "--keep-done")
    assert done.code == 2 and "--restart" in done.err
    assert len(endpoint.requests) == 1
    assert _run(here, rows, endpoint, "--turns", "others", "--restart").code == 0


def test_conversations_are_reused(here, cli, talker, jsonl, published):
    """By the hash over all turns; the exchange comes along, and nothing is sent or billed."""
    endpoint = talker()
    assert _run(here, jsonl(_rows(["a", "b"], ["a", "c"])), endpoint).code == 0
    (cli.folder / "run").rename(cli.folder / "before")
    before = len(endpoint.requests)
    rows = jsonl(_rows(["a", "b"], ["a", "d"]))
    done = _run(here, rows, endpoint, "--reuse", "before")
    assert done.code == 0, done.err
    assert len(endpoint.requests) - before == 2
    taken, new = published("run").to_pylist()
    assert taken["reused_from"] and new["reused_from"] is None
    assert json.loads(taken["messages"])[-1]["content"] == "re: b" == taken["content"]
    assert taken["cost_usd"] == 0 and taken["prompt_tokens"] is not None
    cli.verified("run")


def test_requests_that_are_kept(here, cli, talker, jsonl, published):
    """What is kept is the whole conversation as the input gives it, whose hash is the row's; show
    prints the exchange turn by turn, and export writes the last answer.
    """
    endpoint = talker()
    rows = jsonl([{"custom_id": "x", "turns": ["first", "second"], "topic": "t"}])
    done = _run(here, rows, endpoint, "--requests", "all", "--prompt", "about {{ topic }}")
    assert done.code == 0, done.err
    [kept] = published("run", "requests").to_pylist()
    assert [m["content"] for m in json.loads(kept["body"])["turns"]] == ["first", "second"]
    cli.verified("run")
    shown = cli("show", "run", "0").out
    assert shown.index("about t") < shown.index("TURN 1") < shown.index("re: first")
    assert shown.index("re: first") < shown.index("TURN 2") < shown.index("re: second")
    assert "turn 2" in shown.partition("ATTEMPTS")[2] and "ANSWER" not in shown
    [row] = cli("show", "run", "0", "--json").json["rows"]
    assert [t["characters"] for t in row["request"]["turns"]] == [5, 6] and "messages" not in row
    assert [a["turn"] for a in row["attempts"]] == [1, 2]
    assert cli("export", "run", "-o", "out.jsonl").code == 0
    line = json.loads((cli.folder / "out.jsonl").read_text("utf-8"))
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "re: second"
    (cli.folder / "run" / "requests" / "part-00000000.parquet").unlink()
    assert "TURN 1" in cli("show", "run", "0").out, "it is made again from the input"


def test_input_columns_called_like_ours(here, cli, talker, published, jsonl):
    """With a prompt `messages` is data: it is carried under another name, beside the exchange."""
    endpoint = talker()
    rows = jsonl([{"turns": ["a"], "messages": "mine", "turn": 9}])
    done = _run(here, rows, endpoint, "--prompt", "say {{ turn }}")
    assert done.code == 0, done.err
    [row] = published("run").to_pylist()
    assert row["input_messages"] == "mine" and row["turn"] == 9
    assert [m["content"] for m in json.loads(row["messages"])] == ["say 9", "a", "re: a"]
    cli.verified("run")
    assert cli("query", "run", "SELECT messages, turn FROM results").code == 0
    assert cli("export", "run", "-o", "out.csv").code == 0


def test_another_model_for_a_turn(here, cli, talker, jsonl, published):
    """A filtered turn asks the fallback model; the next one asks the row's own again."""

    def instead(body):
        if _last(body) == "b" and body["model"] == "m":
            return 400, {"error": {"message": "filtered", "code": "content_filter"}}
        return None

    endpoint = talker(instead)
    done = _run(here, jsonl(_rows(["a", "b", "c"])), endpoint, "--fallback-model", "g")
    assert done.code == 0, done.err
    assert [(body["model"], _last(body)) for _, _, body in endpoint.requests] == [
        ("m", "a"),
        ("m", "b"),
        ("g", "b"),
        ("m", "c"),
    ]
    assert published("run", "attempts").column("turn").to_pylist() == [1, 2, 2, 3]
    cli.verified("run")


def test_a_budget_reserves_turn_by_turn(here, cli, talker, jsonl, summary):
    """The worst case is that of the turn that is sent, whose prompt has grown; the run stops in the
    middle of a conversation and goes on there with more.
    """
    endpoint = talker()
    rows = jsonl(_rows(["a" * 400, "b" * 400, "c" * 400]))
    flags = ("--max-tokens", 10)
    done = _run(here, rows, endpoint, *flags, "--max-total-tokens", 2700)
    assert done.code == 3, done.err
    assert 1 <= len(endpoint.requests) < 3
    assert summary("run")["stopped_by"] == "budget" or summary("run")["rows"]["pending"] == 1
    done = _run(here, rows, endpoint, *flags, "--max-total-tokens", 50_000)
    assert done.code == 0, done.err
    assert len(endpoint.requests) == 3
    cli.verified("run")


def test_looking_before_sending(cli, jsonl):
    """`validate` and the dry run show the first request as it is sent, estimate counts every turn
    with the answers in front of it.
    """
    rows = jsonl(_rows(["hello", "again", "bye"]))
    model = ("--model", "m", "--turns", "turns")
    done = cli("validate", rows, *model, "--show", 1)
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[0]) == {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "m",
    }
    one = jsonl(_rows(["hello"])).rename(cli.folder / "one.jsonl")
    rows = jsonl(_rows(["hello", "again", "bye"]))
    whole, single = (
        cli("estimate", path, *model, "--param", "max_tokens=100", "--json").json
        for path in (rows, one)
    )
    assert whole["rows"] == single["rows"] == 1
    answers = [each["completion_tokens"]["estimate"] for each in (single, whole)]
    assert answers[1] == 3 * answers[0]
    # The second turn has one answer in front of it, the third one two.
    prompts = [each["prompt_tokens"]["estimate"] for each in (single, whole)]
    assert prompts[1] >= 3 * prompts[0] + 3 * answers[0]
    bad = jsonl(_rows([]))
    assert cli("validate", bad, *model).code == 1


def test_a_pilot_of_conversations(cli, talker, jsonl, published):
    """Its sample is sent as conversations, and its rows make the same requests as the run's."""
    endpoint = talker()
    rows = jsonl(_rows(*([f"a{n}", f"b{n}"] for n in range(12))))
    done = cli(
        *("estimate", rows, "--model", "m", "--turns", "turns", "--system", "s"),
        *("--pilot", 10, "-o", "pilot", "--base-url", endpoint.base_url, "--no-progress"),
    )
    assert done.code == 0, done.err
    assert sorted(len(asked) for asked in _asked(endpoint)) == [2] * 10 + [4] * 10
    hashes = set(published(cli.folder / "pilot").column("request_hash").to_pylist())
    done = cli(
        *("run", rows, "--model", "m", "--turns", "turns", "--system", "s", "-o", "run"),
        *("--base-url", endpoint.base_url, "--no-progress"),
    )
    assert done.code == 0, done.err
    assert hashes < set(published(cli.folder / "run").column("request_hash").to_pylist())


def test_a_lost_state_file(here, cli, talker, jsonl, published):
    """--repair makes it again from parts and input, conversations included."""
    endpoint = talker()
    rows = jsonl(_rows(["a", "b"], ["c"]))
    assert _run(here, rows, endpoint).code == 0
    before = published("run").to_pylist()
    (cli.folder / "run" / "checkpoint" / "journal.db").unlink()
    done = _run(here, rows, endpoint, "--repair")
    assert done.code == 0, done.err
    assert published("run").to_pylist() == before and len(endpoint.requests) == 3
    cli.verified("run")
    (cli.folder / "run" / "attempts" / "part-00000000.parquet").unlink()
    done = _run(here, rows, endpoint, "--repair")
    assert done.code == 0, done.err
    cli.verified("run")


def test_a_state_file_lost_between_turns(here, cli, scripted, answer, jsonl):
    """The turns of pending conversations are in the log, which --repair keeps."""
    refused, asked = {"b0"}, []

    def reply(body, _headers, _nth):
        asked.append(_last(body))
        if _last(body) in refused:
            return 401, {}, {"error": {"message": "no such key"}}
        return 200, {}, answer("fine")

    endpoint = scripted(reply)
    rows = jsonl(_rows(["a0", "b0"], ["a1"]))
    assert _run(here, rows, endpoint, "--concurrency", 1).code == 3
    (cli.folder / "run" / "checkpoint" / "journal.db").unlink()
    refused.clear()
    done = _run(here, rows, endpoint, "--repair")
    assert done.code == 0, done.err
    assert asked.count("a0") == 1 and asked[-1] == "b0"
    cli.verified("run")


def test_an_answer_that_is_kept(here, cli, talker, answer, jsonl, published):
    """Sent again for an empty answer, a conversation keeps the one that it has unless the new one
    is better; the ledger has every turn of both.
    """
    said = {"b": ""}

    def instead(body):
        return (200, answer(said["b"])) if _last(body) == "b" else None

    endpoint = talker(instead)
    rows = jsonl(_rows(["a", "b"], ["c"]))
    assert _run(here, rows, endpoint).code == 0
    before = published("run").to_pylist()
    retry = ("--retry-class", "empty")
    assert _run(here, rows, endpoint, *retry).code == 0
    kept = published("run").to_pylist()
    assert kept[0]["attempts"] == 4
    assert {**kept[0], "attempts": 2} == before[0] and kept[1] == before[1]
    cli.verified("run")
    said["b"] = "at last"
    assert _run(here, rows, endpoint, *retry).code == 0
    [row, _] = published("run").to_pylist()
    assert row["content"] == "at last" and row["attempts"] == 6
    ledger = published("run", "attempts").to_pylist()
    assert [a["turn"] for a in ledger if a["row"] == 0] == [1, 2] * 3
    cli.verified("run")


def test_a_conversation_sent_again_and_stopped(here, cli, scripted, answer, jsonl, published):
    """The old outcome stands until the new one is there, and the ledger has both; sent again once
    more, the conversation begins with its first turn.
    """
    refused, broken, asked = set(), {"b"}, []

    def reply(body, _headers, _nth):
        asked.append(_last(body))
        if _last(body) in refused:
            return 401, {}, {"error": {"message": "no such key"}}
        if _last(body) in broken:
            return 413, {}, {"error": {"message": "too long"}}
        return 200, {}, answer(f"re: {_last(body)}")

    endpoint = scripted(reply)
    rows = jsonl(_rows(["a", "b"], ["c"]))
    assert _run(here, rows, endpoint, "--concurrency", 1).code == 1
    refused.add("b")
    assert _run(here, rows, endpoint, "--retry-failed").code == 1  # it has its old outcome
    failed, single = published("run").to_pylist()
    assert failed["error_class"] == "payload_too_large" and single["content"] == "re: c"
    cli.verified("run")
    rows = jsonl(_rows(["a", "b"], ["c", "b"]))
    assert _run(here, rows, endpoint, "--resend-changed").code != 0
    assert published("run").column("content").to_pylist() == [None, "re: c"]
    assert cli("verify", "run").code == 0
    refused.clear()
    broken.clear()
    before = len(asked)
    done = _run(here, rows, endpoint, "--resend-changed", "--retry-failed")
    assert done.code == 0, done.err
    assert sorted(asked[before:]) == ["a", "b", "b", "c"]
    assert published("run").column("content").to_pylist() == ["re: b", "re: b"]
    cli.verified("run")


def test_a_program_sees_the_exchange(talker, tmp_path):
    """``stream`` yields the messages with each row, and ``run`` takes the keyword."""
    import batchrun

    endpoint = talker()

    async def collect():
        given = {"turns": "said", "model": "m", "base_url": endpoint.base_url}
        rows = [{"said": ["a", "b"]}]
        return [o async for o in batchrun.stream(rows, output=tmp_path / "run", **given)]

    import asyncio

    [outcome] = asyncio.run(collect())
    assert json.loads(outcome.messages)[-1]["content"] == outcome.content == "re: b"
    assert outcome.attempts == 2


@pytest.mark.parametrize("damage", ["turn", "sums", "messages"])
def test_verify_sees_damage(here, cli, talker, jsonl, damage):
    """A turn that is missing from the ledger, sums that are none, messages of another row."""
    endpoint = talker()
    assert _run(here, jsonl(_rows(["a", "b"])), endpoint).code == 0
    kind, column, value, problem = {
        "turn": ("attempts", "turn", [1, 3], "turn_number"),
        "sums": ("results", "prompt_tokens", [7], "turn_sums"),
        "messages": (
            "results",
            "messages",
            ['[{"role": "user", "content": "a"}]'],
            "turn_messages",
        ),
    }[damage]
    path = cli.folder / "run" / kind / "part-00000000.parquet"
    table = pq.read_table(path, partitioning=None)
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    changed = table.set_column(place, field, pa.array(value, field.type))
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    report = cli("verify", "run", "--json")
    assert report.code == 1
    assert problem in report.json["kinds"]


@pytest.mark.slow
def test_a_signal_in_the_middle(cli, simulator, jsonl, until, published):
    """SIGINT while turns are out: what was answered counts, the rest is asked by the next start."""
    from batchrun.simulator.latency import FixedLatency

    endpoint = simulator(latency=FixedLatency(0.1))
    rows = jsonl(_rows(*([f"a{n}", f"b{n}", f"c{n}"] for n in range(12))))
    command = (
        *("run", rows, "-o", "run", "--model", "m", *FLAGS, "--shard-rows", 4),
        *("--base-url", endpoint.base_url),
    )
    live = cli.start(*command)
    until(lambda: endpoint.stats()["by_status"].get("200", 0) >= 7)
    live.signal(signal.SIGINT)
    assert live.wait().code == 130
    assert cli("verify", "run").code == 0
    done = cli(*command)
    assert done.code == 0, done.err
    assert endpoint.stats()["requests_total"] == 36
    assert published(cli.folder / "run", "attempts").num_rows == 36
    cli.verified("run")
