"""The chunked transfer coding, cut anywhere."""

import pytest

from batchrun.core.chunked import (
    BULK_BYTES,
    LAST,
    LINE_BYTES_MAX,
    OTHERS_MAX,
    ChunkedError,
    Dechunker,
    alike,
    chunk_begins,
    chunk_without,
)

TEXTS = [b"a", b"data: x\n\n", b"\r\n", b"12\r\n", b"z" * 300, b"\n", b"\r"]


def _coded(texts, extension=b"", trailer=b""):
    lines = [b"%x%b\r\n%b\r\n" % (len(text), extension, text) for text in texts]
    return b"".join(lines) + b"0\r\n" + trailer + b"\r\n"


def _fed(data, size):
    dechunker = Dechunker()
    found = b""
    for start in range(0, len(data), size):
        found += b"".join(dechunker.feed(data[start : start + size]))
    return found, dechunker


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 10_000])
@pytest.mark.parametrize("extension", [b"", b";name=value", b' ; a="\x01"'])
@pytest.mark.parametrize("trailer", [b"", b"Expires: never\r\nX: y\r\n"])
def test_whatever_the_cuts(size, extension, trailer):
    """Data, extensions and trailers cut anywhere give the body, whole and once."""
    found, dechunker = _fed(_coded(TEXTS, extension, trailer), size)
    assert found == b"".join(TEXTS)
    assert (dechunker.ended, dechunker.surplus) == (True, False)


@pytest.mark.parametrize("size", [1, 700, 1500, 5000, 100_000])
@pytest.mark.parametrize("odd", [None, b"with \r inside", b"\n0", b"\r\n", b"0\r\n\r\n"])
def test_many_chunks_at_once(size, odd):
    """Chunks that are taken in bulk are those that would be taken one by one."""
    texts = [b"data: %d\n\n" % number for number in range(2 * BULK_BYTES // 10)]
    if odd is not None:
        texts.insert(70, odd)
    found, dechunker = _fed(_coded(texts), size)
    assert found == b"".join(texts)
    assert (dechunker.ended, dechunker.surplus) == (True, False)


def test_what_comes_behind_the_body_is_noticed():
    """The connection of such a response must not be used again."""
    for size in (1, 1000):
        found, dechunker = _fed(_coded([b"x"]) + b"H", size)
        assert (found, dechunker.ended, dechunker.surplus) == (b"x", True, True)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"x\r\nx\r\n",
        b"-1\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b"1_0\r\n",
        b"1" * 17 + b"\r\n",
        b"1\r\nxyz",
        b"1\r\nx\n\n1\r\nx",
        b"f" * (LINE_BYTES_MAX + 1),
        b"0\r\n" + b"t" * (LINE_BYTES_MAX + 1),
        b"5\r\n12345\rX5\r\n12345\r\n" + b"5\r\n12345\r\n" * BULK_BYTES,
        b"5\r\n12345\r\n" * BULK_BYTES + b"5\r\n123456\r\n",
        b"5\r\n12345\r\n" * BULK_BYTES + b"5\rX12345\r\n" * 2,
    ],
)
@pytest.mark.parametrize("size", [1, 100_000])
def test_broken_coding_is_an_error(data, size):
    """What is no chunk is never taken for text."""
    with pytest.raises(ChunkedError):
        _fed(data, size)


def test_half_a_body_has_not_ended():
    """The end is announced and not guessed."""
    found, dechunker = _fed(_coded([b"hello"])[:6], 2)
    assert (found, dechunker.ended) == (b"hel", False)


@pytest.mark.parametrize("chunks", [1, 50], ids=["alone", "in bulk"])
def test_a_long_extension_is_refused_in_one_piece_too(chunks):
    """Sizes are remembered with their extensions: a server must not fill the memory with them."""
    small = b"5\r\nhello\r\n" * (chunks - 1)
    data = small + b"5;" + b"x" * LINE_BYTES_MAX + b"\r\nhello\r\n0\r\n\r\n"
    with pytest.raises(ChunkedError, match="no size of a chunk"):
        _fed(data, len(data))


LIKE = [b"<%d>\n" % number for number in range(200)]


@pytest.mark.parametrize("size", [b"%x", b"%X", b"0%x", b"%x;name=value"])
@pytest.mark.parametrize(
    ("others", "count"),
    [
        ([], 200),
        ([b"end\n", b"data"], 200),
        ([b"<>"], 200),
        ([b"\r"], 200),
        ([b"end\n"] * (OTHERS_MAX - 1), 200),  # and the last chunk of all
        ([b"end\n"] * OTHERS_MAX, 0),
    ],
)
def test_chunks_that_are_alike(size, others, count):
    """What differs between them is taken, up to chunks of another kind; sizes written otherwise
    than usual are left to the long way.
    """
    wire = [b"%b\r\n%b\r\n" % (size % len(text), text) for text in LIKE + others]
    texts, end = alike(b"".join(wire) + LAST, 0, b"<", b">\n")
    plain = size == b"%x" or (size == b"%X" and max(map(len, LIKE)) < 10)
    expected = count if plain else 0
    assert texts == [b"%d" % number for number in range(expected)]
    assert end == len(b"".join(wire[:expected]))


@pytest.mark.parametrize("place", [0, 57, 150])
@pytest.mark.parametrize("odd", [b"<x>", b"x>\n", b"<", b"\r<1>\n", b"<\r>\n", b"<1>\n<2>\n"])
def test_an_odd_chunk_among_them(place, odd):
    """Nothing is taken that does not hold what stands around the text, or holds a CR."""
    chunks = [*LIKE[:place], odd, *LIKE[place:]]
    data = b"".join(b"%x\r\n%b\r\n" % (len(text), text) for text in chunks)
    texts, end = alike(data, 0, b"<", b">\n")
    assert data[:end] == b"".join(b"%x\r\n<%b>\n\r\n" % (len(t) + 3, t) for t in texts)
    assert (texts == []) == (odd != b"<1>\n<2>\n")


def test_a_cut_at_any_byte_leaves_whole_chunks():
    """Those whose line break has arrived are taken, also where only that is missing."""
    wire = [b"%x\r\n%b\r\n" % (len(text), text) for text in LIKE[:20]]
    data = b"".join(wire)
    for size in range(len(data)):
        texts, end = alike(data[:size], 0, b"<", b">\n")
        assert end == len(b"".join(wire[: len(texts)]))
        assert end + max(map(len, wire)) > size


@pytest.mark.parametrize("size", [b"%x", b"%X", b"00%x", b"%x;a=b"])
@pytest.mark.parametrize("text", [b"b", b"two\nlines", b"\r\n", b"z" * 300])
def test_one_chunk_without_its_end(size, text):
    """A whole chunk at a border is taken if it ends like that; nothing of one that is cut."""
    chunk = size % (len(text) + 1) + b"\r\n" + text + b"\n\r\n"
    data = b"1\r\na\r\n" + chunk + LAST
    at, end = 6, 6 + len(chunk)
    assert chunk_without(data, at, b"\n") == (text, end)
    assert chunk_without(data, at, text + b"\n") == (b"", at)
    assert chunk_without(data, 0, b"\n") == (b"", 0)
    assert chunk_without(data, end, b"\n") == (b"", end)
    for cut in range(at, end):
        assert chunk_without(data[:cut], at, b"\n") == (b"", at)


@pytest.mark.parametrize("line", [b"x\r\n", b"\r\n", b"-1\r\n", b"1_0\r\n"])
def test_what_is_no_size_ends_it(line):
    """A line that is no size is not passed over."""
    with pytest.raises(ChunkedError, match="no size of a chunk"):
        chunk_without(line + b"a\n\r\n", 0, b"\n")


@pytest.mark.parametrize("line", [b"2\n", b"2;" + b"x" * 30 + b"\r\n", b"2;\n\r\n", b"2"])
def test_odd_sizes_are_left_to_the_long_way(line):
    """Line ends of another kind, long extensions, and lines that have not arrived."""
    assert chunk_without(line + b"a\n\r\n" * (line != b"2"), 0, b"\n") == (b"", 0)


def test_how_a_chunk_begins():
    """Looked at behind its size, wherever it stands."""
    assert chunk_begins(b"2\r\nab\r\nA1\r\ncd", 7, b"cd")
    assert not chunk_begins(b"2\r\nab\r\nA1\r\ncd", 7, b"ce")
    assert not chunk_begins(b"2\r\nab\r\nA1\r", 7, b"")
