"""Answers that are held against what was asked for, by the real command and over real HTTP."""

import json
from collections import Counter

import pytest

SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["good", "bad", "mixed"]},
        "score": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["label", "score"],
    "additionalProperties": False,
}
QUICK = ("--no-progress", "--concurrency", 8)
WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


def formatted(schema):
    """A response_format."""
    return {"type": "json_schema", "json_schema": {"name": "row", "schema": schema}}


@pytest.fixture
def schema_file(cli):
    """The schema in a file beside the run."""
    (cli.folder / "review.schema.json").write_text(json.dumps(SCHEMA), "utf-8")
    return "review.schema.json"


@pytest.fixture
def found(cli, published, summary):
    """The results, the ledger and the summary of a run whose accounting holds."""

    def read(folder="run"):
        cli.verified(folder)
        path = cli.folder / folder
        tables = [published(path, kind).to_pylist() for kind in ("results", "attempts")]
        return *tables, summary(path)

    return read


def test_a_schema_is_sent_kept_to_and_retried(here, simulator, jsonl, schema_file, found):
    """A third of the answers do not fit: each row is asked again until one does, and each exchange
    is in the ledger with what it cost.
    """
    endpoint = simulator(invalid_rate=0.35, seed=5)
    source = jsonl(60)
    done = here(source, "-o", "run", "--base-url", endpoint.base_url, "--schema", schema_file,
                "--max-attempts", 20, *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    results, ledger, summed = found()
    for row in results:
        answer = json.loads(row["content"])
        assert answer["label"] in ("good", "bad", "mixed") and 1 <= answer["score"] <= 5
    stats = endpoint.stats()
    assert len(ledger) == stats["requests_total"] > 70
    classes = Counter(line["error_class"] for line in ledger)
    assert classes == {None: 60, "invalid_output": len(ledger) - 60}
    assert all(line["http_status"] == 200 and line["completion_tokens"] > 0 for line in ledger)
    kept = sum(row["completion_tokens"] for row in results)
    assert summed["totals"]["completion_tokens"] > kept
    assert stats["completion_tokens"] == summed["totals"]["completion_tokens"]


def test_what_never_fits_ends_as_invalid_output(here, simulator, jsonl, schema_file, found):
    """After the attempts the row is an error row: where and why, no content, the partial text in
    `response` alone; a resume leaves it, --retry-class sends it again.
    """
    bad = simulator(invalid_rate=1.0, seed=5)
    command = (jsonl(12), "-o", "run", "--schema", schema_file, "--max-attempts", 3, *QUICK)
    done = here(*command, "--base-url", bad.base_url)
    assert done.code == 1 and "invalid_output 12" in done.err
    results, ledger, summed = found()
    assert bad.stats()["requests_total"] == len(ledger) == 36
    for row in results:
        assert (row["status"], row["error_class"]) == ("error", "invalid_output")
        assert (row["content"], row["finish_reason"], row["attempts"]) == (None, None, 3)
        assert row["http_status"] == 200 and json.loads(row["response"])["choices"]
        assert row["error_message"].startswith("the content ")
    said = " ".join(row["error_message"] for row in results)
    assert "Markdown fence" in said and 'is not of type "object"' in said
    assert summed["errors"] == {"invalid_output": 12}
    assert summed["totals"]["completion_tokens"] > 0

    good = simulator(seed=5)
    assert here(*command, "--base-url", good.base_url).code == 1
    assert good.stats()["requests_total"] == 0
    again = here(*command, "--base-url", good.base_url, "--retry-class", "invalid_output")
    assert again.code == 0, again.err
    results, ledger, _ = found()
    assert [row["attempts"] for row in results] == [4] * 12 and len(ledger) == 48


def test_rows_bring_their_own_schemas(here, simulator, jsonl, chat, found):
    """Each row is held against its own; one that is no schema is a bad row and costs nothing; with
    --no-check-schema everything is sent and nothing is looked at.
    """
    rows = [chat(n, response_format=formatted({"const": n % 3})) for n in range(9)]
    rows.append(chat(9, response_format=formatted({"type": "OBJECT"})))
    rows.append(chat(10))
    rows.append(chat(11, response_format={"type": "json_object"}))
    source = jsonl(rows)
    endpoint = simulator()
    done = here(source, "-o", "run", "--base-url", endpoint.base_url, *QUICK)
    assert done.code == 1, done.err
    results, ledger, _ = found()
    assert [row["content"] for row in results[:9]] == [str(n % 3) for n in range(9)]
    assert results[9]["error_class"] == "invalid_row"
    assert 'line 10: schema of response_format is not a JSON Schema: at type: "OBJECT"' in (
        results[9]["error_message"]
    )  # fmt: skip
    assert results[10]["content"].startswith("Re: ") and json.loads(results[11]["content"])
    assert len(ledger) == endpoint.stats()["requests_total"] == 11
    wild = simulator(invalid_rate=1.0)
    done = here(source, "-o", "unchecked", "--base-url", wild.base_url, "--no-check-schema", *QUICK)
    assert done.code == 0, done.err
    assert wild.stats()["requests_total"] == 12


def test_many_schemas_of_many_rows(here, simulator, jsonl, chat, found):
    """More different schemas than are kept compiled: every answer is held against its own."""
    rows = [chat(n, response_format=formatted({"const": f"only {n}"})) for n in range(700)]
    endpoint = simulator(invalid_rate=0.2, seed=1)
    done = here(jsonl(rows), "-o", "run", "--base-url", endpoint.base_url, "--max-attempts", 20,
                "--no-progress")  # fmt: skip
    assert done.code == 0, done.err
    results, _, _ = found()
    assert [json.loads(row["content"]) for row in results] == [f"only {n}" for n in range(700)]


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_every_choice_of_a_row(here, simulator, jsonl, found, schema_file, stream):
    """With n = 3 all choices fit, streamed or not."""
    endpoint = simulator(invalid_rate=0.3, seed=2)
    done = here(jsonl(8, n=3), "-o", "run", "--base-url", endpoint.base_url, "--schema",
                schema_file, stream, "--max-attempts", 20, *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    results, ledger, _ = found()
    for row in results:
        assert [sorted(json.loads(choice["content"])) for choice in row["choices"]] == [
            ["label", "score"]
        ] * 3
    assert len(ledger) > 8


def test_what_is_sent_for_a_schema(here, scripted, answer, chat, jsonl, schema_file, found):
    """The file becomes the response_format of rows that set none, strict and named after it."""
    endpoint = scripted(lambda *_: (200, {}, answer('{"label":"good","score":5}')))
    own = {"type": "json_object"}
    rows = [chat(0), chat(1, response_format=own), chat(2, response_format=None)]
    done = here(jsonl(rows), "-o", "run", "--base-url", endpoint.base_url, "--schema", schema_file,
                "--concurrency", 1, "--no-progress")  # fmt: skip
    assert done.code == 0, done.err
    sent = [body.get("response_format") for _, _, body in endpoint.requests]
    named = {"name": "review", "strict": True, "schema": SCHEMA}
    assert sent == [{"type": "json_schema", "json_schema": named}, own, None]
    _, _, summed = found()
    assert summed["settings"]["request.schema"]["json_schema"] == named


def test_refusals_are_answers(here, scripted, jsonl, answer, schema_file, found):
    """A refusal under a schema is an ok row with its text in `refusal`."""
    message = {"role": "assistant", "content": None, "refusal": "I will not."}
    refusal = answer(choices=[{"index": 0, "message": message, "finish_reason": "stop"}])
    endpoint = scripted(lambda *_: (200, {}, refusal))
    done = here(jsonl(2), "-o", "run", "--base-url", endpoint.base_url, "--schema", schema_file,
                "--on-empty", "fail", *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    results, _, summed = found()
    assert [row["refusal"] for row in results] == ["I will not."] * 2
    assert summed["outputs"] == {"truncated": 0, "empty": 0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": "objct"}', 'bad.json is not a JSON Schema: at type: "objct"'),
        ('{"type": ', "bad.json is not JSON"),
        ("[1]", "bad.json is not a JSON Schema: it is not a JSON object"),
        ('{"$ref": "http://127.0.0.1:9/x"}', "is not fetched"),
        (None, "bad.json: No such file or directory"),
    ],
)
def test_a_file_that_is_no_schema_sends_nothing(here, cli, simulator, jsonl, text, said):
    """Exit 2 names the file and what is wrong, and no run directory is made."""
    if text is not None:
        (cli.folder / "bad.json").write_text(text, "utf-8")
    endpoint = simulator()
    done = here(jsonl(3), "-o", "run", "--base-url", endpoint.base_url, "--schema", "bad.json")
    assert done.code == 2 and said in done.err, done.err
    assert endpoint.stats()["requests_total"] == 0 and not (cli.folder / "run").exists()


def test_two_ways_to_say_it_exclude_each_other(here, simulator, jsonl, schema_file):
    """--schema and --param response_format; and a parameter that is no schema is told at once."""
    endpoint = simulator()
    command = (jsonl(1), "-o", "run", "--base-url", endpoint.base_url)
    given = ("--param", 'response_format={"type":"json_schema","json_schema":{"schema":%s}}')
    done = here(*command, "--schema", schema_file, given[0], given[1] % "{}")
    assert done.code == 2 and "use one of them" in done.err
    done = here(*command, given[0], given[1] % '{"type":1}')
    assert done.code == 2 and "request.params.response_format is not a JSON Schema" in done.err
    assert endpoint.stats()["requests_total"] == 0


def test_a_changed_schema_is_a_changed_run(here, cli, simulator, jsonl, schema_file, found):
    """What the file says counts, not its date; the difference is named, and can be resent."""
    endpoint = simulator()
    command = (jsonl(5), "-o", "run", "--base-url", endpoint.base_url, "--schema", schema_file)
    assert here(*command, *QUICK).code == 0
    file = cli.folder / schema_file
    file.write_text(json.dumps(SCHEMA, indent=1), "utf-8")
    assert "nothing left to send" in here(*command, *QUICK).err
    changed = json.loads(json.dumps(SCHEMA))
    changed["properties"]["score"]["maximum"] = 3
    file.write_text(json.dumps(changed), "utf-8")
    done = here(*command, *QUICK)
    assert done.code == 2, done.err
    where = "request.schema.json_schema.schema.properties.score: was {"
    assert where in done.err and "--resend-changed sends 5 done rows" in done.err
    assert here(*command, *QUICK, "--resend-changed").code == 0
    results, _, _ = found()
    assert all(json.loads(row["content"])["score"] <= 3 for row in results)
    assert endpoint.stats()["requests_total"] == 10


def test_the_schema_of_a_config_file(here, cli, simulator, jsonl, found):
    """Its path is relative to the config file, and validate looks at the rows with it."""
    folder = cli.folder / "configs"
    folder.mkdir()
    (folder / "s.json").write_text(json.dumps(SCHEMA), "utf-8")
    endpoint = simulator()
    text = f"""
[input]
files = ["{jsonl(3)}"]
[output]
dir = "../run"
[request]
schema = "s.json"
[[endpoint]]
base_url = "{endpoint.base_url}"
"""
    (folder / "c.toml").write_text(text, "utf-8")
    assert here("-c", "configs/c.toml", *QUICK).code == 0
    assert all(json.loads(row["content"]) for row in found()[0])
    assert cli("validate", "-c", "configs/c.toml", "--model", "m").code == 0


def test_validate_finds_schemas_that_are_none(cli, jsonl, chat):
    """Before anything is sent; tools with --check-tools."""
    broken = {"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}
    rows = [chat(0, response_format=formatted({"type": "x"})), chat(1, tools=[broken]), chat(2)]
    done = cli("validate", jsonl(rows), "--model", "m", "--check-tools", "--json")
    assert done.code == 1 and done.json["bad"] == 2
    first, second = done.json["problems"]
    assert "schema of response_format" in first["reason"] and "--no-check" in first["remedy"]
    assert "parameters of tool 'f'" in second["reason"] and "--check-tools" in second["remedy"]


@pytest.mark.parametrize("kind", ["truncated", "empty"])
def test_keep_counts(here, simulator, jsonl, found, kind):
    """By default such answers are ok rows, counted in the summary, through a resume as well."""
    endpoint = simulator(**{f"{kind}_rate": 0.4}, seed=3)
    command = (jsonl(50), "-o", "run", "--base-url", endpoint.base_url, "--shard-rows", 20, *QUICK)
    assert here(*command, "--limit", 30).code == 0
    part = found()[2]["outputs"]
    done = here(*command)
    assert done.code == 0, done.err
    results, ledger, summed = found()
    if kind == "truncated":
        count = sum(row["finish_reason"] == "length" for row in results)
    else:
        count = sum(row["content"] == "" for row in results)
    other = {"truncated": "empty", "empty": "truncated"}[kind]
    assert summed["outputs"] == {kind: count, other: 0}
    assert 0 < part[kind] < count and len(ledger) == 50
    assert f"of the ok rows, {count} {kind}" in done.err


@pytest.mark.parametrize(("kind", "flag"), [("truncated", "truncation"), ("empty", "empty")])
def test_fail_and_retry(here, simulator, jsonl, found, kind, flag):
    """`fail` ends the row at once; `retry` asks again within the attempts, then ends it."""
    endpoint = simulator(**{f"{kind}_rate": 0.4}, seed=3)
    command = (jsonl(40), "--base-url", endpoint.base_url, *QUICK)
    done = here(*command, "-o", "fail", f"--on-{flag}", "fail")
    assert done.code == 1, done.err
    results, ledger, summed = found("fail")
    failed = [row for row in results if row["status"] == "error"]
    assert {row["error_class"] for row in failed} == {f"{kind}_output"}
    assert all(row["content"] is None and row["attempts"] == 1 for row in failed)
    assert 5 < len(failed) < 30 and len(ledger) == 40
    assert summed["outputs"] == {"truncated": 0, "empty": 0}
    endpoint.reset_stats()
    done = here(*command, "-o", "retry", f"--on-{flag}", "retry", "--max-attempts", 30)
    assert done.code == 0, done.err
    _, ledger, _ = found("retry")
    assert Counter(line["error_class"] for line in ledger)[f"{kind}_output"] == len(ledger) - 40 > 5
    always = simulator(**{f"{kind}_rate": 1.0})
    done = here(*command[:1], "--base-url", always.base_url, "-o", "never", "--limit", 4,
                f"--on-{flag}", "retry", "--max-attempts", 3, *QUICK)  # fmt: skip
    assert done.code == 1, done.err
    results, ledger, _ = found("never")
    assert [row["error_class"] for row in results] == [f"{kind}_output"] * 4 and len(ledger) == 12


def test_counts_survive_failed_rows_and_a_retry_of_them(here, simulator, jsonl, found):
    """A part that is merged from an old one and a log counts as one that was written at once."""
    odd = simulator(truncated_rate=0.3, empty_rate=0.2, error_rates={"400-invalid": 0.3}, seed=4)
    command = (jsonl(60, n=2), "-o", "run", "--shard-rows", 25, *QUICK)
    assert here(*command, "--base-url", odd.base_url).code == 1
    before = found()[2]["outputs"]
    assert min(before.values()) > 3
    good = simulator()
    assert here(*command, "--base-url", good.base_url, "--retry-failed").code == 0
    assert found()[2]["outputs"] == before


@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
@pytest.mark.parametrize("older", [False, True])
def test_tool_calls_are_checked(here, simulator, jsonl, found, older, stream):
    """With --check-tools calls that do not fit are asked for again; without, they stand as sent."""
    more = {"functions": [WEATHER], "function_call": {"name": "weather"}}
    if not older:
        more = {"tools": [{"type": "function", "function": WEATHER}], "tool_choice": "required"}
        more["parallel_tool_calls"] = False
    endpoint = simulator(invalid_rate=0.4, seed=6)
    command = (jsonl(30, **more), "--base-url", endpoint.base_url, stream, *QUICK)
    done = here(*command, "-o", "checked", "--check-tools", "--max-attempts", 20)
    assert done.code == 0, done.err
    results, ledger, _ = found("checked")
    for row in results:
        (call,) = row["tool_calls"]
        assert call["name"] == "weather" and isinstance(json.loads(call["arguments"])["city"], str)
    assert len(ledger) > 35
    endpoint.reset_stats()
    assert here(*command, "-o", "unchecked").code == 0
    results, ledger, _ = found("unchecked")
    assert len(ledger) == 30
    names = {row["tool_calls"][0]["name"] for row in results}
    assert names == {"weather", "weather_v2"}


def test_from_python(simulator, tmp_path):
    """The schema is a mapping or a path; the summary counts what was cut off."""
    import batchrun

    rows = [{"messages": [{"role": "user", "content": str(n)}]} for n in range(4)]
    endpoint = simulator(truncated_rate=1.0)
    options = {"model": "m", "base_url": endpoint.base_url}
    summary = batchrun.run(rows, output=tmp_path / "kept", **options)
    assert summary.outputs == {"truncated": 4, "empty": 0}
    summary = batchrun.run(
        rows,
        output=tmp_path / "run",
        schema=SCHEMA,
        max_attempts=1,
        on_truncation="fail",
        **options,
    )
    assert summary.errors == {"truncated_output": 4}
    path = tmp_path / "s.json"
    path.write_text(json.dumps(SCHEMA), "utf-8")
    good = options | {"base_url": simulator().base_url}
    assert batchrun.run(rows, output=tmp_path / "good", schema=path, **good).ok == 4
