"""Real processes, killed: at every durable step, and at any moment."""

import hashlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.journal.flight_log import read_notes
from tests.harness.crashpoints import points

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("BATCHRUN_CRASH_KILLS", "20"))
SEED = int(os.environ.get("BATCHRUN_CRASH_SEED", "1"))
ROWS_PER_KILL = 30
SHARD_ROWS = 50
CONCURRENCY = 8
LATENCY_S = 0.08
"""Eight at a time then make 100 rows a second: slow enough that the rows outlast the kills."""

MOMENT_S = (0.02, 0.35)
"""When a session is killed that is killed at any moment: so long after its first request."""

ONE_SESSION_S = 240


def _environment():
    """The environment of a process: this checkout, and no proxy between it and the simulator."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "sk-simulated"}


@dataclass
class Simulator:
    """A running ``batchrun simulate`` and what it saw."""

    port: int
    log: Path

    def stats(self, *, detail=False):
        """The ledger at the server's side."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", "/stats?detail=1" if detail else "/stats")
        found = json.loads(connection.getresponse().read())
        connection.close()
        return found

    def quiet(self):
        """How often each request was asked, once nothing is in flight any more."""
        deadline_s = time.monotonic() + 20
        while self.stats()["in_flight"]:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        return Counter(
            {digest: asks["asked"] for digest, asks in self.stats(detail=True)["requests"].items()}
        )

    def ends(self):
        """How the exchanges of each request ended so far, oldest first."""
        found = defaultdict(list)
        for line in self.log.read_text("utf-8").splitlines():
            exchange = json.loads(line)
            found[exchange["hash"]].append(exchange["status"])
        return found


@contextmanager
def _simulator(folder, *flags):
    log = folder / "exchanges.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "batchrun", "simulate", "--json", "--log", str(log), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(),
    )
    try:
        yield Simulator(json.loads(process.stdout.readline())["port"], log)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def _bodies(count):
    return [
        {
            "model": "m",
            "messages": [{"role": "user", "content": f"Ticket {n}: what is {n} squared?"}],
            "temperature": n % 3 / 2,
        }
        for n in range(count)
    ]


def _hash(body):
    canonical = msgspec.json.encode({key: body[key] for key in sorted(body)})
    return hashlib.sha256(canonical).hexdigest()


def _write_jsonl(path, bodies):
    with path.open("w", encoding="utf-8") as file:
        for n, body in enumerate(bodies):
            row = {"custom_id": f"id-{n}", **body, "ticket": n, "label": f"läbel {n}" * (n % 4)}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_parquet(path, bodies):
    table = pa.table(
        {
            "messages": [json.dumps(body["messages"]) for body in bodies],
            "model": [body["model"] for body in bodies],
            "temperature": [body["temperature"] for body in bodies],
            "ticket": pa.array(range(len(bodies)), pa.int32()),
            "label": [f"läbel {n}" * (n % 4) for n in range(len(bodies))],
        }
    )
    pq.write_table(table, path, row_group_size=77)


@dataclass
class Job:
    """One run directory and the command that fills it."""

    sessions: Callable
    folder: Path
    rows: Path
    simulator: Simulator
    digests: list[str]
    shard_rows: int = SHARD_ROWS
    seen: dict[str, list[object]] = field(default_factory=lambda: defaultdict(list))
    """How each request's exchanges had ended at the last kill."""
    owed: set[int] = field(default_factory=set)
    """Rows that were out at a kill and were not sent again since."""
    resent: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)

    def arguments(self):
        """The same for every session."""
        return [
            "run",
            str(self.rows),
            "-o",
            str(self.folder),
            f"--base-url=http://127.0.0.1:{self.simulator.port}/v1",
            f"--concurrency={CONCURRENCY}",
            f"--shard-rows={self.shard_rows}",
            "--max-attempts=20",
            "--no-progress",
        ]

    def start(self, point=None):
        """Start a session, with a crash point or without."""
        return self.sessions(self.arguments(), self.rows.parent, point)

    def finish(self):
        """Run a session to its end."""
        session = self.start()
        assert session.wait(ONE_SESSION_S * max(1, KILLS // 20)) == 0, session.said()

    def kill_at(self, point):
        """A session that is killed when it reaches a step."""
        self.start(point).killed()

    def kill_after(self, delay_s, number=signal.SIGKILL):
        """A session that is killed so long after its first request."""
        before = self.simulator.stats()["requests_total"]
        session = self.start()
        while self.simulator.stats()["requests_total"] == before:
            assert not session.ended, session.said()
            time.sleep(0.005)
        time.sleep(delay_s)
        session.signal(number)
        wanted = -number if number == signal.SIGKILL else 128 + number
        assert session.wait() == wanted, session.said()

    def note_kill(self):
        """Look at what the session that was killed just now sent, and at what it left."""
        self.simulator.quiet()
        before, after = self.seen, self.simulator.ends()
        again = {
            row
            for row, digest in enumerate(self.digests)
            if len(after[digest]) > len(before[digest])
            and before[digest]
            and before[digest][-1] not in (429, 500)
        }
        # A refused row may be tried again; one that was answered, or given up, only if it was
        # out at a kill.
        assert again <= self.owed, f"not out, and sent again: {sorted(again - self.owed)}"
        noted = {note.row for note in read_notes(self.folder / "checkpoint" / "inflight")}
        self.owed = (self.owed - again) | noted
        self.seen = after
        self.resent.append(len(again))
        self.in_flight.append(len(noted))

    def results(self):
        """The published rows, in the parts' order."""
        return _table(self.folder / "results").to_pylist()

    def check_results(self, bodies):
        """Every row once, in order, with its own answer and what it carried."""
        rows = self.results()
        assert [row["row"] for row in rows] == list(range(len(bodies)))
        for n, row in enumerate(rows):
            digest = self.digests[n]
            first = row["content"].splitlines()[0]
            said = bodies[n]["messages"][0]["content"]
            assert row["request_hash"] == digest
            assert first == f'Re: "{said[:40]}" [{digest[:8]}]', f"row {n} has another's answer"
            assert (row["status"], row["ticket"]) == ("ok", n)
            assert row["label"] == f"läbel {n}" * (n % 4)

    def check_ledger(self):
        """Per row, at least what the server counted, and no more than that and what the ledger
        itself says was interrupted.
        """
        asked = self.simulator.quiet()
        lines, interrupted = Counter(), Counter()
        numbers = defaultdict(list)
        for attempt in _table(self.folder / "attempts").to_pylist():
            lines[attempt["row"]] += 1
            interrupted[attempt["row"]] += attempt["error_code"] == "interrupted"
            numbers[attempt["row"]].append(attempt["attempt"])
        for row, digest in enumerate(self.digests):
            least, most = asked[digest], asked[digest] + interrupted[row]
            assert least <= lines[row] <= most, (row, least, lines[row], most)
            assert numbers[row] == list(range(1, lines[row] + 1))
        assert [row["attempts"] for row in self.results()] == [lines[n] for n in sorted(lines)]
        return sum(interrupted.values())

    def verify(self):
        """``batchrun verify`` finds nothing."""
        done = subprocess.run(
            [sys.executable, "-m", "batchrun", "verify", str(self.folder)],
            capture_output=True,
            encoding="utf-8",
            env=_environment(),
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _table(folder):
    parts = sorted(folder.glob("*.parquet"))
    assert [part.name for part in parts] == [f"part-{n:08d}.parquet" for n in range(len(parts))]
    return pa.concat_tables([pq.read_table(part, partitioning=None) for part in parts])


def _plan(dice, kills):
    """Half of the kills at named steps, spread over all that any session comes to, half at random
    moments.
    """
    steps = [*points("group"), *points("seal"), *points("flights"), *points("status")]
    plan = [_later(steps[n % len(steps)], dice) for n in range(kills // 2)]
    plan += [dice.uniform(*MOMENT_S) for _ in range(kills - len(plan))]
    dice.shuffle(plan)
    return plan


def _later(point, dice):
    """A step around a group comes often: it is let pass for a while."""
    step, _, times = point.partition(":")
    return f"{step}:{int(times) + dice.randint(0, 9)}" if step.startswith("log.w") else point


@pytest.mark.slow
@pytest.mark.timeout(600 + 8 * KILLS)
def test_a_run_that_is_killed_again_and_again(tmp_path, sessions, count):
    """After any number of kills every row is published once, with its own answer, in order;
    everything that was sent is in the ledger; and only what was out is sent again.
    """
    dice = random.Random(SEED)
    bodies = _bodies(ROWS_PER_KILL * KILLS)
    rows = tmp_path / "rows.jsonl"
    _write_jsonl(rows, bodies)
    faults = ["--error=500=0.03", "--error=429=0.03", "--retry-after=0.1"]
    with _simulator(tmp_path, f"--latency=fixed:{LATENCY_S}", *faults) as simulator:
        job = Job(sessions, tmp_path / "out", rows, simulator, [_hash(body) for body in bodies])
        for how in _plan(dice, KILLS):
            if isinstance(how, str):
                job.kill_at(how)
            else:
                job.kill_after(how)
            job.note_kill()
        job.finish()
        job.note_kill()
        job.check_results(bodies)
        interrupted = job.check_ledger()
        job.verify()
        count(f"{KILLS} kills of one run", KILLS, job.folder, len(bodies))
        assert sum(job.resent) <= interrupted, "more was sent again than was out"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_provisional_parts_and_kills(tmp_path, sessions, seed):
    """Parquet input: a stop leaves provisional parts, and kills before and after it lose nothing
    of what they hold.
    """
    dice = random.Random(seed)
    bodies = _bodies(120)
    rows = tmp_path / "rows.parquet"
    _write_parquet(rows, bodies)
    faults = ["--error=500=0.05", "--drop=0.03", "--cut=0.03"]
    with _simulator(tmp_path, f"--latency=fixed:{LATENCY_S}", *faults) as simulator:
        digests = [_hash(body) for body in bodies]
        job = Job(sessions, tmp_path / "out", rows, simulator, digests, shard_rows=50)
        job.kill_after(dice.uniform(0.05, 0.3))
        job.kill_after(dice.uniform(0.05, 0.3), signal.SIGTERM)
        published = job.results()
        assert 0 < len(published) < len(bodies)
        job.verify()
        job.kill_after(dice.uniform(0.05, 0.3))
        job.finish()
        job.check_results(bodies)
        job.check_ledger()
        job.verify()
        kept = {row["row"]: row for row in job.results()}
        assert all(kept[row["row"]] == row for row in published), "a published answer changed"


@pytest.mark.slow
def test_a_finished_run_started_again_sends_nothing(tmp_path, sessions):
    """The same command after the end costs no request, next to no CPU, and touches no part."""
    for count in (100, 130):  # the input ends with a shard, and inside one
        folder = tmp_path / str(count)
        folder.mkdir()
        bodies = _bodies(count)
        rows = folder / "rows.jsonl"
        _write_jsonl(rows, bodies)
        with _simulator(folder) as simulator:
            job = Job(sessions, folder / "out", rows, simulator, [_hash(body) for body in bodies])
            job.finish()
            asked = simulator.stats()["requests_total"]
            before = {part: part.stat().st_mtime_ns for part in (folder / "out").rglob("*.parquet")}
            process = subprocess.Popen(
                [sys.executable, "-m", "batchrun", *job.arguments()],
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            assert simulator.stats()["requests_total"] == asked == count
            job.check_results(bodies)
            job.verify()
        after = {part: part.stat().st_mtime_ns for part in (folder / "out").rglob("part-*.parquet")}
        assert after.items() <= before.items()
        cpu_s = usage.ru_utime + usage.ru_stime
        assert cpu_s < 1, f"{cpu_s:.2f} s of CPU for {count} rows"
