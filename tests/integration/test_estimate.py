"""``batchrun estimate``: figures before spending, and a pilot whose intervals hold the run's."""

import json
import math
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

PRICES = '[prices."m"]\ninput = 1\noutput = 4\n[prices."dear"]\ninput = 20\noutput = 80\n'
WORDS = "every answer of the model is a line in the results and nothing of it is lost".split()


@pytest.fixture
def rows(tmp_path):
    """Writes a long-tailed input of two models; its path."""

    def write(count, bad=0):
        rng = random.Random(4)
        lines = ["no JSON"] * bad
        for number in range(count):
            length = max(3, min(4000, int(math.exp(rng.gauss(3, 1)))))
            text = " ".join(rng.choices(WORDS, k=length))
            row = {"custom_id": f"r{number}", "messages": [{"role": "user", "content": text}]}
            row["max_tokens"] = rng.choice([10, 30, 80])
            row["model"] = "dear" if number % 10 == 0 else "m"
            lines.append(json.dumps(row))
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def inside(cli, monkeypatch):
    """A command of batchrun inside this process, which is quicker."""
    from batchrun.cli.main import main

    monkeypatch.chdir(cli.folder)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("batchrun.cli.process.make_lean", lambda: None)

    def run(*arguments, env=None):
        done = CliRunner().invoke(main, list(map(str, arguments)), env=env)
        return Ended(done.exit_code, done.stdout, done.stderr)

    return run


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON object on stdout."""
        return json.loads(self.out)


@pytest.fixture
def priced(tmp_path):
    """A config file with prices."""
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    return path


def test_nothing_is_sent(cli, simulator, rows, priced):
    """Every row is counted, by model; no request goes out and nothing is written."""
    endpoint = simulator()
    arguments = ("-c", priced, "--base-url", endpoint.base_url, "--rpm", "60", "--json")
    done = cli("estimate", rows(50, bad=2), *arguments)
    assert done.code == 0, done.err
    found = done.json
    assert (found["rows"], found["bad"], found["pilot"]) == (52, 2, None)
    assert {name: each["rows"] for name, each in found["models"].items()} == {"m": 45, "dear": 5}
    for figure in ("prompt_tokens", "completion_tokens", "cost_usd"):
        low, likely, high = (found[figure][end] for end in ("low", "estimate", "high"))
        assert 0 < low < likely < high
    assert found["cost_usd"]["high"] < found["at_most"]["cost_usd"]
    assert found["time"]["at_least_by_rpm_s"] == 50
    assert endpoint.stats()["requests_total"] == 0
    assert list(cli.folder.iterdir()) == []


@pytest.mark.parametrize("columns", [40, 80])
def test_the_report_fits_the_terminal(inside, rows, priced, columns):
    """No line is longer than the terminal is wide."""
    done = inside(
        "estimate", rows(20, bad=1), "-c", priced, "--tpm", "9", env={"COLUMNS": str(columns)}
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("rows     21 (1 bad")
    assert " ".join(done.out.split()).count("add --pilot 200 -o DIR") == 1


def test_without_a_tokenizer(inside, rows, priced, monkeypatch):
    """The extra is optional: bytes are counted then, and the report says so."""
    arguments = ("estimate", rows(30), "-c", priced, "--model", "m", "--json")
    with_one = inside(*arguments).json
    monkeypatch.setitem(sys.modules, "splintr", None)
    done = inside(*arguments)
    assert done.code == 0 and done.json["tokens_counted_by"] == "bytes"
    assert 'pip install "batchrun-llm[tokenizer]" counts them' in done.json["notes"][0]
    found = done.json["prompt_tokens"]
    assert found["low"] < with_one["prompt_tokens"]["estimate"] < found["high"]


def test_nothing_can_be_sent(inside, rows):
    """Bad rows alone: no figures, no pilot, and where to look."""
    done = inside("estimate", rows(0, bad=3), "--model", "m", "--pilot", "10", "-o", "pilot")
    assert done.code == 0
    assert done.out.split("\n")[0] == "rows     3 (3 bad: see `batchrun validate`)"
    assert "nothing to send" in done.out and not Path("pilot").exists()


def test_without_a_price_or_a_limit(inside, jsonl):
    """What is not known is null, and the remedy is said."""
    done = inside(
        "estimate", jsonl(3), "--model", "m", "--base-url", "http://127.0.0.1:1", "--json"
    )
    found = done.json
    assert done.code == 0 and found["cost_usd"] is None
    assert found["at_most"] == {"tokens": None, "cost_usd": None}
    notes = " ".join(found["notes"])
    assert '[prices."m"]' in notes and "--max-tokens N" in notes


def test_a_pilot_tells_the_run(cli, inside, simulator, rows, priced):
    """A pilot of 60 of 600 rows: its directory is a run of the same requests, and its intervals
    hold what the whole run takes.
    """
    endpoint = simulator()
    source = rows(600)
    shared = (source, "-c", priced, "--base-url", endpoint.base_url, "--no-progress", "--json")
    done = inside("estimate", *shared, "--pilot", "60", "-o", "pilot")
    assert done.code == 0, done.err
    pilot = done.json["pilot"]
    assert (pilot["rows"], pilot["failed"]) == (60, 0)
    assert endpoint.stats()["requests_total"] == 60
    cli.verified("pilot")
    assert inside("run", *shared, "-o", "run").code == 0
    totals = json.loads((cli.folder / "run" / "summary.json").read_text())["totals"]
    for figure in ("prompt_tokens", "completion_tokens", "cost_usd"):
        assert pilot[figure]["low"] <= totals[figure] <= pilot[figure]["high"], figure
    columns = ["row", "custom_id", "request_hash", "content"]
    whole = pq.read_table(cli.folder / "run" / "results", columns=columns).to_pylist()
    sample = pq.read_table(cli.folder / "pilot" / "results", columns=[*columns, "input_row"])
    for row in sample.to_pylist():
        row["row"] = row.pop("input_row")
        assert row == whole[row["row"]]
    # The same command finds everything answered, and says the same.
    again = inside("estimate", *shared, "--pilot", "60", "-o", "pilot")
    assert again.json["pilot"] == pilot and endpoint.stats()["requests_total"] == 660


@pytest.mark.parametrize(
    "row", [{"q": "a question"}, {"messages": [{"role": "user", "content": "?"}]}]
)
@pytest.mark.parametrize("options", [{}, {"stream_options": None}])
def test_a_pilot_sends_the_requests_of_the_run(cli, inside, simulator, jsonl, row, options):
    """Templates, parameters and streaming are as in the run: byte for byte the same requests."""
    endpoint = simulator()
    source = jsonl([{**row, **options, "seed": n} for n in range(12)])
    made = ("--prompt", "Say: {{ q }}", "--system", "Be brief.") if "q" in row else ()
    shared = (source, *made, "--model", "m")
    shared += ("--stream", "--param", "temperature=0", "--base-url", endpoint.base_url)
    assert inside("estimate", *shared, "--pilot", "12", "-o", "pilot").code == 0
    assert inside("run", *shared, "-o", "run").code == 0
    hashes = [
        pq.read_table(cli.folder / name / "results")["request_hash"].to_pylist()
        for name in ("pilot", "run")
    ]
    assert hashes[0] == hashes[1]


def test_standard_input_has_a_pilot_too(cli, simulator, rows):
    """What is piped in is read once, and sampled in that pass."""
    endpoint = simulator()
    arguments = ("--base-url", endpoint.base_url, "--pilot", "10", "-o", "pilot", "--json")
    done = cli("estimate", "-", *arguments, stdin=rows(40).read_bytes())
    assert done.code == 0, done.err
    found = done.json
    assert found["rows"] == 40 and found["pilot"]["rows"] == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pilot", "10"), "-o DIR"),
        (("--pilot", "10", "-o", "taken"), "new directory"),
        (("--pilot", "5", "-o", "pilot"), "10"),
    ],
)
def test_a_pilot_needs_a_place_of_its_own(cli, jsonl, arguments, said):
    """Nothing is sent, and what is there stays as it is."""
    (cli.folder / "taken").mkdir()
    (cli.folder / "taken" / "mine.txt").write_text("mine")
    source = jsonl(20)
    done = cli("estimate", source, "--model", "m", "--base-url", "http://127.0.0.1:1", *arguments)
    assert done.code == 2 and said in done.err
    assert [path.name for path in cli.folder.iterdir()] == ["taken"]
    assert [path.name for path in (cli.folder / "taken").iterdir()] == ["mine.txt"]


def test_another_sample_does_not_overwrite_a_pilot(cli, inside, simulator, jsonl):
    """The same directory with another N is refused before anything is sent."""
    endpoint = simulator()
    shared = (jsonl(40), "--model", "m", "--base-url", endpoint.base_url, "-o", "pilot")
    assert inside("estimate", *shared, "--pilot", "10").code == 0
    done = inside("estimate", *shared, "--pilot", "11")
    assert done.code == 2 and "another pilot" in done.err
    assert endpoint.stats()["requests_total"] == 10
    cli.verified("pilot")


def test_a_pilot_that_is_stopped_tells_nothing(inside, simulator, jsonl):
    """A guard stops the pilot: its exit code, no figures; the same command goes on."""
    locked = simulator(api_key="right")
    shared = (jsonl(30), "--model", "m", "--base-url", locked.base_url, "--pilot", "10")
    shared += ("-o", "pilot", "--json")
    done = inside("estimate", *shared, env={"OPENAI_API_KEY": "wrong"})
    assert done.code == 3 and done.json["pilot"]["cost_usd"] is None
    done = inside("estimate", *shared, env={"OPENAI_API_KEY": "right"})
    assert done.code == 0 and done.json["pilot"]["prompt_tokens"]["estimate"] > 0
