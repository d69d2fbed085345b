"""``batchrun init``: starters that run as they are, and evals of another tool taken over."""

import csv
import json
import tomllib

import pyarrow.parquet as pq
import pytest

from tests.harness.slow import rest_slow

EVAL = {
    "object": "eval",
    "id": "eval_1",
    "name": "tickets",
    "data_source_config": {
        "type": "custom",
        "schema": {"properties": {"item": {"type": "object"}}},
    },
    "testing_criteria": [
        {
            "type": "string_check",
            "name": "Match output to human label",
            "input": "{{ sample.output_text }}",
            "reference": "{{ item.correct_label }}",
            "operation": "eq",
        },
        {
            "type": "string_check",
            "name": "Mentions",
            "input": "{{sample.output_text}}",
            "reference": "is {{item.model}}, O'Hara",
            "operation": "ilike",
        },
        {
            "type": "text_similarity",
            "name": "close",
            "input": "{{sample.output_json.answer}}",
            "reference": "{{item.meta.summary}}",
            "evaluation_metric": "fuzzy_match",
            "pass_threshold": 0.8,
        },
        {"type": "text_similarity", "name": "meteor", "evaluation_metric": "meteor"},
        {"type": "label_model", "name": "Tone", "model": "m", "labels": ["a"]},
        {"type": "python", "name": "code", "source": "def grade(sample, item): ..."},
        {
            "type": "string_check",
            "name": "tools",
            "input": "{{sample.output_tools}}",
            "reference": "x",
            "operation": "eq",
        },
    ],
}
ITEMS = [
    {
        "ticket_text": f"My monitor {n} won't turn on",
        "correct_label": "Hardware",
        "model": f"M{n}",
        "meta": {"summary": 'a\x7f"b"'},
    }
    for n in range(3)
]
RUN = {
    "object": "eval.run",
    "data_source": {
        "type": "completions",
        "model": "gpt-x",
        "sampling_params": {"temperature": 0.2, "max_completions_tokens": 64, "tools": []},
        "input_messages": {
            "type": "template",
            "template": [
                {"role": "developer", "content": 'Categorise.\nOnly "the" category.'},
                {"role": "user", "content": {"type": "input_text", "text": "{{item.ticket_text}}"}},
            ],
        },
        "source": {"type": "file_content", "content": [{"item": item} for item in ITEMS]},
    },
}


def test_a_starter_runs_as_it_is_and_is_never_overwritten(cli):
    """`init eval` writes two files that run against the simulator; a second time it is exit 2."""
    done = cli("init", "eval")
    assert done.code == 0, done.err
    ran = cli("run", "-c", "config.toml", "-o", "run-1", "--no-progress")
    assert ran.code == 0, ran.err
    summary = json.loads((cli.folder / "run-1/summary.json").read_text())
    assert summary["rows"]["ok"] == 10
    assert summary["metrics"]["by_topic"]["groups"].keys() == {
        *("geography", "numbers", "science", "words")
    }
    (cli.folder / "config.toml").write_text("mine")
    (cli.folder / "rows.jsonl").unlink()
    again = cli("init")
    assert again.code == 2
    assert "config.toml already exists here; init never overwrites a file" in again.err
    assert (cli.folder / "config.toml").read_text() == "mine"
    assert not (cli.folder / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("kind", "rows", "folder"),
    [
        ("eval", "rows.jsonl", "run-1"),
        ("bulk", "rows.csv", "answers"),
        ("batch", "rows.jsonl", "batch-1"),
    ],
)
def test_every_starter_runs_by_the_commands_that_it_prints(cli, kind, rows, folder):
    """Ten rows, all answered whole, and what `init` says comes next works; a config that is there
    is left alone.
    """
    done = cli("init", kind)
    assert done.code == 0, done.err
    first, *commands = done.out.splitlines()
    assert first == f"wrote config.toml and {rows}; next:"
    assert commands[0] == "batchrun run -c config.toml" and len(commands) == 2
    for line in commands:
        ran = cli(*line.split()[1:])
        assert ran.code == 0, ran.err
    summary = json.loads((cli.folder / folder / "summary.json").read_text())
    assert summary["rows"] == summary["rows"] | {"input": 10, "ok": 10, "error": 0}
    assert summary["outputs"].get("truncated", 0) == 0
    ids = pq.read_table(cli.folder / folder / "results").column("custom_id").to_pylist()
    assert len(set(ids)) == 10
    before = (cli.folder / "config.toml").read_bytes()
    again = cli("init", kind)
    assert again.code == 2 and "never overwrites a file" in again.err
    assert (cli.folder / "config.toml").read_bytes() == before


def test_a_bulk_job_ends_in_a_table(cli):
    """The export has the columns of the input first, in the order of its rows."""
    assert cli("init", "bulk").code == 0
    assert cli("run", "-c", "config.toml", "--quiet").code == 0
    assert cli("export", "answers", "-o", "answers.csv").code == 0
    with (cli.folder / "answers.csv").open(newline="") as file:
        answers = list(csv.DictReader(file))
    with (cli.folder / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    shown = [{name: row[name] for name in ("ticket", "subject", "message")} for row in answers]
    assert shown == rows
    assert all(row["subject"] in row["content"] for row in answers)  # the simulator repeats it


def test_a_batch_ends_in_output_lines(cli):
    """One line of the Batch API's output for each line of its input, with the same custom_id."""
    assert cli("init", "batch").code == 0
    assert cli("run", "-c", "config.toml", "--quiet").code == 0
    assert cli("export", "batch-1", "-o", "output.jsonl").code == 0
    read = [
        [json.loads(line)["custom_id"] for line in (cli.folder / name).read_text().splitlines()]
        for name in ("rows.jsonl", "output.jsonl")
    ]
    assert read[0] == read[1] and len(read[0]) == 10


def test_an_eval_of_another_tool_is_no_bulk_job(cli):
    """The two arguments contradict each other: exit 2, and nothing is written."""
    done = cli("init", "bulk", "--from-openai-evals", "x.json")
    assert done.code == 2 and "batchrun init eval" in done.err
    assert not (cli.folder / "config.toml").exists()


def test_an_eval_with_its_run_becomes_a_config_that_runs(cli):
    """Items, messages, parameters and graders are taken over; what is not is named."""
    (cli.folder / "export.json").write_text(json.dumps({"eval": EVAL, "runs": [RUN]}))
    done = cli("init", "eval", "--from-openai-evals", "export.json", "--json")
    assert done.code == 0, done.err
    notes = json.loads(done.out)["notes"]
    for said in ("'meteor'", "'Tone'", "'code'", "'tools'", "parameter tools", "edit distance"):
        assert any(said in note for note in notes), said
    config = tomllib.loads((cli.folder / "config.toml").read_text())
    assert config["request"]["model"] == "gpt-x"
    assert config["request"]["params"] == {"temperature": 0.2, "max_completion_tokens": 64}
    assert config["request"]["messages"][1] == {"role": "user", "content": "{{ ticket_text }}"}
    assert list(config["scores"]) == [
        *("match_output_to_human_label", "mentions", "close", "close_passed")
    ]
    flags = ("--provider", "simulator", "--no-progress")
    ran = cli("run", "-c", "config.toml", "-o", "run-1", *flags)
    assert ran.code == 0, ran.err
    summary = json.loads((cli.folder / "run-1/summary.json").read_text())
    assert summary["scores"]["match_output_to_human_label"]["scored"] == 3
    assert summary["metrics"]["match_output_to_human_label"]["value"] == 0


@pytest.mark.parametrize(
    ("operation", "values"),
    rest_slow(
        [
            ("eq", [1, 0, 0, 0]),
            ("ne", [0, 1, 1, 1]),
            ("like", [1, 1, 0, 0]),
            ("ilike", [1, 1, 1, 0]),
        ],
        2,
        several=True,
    ),
)
def test_string_checks_mean_what_they_meant(cli, scripted, answer, operation, values):
    """Exact comparison, its opposite, a search for the reference, and one that ignores case."""
    replies = ["Yes", "Yes, sir", "yes, sir", "no"]
    endpoint = scripted(
        lambda body, _headers, _nth: (200, {}, answer(body["messages"][0]["content"]))
    )
    grader = {**EVAL["testing_criteria"][0], "operation": operation, "name": "check"}
    grader["reference"] = "{{item.wanted}}"
    lines = [{"item": {"question": reply, "wanted": "Yes"}} for reply in replies]
    text = "\n".join(map(json.dumps, [{"testing_criteria": [grader]}, *lines]))
    (cli.folder / "export.jsonl").write_text(text)
    assert cli("init", "--from-openai-evals", "export.jsonl").code == 0
    done = cli(
        *("run", "-c", "config.toml", "-o", "run-1", "--base-url", endpoint.base_url),
        "--no-progress",
    )
    assert done.code == 0, done.err
    scores = pq.read_table(cli.folder / "run-1" / "scores")
    assert scores.column("check").to_pylist() == list(map(bool, values))


def test_a_file_that_is_no_export_is_exit_2(cli):
    """Text that is not JSON is named by its line; other JSON by what it lacks."""
    (cli.folder / "a.txt").write_text('{"item": {}}\nno json')
    done = cli("init", "--from-openai-evals", "a.txt")
    assert done.code == 2
    assert "a.txt, line 2" in done.err
    (cli.folder / "b.json").write_text('{"object": "list", "data": []}')
    done = cli("init", "--from-openai-evals", "b.json")
    assert done.code == 2
    assert "has no items and no testing_criteria" in done.err
    (cli.folder / "deep.json").write_text("[" * 100_000)
    assert cli("init", "--from-openai-evals", "deep.json").code == 2
    assert not (cli.folder / "config.toml").exists()
