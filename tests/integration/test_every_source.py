"""Every kind of source: a first run, a kill, an edit, an append; what the server saw of each.

With ``BATCHRUN_TABLE=FILE`` in the environment the tests write what they saw as a Markdown table.
"""

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

import batchrun
from tests.harness.slow import rest_slow

ROWS, MORE, SHARD_ROWS = 300, 30, 100
EDITED = 150
PROMPT = "{{ question }}"
"""What asks the question of a row that brings no messages."""

PROGRAM = """
import json, sys
import batchrun, pyarrow
rows = json.load(open(sys.argv[1]))
options = json.loads(sys.argv[2])
batchrun.run(pyarrow.Table.from_pylist(rows) if options.pop("arrow") else rows, **options)
"""


def _rows(count, edited):
    """Rows as a table has them: one question each, and what is to be carried."""
    return [
        {
            "custom_id": f"id {n:05}",
            "question": f"question {n}" + (", edited" if n == edited else ""),
            "number": n,
            "note": f'a "quoted", 有逗号的\nnote {n}' if n % 7 == 0 or n == edited else None,
        }
        for n in range(count)
    ]


def _chats(rows):
    """The same with messages of their own."""
    return [
        {key: value for key, value in row.items() if key != "question"}
        | {"messages": [{"role": "user", "content": row["question"]}]}
        for row in rows
    ]


def _lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _delimited(rows, delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _file(name, encode):
    """A source that is one file."""

    def write(folder, rows):
        (folder / name).write_bytes(encode(rows))
        return [folder / name]

    return write


def _parquet(folder, rows):
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=70)
    return [folder / "rows.parquet"]


def _parquet_files(folder, rows):
    """Three files and what was appended; the second is one row group of more than 4 MiB, which
    lies in all three shards.
    """
    for number, (first, end) in enumerate([(0, 7), (7, ROWS - 7), (ROWS - 7, ROWS), (ROWS, None)]):
        mine = [row | {"essay": f"{row['number']} " * 4000} for row in _chats(rows[first:end])]
        if mine:
            path = folder / f"{number}.parquet"
            pq.write_table(pa.Table.from_pylist(mine), path, row_group_size=ROWS)
    assert pq.read_metadata(folder / "1.parquet").row_group(0).total_byte_size > 4 * 2**20
    return sorted(folder.glob("*.parquet"))


def _tree(folder, rows):
    """A folder with folders, compressed and plain files, and things that are no data."""
    lines = _chats(rows)
    for name, (first, end) in {
        "2024/a.jsonl": (0, 90),
        "2024/b.ndjson.gz": (90, 220),
        "2025/a.jsonl": (220, ROWS),
        "2025/b.jsonl": (ROWS, None),
        "_tmp/c.jsonl": (0, 9),
        "2024/README.md": (0, 9),
    }.items():
        data = _lines(lines[first:end])
        if data:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    return [folder]


def _glob(folder, rows):
    for number, first in enumerate(range(0, len(rows), 110)):
        (folder / f"{number}.csv").write_bytes(_delimited(rows[first : first + 110]))
    return [f"{folder}/*.csv"]


def _workbook(folder, rows):
    with xlsxwriter.Workbook(folder / "rows.xlsx") as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, list(rows[0]))
        for number, row in enumerate(rows, 1):
            sheet.write_row(number, 0, list(row.values()))
    return [folder / "rows.xlsx"]


def _folders(folder, rows):
    for part, first in enumerate(range(0, len(rows), 150)):
        path = folder / "tree" / f"part={part}" / "rows.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_delimited(rows[first : first + 150]))
    return [folder / "tree"]


@dataclass(frozen=True)
class Kind:
    """A kind of source: how the table calls it, and how its files are written.

    ``write`` makes the files of some rows in a folder and returns the inputs of the command; for
    ``pipe`` it is one file to pipe, for ``program`` what a program passes ("dicts" or "arrow").
    """

    name: str
    write: object
    flags: tuple = ()
    text: bool = False  # every carried value is text
    pipe: bool = False
    program: str = ""


ASKED = ("--prompt", PROMPT)
KINDS = [
    Kind("JSON Lines", _file("rows.jsonl", lambda rows: _lines(_chats(rows)))),
    Kind("NDJSON, gzip", _file("rows.ndjson.gz", lambda rows: gzip.compress(_lines(rows))), ASKED),
    Kind(
        "JSON Lines, zstd",
        _file("rows.jsonl.zst", lambda rows: pa.compress(_lines(_chats(rows)), "zstd", True)),
    ),
    Kind("CSV", _file("rows.csv", _delimited), ASKED, text=True),
    Kind(
        "CSV, gzip",
        _file("rows.csv.gz", lambda rows: gzip.compress(_delimited(rows))),
        ASKED,
        text=True,
    ),
    Kind(
        "TSV with quotes",
        _file("rows.tsv", lambda rows: _delimited(rows, "\t")),
        (*ASKED, "--quoting", "csv"),
        text=True,
    ),
    Kind(
        "CSV, semicolons and GB 18030",
        _file("rows.csv", lambda rows: _delimited(rows, ";").decode().encode("gb18030")),
        (*ASKED, "--encoding", "gb18030"),
        text=True,
    ),
    Kind(
        "CSV in UTF-16, zstd",
        _file(
            "rows.csv.zst",
            lambda rows: pa.compress(
                _delimited(rows, "\t").decode().encode("utf-16"), "zstd", True
            ),
        ),
        ASKED,
        text=True,
    ),
    Kind("a JSON array", _file("rows.json", lambda rows: json.dumps(_chats(rows)).encode())),
    Kind("a workbook", _workbook, ASKED),
    Kind("folders of columns", _folders, ASKED, text=True),
    Kind("Parquet", _parquet, ASKED),
    Kind("Parquet, several files, one huge row group", _parquet_files),
    Kind("a directory", _tree),
    Kind("a glob of CSV files", _glob, ASKED, text=True),
    Kind("a pipe", _file("rows.jsonl", lambda rows: _lines(_chats(rows))), pipe=True),
    Kind("Python: dicts", None, program="dicts"),
    Kind("Python: an Arrow table", None, ASKED, program="arrow"),
]


@pytest.fixture(scope="module")
def endpoint():
    """One endpoint for all: quick enough for the first runs, slow enough to be killed in time."""
    from batchrun.simulator.embedded import EmbeddedSimulator
    from batchrun.simulator.latency import FixedLatency
    from batchrun.simulator.plan import SimulatorOptions

    with EmbeddedSimulator(SimulatorOptions(latency=FixedLatency(0.01))) as server:
        yield server


@pytest.fixture(scope="module")
def table():
    """The lines of the table; written at the end where the environment asks for it."""
    lines = [
        "| source | first run | killed, resumed | one row edited | the choice | 30 rows appended |",
        "|---|---|---|---|---|---|",
    ]
    yield lines
    if path := os.environ.get("BATCHRUN_TABLE"):
        Path(path).write_text("\n".join(lines) + "\n", "utf-8")


@dataclass
class Job:
    """One source and its runs."""

    kind: Kind
    folder: Path
    cli: object
    here: object
    endpoint: object
    published: object
    messages: object
    inputs: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    processes: list = field(default_factory=list)

    def write(self, count, edited=None):
        """The source with so many rows, one of them edited."""
        self.rows = _rows(count, edited)
        if self.kind.write is not None:
            (self.folder / "in").mkdir(exist_ok=True)
            self.inputs = self.kind.write(self.folder / "in", self.rows)

    def command(self, output, choice=None, *more):
        """The arguments of the command."""
        if choice:
            more = (f"--{choice.replace('_', '-')}", *more)
        return [
            *("run", *(["-"] if self.kind.pipe else map(str, self.inputs)), "-o", str(output)),
            *("--model", "m", "--base-url", self.endpoint.base_url, "--no-progress"),
            *("--shard-rows", str(SHARD_ROWS), *self.kind.flags, *more),
        ]

    def call(self, output, **more):
        """What a program passes, and its keywords."""
        rows = self.rows if self.kind.program == "arrow" else _chats(self.rows)
        options = {"output": str(output), "model": "m", "base_url": self.endpoint.base_url}
        options |= {"shard_rows": SHARD_ROWS} | ({"prompt": PROMPT} if self.kind.flags else {})
        return rows, options | more

    @property
    def output(self):
        """The run directory."""
        return self.folder / "run"

    def run(self, choice=None, *, output=None, forget=True):
        """Run to the end in this process, or in one of its own where it reads a pipe; returns the
        exit code and the number of requests that the server counted.
        """
        if forget:
            self.endpoint.reset_stats()
        output = output or self.output
        if self.kind.program:
            rows, options = self.call(output, **({choice: True} if choice else {}))
            if self.kind.program == "arrow":
                rows = pa.Table.from_pylist(rows)
            try:
                code = batchrun.run(rows, **options).exit_code
            except batchrun.BatchrunError as error:
                code = error.exit_code
        elif self.kind.pipe:
            code = self.piped(self.command(output, choice)).wait(60)
        else:
            code = self.here(*self.command(output, choice)[1:]).code
        return code, self.endpoint.stats()["requests_total"]

    def piped(self, command):
        """The command as a process that reads the source from a pipe."""
        source = self.inputs[0].read_bytes()
        process = self.process([sys.executable, "-m", "batchrun", *command], stdin=subprocess.PIPE)
        process.stdin.write(source)
        process.stdin.close()
        return process

    def process(self, command, stdin=subprocess.DEVNULL):
        """A process beside this one; the fixture ends it."""
        process = subprocess.Popen(
            command, cwd=self.folder, env=self.cli._environment(None), stdin=stdin,
            stdout=subprocess.DEVNULL, stderr=self.messages,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def start(self, output):
        """Start a run that takes its time; returns the process."""
        if self.kind.program:
            rows, options = self.call(output, concurrency=4, arrow=self.kind.program == "arrow")
            file = self.folder / "rows.json"
            file.write_text(json.dumps(rows))
            return self.process([sys.executable, "-c", PROGRAM, str(file), json.dumps(options)])
        command = self.command(output, None, "--concurrency", "4")
        if self.kind.pipe:
            return self.piped(command)
        return self.process([sys.executable, "-m", "batchrun", *command])

    def check(self, output):
        """Every row once and in order, with its own question answered and its values carried."""
        self.cli.verified(output)
        found = self.published(output)
        count = len(self.rows)
        assert found["row"].to_pylist() == list(range(count))
        assert found["status"].to_pylist() == ["ok"] * count
        assert found["custom_id"].to_pylist() == [row["custom_id"] for row in self.rows]
        for row, answer in zip(self.rows, found["content"].to_pylist(), strict=True):
            assert row["question"] in answer
        shown = str if self.kind.text else int
        assert found["number"].to_pylist() == [shown(n) for n in range(count)]
        empty = "" if self.kind.text else None
        assert found["note"].to_pylist() == [row["note"] or empty for row in self.rows]


@pytest.fixture
def job(cli, here, tmp_path, endpoint, published):
    """Makes the job of a kind of source; no process of it is left when the test ends."""
    jobs = []
    with (tmp_path / "messages").open("wb") as messages:
        yield (
            lambda kind: (
                jobs.append(Job(kind, tmp_path, cli, here, endpoint, published, messages))
                or jobs[-1]
            )
        )
    for process in jobs[0].processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("kind", rest_slow(KINDS), ids=lambda kind: kind.name)
def test_a_source(job, table, until, published, kind):
    """Each session sends what it has to and no more, as the server counted; every row is there
    once, in order, with the answer to its own question.
    """
    job = job(kind)
    job.write(ROWS)
    first = job.run()
    assert first == (0, ROWS)
    job.check(job.output)
    killed = _killed_and_resumed(job, until, published)
    assert job.run() == (0, 0)

    job.write(ROWS, edited=EDITED)
    before = published(job.output)
    refused = job.run()
    assert refused == (2, 0)
    assert published(job.output).equals(before)
    # What comes through a pipe is gone when the difference is seen: its done rows can be kept only.
    choice = "keep_done" if kind.pipe else "resend_changed"
    chosen = job.run(choice)
    assert chosen == (0, 0 if kind.pipe else 1)
    if not kind.pipe:
        job.check(job.output)

    job.write(ROWS + MORE, edited=None if kind.pipe else EDITED)
    more = job.run()
    assert more == (0, MORE)
    job.check(job.output)
    flag = f"`--{choice.replace('_', '-')}`"
    cells = [_cell(ROWS, *first), killed, _cell(ROWS, *refused)]
    cells += [f"{flag} {_cell(ROWS, *chosen)}", _cell(ROWS + MORE, *more)]
    table.append(f"| {kind.name} | {' | '.join(cells)} |")


def _cell(rows, code, sent):
    """What one session came to: rows in the results, requests that the server counted, exit code
    as a shell shows it.
    """
    return f"{rows} / {sent} / {code if code >= 0 else 128 - code}"


def _killed_and_resumed(job, until, published):
    """Kill a run once its first part is there, and run it again; returns the cell of the table.

    Rows of published parts are not sent again; whatever the server saw is in the ledger.
    """
    output = job.folder / "killed"
    job.endpoint.reset_stats()
    process = job.start(output)
    until((output / "results" / "part-00000000.parquet").exists)
    process.kill()
    code = process.wait(20)
    assert code == -signal.SIGKILL
    until(lambda: job.endpoint.stats()["in_flight"] == 0)
    asked = job.endpoint.stats()["requests_total"]
    assert SHARD_ROWS <= asked < ROWS
    cell = _cell(published(output).num_rows, code, asked)
    done = set(published(output)["request_hash"].to_pylist())
    assert len(done) >= SHARD_ROWS
    resumed, sent = job.run(output=output, forget=False)
    assert resumed == 0
    seen = job.endpoint.stats(detail=True)
    times = Counter({digest: asks["asked"] for digest, asks in seen["requests"].items()})
    assert len(times) == ROWS
    assert all(times[digest] == 1 for digest in done)
    ledger = published(output, "attempts")
    lost = sum(ledger["unanswered"].to_pylist())
    assert ROWS <= times.total() <= ledger.num_rows == ROWS + lost
    job.check(output)
    return f"{cell}, then {_cell(ROWS, resumed, sent - asked)}"
