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
from tests.harness.slow import rest_slow

SEEDS = range(6)
SHARD_ROWS = 4
CARRIED = pa.schema([pa.field("source_row", pa.int64()), pa.field("source_hash", pa.string())])


def _carried(repeats):
    """The columns of a run that sends each row of its source so many times."""
    return CARRIED if repeats == 1 else part_schema.with_repeats(CARRIED, repeats)


def _blocks(sources, version, repeats):
    """The input that a source gives: each of these rows so many times, in blocks of one or two."""
    each = [source for source in sources for _ in range(repeats)]
    rows = [
        Row(number, f"id-{source}", {}, line=source, size_bytes=version[source])
        for number, source in enumerate(each)
    ]
    at = 0
    while at < len(rows):
        shard = rows[at].number // SHARD_ROWS
        size = 1 + rows[at].number % 2
        taken = [row for row in rows[at : at + size] if row.number // SHARD_ROWS == shard]
        at += len(taken)
        columns = {
            "source_row": [row.line for row in taken],
            "source_hash": [f"v{version[row.line]}" for row in taken],
        }
        if repeats > 1:
            columns["repeat_of"] = [row.number // repeats for row in taken]
            columns["repeat"] = [row.number % repeats for row in taken]
        carried = pa.RecordBatch.from_pydict(columns, schema=_carried(repeats))
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
    """A run directory and what should be in it: by row of the source and repeat, its attempts, and
    the version that its outcome is of (None: pending).
    """

    def __init__(self, folder, draw, repeats):
        self.draw = draw
        self.repeats = repeats
        self.store = DiskStore(folder / "run")
        self.store.prepare()
        (folder / "checkpoint").mkdir()
        self.journal = Journal(folder / "checkpoint", SHARD_ROWS)
        self.parts = Parts(self.store, self.journal, _carried(repeats))
        self.attempts = Counter()
        self.outcome = {}
        self.former = 0

    def key(self, row):
        """What a row of the input is known by."""
        return row.line, row.number % self.repeats

    def begin(self, sources, version):
        """Answer some of the rows; others fail, are tried once, or are not reached."""
        for block in _blocks(sources, version, self.repeats):
            entries = [block]
            for row in block.rows:
                kind = self.draw.choice(["ok", "ok", "ok", "error", "tried", "pending"])
                if kind != "pending":
                    self.attempts[self.key(row)] = tries = self.draw.randint(1, 3)
                    entries += [attempt(row.number, n) for n in range(1, tries)]
                    if kind == "tried":
                        entries.append(attempt(row.number, tries))
                        continue
                    made = (answered if kind == "ok" else failed)(row.number, tries)
                    entries.append(made._replace(request_hash=_hash(row), custom_id=row.custom_id))
                    self.outcome[self.key(row)] = version[row.line]
            self.journal.write(entries)
        for shard in sorted(self.journal.logs):
            publish(self.parts, self.journal, self.journal.next_state(shard, complete=False))

    def move(self, sources, version):
        """The rows get the numbers that they have in another selection."""
        times = self.repeats
        blocks = _blocks(sources, version, times)
        told = survey(self.parts, self.journal, blocks, _hash, times)
        blocks = _blocks(sources, version, times)
        work = Renumbering(self.parts, self.journal, blocks, _hash, _carried(times), times)
        work.run({"input_rows": None})
        assert work.shift == told
        gone = [key for key in self.attempts if key[0] not in sources or key not in self.outcome]
        self.former += sum(self.attempts.pop(key) for key in gone)
        self.outcome = {key: v for key, v in self.outcome.items() if key[0] in sources}

    def table(self, kind):
        """All parts of a kind, in their order."""
        parts = sorted((self.store.folder / kind).glob("part-*.parquet"))
        return [row for part in parts for row in pq.read_table(part, partitioning=None).to_pylist()]

    def check(self, sources):
        """Every row is where it should be, with what it should have."""
        keys = [(source, repeat) for source in sources for repeat in range(self.repeats)]
        numbers = {key: number for number, key in enumerate(keys)}
        rows = self.table("results")
        found = {(row["source_row"], row.get("repeat", 0)): row for row in rows}
        assert len(found) == len(rows)
        assert {s: row["row"] for s, row in found.items()} == {s: numbers[s] for s in self.outcome}
        for key, row in found.items():
            kept = self.outcome[key]
            assert row["request_hash"] == f"{key[0] * 1000 + kept:064x}"
            assert row["source_hash"] == f"v{kept}" and row["attempts"] == self.attempts[key]
            assert row.get("repeat_of", row["row"]) == row["row"] // self.repeats
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
                assert shard.rows_read == min(SHARD_ROWS, len(keys) - first)
                assert shard.complete == (len(here) == shard.rows_read)


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("seed", rest_slow(SEEDS, 2))
def test_every_row_finds_its_place(tmp_path, seed, repeats):
    """Rows that come, go and change, several times over: results and attempts follow their rows,
    each repeat its own, and the sum of all attempts is what was made.
    """
    draw = random.Random(seed)
    life = Life(tmp_path, draw, repeats)
    version = dict.fromkeys(range(30), 1)
    sources = sorted(draw.sample(range(30), 18))
    life.begin(sources, version)
    made = life.attempts.total()
    for _ in range(3):
        sources = sorted(draw.sample(range(30), draw.randint(1, 28)))
        version = {s: v + (draw.random() < 0.2) for s, v in version.items()}
        before = dict(life.outcome)
        life.move(sources, version)
        assert set(life.outcome) == {key for key in before if key[0] in sources}, f"seed {seed}"
        life.check(sources)
        assert life.attempts.total() + life.former == made, f"seed {seed}"
    life.journal.close()
