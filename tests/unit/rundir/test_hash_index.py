"""The index of another run's answers: a sorted file of hashes and places."""

import hashlib

import pytest

from batchrun.rundir.reuse import hash_index
from batchrun.rundir.reuse.hash_index import Builder, Index
from tests.harness.slow import rest_slow

IDENTITY = b"i" * 32


def _place(number):
    return number.to_bytes(8, "big")


def _digest(number):
    return hashlib.sha256(str(number).encode()).digest()


@pytest.fixture
def made(tmp_path):
    """Builds an index of hashes and places, given in pieces, and opens it."""
    opened = []

    def make(*pieces, about=None):
        count = sum(len(piece) for piece in pieces)
        with Builder(count if about is None else about, tmp_path) as builder:
            for piece in pieces:
                hashes = b"".join(digest for digest, _ in piece)
                builder.add(hashes, [_place(place) for _, place in piece])
            builder.write(tmp_path / "index", IDENTITY, 7)
        opened.append(Index.opened(tmp_path / "index", IDENTITY, 7))
        return opened[-1]

    yield make
    for index in opened:
        index.close()


@pytest.mark.parametrize("count", [0, 1, 63, 65, 1000])
@pytest.mark.parametrize("about", rest_slow([10**6, 0, 10**9]))
def test_every_hash_is_found_where_it_was_put(made, count, about):
    """However many rows were expected; and no other hash is found."""
    index = made([(_digest(n), n * 3) for n in range(count)], about=about)
    assert index.count == count
    assert [index.find(_digest(n)) for n in range(count)] == [[n * 3] for n in range(count)]
    assert not any(index.find(_digest(-n - 1)) for n in range(200))


def test_the_first_place_of_equal_hashes_wins(made):
    """In whatever order they come: one record is kept, and ten thousand cost no more than one."""
    same = _digest("same")
    index = made([(same, 9), (_digest(1), 1)], [(same, 4)], [(same, n + 10) for n in range(10_000)])
    assert index.find(same) == [4] and index.count == 2


def test_hashes_that_begin_alike_are_all_found(made):
    """The file holds 16 bytes of a hash; who takes an answer compares the rest."""
    one, other = b"\xab" * 16 + b"\x01" * 16, b"\xab" * 16 + b"\x00" * 16
    assert made([(one, 1), (other, 2)]).find(one) == [2, 1]


def test_a_key_across_two_records_is_no_record(made):
    """What looks like a hash and begins in the middle of a record is passed over."""
    first = b"\x00" * 32
    hidden = b"\x00" * 16
    index = made([(first, 0), (b"\x00" * 15 + b"\x01" + b"\x02" * 16, 0)])
    assert index.find(hidden) == [0]


def test_extremes_of_the_first_bytes(made):
    """The lowest and the highest bucket, with as many bits as there are and with none."""
    ends = [(b"\x00" * 32, 1), (b"\xff" * 32, 2**64 - 1)]
    assert [made(ends).find(digest) for digest, _ in ends] == [[1], [2**64 - 1]]
    many = [(_digest(n), n) for n in range(5000)]
    index = made(ends, many)
    assert [index.find(digest) for digest, _ in ends] == [[1], [2**64 - 1]]


def test_records_beyond_memory_go_through_a_file(made, monkeypatch):
    """With room for a handful only, the same index comes out."""
    whole = [(_digest(n), n) for n in range(3000)]
    path = made(whole, about=10**6)
    monkeypatch.setattr(hash_index, "HELD_BYTES_MAX", 400)
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)]
    index = made(*pieces, about=10**6)
    assert index.count == path.count
    assert all(index.find(digest) == [place] for digest, place in whole)


def test_a_record_takes_24_bytes(made, tmp_path):
    """And the table in front of them an eighth of a byte a row."""
    made([(_digest(n), n) for n in range(20_000)])
    assert (tmp_path / "index").stat().st_size < 20_000 * 25


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        lambda path: (path.rename(path.with_name("other")), path.symlink_to("other")),
    ],
)
def test_what_is_no_whole_index_is_not_opened(made, tmp_path, harm):
    """Missing, torn, of another make, or behind a link: it is built again."""
    made([(_digest(n), n) for n in range(10)])
    assert Index.opened(tmp_path / "index", b"o" * 32, 7) is None
    assert Index.opened(tmp_path / "index", IDENTITY, 8) is None
    harm(tmp_path / "index")
    assert Index.opened(tmp_path / "index", IDENTITY, 7) is None


@pytest.mark.parametrize(("last", "differ"), [(19, False), (20, True)])
def test_whether_all_hashes_differ_is_known(tmp_path, last, differ):
    """Then an answer that is found by other means is the one that the index would name."""
    with Builder(21, tmp_path) as builder:
        for number in [*range(20), last]:
            builder.add(_digest(number), [_place(number)])
        builder.write(tmp_path / "index", IDENTITY, 7)
        assert builder.all_differ is differ
