"""Arrays of JSON, cut anywhere and damaged anywhere: every element once, from wherever."""

import json

from hypothesis import given
from hypothesis import strategies as st

from batchrun.adapters.sources import elements
from batchrun.records import Position

TEXTS = st.one_of(st.text(), st.sampled_from(['q"x', "\\", "]{},[", "ü\n", "\\\\"]))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.just(2.5), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ROWS = st.lists(VALUES, max_size=6)
WAYS = st.tuples(st.sampled_from([None, 0, 2]), st.booleans())


class Source:
    """Bytes in chunks of one size."""

    def __init__(self, data, size):
        self._data = data
        self._size = size

    def chunks(self, index, offset):  # noqa: ARG002 - there is one file
        """See ``streams.ByteSource``."""
        for place in range(offset, len(self._data), self._size):
            yield self._data[place : place + self._size]

    def close(self):
        """See ``streams.ByteSource``."""


def _written(rows, way):
    indent, plain = way
    return json.dumps(rows, indent=indent, ensure_ascii=not plain).encode(errors="surrogatepass")


def _read(data, size, start=Position()):  # noqa: B008 - it cannot be changed
    return list(elements.split(Source(data, size), 0, start, bytes_max=10**6))


@given(ROWS, WAYS, st.integers(1, 40))
def test_every_element_once(rows, way, size):
    """Whatever the chunks; numbered from 1, and readable from behind each of them."""
    data = _written(rows, way)
    found = _read(data, size)
    assert [json.loads(line.data) for line in found] == rows
    assert [line.number for line in found] == list(range(1, len(rows) + 1))
    for line in found:
        assert _read(data, size, Position(0, line.end, line.number)) == found[line.number :]


@given(ROWS, WAYS, st.data())
def test_a_damaged_array(rows, way, data):
    """Cut off, or with a byte too many: chunks do not matter, and no row depends on where reading
    began.
    """
    whole = _written(rows, way)
    place = data.draw(st.integers(1, len(whole)))
    more = data.draw(st.sampled_from([b"", b",", b"]", b"}", b'"', b"{", b"x"]))
    broken = whole[:place] if not more else whole[:place] + more + whole[place:]
    found = _read(broken, 10**6)
    assert _read(broken, data.draw(st.integers(1, 9))) == found
    for nth, line in enumerate(found, 1):
        assert _read(broken, 7, Position(0, line.end, line.number)) == found[nth:]
    if not more and place < len(whole):
        assert found[-1:] == [] or found[-1].problem or broken.rstrip().endswith(b"[")
