"""``run --from DIR``: one run's answers are the next run's input."""

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchrun
from batchrun.rundir.lock import Lock

QUICK = ("--no-progress", "--shard-rows", 4)
ASK = ("--prompt", "Check {{ row.content }} about {{ topic }}")


class Chain:
    """A run ``one`` over 14 rows in parts of 4, the runs made from it, and what was asked."""

    def __init__(self, here, scripted, answer, folder):
        self.here = here
        self.folder = folder
        self.refused = set()
        """Questions that fail with 413."""
        self.answers = {}
        """What some questions are answered with."""
        self.asked = []

        def reply(body, _headers, _nth):
            question = body["messages"][-1]["content"]
            self.asked.append(question)
            if question in self.refused:
                return 413, {}, {"error": {"message": "too large"}}
            return 200, {}, answer(self.answers.get(question, f"re {question}"))

        self.url = scripted(reply).base_url
        rows = [{"custom_id": f"id {n}", "topic": f"topic {n}", "text": f"q{n}"} for n in range(14)]
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def first(self, *flags, code=0):
        """Run the first run; returns what it asked."""
        return self.run("rows.jsonl", "--prompt", "{{ text }}", "-o", "one", *flags, code=code)

    def next(self, source, out, *flags, code=0):
        """Run one that is made from another."""
        ask = () if {"--prompt"} & set(flags) else ASK
        return self.run("--from", source, "-o", out, *ask, *flags, code=code)

    def run(self, *arguments, code=0):
        """Run; returns what was asked."""
        self.asked.clear()
        done = self.here(*arguments, *QUICK, "--base-url", self.url)
        assert done.code == code, (done.code, done.err)
        self.err = done.err
        return sorted(self.asked)

    def rows(self, name, kind="results"):
        """The rows of a run."""
        return pq.read_table(self.folder / name / kind).to_pylist()


@pytest.fixture
def chain(here, scripted, answer, cli):
    """A first run that is not run yet."""
    return Chain(here, scripted, answer, cli.folder)


def test_an_answer_is_a_row_of_the_next_run(chain, cli):
    """Templates see the answer as ``row`` and carried columns by their names; id, columns and the
    place of the answer go along; nothing of it is a parameter; a second start sends nothing.
    """
    chain.first()
    asked = chain.next("one", "two")
    assert asked == sorted(f"Check re q{n} about topic {n}" for n in range(14))
    rows = chain.rows("two")
    assert [row["source_row"] for row in rows] == list(range(14))
    assert [row["custom_id"] for row in rows] == [f"id {n}" for n in range(14)]
    assert [row["topic"] for row in rows] == [f"topic {n}" for n in range(14)]
    whole = '{"content":"re q3","refusal":null,"tool_calls":null}'
    assert rows[3]["source_hash"] == hashlib.sha256(whole.encode()).hexdigest()
    assert chain.next("one", "two") == []
    assert "nothing left to send" in chain.err
    cli.verified("two")


def test_only_rows_of_the_status_are_taken(chain):
    """``ok`` rows by default; failed ones, or all, where that is asked for. A failed row shows why
    it failed and has no content.
    """
    chain.refused = {"q5", "q9"}
    chain.first(code=1)
    chain.next("one", "good")
    assert [r["source_row"] for r in chain.rows("good")] == [
        n for n in range(14) if n not in (5, 9)
    ]
    shown = ("--prompt", "{{ row.status }} {{ row.error_class }} {{ row.content }}!")
    asked = chain.next("one", "bad", "--from-status", "error", *shown)
    assert asked == ["error payload_too_large !"] * 2
    assert [row["source_row"] for row in chain.rows("bad")] == [5, 9]
    asked = chain.next("one", "all", "--from-status", "any", "--prompt", "{{ row.status }}")
    assert asked.count("ok") == 12 and asked.count("error") == 2


def test_one_answer_that_came_later_is_one_request(chain, cli):
    """A row of the source that is answered at last moves all rows behind it. The plain command says
    what changed and sends nothing; ``--resend-changed`` sends that row alone, and every other row
    keeps its answer, its attempts and its cost in its new place.
    """
    chain.refused = {"q5"}
    chain.first(code=1)
    chain.next("one", "two")
    before = {row["source_row"]: row for row in chain.rows("two")}
    chain.refused = set()
    assert chain.first("--retry-failed") == ["q5"]
    assert chain.next("one", "two", code=2) == []
    assert "1 row is new, 13 are as before" in chain.err
    assert "--resend-changed" in chain.err and "1 row is sent" in chain.err
    assert chain.next("one", "two", "--keep-done", code=2) == []
    assert chain.next("one", "two", "--resend-changed") == ["Check re q5 about topic 5"]
    rows = chain.rows("two")
    assert [row["row"] for row in rows] == [row["source_row"] for row in rows] == list(range(14))
    for row in rows:
        old = before.get(row["source_row"])
        assert old is None or {**row, "row": 0} == {**old, "row": 0}
    lines = chain.rows("two", "attempts")
    assert [line["row"] for line in lines] == list(range(14))
    assert chain.next("one", "two") == []
    cli.verified("two")


def test_a_changed_answer_is_asked_about_again(chain, cli):
    """An answer that is another one by now is sent again, and so is one of a chain's third run; the
    bill keeps what the earlier answers cost.
    """
    chain.first()
    chain.next("one", "two")
    chain.next("two", "three", "--prompt", "Rate {{ row.content }}")
    chain.answers["q7"] = "another"
    assert chain.first("--param", "seed=1", code=2) == []
    chain.first("--param", "seed=1", "--resend-changed")
    assert chain.next("one", "two", "--resend-changed") == ["Check another about topic 7"]
    asked = chain.next("two", "three", "--resend-changed", "--prompt", "Rate {{ row.content }}")
    assert asked == ["Rate re Check another about topic 7"]
    lines = chain.rows("three", "attempts")
    assert len(lines) == 15 and [line["attempt"] for line in lines if line["row"] == 7] == [1, 2]
    for name in ("one", "two", "three"):
        cli.verified(name)


def test_rows_that_are_gone_stay_on_the_bill(chain, cli, summary):
    """A row that the source selects no more leaves the results; its attempt stays in the ledger and
    its answer in the checkpoint. When it comes back it is asked about again.
    """
    chain.refused = {"q2", "q3", "q6", "q11"}
    chain.first(code=1)
    chain.next("one", "two", "--from-status", "error")
    chain.refused = {"q6"}
    chain.first("--retry-failed", code=1)
    assert chain.next("one", "two", "--from-status", "error", code=2) == []
    assert "3 are gone, 1 is as before" in chain.err
    assert chain.next("one", "two", "--from-status", "error", "--resend-changed") == []
    assert [(row["row"], row["source_row"]) for row in chain.rows("two")] == [(0, 6)]
    told = summary("two")
    assert told["totals"]["attempts"] == 4 and told["rows"]["ok"] == 1
    assert len(chain.rows("two", "attempts")) == 4
    [kept] = (chain.folder / "two/checkpoint/former").glob("results.parquet*")
    assert pq.read_table(kept).column("source_row").to_pylist() == [2, 3, 11]
    cli.verified("two")
    asked = chain.next("one", "two", "--from-status", "any", "--resend-changed")
    assert len(asked) == 13
    assert summary("two")["totals"]["attempts"] == 17
    cli.verified("two")


def test_a_chain_of_chains_keeps_both_places(chain):
    """The place in the nearest run is ``source_row``; that in the run before makes way."""
    chain.refused = {"q0"}
    chain.first(code=1)
    chain.next("one", "two")
    chain.next("two", "three", "--prompt", "{{ source_row }} {{ input_source_row }}")
    first = chain.rows("three")[0]
    assert (first["source_row"], first["input_source_row"]) == (0, 1)
    assert first["source_hash"] != first["input_source_hash"]
    chain.next("three", "four", "--prompt", "{{ row.content }}")
    first = chain.rows("four")[0]
    assert (first["input_source_row"], first["input_source_row_2"]) == (1, 0)


def test_requests_are_kept_or_made_again(chain):
    """``row.messages`` has the messages of the request: those that the run kept, else made again
    from its input, however many runs lie before it.
    """
    chain.first()
    told = ("--prompt", "{{ row.messages[0].role }} asked {{ row.messages[0].content }}")
    assert chain.next("one", "two", *told) == sorted(f"user asked q{n}" for n in range(14))
    asked = chain.next("two", "three", *told)
    assert asked == sorted(f"user asked user asked q{n}" for n in range(14))
    chain.run(
        *("rows.jsonl", "--prompt", "{{ text }}", "-o", "kept", "--requests", "all"),
    )
    (chain.folder / "rows.jsonl").unlink()
    assert len(chain.next("kept", "four", *told)) == 14
    assert chain.next("one", "five", *told, code=2) == []
    assert "--requests all" in chain.err and "rows.jsonl is not there" in chain.err
    assert not (chain.folder / "five").exists()


def test_requests_that_cannot_be_made_again_are_refused(chain):
    """An input that gives other requests by now gives no ``row.messages``."""
    chain.first()
    path = chain.folder / "rows.jsonl"
    path.write_text(path.read_text("utf-8").replace("q9", "other"), "utf-8")
    assert chain.next("one", "two", "--prompt", "{{ row.messages }}", code=2) == []
    assert "one row 9" in chain.err and "the input changed since" in chain.err


REFUSED = [
    (("rows.jsonl",), "leave the input files out"),
    (("--send", "topic"), "every column is data"),
    (("--format", "csv"), "how input files are read"),
    (("--prompt", "{{ row.contnt }}"), "did you mean content?"),
    (("--prompt", "{{ topc }}"), "did you mean topic?"),
    (("--from-status", "error"), "not a single `error` row"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED)
def test_what_does_not_go_with_it_is_refused(chain, flags, words):
    """Exit 2 with what to do, and nothing is made."""
    chain.first()
    assert chain.next("one", "two", *flags, code=2) == []
    assert words in chain.err
    assert not (chain.folder / "two").exists()


def test_what_is_no_source_is_refused(chain):
    """No directory, a file, no run, the run itself, and a circle are named."""
    chain.first()
    (chain.folder / "empty").mkdir()
    for source, words in (
        ("nowhere", "does not exist"),
        ("rows.jsonl", "is a file"),
        ("empty", "is not a run directory"),
    ):
        chain.next(source, "two", code=2)
        assert words in chain.err
    chain.next("one", "one", code=2)
    assert "is the run directory itself" in chain.err
    chain.next("one", "two")
    chain.next("two", "one", "--restart", code=2)
    assert "cannot be made from itself" in chain.err
    chain.run("one", *ASK, "-o", "three", code=2)
    assert "--from" in chain.err


def test_an_unfinished_source_needs_to_be_allowed(chain, cli):
    """Pending rows may still be answered: exit 2, unless the rows that are there are enough; those
    that come later are one ``--resend-changed`` away.
    """
    chain.run("rows.jsonl", "--prompt", "{{ text }}", "-o", "one", "--max-failures", "1", code=0)
    shutil.rmtree(chain.folder / "one")
    chain.refused = {"q1", "q2"}
    chain.first("--max-failures", "1", "--concurrency", "1", code=3)
    chain.next("one", "two", code=2)
    assert "rows are pending" in chain.err and "--allow-partial" in chain.err
    early = chain.next("one", "two", "--allow-partial")
    assert 0 < len(early) < 12
    chain.refused = set()
    chain.first("--retry-failed")
    asked = chain.next("one", "two", "--resend-changed")
    assert len(asked) == 14 - len(early)
    cli.verified("two")


def test_a_damaged_source_is_refused(chain):
    """A part that is missing, or is not the one that was published, is named."""
    chain.first()
    part = chain.folder / "one/results/part-00000001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    chain.next("one", "two", code=2)
    assert "part-00000001.parquet is not the part that was published" in chain.err
    part.unlink()
    chain.next("one", "two", code=2)
    assert "part-00000001.parquet is missing" in chain.err
    assert not (chain.folder / "two").exists()


def test_a_source_that_moved_is_the_same(chain):
    """Its id tells, not its path; another run under the old path is another source."""
    chain.first()
    chain.next("one", "two")
    (chain.folder / "one").rename(chain.folder / "moved")
    assert chain.next("moved", "two") == []
    chain.run("rows.jsonl", "--prompt", "{{ text }}", "-o", "other")
    assert chain.next("other", "two", code=2) == []
    assert "input.from: was" in chain.err


def test_it_may_be_a_setting(chain):
    """``[input] from`` is relative to the config file; files on the command line replace it."""
    chain.first()
    config = chain.folder / "conf" / "next.toml"
    config.parent.mkdir()
    config.write_text(
        '[input]\nfrom = "../one"\nfrom_status = "ok"\n'
        '[request]\nprompt = "Check {{ row.content }}"\n',
        "utf-8",
    )
    assert len(chain.run("-c", "conf/next.toml", "-o", "two")) == 14
    chain.run("rows.jsonl", "-c", "conf/next.toml", "--prompt", "{{ text }}", "-o", "three")
    assert "input.from" not in json.loads((chain.folder / "three/summary.json").read_text("utf-8"))


def test_a_summary_is_an_input(chain, monkeypatch):
    """In Python the summary of one run is the input of the next, and so is its path."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-simulated")
    rows = [{"text": f"q{n}"} for n in range(5)]
    given = {"model": "m", "base_url": chain.url}
    one = batchrun.run(rows, prompt="{{ text }}", output="one", **given)
    two = batchrun.run(one, prompt="Check {{ row.content }}", output="two", **given)
    assert two.ok == 5
    ask = "Rate {{ row.content }}"
    three = batchrun.run(from_=two.path, prompt=ask, output="three", from_status="any", **given)
    assert three.ok == 5 and chain.rows("three")[4]["content"] == "re Rate re Check re q4"


def test_a_dry_run_tells_what_would_be_sent(chain, cli):
    """``validate``, ``estimate`` and ``--dry-run`` read the source as the run does; rows that moved
    count as done.
    """
    chain.refused = {"q5"}
    chain.first(code=1)
    chain.next("one", "two")
    chain.refused = set()
    chain.first("--retry-failed")
    told = cli("validate", "--from", "one", *ASK, "--model", "m", "--json")
    assert json.loads(told.out)["rows"] == 14
    told = cli("estimate", "--from", "one", *ASK, "--model", "m", "--json")
    assert json.loads(told.out)["rows"] == 14
    pilot = ("--pilot", "10", "-o", "pilot", "--base-url", chain.url, "--no-progress")
    told = cli("estimate", "--from", "one", *ASK, "--model", "m", *pilot, "--json")
    assert told.code == 0 and len(chain.rows("pilot")) == 10, told.err
    again = ("run", "--from", "one", "-o", "two", *ASK, *QUICK, "--model", "m")
    assert cli(*map(str, again), "--base-url", chain.url, "--dry-run").code == 2
    told = cli(*map(str, again), "--base-url", chain.url, "--dry-run", "--resend-changed", "--json")
    assert json.loads(told.out)["rows"] == {"input": 14, "done": 13, "to_send": 1, "bad": 0}


def test_results_are_scored_after_rows_moved(chain, cli, summary):
    """Scores follow their rows, and parts without a row of the input have none."""
    config = chain.folder / "next.toml"
    config.write_text(
        '[scores]\nlong = "len(content) > 3"\n[metrics]\nlong = "avg(long)"\n', "utf-8"
    )
    chain.refused = {"q2", "q3"}
    chain.first(code=1)
    chain.next("one", "two", "--from-status", "error", "-c", "next.toml")
    chain.refused = {"q7"}
    chain.first("--retry-failed", "--param", "seed=1", "--resend-changed", code=1)
    chain.next("one", "two", "--from-status", "error", "-c", "next.toml", "--resend-changed")
    assert summary("two")["metrics"]["long"]["n"] == 1
    cli.verified("two")


def test_a_lost_state_file_is_found_out_again(chain, cli, summary):
    """``--repair`` makes it from the parts and the source, attempts of former rows included."""
    chain.refused = {"q2", "q3", "q6"}
    chain.first(code=1)
    chain.next("one", "two", "--from-status", "error")
    chain.refused = {"q6"}
    chain.first("--retry-failed", code=1)
    chain.next("one", "two", "--from-status", "error", "--resend-changed")
    for path in (chain.folder / "two/checkpoint").glob("journal.db*"):
        path.unlink()
    assert chain.next("one", "two", "--from-status", "error", code=2) == []
    assert chain.next("one", "two", "--from-status", "error", "--repair") == []
    assert summary("two")["totals"]["attempts"] == 3
    assert chain.next("one", "two", "--from-status", "error") == []
    cli.verified("two")


def test_a_rows_place_in_its_source_is_verified(chain, cli):
    """An answer that the source changed since is a note with the command that asks again; one that
    was never the source's is damage.
    """
    chain.first()
    chain.next("one", "two")
    chain.answers["q7"] = "another"
    chain.first("--param", "seed=1", "--resend-changed")
    done = cli("verify", "two")
    assert done.code == 0 and "1 row is about an answer" in done.out
    assert "the first is row 7" in done.out and "--resend-changed asks again" in done.out
    chain.next("one", "two", "--resend-changed")
    assert "note:" not in cli("verify", "two").out
    part = chain.folder / "two/results/part-00000001.parquet"
    table = pq.read_table(part, partitioning=None)
    place = table.schema.get_field_index("source_hash")
    wrong = pa.array(["0" * 64] * table.num_rows)
    pq.write_table(table.set_column(place, table.schema.field(place), wrong), part)
    done = cli("verify", "two")
    assert done.code == 1 and "is not of the answer in row 4 of its source" in done.out
    place = table.schema.get_field_index("source_row")
    back = pa.array(reversed(range(4, 4 + table.num_rows)), pa.int64())
    pq.write_table(table.set_column(place, table.schema.field(place), back), part)
    assert "row 5 has source_row 6 after 7" in cli("verify", "two").out
    shutil.rmtree(chain.folder / "one")
    assert "source_row and source_hash were not compared" in cli("verify", "two").out


def test_a_limited_run_keeps_what_lies_behind(chain):
    """``--limit`` bounds what is sent, not what is kept: rows behind it move with the others."""
    chain.refused = {"q0"}
    chain.first(code=1)
    chain.next("one", "two")
    chain.refused = set()
    chain.first("--retry-failed")
    assert chain.next("one", "two", "--resend-changed", "--limit", "1") == [
        "Check re q0 about topic 0"
    ]
    assert [row["source_row"] for row in chain.rows("two")] == list(range(14))


def test_a_sample_of_a_source_stays_that_sample(chain):
    """Its rows are those that were drawn; of a source that changed since, nothing is sent."""
    chain.refused = {"q5"}
    chain.first(code=1)
    assert len(chain.next("one", "two", "--sample", "5")) == 5
    assert chain.next("one", "two", "--sample", "5") == []
    chain.refused = set()
    chain.first("--retry-failed")
    assert chain.next("one", "two", "--sample", "5", "--resend-changed", code=2) == []
    assert "the sample was drawn from other rows" in chain.err


def test_carry_chooses_columns_and_never_the_identity(chain):
    """``--carry none`` leaves what identifies a row: without it no row would be found again."""
    chain.first()
    chain.next("one", "two", "--carry", "none")
    names = set(chain.rows("two")[0])
    assert {"source_row", "source_hash"} <= names and "topic" not in names
    chain.next("one", "three", "--carry", "topic")
    assert {"source_row", "source_hash", "topic"} <= set(chain.rows("three")[0])
    assert chain.next("one", "two", "--carry", "none") == []


def test_an_edit_that_changes_no_selected_row_sends_nothing(chain):
    """Parts of the source that were written again, with the answers as they were, are no change."""
    chain.refused = {"q5"}
    chain.first(code=1)
    chain.next("one", "two")
    chain.first("--retry-failed", code=1)
    assert chain.next("one", "two") == []
    assert "comparing 4 shards" in chain.err
    assert chain.next("one", "two") == []
    assert "comparing" not in chain.err and "nothing left to send" in chain.err


def test_other_statuses_of_the_source_are_a_change(chain, cli):
    """``--from-status any`` where the run was begun with ``ok`` keeps what is done and sends the
    failed rows, once that is asked for.
    """
    chain.refused = {"q5", "q6"}
    chain.first(code=1)
    ask = ("--prompt", "{{ topic }}")
    chain.next("one", "two", *ask)
    assert chain.next("one", "two", *ask, "--from-status", "any", code=2) == []
    assert "input.from_status" in chain.err and "2 rows are new" in chain.err
    assert chain.next("one", "two", *ask, "--from-status", "any", "--keep-done", code=2) == []
    asked = chain.next("one", "two", *ask, "--from-status", "any", "--resend-changed")
    assert asked == ["topic 5", "topic 6"]
    cli.verified("two")


def test_rows_that_failed_keep_their_place_too(chain, cli):
    """A failed row of the chain whose request is the same moves with its error, and is not sent."""
    chain.refused = {"q2", "Check re q8 about topic 8"}
    chain.first(code=1)
    chain.next("one", "two", code=1)
    chain.refused.remove("q2")
    chain.first("--retry-failed")
    asked = chain.next("one", "two", "--resend-changed", code=1)
    assert asked == ["Check re q2 about topic 2"]
    failed = [row["source_row"] for row in chain.rows("two") if row["status"] == "error"]
    assert failed == [8]
    cli.verified("two")


def test_a_live_source_needs_to_be_allowed(chain):
    """While a run holds its directory, its answers may change."""
    chain.first()
    lock = Lock(chain.folder / "one", chain.folder / "one/checkpoint/lock")
    lock.acquire()
    try:
        assert chain.next("one", "two", code=2) == []
        assert "a run is working there" in chain.err and "batchrun status one --watch" in chain.err
        assert len(chain.next("one", "two", "--allow-partial")) == 14
    finally:
        lock.release()


def test_answers_in_a_log_are_not_passed_over(chain):
    """A source whose last session was killed has answers that no part holds: exit 2."""
    chain.refused = {"q5"}
    chain.first(code=1)
    checkpoint = chain.folder / "one/checkpoint"
    (checkpoint / "shard-00000001.2.log").write_bytes(b"")
    assert chain.next("one", "two", code=2) == []
    assert "not published yet" in chain.err
    assert len(chain.next("one", "two", "--allow-partial")) == 13


def test_answers_without_text_have_their_fields(chain, scripted, answer):
    """Tool calls, refusals and reasons are seen as the results have them."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}

    def reply(body, _headers, _nth):
        question = body["messages"][-1]["content"]
        chain.asked.append(question)
        told = json.loads(json.dumps(answer("text"))) | {"model": "answering"}
        told["choices"][0]["finish_reason"] = "stop"
        message = told["choices"][0]["message"]
        if question == "q0":
            message |= {"content": None, "tool_calls": [call]}
            told["choices"][0]["finish_reason"] = "tool_calls"
        if question == "q1":
            message |= {"content": None, "refusal": "no"}
        if question == "q2":
            message["reasoning_content"] = "because"
        return 200, {}, told

    chain.url = scripted(reply).base_url
    chain.first()
    shown = "{{ row.tool_calls[0].name }}{{ row.tool_calls[0].arguments }}|{{ row.refusal }}"
    shown += "|{{ row.reasoning }}|{{ row.finish_reason }}|{{ row.model }}|{{ row.content }}"
    asked = chain.next("one", "two", "--prompt", shown, "--limit", "3")
    assert sorted(asked) == sorted(
        [
            'f{"a":1}|||tool_calls|answering|',
            "|no||stop|answering|",
            "||because|stop|answering|text",
        ]
    )
    calls = '[{"arguments":"{\\"a\\":1}","id":"c1","name":"f","type":"function"}]'
    whole = f'{{"content":null,"refusal":null,"tool_calls":{calls}}}'
    hashed = hashlib.sha256(whole.encode()).hexdigest()
    assert chain.rows("two")[0]["source_hash"] == hashed


THRICE = ("--repeat", "3", "--prompt", "{{ repeat }}: {{ row.content }}")


def test_every_answer_is_asked_about_several_times(chain, cli):
    """With ``--repeat`` each row of the source comes so often, one behind the other, as in a run
    over files, and says which row of the source it is of; a second start sends nothing.
    """
    chain.first()
    asked = chain.next("one", "two", *THRICE)
    assert asked == sorted(f"{n}: re q{row}" for row in range(14) for n in range(3))
    rows = chain.rows("two")
    assert [row["row"] for row in rows] == list(range(42))
    assert [row["source_row"] for row in rows] == [n // 3 for n in range(42)]
    assert [row["repeat_of"] for row in rows] == [n // 3 for n in range(42)]
    assert [row["repeat"] for row in rows] == [n % 3 for n in range(42)]
    assert [row["custom_id"] for row in rows] == [f"id {n // 3}" for n in range(42)]
    assert [row["content"] for row in rows[:3]] == [f"re {n}: re q0" for n in range(3)]
    assert chain.next("one", "two", *THRICE) == []
    assert chain.next("one", "two", *THRICE, "--repeat", "2", code=2) == []
    assert "request.repeat: was 3, is 2" in chain.err
    cli.verified("two")


def test_an_answer_that_came_later_is_asked_about_so_often(chain, cli, summary):
    """A row of the source that is answered at last, and one that changed, are sent as often as
    ``--repeat`` says; all other repeats keep their answers, attempts and cost in their new places.
    """
    chain.refused = {"q5", "1: re q9"}
    chain.first(code=1)
    chain.next("one", "two", *THRICE, code=1)
    before = {(row["source_row"], row["repeat"]): row for row in chain.rows("two")}
    chain.refused = {"1: re q9"}
    chain.answers["q7"] = "another"
    chain.first("--param", "seed=1", "--resend-changed")
    assert chain.next("one", "two", *THRICE, code=2) == []
    assert "3 rows are new, 3 have another request, 36 are as before" in chain.err
    assert "6 rows are sent" in chain.err
    asked = chain.next("one", "two", *THRICE, "--resend-changed", code=1)
    assert asked == sorted(
        [*(f"{n}: re q5" for n in range(3)), *(f"{n}: another" for n in range(3))]
    )
    rows = chain.rows("two")
    assert [row["row"] for row in rows] == list(range(42))
    assert [(row["source_row"], row["repeat"]) for row in rows] == [
        (n // 3, n % 3) for n in range(42)
    ]
    for row in rows:
        old = before.get((row["source_row"], row["repeat"]))
        assert row["repeat_of"] == row["row"] // 3
        if row["source_row"] not in (5, 7):
            assert {**row, "row": 0, "repeat_of": 0} == {**old, "row": 0, "repeat_of": 0}
    assert [row["row"] for row in rows if row["status"] == "error"] == [28]
    assert summary("two")["totals"]["attempts"] == 39 + 6
    assert chain.next("one", "two", *THRICE, code=1) == []
    chain.refused = set()
    assert chain.next("one", "two", *THRICE, "--retry-failed") == ["1: re q9"]
    cli.verified("two")


def test_a_repeat_that_waits_is_in_its_place(chain, cli):
    """Answers that changed behind the limit stay until they are sent, under the numbers that their
    rows have now.
    """
    chain.refused = {"q0"}
    chain.first(code=1)
    chain.next("one", "two", *THRICE)
    chain.refused = set()
    chain.answers["q7"] = "another"
    chain.first("--param", "seed=1", "--resend-changed")
    asked = chain.next("one", "two", *THRICE, "--resend-changed", "--limit", "1")
    assert asked == [f"{n}: re q0" for n in range(3)]
    waiting = chain.rows("two")[21:24]
    assert [row["content"] for row in waiting] == [f"re {n}: re q7" for n in range(3)]
    assert [(row["source_row"], row["repeat_of"], row["repeat"]) for row in waiting] == [
        (7, 7, n) for n in range(3)
    ]
    done = cli("verify", "two")
    assert done.code == 0 and "3 rows are about an answer" in done.out, done.out
    assert chain.next("one", "two", *THRICE, "--resend-changed") == [
        f"{n}: another" for n in range(3)
    ]
    cli.verified("two")


def test_each_answer_of_a_repeated_run_is_a_row(chain, cli):
    """A source with ``--repeat`` gives a row for each of its answers. Where both runs repeat, the
    columns of the source make way, and templates see them by the names that they have now.
    """
    chain.first("--repeat", "2", "--prompt", "{{ text }}.{{ repeat }}")
    asked = chain.next("one", "two", "--prompt", "{{ row.content }} {{ repeat_of }} {{ repeat }}")
    assert asked == sorted(f"re q{n}.{i} {n} {i}" for n in range(14) for i in range(2))
    assert [row["source_row"] for row in chain.rows("two")] == list(range(28))
    cli.verified("two")
    both = ("--repeat", "2", "--prompt", "{{ row.content }} {{ input_repeat }} {{ repeat }}")
    asked = chain.next("one", "three", *both)
    assert asked == sorted(
        f"re q{n}.{i} {i} {j}" for n in range(14) for i in range(2) for j in range(2)
    )
    rows = chain.rows("three")
    assert [row["source_row"] for row in rows] == [n // 2 for n in range(56)]
    assert [row["repeat_of"] for row in rows] == [n // 2 for n in range(56)]
    assert [row["input_repeat_of"] for row in rows] == [n // 4 for n in range(56)]
    assert [row["input_repeat"] for row in rows] == [n // 2 % 2 for n in range(56)]
    cli.verified("three")
    chain.next("three", "four", "--prompt", "{{ row.content }}")
    rows = chain.rows("four")
    assert [row["source_row"] for row in rows] == list(range(56))
    assert [row["input_source_row"] for row in rows] == [n // 2 for n in range(56)]


def test_messages_of_a_repeated_source_are_found(chain):
    """``row.messages`` of a run with ``--repeat`` are those of the repeat, kept or made again."""
    asks = ("rows.jsonl", "--repeat", "2", "--prompt", "{{ text }}.{{ repeat }}")
    shown = ("--repeat", "2", "--prompt", "{{ row.messages[0].content }} {{ repeat }}")
    wanted = sorted(f"q{n}.{i} {j}" for n in range(14) for i in range(2) for j in range(2))
    chain.run(*asks, "-o", "one")
    assert chain.next("one", "two", *shown) == wanted
    chain.run(*asks, "-o", "kept", "--requests", "all")
    (chain.folder / "rows.jsonl").unlink()
    assert chain.next("kept", "three", *shown) == wanted


def test_a_repeated_chain_is_foretold(chain, cli, monkeypatch):
    """``validate``, ``estimate`` and ``--dry-run`` count every repeat, also where rows moved; and
    in Python ``repeat`` goes with ``from_``.
    """
    chain.refused = {"q5"}
    chain.first(code=1)
    chain.next("one", "two", *THRICE)
    chain.refused = set()
    chain.first("--retry-failed")
    for command in ("validate", "estimate"):
        told = cli(command, "--from", "one", *THRICE, "--model", "m", "--json")
        assert json.loads(told.out)["rows"] == 42
    again = ("run", "--from", "one", "-o", "two", *THRICE, *QUICK, "--model", "m")
    told = cli(*map(str, again), "--base-url", chain.url, "--dry-run", "--resend-changed", "--json")
    assert json.loads(told.out)["rows"] == {"input": 42, "done": 39, "to_send": 3, "bad": 0}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-simulated")
    given = {"model": "m", "base_url": chain.url, "repeat": 3}
    found = batchrun.run(from_="one", prompt="{{ row.content }}", output="three", **given)
    assert found.ok == 42
    assert [row["source_row"] for row in chain.rows("three")] == [n // 3 for n in range(42)]


def test_a_limit_and_a_sample_count_rows_of_the_source(chain, cli):
    """``--limit 2`` sends two answers of the source with all repeats, ``--sample 5`` draws five."""
    chain.first()
    assert len(chain.next("one", "two", *THRICE, "--limit", "2")) == 6
    assert len(chain.next("one", "two", *THRICE)) == 36
    cli.verified("two")
    assert len(chain.next("one", "three", *THRICE, "--sample", "5")) == 15
    drawn = [row["source_row"] for row in chain.rows("three")]
    assert drawn[::3] == drawn[1::3] == drawn[2::3] == sorted(set(drawn))
    assert chain.next("one", "three", *THRICE, "--sample", "5") == []
    cli.verified("three")


def test_a_lost_state_file_of_a_repeated_chain_is_found_out_again(chain, cli, summary):
    """``--repair`` makes it from the parts and the source, with every repeat in its place."""
    chain.refused = {"q5"}
    chain.first(code=1)
    chain.next("one", "two", *THRICE)
    chain.refused = set()
    chain.first("--retry-failed")
    chain.next("one", "two", *THRICE, "--resend-changed")
    for path in (chain.folder / "two/checkpoint").glob("journal.db*"):
        path.unlink()
    assert chain.next("one", "two", *THRICE, "--repair") == []
    assert summary("two")["rows"]["ok"] == 42
    assert chain.next("one", "two", *THRICE) == []
    cli.verified("two")
