"""Records of claims, leases, and the choice of the next shard."""

import pytest

from batchrun.core.fleet import claims, leases
from batchrun.core.fleet.board import Board, Place
from batchrun.core.fleet.claims import Claim
from batchrun.core.fleet.leases import LEASE_S, Lease
from batchrun.errors import DamagedError


def everybody(_):
    """All workers live."""
    return True


def nobody(_):
    """All workers are dead."""
    return False


@pytest.mark.parametrize(
    "claim",
    [Claim(0, 1, "a"), Claim(99_999_999, 3, "0007-ab"), Claim(4, 2, "a", {"totals": {"x": [1]}})],
)
def test_a_record_reads_back(claim):
    """Name and content of a record give the claim that was written."""
    folder, name = claim.name.split("/")
    assert folder == claims.FOLDER
    assert claims.parse(*claims.parse_name(name), claim.as_bytes()) == claim


@pytest.mark.parametrize("name", [".00000001.000001.a.tmp", "00000001", "x.000001", ""])
def test_other_files_are_no_records(name):
    """A draft, or a file that somebody put there, is passed over."""
    assert claims.parse_name(name) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"worker": 3}', b"\xff"])
def test_a_record_that_was_damaged_is_named(content):
    """It is an error that names the record, never taken for a claim."""
    with pytest.raises(DamagedError, match=r"claims/00000005\.000002.* is damaged"):
        claims.parse(5, 2, content)


def test_a_bit_that_flipped_makes_no_other_claim():
    """A record that still reads as one is known by its checksum."""
    content = Claim(5, 2, "0001-ab").as_bytes().replace(b"0001", b"0002")
    with pytest.raises(DamagedError, match="its checksum is wrong"):
        claims.parse(5, 2, content)


def test_taking_over_and_committing_are_the_same_epoch():
    """So a store that creates each record once lets only one of them happen."""
    mine = Claim(3, 1, "a")
    assert mine.taken_over("b").name == mine.committed({}).name == claims.record_name(3, 2)


def test_nothing_follows_a_published_shard():
    """Neither a takeover nor a second commit."""
    done = Claim(3, 1, "a").committed({"totals": {}})
    for follow in (lambda: done.taken_over("b"), lambda: done.committed({})):
        with pytest.raises(ValueError, match="shard 3 is published"):
            follow()


@pytest.mark.parametrize(
    ("renewed_s", "ended", "lives"),
    [(0, False, True), (-LEASE_S, False, True), (-LEASE_S - 0.1, False, False), (0, True, False)],
)
def test_a_lease_lives_for_its_time_unless_it_ended(renewed_s, ended, lives):
    """It is judged by two times of one clock, an hour off or not."""
    lease = Lease("a", 3600 + renewed_s, ended)
    assert lease.lives(3600) is lives


def test_a_lease_reads_back_and_half_of_one_lives():
    """What is being written at the moment is a living worker's."""
    lease = Lease("a", 7.0, ended=True, machine="m")
    assert leases.parse("a", 7.0, lease.as_bytes()) == lease
    assert leases.parse("a", 7.0, b"").lives(8.0)


def test_places_divide_all_shards():
    """Every shard is in the stretch of one place, and stretches differ by one shard at most."""
    for count in (1, 3, 7):
        own = [Place(index, count).own(20) for index in range(count)]
        assert [shard for each in own for shard in each] == list(range(20))
        assert max(map(len, own)) - min(map(len, own)) <= 1


def test_reading_on_comes_first_then_the_own_stretch():
    """The shard behind the last one needs no seek; a worker that begins takes its own first."""
    board = Board(10)
    assert board.next(Place(1, 2), None, everybody) == (5, None)
    board.see(Claim(5, 1, "me"))
    assert board.next(Place(1, 2), 5, everybody) == (6, None)
    board.see(Claim(6, 1, "other"))
    assert board.next(Place(1, 2), 5, everybody) == (7, None)


def test_help_begins_in_the_middle_of_the_longest_free_stretch():
    """So its owner and the helper are far apart, and both read forward."""
    board = Board(20, done=range(10, 20))
    board.see(Claim(0, 1, "a"))
    board.see(Claim(1, 1, "a"))
    assert board.next(Place(1, 2), 19, everybody) == (6, None)


def test_a_shard_of_a_living_worker_is_left_alone():
    """It is taken over once its worker is dead, with the next epoch."""
    board = Board(2, done=[0])
    held = Claim(1, 1, "a")
    board.see(held)
    assert board.next(Place(0, 1), None, everybody) is None
    assert board.next(Place(0, 1), None, nobody) == (1, held)


def test_helpers_reach_for_different_orphans():
    """Each looks from its own stretch on."""
    board = Board(4)
    for shard in range(4):
        board.see(Claim(shard, 1, "dead"))
    found = [board.next(Place(index, 4), None, nobody)[0] for index in range(4)]
    assert found == [0, 1, 2, 3]


def test_an_older_record_changes_nothing():
    """Records may be seen in any order; the latest epoch stands."""
    board = Board(1)
    board.see(Claim(0, 3, "c"))
    board.see(Claim(0, 2, "b"))
    assert board.claims[0].worker == "c"
    board.see(Claim(0, 4, "c", {}))
    board.see(Claim(0, 5, "d"))
    assert (board.claims, board.all_published) == ({}, True)
