"""Rows that get other numbers: against a model of what should become of them, from seeds."""

import random
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.parts.renumbering import Renumbering, survey
from batchrun.adapters.parts.sealer import Parts, publish
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.core.run.shards import is_former
from batchrun.records import Block, Position, Row
from batchrun.testing.samples import answered, attempt, failed

SEEDS = range(6)
SHARD_ROWS = 4
CARRIED = pa.schema([pa.field("source_row", pa.int64()), pa.field("source_hash", pa.string())])


def _blocks(sources, version):
    """The input that a source gives: one row for each of these rows, in blocks of one or two."""
    rows = [
        Row(number, f"id-{source}", {}, line=source, size_bytes=version[source])
        for number, source in enumerate(sources)
    ]
    at = 0
    while at < len(rows):
        shard = rows[at].number // SHARD_ROWS
        size = 1 + rows[at].number % 2
        taken = [row for row in rows[at : at + size] if row.number // SHARD_ROWS == shard]
        at += len(taken)
        carried = pa.record_batch(
            [
                pa.array([row.line for row in taken], pa.int64()),
                pa.array([f"v{version[row.line]}" for row in taken]),
            ],
            schema=CARRIED,
        )
        end = taken[-1].line + 1
        yield Block(
            shard=shard,
            first_row=taken[0].number,
            rows=tuple(taken),
            carried=part_schema.to_ipc(carried),
            rows_read=taken[-1].number + 1 - shard * SHARD_ROWS,
            digest=bytes(32),
            end=Position(0, end, end),
        )


def _hash(row):
    return f"{row.line * 1000 + row.size_bytes:064x}"


class Life:
    """A run directory and what should be in it: by row of the source, its attempts, and the version
    that its outcome is of (None: pending).
    """

    def __init__(self, folder, draw):
        self.draw = draw
        self.store = DiskStore(folder / "run")
        self.store.prepare()
        (folder / "checkpoint").mkdir()
        self.journal = Journal(folder / "checkpoint", SHARD_ROWS)
        self.parts = Parts(self.store, self.journal, CARRIED)
        self.attempts = Counter()
        self.outcome = {}
        self.former = 0

    def begin(self, sources, version):
        """Answer some of the rows; others fail, are tried once, or are not reached."""
        for block in _blocks(sources, version):
            entries = [block]
            for row in block.rows:
                kind = self.draw.choice(["ok", "ok", "ok", "error", "tried", "pending"])
                if kind != "pending":
                    self.attempts[row.line] = tries = self.draw.randint(1, 3)
                    entries += [attempt(row.number, n) for n in range(1, tries)]
                    if kind == "tried":
                        entries.append(attempt(row.number, tries))
                        continue
                    made = (answered if kind == "ok" else failed)(row.number, tries)
                    entries.append(made._replace(request_hash=_hash(row), custom_id=row.custom_id))
                    self.outcome[row.line] = version[row.line]
            self.journal.write(entries)
        for shard in sorted(self.journal.logs):
            publish(self.parts, self.journal, self.journal.next_state(shard, complete=False))

    def move(self, sources, version):
        """The rows get the numbers that they have in another selection."""
        told = survey(self.parts, self.journal, _blocks(sources, version), _hash)
        blocks = _blocks(sources, version)
        work = Renumbering(self.parts, self.journal, blocks, _hash, CARRIED)
        work.run({"input_rows": None})
        assert work.shift == told
        gone = [s for s in self.attempts if s not in sources or s not in self.outcome]
        self.former += sum(self.attempts.pop(source) for source in gone)
        self.outcome = {s: v for s, v in self.outcome.items() if s in sources}

    def table(self, kind):
        """All parts of a kind, in their order."""
        parts = sorted((self.store.folder / kind).glob("part-*.parquet"))
        return [row for part in parts for row in pq.read_table(part, partitioning=None).to_pylist()]

    def check(self, sources):
        """Every row is where it should be, with what it should have."""
        numbers = {source: number for number, source in enumerate(sources)}
        found = {row["source_row"]: row for row in self.table("results")}
        assert {s: row["row"] for s, row in found.items()} == {s: numbers[s] for s in self.outcome}
        for source, row in found.items():
            kept = self.outcome[source]
            assert row["request_hash"] == f"{source * 1000 + kept:064x}"
            assert row["source_hash"] == f"v{kept}" and row["attempts"] == self.attempts[source]
        lines = self.table("attempts")
        own = Counter(line["row"] for line in lines if not is_former(line["row"] // SHARD_ROWS))
        assert own == {numbers[s]: n for s, n in self.attempts.items() if s in self.outcome}
        assert len(lines) - own.total() == self.former
        for shard in (published.state for published in self.journal.states.published()):
            first = shard.shard * SHARD_ROWS
            here = [
                n
                for s, n in numbers.items()
                if s in self.outcome and n // SHARD_ROWS == shard.shard
            ]
            if is_former(shard.shard):
                assert shard.complete and not shard.rows_read
            else:
                assert shard.rows_read == min(SHARD_ROWS, len(sources) - first)
                assert shard.complete == (len(here) == shard.rows_read)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_finds_its_place(tmp_path, seed):
    """Rows that come, go and change, several times over: results and attempts follow their rows,
    and the sum of all attempts is what was made.
    """
    draw = random.Random(seed)
    life = Life(tmp_path, draw)
    version = dict.fromkeys(range(30), 1)
    sources = sorted(draw.sample(range(30), 18))
    life.begin(sources, version)
    made = life.attempts.total()
    for _ in range(3):
        sources = sorted(draw.sample(range(30), draw.randint(1, 28)))
        version = {s: v + (draw.random() < 0.2) for s, v in version.items()}
        before = dict(life.outcome)
        life.move(sources, version)
        assert set(life.outcome) == set(before) & set(sources), f"seed {seed}"
        life.check(sources)
        assert life.attempts.total() + life.former == made, f"seed {seed}"
    life.journal.close()
