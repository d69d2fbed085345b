"""Parts that grow while their shard fills hold what parts made from the log at the end would hold.

The journal's thread and the sealer's are this one here: work is done at once, or when a test says.
"""

import errno
import random
import shutil
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from batchrun.adapters.journal.journal import Journal
from batchrun.adapters.journal.log_reader import ShardReader
from batchrun.adapters.parts import growing, sealer
from batchrun.adapters.parts import schema as part_schema
from batchrun.adapters.parts.sealer import Parts, Sealer
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.errors import StorageError
from batchrun.records import Block, Position
from batchrun.testing.samples import answered, attempt, chat_row, failed
from tests.harness.slow import rest_slow

SHARD_ROWS = 40
CARRIED = pa.schema([("ticket", pa.string())])


def block(first, count=8):
    """A block of rows that carry one column."""
    rows = range(first, first + count)
    batch = pa.record_batch([pa.array([f"T-{row}" for row in rows])], schema=CARRIED)
    read = first % SHARD_ROWS + count
    return Block(
        shard=first // SHARD_ROWS,
        first_row=first,
        rows=tuple(map(chat_row, rows)),
        carried=part_schema.to_ipc(batch),
        rows_read=read,
        digest=b"digest of %d" % read,
        end=Position(0, first + count, first + count),
    )


def of_row(row, tries=0):
    """A row's records in their order: failed attempts, then the outcome."""
    last = tries + 1
    ending = failed(row, last) if row % 7 == 6 else answered(row, last, f"Answer {row}.")
    return [*(attempt(row, number + 1) for number in range(tries)), ending]


class Bench:
    """A run directory with its journal and sealer."""

    def __init__(self, folder, *, grow=True):
        self.folder = folder
        folder.mkdir()
        (folder / "checkpoint").mkdir()
        self.store = DiskStore(folder)
        self.store.prepare()
        self.journal = Journal(folder / "checkpoint", SHARD_ROWS)
        self.parts = Parts(self.store, self.journal, CARRIED)
        self.parts.grow = grow
        self.waiting = None
        self.sealer = Sealer(self.parts, self.journal)
        self.sealer._do = self._do
        self.sealer._growing._do = self._do

    def _do(self, work):
        if self.waiting is None:
            work()
        else:
            self.waiting.append(work)

    def publish(self, shard, *, complete=True):
        """Publish a shard, once all work before is done."""
        for work in self.waiting or ():
            work()
        self.waiting = None
        self.sealer._publish(shard, complete)

    def table(self, shard, kind="results"):
        """A published part."""
        return pq.read_table(self.folder / kind / f"part-{shard:08d}.parquet")

    def drafts(self):
        """What is written aside at the moment."""
        return sorted(path.name for path in self.folder.rglob("*.tmp"))

    def close(self):
        """As the end of a session does."""
        self.sealer.close()
        self.journal.close()


@contextmanager
def bench(folder, **options):
    """A bench, closed at the end; then nothing is left aside."""
    made = Bench(folder, **options)
    try:
        yield made
    finally:
        made.close()
    assert made.drafts() == []


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Stretches of four rows, so that forty are ten of them."""
    monkeypatch.setattr(sealer.Parts, "piece_rows", 4)


@pytest.fixture
def read_back(monkeypatch):
    """The first row of each reading of a log."""
    firsts = []

    class Watched(ShardReader):
        def __init__(self, journal, shard, first_row=0):
            firsts.append(first_row)
            super().__init__(journal, shard, first_row)

    monkeypatch.setattr(sealer, "ShardReader", Watched)
    return firsts


def same_as_from_the_log(made, folder, groups, published):
    """Whether both parts of these shards are, byte by byte, what the log alone makes."""
    with bench(folder, grow=False) as plain:
        for group in groups:
            plain.journal.write(group)
        for shard, complete in published:
            plain.publish(shard, complete=complete)
            for kind in ("results", "attempts"):
                assert made.table(shard, kind).equals(plain.table(shard, kind))
                assert made.table(shard, kind).schema.equals(plain.table(shard, kind).schema)
        sums, others = (
            {found.state.shard: found.totals for found in journal.states.published()}
            for journal in (made.journal, plain.journal)
        )
        assert sums == others


@pytest.mark.parametrize("seed", rest_slow(range(40), 12))
def test_any_order_of_arrival_makes_the_parts_that_the_log_makes(tmp_path, seed, monkeypatch):
    """Rows of three shards arrive in groups of any size and nearly any order, some with attempts
    before them, some never; memory is at times too small for them.
    """
    dice = random.Random(seed)
    monkeypatch.setattr(growing, "HELD_BYTES_MAX", dice.choice((3_000, 8_000, 2**20)))
    monkeypatch.setattr(growing, "STRETCH_BYTES", dice.choice((900, 2**20)))
    monkeypatch.setattr(growing, "SHARDS_MAX", dice.choice((1, 4)))
    rows, spread = 3 * SHARD_ROWS, dice.choice((3, 12, 60))
    pending = set(dice.sample(range(rows), dice.choice((0, 0, 5))))
    arrival = sorted((row + dice.random() * spread, row) for row in range(rows))
    read, entries = 0, []
    for _, row in arrival:
        while read <= row:
            entries.append(block(read))
            read += 8
        records = of_row(row, dice.choice((0, 0, 0, 1, 2)))
        entries += records[:-1] if row in pending else records
    groups = []
    while entries:
        size = dice.randint(1, 25)
        groups.append(entries[:size])
        entries = entries[size:]
    published = [
        (shard, not any(row // SHARD_ROWS == shard for row in pending)) for shard in range(3)
    ]
    with bench(tmp_path / "grown") as made:
        if dice.random() < 0.3:
            made.waiting = []
        for group in groups:
            made.journal.write(group)
        for shard, complete in published:
            made.publish(shard, complete=complete)
        same_as_from_the_log(made, tmp_path / "plain", groups, published)
        assert made.sealer._growing._held_bytes() == 0


def test_a_shard_that_fills_in_order_is_never_read_back(tmp_path, read_back):
    """Its drafts hold all but the last rows before the last one is there."""
    with bench(tmp_path / "run") as made:
        for first in range(0, SHARD_ROWS, 8):
            made.journal.write([block(first)])
            for row in range(first, first + 8):
                made.journal.write(of_row(row))
        assert made.drafts() == [".part-00000000.parquet.tmp"] * 2
        assert ds.dataset(made.folder / "results", format="parquet").files == []
        made.publish(0)
        assert read_back == []
        assert made.table(0).column("row").to_pylist() == list(range(SHARD_ROWS))
        assert made.table(0).column("ticket").to_pylist() == [
            f"T-{row}" for row in range(SHARD_ROWS)
        ]


def test_a_row_that_takes_long_leaves_only_those_behind_it_to_be_read(
    tmp_path, read_back, monkeypatch
):
    """Memory is given up where a row keeps others waiting; what is in the drafts stays there."""
    monkeypatch.setattr(growing, "HELD_BYTES_MAX", 4_000)
    groups = [[block(first)] for first in range(0, SHARD_ROWS, 8)]
    groups += [of_row(row) for row in range(SHARD_ROWS) if row != 17] + [of_row(17, tries=2)]
    with bench(tmp_path / "run") as made:
        for group in groups:
            made.journal.write(group)
        made.publish(0)
        assert read_back == [16]
        same_as_from_the_log(made, tmp_path / "plain", groups, [(0, True)])


def test_while_one_shard_waits_the_next_one_grows(tmp_path, read_back, monkeypatch):
    """The memory goes to the shard that can use it."""
    monkeypatch.setattr(growing, "HELD_BYTES_MAX", 4_000)
    with bench(tmp_path / "run") as made:
        for first in range(0, 2 * SHARD_ROWS, 8):
            made.journal.write([block(first)])
        for row in range(1, 2 * SHARD_ROWS):
            made.journal.write(of_row(row))
        made.publish(1)
        assert read_back == []
        made.journal.write(of_row(0))
        made.publish(0)
        assert read_back == [0]


def test_shards_that_wait_for_a_row_keep_no_more_files_open(tmp_path, read_back, monkeypatch):
    """Two may grow. While both wait for their last row, a third is written when it is whole."""
    monkeypatch.setattr(growing, "SHARDS_MAX", 2)
    with bench(tmp_path / "run") as made:
        for first in range(0, 4 * SHARD_ROWS, 8):
            made.journal.write([block(first)])
        waiting = {SHARD_ROWS - 1, 2 * SHARD_ROWS - 1}
        for row in range(4 * SHARD_ROWS):
            if row not in waiting:
                made.journal.write(of_row(row))
            assert len(made.drafts()) <= 4
        made.publish(2)
        made.publish(3)
        assert read_back == [2 * SHARD_ROWS, 3 * SHARD_ROWS]
        for row in waiting:
            made.journal.write(of_row(row))
        made.publish(0)
        made.publish(1)
        assert read_back[2:] == []


def test_one_shard_after_the_other_grows(tmp_path, read_back, monkeypatch):
    """A published shard makes room for the next."""
    monkeypatch.setattr(growing, "SHARDS_MAX", 1)
    with bench(tmp_path / "run") as made:
        for shard in range(3):
            rows = range(shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS)
            made.journal.write([block(first) for first in rows[::8]])
            made.journal.write([record for row in rows for record in of_row(row)])
            made.publish(shard)
    assert read_back == []


def test_a_session_that_ends_takes_its_drafts_away(tmp_path):
    """One that broke publishes nothing more; the log of the shard is for the next."""
    with bench(tmp_path / "run") as made:
        made.journal.write([block(0), *(record for row in range(8) for record in of_row(row))])
        assert len(made.drafts()) == 2
    assert (made.folder / "checkpoint" / "shard-00000000.1.log").exists()


def test_what_an_earlier_session_left_is_read_from_its_log(tmp_path, read_back):
    """A shard that was begun before is not in memory: its drafts are made at the end."""
    with bench(tmp_path / "first") as made:
        made.journal.write([block(0), *of_row(0)])
        shutil.copytree(made.folder, tmp_path / "killed")
    journal = Journal(tmp_path / "killed" / "checkpoint", SHARD_ROWS)
    made = Bench.__new__(Bench)
    made.folder, made.journal, made.waiting = tmp_path / "killed", journal, None
    made.parts = Parts(DiskStore(made.folder), journal, CARRIED)
    made.sealer = Sealer(made.parts, journal)
    for first in range(8, SHARD_ROWS, 8):
        journal.write([block(first)])
    for row in range(1, SHARD_ROWS):
        journal.write(of_row(row))
    made.publish(0)
    made.close()
    assert read_back == [0]
    assert made.table(0).column("row").to_pylist() == list(range(SHARD_ROWS))


def test_a_published_shard_does_not_grow_again(tmp_path, read_back):
    """Rows that are sent again are merged with the part that is there."""
    with bench(tmp_path / "run") as made:
        made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
        made.journal.write([record for row in range(SHARD_ROWS) for record in of_row(row)])
        made.publish(0)
        made.journal.write([block(0), answered(6, 2, "At last.")])
        made.publish(0)
        assert read_back == [0]
        assert made.table(0).column("content").to_pylist()[6] == "At last."
        assert made.table(0).num_rows == SHARD_ROWS


@pytest.mark.parametrize("late", [attempt(1, 7), answered(1, 2, "Another."), answered(30, 2, "x")])
def test_a_record_of_a_row_that_is_in_the_drafts_takes_them_back(tmp_path, read_back, late):
    """Nothing sends it, and if something did, the log has it and it would count."""
    with bench(tmp_path / "run") as made:
        made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
        rows = [row for row in range(SHARD_ROWS) if row != 29]
        made.journal.write([record for row in rows for record in of_row(row)])
        made.journal.write([late])
        assert made.drafts() == []
        made.journal.write(of_row(29))
        made.publish(0)
        assert read_back == [0]
        found = made.table(0, "attempts").filter(
            (ds.field("row") == late.row)
            & (ds.field("attempt") == (late.attempts if hasattr(late, "attempts") else late.number))
        )
        assert found.num_rows == 1


def test_a_draft_that_cannot_be_written_costs_nothing(tmp_path, read_back, monkeypatch):
    """A full disk takes the drafts back at once; when there is room at the end, all is there."""
    real = disk.open_file
    full = [True]

    def open_file(path, *rest):
        if full[0] and path.name.endswith(".tmp"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *rest)

    with bench(tmp_path / "run") as made:
        monkeypatch.setattr(disk, "open_file", open_file)
        made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
        for row in range(SHARD_ROWS):
            made.journal.write(of_row(row))
        with pytest.raises(StorageError, match="No space left"):
            made.publish(0)
        full[0] = False
        made.publish(0)
        assert read_back == [0, 0][-len(read_back) :]
        assert made.table(0).num_rows == SHARD_ROWS


def test_a_disk_that_fills_up_in_the_middle_of_a_draft_costs_nothing(
    tmp_path, read_back, monkeypatch
):
    """What is half written goes away, the file's end included, and makes room."""
    with bench(tmp_path / "run") as made:
        monkeypatch.setattr("batchrun.adapters.parts.part_writer.GROUP_ROWS", 4)
        made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
        made.journal.write([record for row in range(16) for record in of_row(row)])
        drafts = made.sealer._growing._growths[0].filling
        with monkeypatch.context() as broken:

            def write(_):
                raise OSError(errno.ENOSPC, "No space left on device")

            broken.setattr(drafts.results, "write", write)
            made.journal.write([record for row in range(16, 24) for record in of_row(row)])
            assert made.drafts() == []
        made.journal.write([record for row in range(24, SHARD_ROWS) for record in of_row(row)])
        made.publish(0)
        assert read_back == [0]
        assert made.table(0).num_rows == SHARD_ROWS


@pytest.mark.parametrize("kind", ["results", "attempts"])
def test_a_draft_that_somebody_took_away_is_written_again(tmp_path, kind):
    """Drafts lie there for as long as their shard fills, and tidying programs know their suffix."""
    with bench(tmp_path / "run") as made:
        groups = [[block(first) for first in range(0, SHARD_ROWS, 8)]]
        groups += [of_row(row, tries=row % 2) for row in range(SHARD_ROWS)]
        for group in groups:
            made.journal.write(group)
        (made.folder / kind / ".part-00000000.parquet.tmp").unlink()
        made.publish(0)
        same_as_from_the_log(made, tmp_path / "plain", groups, [(0, True)])


def test_a_store_that_is_out_of_reach_for_a_moment_stops_nothing(tmp_path, monkeypatch, read_back):
    """What is published under a draft's name is asked for when the draft is begun."""
    with bench(tmp_path / "run") as made:

        def unreachable(_):
            raise StorageError("the store does not answer")

        with monkeypatch.context() as broken:
            broken.setattr(made.store, "open", unreachable)
            made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
            made.journal.write([record for row in range(SHARD_ROWS) for record in of_row(row)])
            assert made.drafts() == []
        made.publish(0)
        assert read_back == [0]
        assert made.table(0).num_rows == SHARD_ROWS


def test_a_fault_of_the_program_is_raised_when_a_shard_is_published(tmp_path, monkeypatch):
    """It is not taken for a disk's, nor passed over."""
    with bench(tmp_path / "run") as made:

        def add(*_):
            raise ZeroDivisionError("on purpose")

        monkeypatch.setattr("batchrun.adapters.parts.part_writer.Filling.add", add)
        made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
        made.journal.write([record for row in range(SHARD_ROWS) for record in of_row(row)])
        with pytest.raises(ZeroDivisionError):
            made.publish(0)
        assert made.drafts() == []


def test_who_lost_the_lock_begins_no_draft(tmp_path):
    """Its files would get in the way of those of the run that holds it now."""
    with bench(tmp_path / "run") as made:
        asked = []

        def fence():
            asked.append(len(made.drafts()))
            if len(asked) > 2:
                raise StorageError("another run holds the lock")

        made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
        made.journal.fence = fence
        made.journal.write(of_row(0))
        made.journal.write([record for row in range(1, 12) for record in of_row(row)])
        assert made.drafts() == []
        with pytest.raises(StorageError, match="another run"):
            made.publish(0)


def fill(made, rows, *, shard=0):
    """Write all blocks of a shard, and these rows of it."""
    start = shard * SHARD_ROWS
    made.journal.write([block(first) for first in range(start, start + SHARD_ROWS, 8)])
    for row in rows:
        made.journal.write(of_row(row))


def test_a_publication_that_is_refused_takes_the_drafts_away(tmp_path):
    """Who lost the lock leaves nothing behind."""
    with bench(tmp_path / "run") as made:
        fill(made, range(12))

        def fence():
            raise StorageError("another run holds the lock")

        made.journal.fence = fence
        with pytest.raises(StorageError):
            made.publish(0, complete=False)
        assert made.drafts() == []


def test_nothing_is_kept_of_a_published_shard(tmp_path):
    """Not its records, nor its files."""
    with bench(tmp_path / "run") as made:
        fill(made, range(SHARD_ROWS))
        made.publish(0)
        assert made.sealer._growing._growths == {}
        assert made.parts.drafted_bytes(0) == 0


def test_what_waits_for_the_sealer_counts(tmp_path, monkeypatch):
    """A disk that is slow to take drafts does not fill the memory."""
    monkeypatch.setattr(growing, "HELD_BYTES_MAX", 6_000)
    with bench(tmp_path / "run") as made:
        made.waiting = []
        fill(made, range(SHARD_ROWS))
        assert made.sealer._growing._held_bytes() <= 7_000
        made.publish(0)


def test_what_is_in_the_drafts_is_not_counted_as_held(tmp_path):
    """Outcomes, attempts and blocks are let go of together."""
    with bench(tmp_path / "run") as made:
        made.journal.write([block(first) for first in range(0, SHARD_ROWS, 8)])
        made.journal.write([r for row in range(SHARD_ROWS) for r in of_row(row, tries=2)])
        held = made.sealer._growing._growths[0].window
        assert held.next_row == SHARD_ROWS and not held._attempts
        assert held.size_bytes == sum(size for *_, size in held._blocks)
        assert len(held._blocks) == 1


def test_few_large_rows_are_a_stretch(tmp_path, monkeypatch):
    """They are not kept until there are as many as of small ones."""
    monkeypatch.setattr(growing, "STRETCH_BYTES", 5_000)
    with bench(tmp_path / "run") as made:
        fill(made, [])
        made.journal.write([answered(0, 1, "x" * 6_000)])
        assert made.drafts()
        assert made.sealer._growing._growths[0].window.next_row == 1


def test_a_stretch_ends_at_the_row_that_is_missing(tmp_path, read_back, monkeypatch):
    """Rows behind it wait, however large those before it are."""
    monkeypatch.setattr(growing, "STRETCH_BYTES", 5_000)
    with bench(tmp_path / "run") as made:
        fill(made, [])
        made.journal.write([answered(0, 1, "x" * 6_000), answered(2), answered(3)])
        assert made.sealer._growing._growths[0].window.next_row == 1
        made.journal.write([r for row in (1, *range(4, SHARD_ROWS)) for r in of_row(row)])
        made.publish(0)
        assert read_back == []
        assert made.table(0).num_rows == SHARD_ROWS


def test_a_record_of_a_row_in_the_drafts_of_a_shard_that_was_given_up(
    tmp_path, read_back, monkeypatch
):
    """It is in the ledger, though nobody holds the shard's records any more."""
    monkeypatch.setattr(growing, "HELD_BYTES_MAX", 4_000)
    with bench(tmp_path / "run") as made:
        fill(made, [row for row in range(SHARD_ROWS) if row != 17])
        assert made.sealer._growing._growths[0].window is None
        made.journal.write([attempt(1, 7)])
        made.journal.write(of_row(17))
        made.publish(0)
        assert read_back == [0]
        found = made.table(0, "attempts")
        rows, numbers = found.column("row").to_pylist(), found.column("attempt").to_pylist()
        assert (1, 7) in set(zip(rows, numbers, strict=True))


def test_the_journal_can_be_written_after_the_sealer_ended(tmp_path):
    """There is nobody left to hand records to."""
    with bench(tmp_path / "run") as made:
        made.sealer.close()
        made.sealer.close = lambda: None
        fill(made, range(8))


def test_a_draft_of_another_run_is_left_alone(tmp_path):
    """A run that lost its lock without noticing ends, and the one that has it goes on."""
    draft = files.Draft(tmp_path / "part")
    winner = files.Draft(tmp_path / "part")
    draft.discard()
    winner.write(b"x")
    winner.sync()
    winner.rename()
    assert (tmp_path / "part").read_bytes() == b"x"


def test_drafts_count_as_written_where_free_space_is_watched(tmp_path):
    """They are on the disk: what publishing takes beside them is less by so much."""
    with bench(tmp_path / "run") as made:
        fill(made, range(36))
        filling = made.sealer._growing._growths[0].filling
        filling.results.write(b"x" * 1000)
        assert made.parts.drafted_bytes(0) >= 1000
