"""A real server as a judge: it is held to the JSON Schema of its verdicts."""

import json

ROWS = 20
SCHEMA = {
    "type": "object",
    "properties": {
        "mark": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
        "tone": {"type": "string", "enum": ["friendly", "rude"]},
    },
    "required": ["mark", "tone"],
    "additionalProperties": False,
}


def test_a_real_judge_gives_verdicts(cli, llama, jsonl, published):
    """Every answer has a verdict that fits the schema, and judging again asks for none."""
    rows = (
        {
            "custom_id": f"row-{number}",
            "messages": [{"role": "user", "content": f"Count on from {number}"}],
            "max_tokens": 8,
            "temperature": 0,
        }
        for number in range(ROWS)
    )
    base_url = llama()
    done = cli.run(
        *(jsonl(rows), "-o", "run", "--base-url", base_url, "--no-progress"), timeout_s=240
    )
    assert done.code == 0, done.err
    (cli.folder / "tone.json").write_text(json.dumps(SCHEMA))
    (cli.folder / "tone.toml").write_text(
        '[request]\nmodel = "judge"\nprompt = "Rate this: {{ row.content }}"\n'
        'schema = "tone.json"\nparams = { temperature = 0, max_tokens = 60 }\n'
        f'[[endpoint]]\nbase_url = "{base_url}"\n'
    )
    for _ in range(2):
        done = cli("judge", "run", "-c", "tone.toml", "--no-progress", timeout_s=240)
        assert done.code == 0, done.err
    assert published(cli.folder / "run/judges/tone", "attempts").num_rows == ROWS
    scores = published(cli.folder / "run", "scores")
    assert set(scores["tone.mark"].to_pylist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert set(scores["tone.tone"].to_pylist()) <= {"friendly", "rude"}
    cli.verified("run")
    cli.verified("run/judges/tone")
