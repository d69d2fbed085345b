"""``--requests``: the bodies of requests in ``requests/``, in step with the results."""

import hashlib
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.views.verify import verify


@pytest.fixture
def run(here, scripted, answer, jsonl, chat, cli):
    """A run of ten rows in parts of four; calling it runs the command. Rows of ``broken`` fail."""

    def reply(body, _headers, _nth):
        number = int(body["messages"][0]["content"].split()[1])
        if number in go.broken:
            return 413, {}, {"error": {"message": "no"}}
        return 200, {}, answer(f"answer to {number}")

    endpoint = scripted(reply)

    def go(*flags, rows=None, folder="run"):
        source = jsonl(rows or [chat(n) for n in range(10)])
        done = here(
            *(source, "-o", folder, "--base-url", endpoint.base_url, "--shard-rows", "4"),
            *("--no-progress", *flags),
        )
        assert verify.check(str(cli.folder / folder)).problems == []
        return done

    go.broken = set()
    go.folder, go.endpoint = cli.folder / "run", endpoint
    return go


def _kept(folder):
    """The bodies by row; every one has the hash that results have."""
    table = pq.read_table(folder / "requests")
    results = pq.read_table(folder / "results", columns=["row", "request_hash"])
    hashes = dict(zip(*(column.to_pylist() for column in results.columns), strict=True))
    kept = {}
    for line in table.to_pylist():
        assert line["request_hash"] == hashes[line["row"]]
        assert hashlib.sha256(line["body"].encode()).hexdigest() == line["request_hash"]
        kept[line["row"]] = json.loads(line["body"])
    assert len(kept) == table.num_rows
    return kept


def test_none_are_kept_unless_asked_for(run):
    """Off: no folder, and nothing of it in the record of the run."""
    assert run().code == 0
    assert not (run.folder / "requests").exists()
    assert (
        "output.requests" not in json.loads((run.folder / "summary.json").read_text())["settings"]
    )


def test_all_are_kept_as_they_were_sent(run):
    """Every row has its body, in parts like those of the results, readable by the owner alone."""
    assert run("--requests", "all", "--temperature", "0.5").code == 0
    kept = _kept(run.folder)
    sent = [body for _, _, body in run.endpoint.requests if body is not None]
    assert sorted(kept) == list(range(10))
    assert sorted(map(json.dumps, kept.values())) == sorted(map(json.dumps, sent))
    assert kept[3]["temperature"] == 0.5
    for path in (run.folder / "requests").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    names = [{p.name for p in (run.folder / k).iterdir()} for k in ("results", "requests")]
    assert names[0] == names[1]


def test_those_of_failed_rows_go_when_they_are_answered(run):
    """``errors`` keeps the bodies of the rows that are failed now, and of no others."""
    run.broken = {1, 7}
    assert run("--requests", "errors").code == 1
    assert sorted(_kept(run.folder)) == [1, 7]
    run.broken = {7}
    assert run("--requests", "errors", "--retry-failed").code == 1
    assert sorted(_kept(run.folder)) == [7]


def test_a_session_without_the_flag_keeps_what_is_there(run):
    """A retry without the flag leaves the bodies, which are those of the same requests."""
    run.broken = {1, 7}
    assert run("--requests", "all").code == 1
    before = _kept(run.folder)
    run.broken = set()
    assert run("--retry-failed").code == 0
    assert _kept(run.folder) == before


def test_changed_requests_take_the_place_of_old_ones(run, chat):
    """A row that is sent again with another request has the new body, or none, never the old."""
    assert run("--requests", "all").code == 0
    rows = [chat(n) for n in range(10)]
    rows[2]["messages"][0]["content"] = "say 2 again"
    assert run("--requests", "all", "--resend-changed", rows=rows).code == 0
    assert _kept(run.folder)[2]["messages"][0]["content"] == "say 2 again"
    rows[3]["messages"][0]["content"] = "say 3 again"
    assert run("--resend-changed", rows=rows).code == 0
    assert sorted(_kept(run.folder)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_rows_that_were_never_sent_have_none(run, chat):
    """A bad row has no request; its part is there all the same."""
    rows = [{"messages": 5}, chat(1), {"nothing": 1}]
    assert run("--requests", "all", rows=rows).code == 1
    assert sorted(_kept(run.folder)) == [1]


@pytest.mark.parametrize("which", ["all", "errors"])
def test_reused_answers_have_their_own_requests(run, which):
    """A row that takes the answer of another run keeps the body that it did not have to send."""
    assert run().code == 0
    asked = len(run.endpoint.requests)
    assert run("--requests", which, "--reuse", "run", folder="second").code == 0
    assert len(run.endpoint.requests) == asked
    second = run.folder.parent / "second"
    if which == "all":
        assert sorted(_kept(second)) == list(range(10))
    else:
        assert not (second / "requests").exists() or _kept(second) == {}


def test_a_later_start_notices_damage_and_repair_mends_it(run):
    """A part that is not what was published stops the next start; --repair sets it aside, and no
    row is sent for it.
    """
    run.broken = {9}
    assert run("--requests", "all").code == 1
    path = run.folder / "requests" / "part-00000001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert [p for p in verify.check(str(run.folder)).problems if "requests/part-00000001" in p]
    asked = len(run.endpoint.requests)
    with pytest.raises(AssertionError):  # verify still has something to say
        run("--requests", "all", "--retry-failed")
    assert len(run.endpoint.requests) == asked
    done = run("--requests", "all", "--repair")
    assert done.code == 1 and "requests/part-00000001.parquet is damaged" in done.err, done.err
    assert len(run.endpoint.requests) == asked
    assert sorted(_kept(run.folder)) == [0, 1, 2, 3, 8, 9]


def test_a_lost_state_file_is_made_again_with_them(run):
    """--repair finds the bodies again when the journal is gone."""
    assert run("--requests", "all").code == 0
    before = _kept(run.folder)
    shutil.rmtree(run.folder / "checkpoint")
    assert run("--requests", "all", "--repair").code == 0
    assert _kept(run.folder) == before


def test_keys_are_taken_out_of_bodies(scripted, answer, jsonl, cli):
    """The key of the endpoint never reaches the disk, although a row holds it."""
    key = "sk-secret-0123456789abcdef"
    rows = jsonl([{"messages": [{"role": "user", "content": f"say {key}"}]}])
    endpoint = scripted(lambda *_: (200, {}, answer("no")))
    done = cli(
        *(
            "run",
            rows,
            "--model",
            "m",
            "-o",
            "run",
            "--base-url",
            endpoint.base_url,
            "--requests",
            "all",
        ),
        *("--carry", "none", "--no-progress", "--api-key-env", "MY_KEY"),
        env={"MY_KEY": key},
    )
    assert done.code == 0, done.err
    report = verify.check(str(cli.folder / "run"))
    assert report.problems == [] and any("credentials" in note for note in report.notes)
    for path in (cli.folder / "run").rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    [body] = pq.read_table(cli.folder / "run" / "requests")["body"].to_pylist()
    assert "say [redacted]" in body


def _rewritten(folder, change):
    path = folder / "requests" / "part-00000000.parquet"
    table = pq.ParquetFile(path).read()
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[1:], "has 3 rows, the journal says 4"),
        (lambda rows: [rows[0] | {"body": "{}"}, *rows[1:]], "the body of row 0 has another hash"),
        (lambda rows: [rows[0] | {"row": 1}, *rows[1:]], "another request for row 1"),
    ],
)
def test_verify_holds_them_against_the_results(run, change, words):
    """What was changed in a part of requests is found, whatever its digest."""
    assert run("--requests", "all").code == 0
    _rewritten(run.folder, change)
    problems = verify.check(str(run.folder)).problems
    assert any(words in problem for problem in problems), problems
