"""A run directory in an S3 bucket, with input in the same one: everything works as on a disk."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading

import pandas as pd
import pyarrow.parquet as pq
import pytest

import batchrun
from batchrun.adapters.storage import object_store
from batchrun.rundir.lock import Lock
from batchrun.views import run_status
from batchrun.views.verify import verify
from tests.harness import crashpoints
from tests.harness.crashpoints import points
from tests.harness.slow import rest_slow

ROWS, SHARD_ROWS = 25, 10


def _row(number, **more):
    message = {"role": "user", "content": f"question {number:02}"}
    return {"custom_id": f"id {number}", "messages": [message], "note": number} | more


def _lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def job(cli, store, scripted, answer, here, monkeypatch):
    """A run of 25 rows; ``job.broken`` are questions that are refused."""
    monkeypatch.setattr(object_store, "WAIT_S", 0.01)
    return Job(cli, store, scripted, answer, here)


class Job:
    """The command, and what is seen of the run from outside."""

    def __init__(self, cli, store, scripted, answer, here):
        self.cli, self.store, self._here = cli, store, here
        self.broken = {}

        def reply(body, _, nth):
            refused = self.broken.get(body["messages"][0]["content"])
            if refused is not None:
                return refused, {}, {"error": {"message": "no", "code": None}}
            return 200, {}, answer(f"answer {nth}")

        self.endpoint = scripted(reply)
        self.source = self.write(_row(n) for n in range(ROWS))
        self.address = f"s3://{store.bucket}/runs/one"

    def write(self, rows):
        """Put the input; returns its address."""
        return self.store.put("in/rows.jsonl", _lines(rows))

    def arguments(self, *more, checkpoint="cp", to=None):
        """What stands behind ``run --model m``."""
        return (
            *(self.source, "-o", to or self.address, "--no-progress", "--shard-rows", SHARD_ROWS),
            *("--base-url", self.endpoint.base_url, "--max-attempts", 2),
            *(("--checkpoint", checkpoint) if checkpoint else ()),
            *more,
        )

    def run(self, *more, **where):
        """The command, to its end."""
        return self._here(*self.arguments(*more, **where))

    def killed(self, point, *more):
        """The command in a process of its own that kills itself at a crash point."""
        done = subprocess.run(
            [
                *(sys.executable, crashpoints.__file__, point, "--"),
                *("run", "--model", "m", *map(str, self.arguments(*more))),
            ],
            cwd=self.cli.folder,
            env=self.cli._environment(self.store.env),
            capture_output=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == -9, done.stderr.decode()

    def asked(self):
        """The questions asked since the last look."""
        asked = sorted(b["messages"][0]["content"] for _, _, b in self.endpoint.requests)
        self.endpoint.requests.clear()
        return asked

    def table(self):
        """All parts as one table, as a reader of the bucket sees them."""
        return pq.read_table(f"{self.address}/results")

    def verified(self, kinds=2):
        """Everything adds up, digests of every kind of part included."""
        report = verify.check(self.address, str(self.cli.folder / "cp"))
        assert report.problems == []
        assert report.digests == kinds * report.parts > 0
        return report


def _question(number):
    return f"question {number:02}"


@pytest.mark.parametrize("damage", rest_slow(["cut off", "replaced", "removed"]))
def test_a_part_that_is_not_what_was_published(job, damage):
    """Exit code 2 names the object, and nothing is sent; --repair mends it."""
    assert job.run().code == 0
    job.asked()
    key = "runs/one/results/part-00000001.parquet"
    data = job.store.get(key)
    if damage == "removed":
        job.store.client.delete_object(Bucket=job.store.bucket, Key=key)
    else:
        other = job.store.get("runs/one/results/part-00000000.parquet")
        job.store.put(key, data[:-9] if damage == "cut off" else other)
    done = job.run()
    assert done.code == 2 and f"{job.store.bucket}/{key} is damaged" in done.err, done.err
    assert job.asked() == []
    assert job.run("--repair").code == 0
    assert job.asked() == [_question(n) for n in range(10, 20)]
    job.verified()
    job.store.put(
        "runs/one/results/part-00000000.parquet",
        other := job.store.get("runs/one/results/part-00000000.parquet"),
    )
    assert other and job.run().code == 0  # the same content, put there once more


@pytest.mark.slow
def test_killed_in_the_middle_resumed_and_edited(job):
    """At every moment around an upload; no row is lost, no done row is sent again, and an edit
    sends its row alone.
    """
    for point in points("store"):
        job.killed(point)
        report = verify.check(job.address, str(job.cli.folder / "cp"))
        assert not [p for p in report.problems if "cannot be read" in p]
    done = job.run()
    assert done.code == 0, done.err
    assert f"next: batchrun verify {job.address} --checkpoint cp" in done.err
    assert job.verified().rows == ROWS
    assert set(job.asked()) == {_question(n) for n in range(ROWS)}
    assert not [p for p in (job.cli.folder / "cp" / "upload").rglob("*") if p.is_file()]

    job.write(_row(n, **({"temperature": 0.5} if n == 17 else {})) for n in range(ROWS))
    assert job.run().code == 2
    done = job.run("--resend-changed")
    assert done.code == 0, done.err
    assert job.asked() == [_question(17)]
    job.verified()
    assert job.table()["note"].to_pylist() == list(range(ROWS))
    frame = pd.read_parquet(f"{job.address}/results")
    assert frame.status.eq("ok").all() and len(frame) == ROWS
    for kind in ("results", "attempts"):
        assert len(job.store.keys(f"runs/one/{kind}/")) == 3
    assert "nothing left to send" in job.run().err


def test_failed_rows_are_sent_again(job):
    """Their parts are replaced, others keep their bytes; status and export read the store."""
    job.broken = {_question(12): 400, _question(23): 400}
    assert job.run().code == 1
    untouched = job.store.get("runs/one/results/part-00000000.parquet")
    job.asked()
    job.broken.clear()
    assert job.run("--retry-failed").code == 0
    assert job.asked() == [_question(12), _question(23)]
    assert job.store.get("runs/one/results/part-00000000.parquet") == untouched
    assert job.table()["attempts"].to_pylist() == [1 + (n in (12, 23)) for n in range(ROWS)]
    job.verified()
    assert run_status.read(job.address)["state"] == "complete"
    exported = job.cli("export", job.address, "-o", "all.jsonl", env=job.store.env)
    assert exported.code == 0, exported.err
    lines = (job.cli.folder / "all.jsonl").read_text().splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == [f"id {n}" for n in range(ROWS)]


def test_a_stop_leaves_provisional_parts_that_a_resume_replaces(job):
    """What is answered can be read from the bucket, whatever comes."""
    job.broken = {_question(n): 402 for n in range(14, ROWS)}
    stopped = job.run("--concurrency", 1)
    assert stopped.code == 3, stopped.err
    assert 0 < job.table().num_rows < ROWS
    report = verify.check(job.address, str(job.cli.folder / "cp"))
    assert report.problems == []
    job.broken.clear()
    assert job.run().code == 0
    job.verified()


class Proxy:
    """A way to the store that can be cut: then nothing answers there."""

    def __init__(self, target):
        self._target = target
        self._server = None
        self.port = 0
        self.cut_at = None
        self.open()

    def open(self):
        """Let connections through."""
        self._server = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._server.getsockname()[1]
        self._pipes = []
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def cut(self):
        """Refuse connections, and end those there are."""
        for end in (self._server, *self._pipes):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, server):
        with contextlib.suppress(OSError):
            while True:
                near, _ = server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pipes += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if self.cut_at is not None and self.cut_at in data:
                    self.cut_at = None
                    self.cut()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.mark.slow
def test_a_store_that_is_gone_for_a_while(job, s3_server, impatient_s3):
    """Exit 5 with what is safe; the same command goes on and sends nothing twice."""
    proxy = Proxy(int(s3_server.rpartition(":")[2]))
    impatient_s3(f"http://127.0.0.1:{proxy.port}")
    job.source = job.cli.folder / "rows.jsonl"
    job.source.write_bytes(_lines(_row(n) for n in range(ROWS)))
    proxy.cut_at = b"PUT /" + f"{job.store.bucket}/runs/one/results/part-00000002".encode()
    done = job.run("--concurrency", 1)
    assert done.code == 5, done.err
    assert "cannot write s3://" in done.err and "results/part-00000002" in done.err
    assert "safe in the checkpoint" in done.err and "same command" in done.err
    assert job.run().code == 2  # nothing is sent while the store cannot be asked
    proxy.open()
    assert job.run().code == 0
    asked = job.asked()
    assert set(asked) == {_question(n) for n in range(ROWS)}
    assert len(asked) <= ROWS + 1, "an answer that was durable was asked for again"
    job.verified()
    proxy.cut()


def test_what_cannot_be_written_is_told_before_anything_is_sent(job):
    """No checkpoint, one in the store, no such bucket, another's prefix, other files."""
    job.store.put("runs/else/notes.txt", b"")
    refused = {
        "--checkpoint DIR": job.run(checkpoint=None),
        "local disk": job.run(checkpoint=f"s3://{job.store.bucket}/cp"),
        "cannot write s3://no-such-bucket-here/x/owner.json": job.run(
            to="s3://no-such-bucket-here/x"
        ),
        "holds other files (notes.txt)": job.run(to=f"s3://{job.store.bucket}/runs/else"),
        "credentials do not belong": job.run(to="s3://key:secret@bucket/run"),
        "nosuch://": job.run(to="nosuch://bucket/run"),
    }
    for words, done in refused.items():
        assert (done.code, words in done.err) == (2, True), done.err
        assert "Traceback" not in done.err and "secret@" not in done.err
    assert job.asked() == []
    shutil.rmtree(job.cli.folder / "cp")
    assert job.run("--limit", 5).code == 0
    other = job.run(checkpoint="cp2")
    assert other.code == 2 and f"is {job.cli.folder / 'cp'} on " in other.err, other.err
    elsewhere = job.run(to=f"{job.address}-2")
    assert elsewhere.code == 2 and f"is the checkpoint of {job.address}" in elsewhere.err
    lock = Lock(job.cli.folder / "cp", job.cli.folder / "cp" / "lock")
    lock.acquire()
    held = job.run()
    assert run_status.read(job.address, "cp")["state"] == "running"
    lock.release()
    assert held.code == 2 and "in use by another run" in held.err
    assert len(job.asked()) == 5
    assert job.store.keys("runs/one-2") == []


def test_damaged_objects_are_repaired(job):
    """What was wrong is kept on the disk; only rows that are lost are sent again."""
    assert job.run().code == 0
    job.asked()
    job.store.put("runs/one/results/part-00000001.parquet", b"garbage")
    job.store.put("runs/one/attempts/part-00000002.parquet", b"garbage")
    report = verify.check(job.address, str(job.cli.folder / "cp"))
    assert len([p for p in report.problems if "is not what was written" in p]) == 2
    done = job.run("--repair")
    assert done.code == 0, done.err
    assert job.asked() == [_question(n) for n in range(10, 20)]
    damaged = sorted((job.cli.folder / "cp" / "damaged").iterdir())
    assert [path.read_bytes() for path in damaged] == [b"garbage"] * 2
    job.verified()


def test_a_lost_checkpoint_is_rebuilt_from_the_store(job):
    """A new one takes the prefix over; who had it before is told so, and stops."""
    assert job.run().code == 0
    job.asked()
    (job.cli.folder / "cp").rename(job.cli.folder / "lost")
    assert job.run().code == 2
    done = job.run("--repair")
    assert done.code == 0, done.err
    assert job.asked() == []
    job.verified()
    before = job.run(checkpoint="lost")
    assert before.code == 2 and "was taken over by another run" in before.err, before.err
    assert job.run("--repair", checkpoint="lost").code == 2


@pytest.mark.slow
def test_restart_keeps_the_old_contents_wherever_it_is_killed(job):
    """Copied, then the checkpoint renamed, then deleted: nothing is lost in between."""
    assert job.run().code == 0
    old = job.store.get("runs/one/results/part-00000002.parquet")
    for point in points("store-restart"):
        job.killed(point, "--restart")
    job.asked()
    refused = job.run()
    assert refused.code == 2 and "--restart" in refused.err
    done = job.run("--restart")
    assert done.code == 0, done.err
    assert "the old contents of" in done.err
    assert len(job.asked()) == ROWS
    job.verified()
    kept = [k for k in job.store.keys("runs/one.old-") if "results/part-00000002" in k]
    assert len(kept) == 3 and {job.store.get(key) for key in kept} == {old}
    checkpoints = sorted(job.cli.folder.glob("cp.old-*"))
    moved = f"s3://{job.store.bucket}/{kept[0].partition('/results')[0]}"
    assert verify.check(moved, str(checkpoints[0])).problems == []


@pytest.mark.slow
def test_a_restart_takes_the_old_answers_wherever_it_is_killed(job):
    """The same command continues: one copy is set aside, and nothing is asked for again."""
    assert job.run().code == 0
    job.asked()
    again = ("--restart", "--reuse", "old", "--carry", "none")
    for point in ("restart.noted:1", "restart.copied:1", "restart.renamed:1", "restart.ended:1"):
        job.killed(point, *again)
    done = job.run(*again)
    assert done.code == 0, done.err
    assert job.asked() == []
    kept = [k for k in job.store.keys("runs/one.old-") if "results/part-00000002" in k]
    assert len(kept) == 1 and len(list(job.cli.folder.glob("cp.old-*"))) == 1
    assert job.table().column("reused_from").null_count == 0
    job.verified()


def test_answers_are_taken_from_a_bucket(job):
    """Another run directory in a store is read where it is."""
    assert job.run().code == 0
    job.asked()
    done = job.run("--reuse", job.address, to=f"{job.address}-more", checkpoint="more")
    assert done.code == 0, done.err
    assert job.asked() == []


def test_the_python_api_writes_into_a_bucket(store, scripted, answer, tmp_path):
    """Its summary says where the results are, as text that readers take."""
    endpoint = scripted(lambda _b, _h, nth: (200, {}, answer(f"answer {nth}")))
    address = f"s3://{store.bucket}/api"
    options = {"output": address, "checkpoint": tmp_path / "cp", "model": "m"}
    done = batchrun.run([_row(n) for n in range(12)], base_url=endpoint.base_url, **options)
    assert (done.status, done.path) == ("complete", address)
    assert pd.read_parquet(done.results_path).note.tolist() == list(range(12))
    assert pq.read_table(done.attempts_path).num_rows == 12


@pytest.mark.slow
def test_scores_in_a_store(job, cli):
    """Scores lie beside the results; they can be computed again, queried and proven there."""
    (cli.folder / "c.toml").write_text(
        '[scores]\nodd = "contains_text(content, \'answer\')"\nlength = { python = "s.py:f" }\n'
        '[metrics]\nshare = "avg(odd)"\nlength = "avg(length)"\n[gates]\nshare = ">= 0.1"\n'
    )
    (cli.folder / "s.py").write_text(
        "def f(table):\n    return [len(c) for c in table.column('content').to_pylist()]\n"
    )
    done = job.run("-c", "c.toml")
    assert done.code == 0, done.err
    scores = pq.read_table(f"{job.address}/scores")
    assert scores.column("row").to_pylist() == list(range(ROWS))
    assert set(scores.column("odd").to_pylist()) == {True}
    assert not (cli.folder / "cp" / "upload" / "scores").exists() or not list(
        (cli.folder / "cp" / "upload" / "scores").iterdir()
    )
    job.verified()
    again = batchrun.score(job.address, metrics={"n": "count(*)"}, checkpoint="cp")
    assert again.metrics["n"]["value"] == ROWS
    done = cli(
        "query", job.address, "SELECT count(*) AS n FROM results", "--json", env=job.store.env
    )
    assert json.loads(done.out) == [{"n": ROWS}], done.err


@pytest.mark.parametrize("times", rest_slow([1, 2]))
def test_a_chain_of_runs_in_a_bucket(job, times):
    """The answers of a run in a bucket are the input of another one there, with ``--repeat`` each
    so often: a source that changed moves rows as on a disk, and one whose checkpoint is elsewhere
    is known by its objects' marks.
    """
    job.broken = {"question 04": 413}
    assert job.run().code == 1
    out = f"s3://{job.store.bucket}/runs/two"
    ask = ("--prompt", "Check {{ row.content }}", "--no-progress", "--shard-rows", SHARD_ROWS)
    ask = (*ask, "--repeat", times)
    command = ("--from", job.address, "-o", out, *ask, "--base-url", job.endpoint.base_url)
    checkpoint = ("--checkpoint", "cp-two")
    assert job._here(*command, *checkpoint).code == 0
    asked = len(job.endpoint.requests)
    assert "nothing left to send" in job._here(*command, *checkpoint).err
    job.broken = {}
    assert job.run("--retry-failed").code == 0
    refused = job._here(*command, *checkpoint)
    words = f"{times} row{'s are' if times > 1 else ' is'} new, {24 * times} are as before"
    assert refused.code == 2 and words in refused.err, refused.err
    (job.cli.folder / "cp").rename(job.cli.folder / "away")
    done = job._here(*command, *checkpoint, "--resend-changed")
    assert done.code == 0, done.err
    assert len(job.endpoint.requests) == asked + 1 + times
    report = verify.check(out, str(job.cli.folder / "cp-two"))
    assert report.problems == [] and report.rows == ROWS * times


def test_requests_are_kept_and_rows_shown_in_a_store(job, cli):
    """`--requests` puts its parts into the bucket, `show` finds rows and their requests there, with
    the checkpoint and without it, verify proves them, and a retry keeps those that stay.
    """
    job.broken[_question(3)] = 400
    done = job.run("--requests", "all")
    assert done.code == 1, done.err
    kept = pq.read_table(f"{job.address}/requests")
    assert kept.column("row").to_pylist() == list(range(ROWS))
    assert _question(7) in kept.column("body").to_pylist()[7]
    job.verified(kinds=3)

    def show(*flags):
        done = cli("show", job.address, *flags, "--json", "--content", env=job.store.env)
        assert done.code == 0, done.err
        return done.json["rows"]

    for where in ((), ("--checkpoint", "cp")):
        (row,) = show("id 7", *where)
        assert (row["row"], row["request"]["source"]) == (7, "requests")
        assert row["request"]["body"]["messages"][0]["content"] == _question(7)
        assert row["input"]["note"] == 7 and len(row["attempts"]) == 1
        (row,) = show("--errors", *where)
        assert (row["row"], row["error_class"]) == (3, "invalid_request")
    job.broken.clear()
    assert job.run("--retry-failed").code == 0
    assert job.asked().count(_question(3)) == 2
    assert pq.read_table(f"{job.address}/requests").equals(kept)
    job.verified(kinds=3)


@pytest.mark.slow
def test_costs_follow_judges_into_a_store(job, cli):
    """The run directories in `judges/` of a bucket are part of what the run in it cost."""
    prices = '[prices."m"]\ninput = 1\noutput = 1\n'
    (cli.folder / "prices.toml").write_text(prices)
    assert job.run("-c", "prices.toml").code == 0
    judge = f"{job.address}/judges/tone"
    assert job.run("-c", "prices.toml", "--limit", 5, to=judge, checkpoint="cp2").code == 0
    done = cli("costs", job.address, judge, "--json", env=job.store.env)
    assert done.code == 0, done.err
    lines = {row["judge"]: row["attempts"] for row in done.json["rows"]}
    assert lines == {None: ROWS, "tone": 5}
    assert done.json["total"]["runs"] == 1
