"""Real processes, killed while they send done rows again, or repair what is damaged."""

import signal
import subprocess
import sys
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS = 22


@pytest.fixture
def job(cli, scripted, answer, jsonl, chat):
    """A finished run of 22 rows in parts of 8, every third of which failed with 413."""
    return _Job(cli, scripted, answer, jsonl([chat(n, note=n) for n in range(ROWS)]))


class _Job:
    def __init__(self, cli, scripted, answer, source):
        self.broken = set(range(0, ROWS, 3))
        self.asked = Counter()
        self.cli = cli
        self.folder = cli.folder / "run"

        def reply(body, _headers, nth):
            number = int(body["messages"][0]["content"].split()[1])
            self.asked[number] += 1
            if number in self.broken:
                return 413, {}, {"error": {"message": "no"}}
            return 200, {}, answer(f"answer {nth} to {number}")

        self._arguments = [
            *("run", source, "-o", "run", "--model", "m", "--shard-rows", "8", "--no-progress"),
            *("--concurrency", "2", "--base-url", scripted(reply).base_url),
        ]
        assert cli(*self._arguments).code == 1

    def killed_at(self, point, *flags):
        """The command with these flags, killed at a durable step."""
        module = ["batchrun.testing.crashpoints", point, "--"]
        done = subprocess.run(
            [sys.executable, "-m", *module, *map(str, self._arguments), *flags],
            cwd=self.cli.folder,
            env=self.cli._environment(None),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, (point, done.stderr.decode())

    def run(self, *flags):
        """The command to its end."""
        return self.cli(*self._arguments, *flags)

    def table(self, kind="results"):
        """The parts of a kind as one table."""
        parts = sorted((self.folder / kind).glob("part-*.parquet"))
        return pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])

    def whole(self):
        """Every row once, with its own answer or a failure; the answers by row."""
        rows = self.table().to_pylist()
        assert [row["row"] for row in rows] == [row["note"] for row in rows] == list(range(ROWS))
        answers = {row["row"]: row["content"] for row in rows if row["status"] == "ok"}
        assert all(text.endswith(f" to {number}") for number, text in answers.items())
        return answers

    def accounted(self):
        """The ledger has what the server counted, and what a kill cut off besides."""
        self.cli.verified("run")
        ledger = self.table("attempts").to_pylist()
        lines = Counter(line["row"] for line in ledger)
        cut = Counter(line["row"] for line in ledger if line["error_code"] == "interrupted")
        for number in range(ROWS):
            least = self.asked[number]
            assert least <= lines[number] <= least + cut[number], number
            numbers = [line["attempt"] for line in ledger if line["row"] == number]
            assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.timeout(180)
def test_killed_while_failed_rows_are_sent_again(job):
    """At every step each row has its old outcome or its new one, an answer once there stays, and
    the ledger misses nothing.
    """
    before = job.whole()
    points = ["log.synced:2", "draft.renamed:2", "draft.renamed:3", "seal.written:1"]
    for point in [*points, "seal.committed:2"]:
        job.killed_at(point, "--retry-failed")
        job.broken.discard(max(job.broken))
        after = job.whole()
        assert before.items() <= after.items()
        before = after
    plain = job.run()
    assert plain.code == 1, plain.err
    job.accounted()
    job.broken.clear()
    done = job.run("--retry-failed")
    assert done.code == 0, done.err
    assert before.items() <= job.whole().items()
    job.accounted()


def test_killed_between_the_last_part_and_the_summary(job):
    """A summary that is older than the parts is written again by the next start."""
    job.broken = {21}
    assert job.run("--retry-failed").code == 1
    job.broken.clear()
    job.killed_at("seal.committed:1", "--retry-failed")
    assert job.run().code == 0
    job.accounted()


@pytest.mark.timeout(180)
def test_killed_while_changed_rows_are_sent_again(job):
    """A resend that was killed is not forgotten: a plain start refuses, the same command goes on,
    and no row is sent twice for it but those that were out.
    """
    job.broken.clear()
    assert job.run("--retry-failed").code == 0
    answers, asked = job.whole(), Counter(job.asked)
    change = ("--param", "seed=1", "--resend-changed")
    for point in ("log.synced:2", "draft.renamed:2", "seal.committed:1"):
        job.killed_at(point, *change)
        job.whole()
        refused = job.run("--param", "seed=1")
        assert refused.code == 2 and "--resend-changed" in refused.err
    assert job.run(*change).code == 0
    now = job.whole()
    assert all(now[number] != answers[number] for number in range(ROWS))
    assert all(1 <= job.asked[number] - asked[number] <= 2 for number in range(ROWS))
    job.accounted()
    assert job.run("--param", "seed=1").code == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["results", "attempts"])
def test_killed_while_a_part_is_repaired(job, kind):
    """Whatever a killed repair left is refused without --repair, and mended with it: other parts
    stay as they are, and so does the part that was sound.
    """
    before = job.whole()
    part = job.folder / kind / "part-00000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    others = {
        path: path.read_bytes()
        for path in job.folder.glob(f"{kind}/part-*.parquet")
        if path != part
    }
    for point in ("aside.moved:1", "seal.committed:1", "draft.renamed:1", "draft.renamed:2"):
        job.killed_at(point, "--repair")
        refused = job.run()
        assert refused.code == 2 and "--repair" in refused.err, (point, refused.err)
    asked = job.asked.total()
    done = job.run("--repair")
    assert done.code == 1, done.err
    after = job.whole()
    assert job.asked.total() - asked == (8 if kind == "results" else 0)
    assert {n for n, text in before.items() if after[n] != text} == (
        {n for n in range(8, 16) if n in before} if kind == "results" else set()
    )
    assert all(path.read_bytes() == data for path, data in others.items())
    assert len(list((job.folder / "checkpoint" / "damaged").iterdir())) == 1
    job.cli.verified("run")


@pytest.mark.timeout(180)
def test_killed_while_the_state_file_is_made_again(job):
    """The settings are noted last: until then only --repair opens the directory, and no row is
    ever sent.
    """
    before, asked = job.whole(), job.asked.total()
    for path in (job.folder / "checkpoint").glob("journal.db*"):
        path.unlink()
    for point in ("seal.written:1", "draft.renamed:2", "seal.committed:4"):
        job.killed_at(point, "--repair")
        refused = job.run()
        assert refused.code == 2 and "--repair" in refused.err, (point, refused.err)
    assert job.run("--repair").code == 1
    assert job.whole() == before and job.asked.total() == asked
    job.accounted()
