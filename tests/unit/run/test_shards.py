"""What a resumed run has to read."""

import pytest

from batchrun.core.run.shards import plan_reading
from batchrun.records import Position, ShardState, Span

SIZE = 10


def _state(shard, rows=SIZE, *, complete=True):
    end = Position(0, 100 * shard + rows, 0)
    return ShardState(shard, rows, b"", end, generation=1, complete=complete)


def _after(shard, rows=SIZE):
    return Position(0, 100 * shard + rows, 0)


START = Position()

# What is known, whether the input has grown, and the spans to read.
CASES = {
    "nothing known": ([], False, [Span(0, None, START)]),
    "the first shards are done": (
        [_state(0), _state(1)],
        False,
        [Span(2, None, _after(1))],
    ),
    "all done, the last one short": ([_state(0), _state(1, 4)], False, []),
    "all done, the last one full": ([_state(0), _state(1)], False, [Span(2, None, _after(1))]),
    "an open shard at the front": (
        [_state(0, complete=False), _state(1)],
        False,
        [Span(0, 0, START), Span(2, None, _after(1))],
    ),
    "an open shard between": (
        [_state(0), _state(1, 3, complete=False), _state(2), _state(3, 2)],
        False,
        [Span(1, 1, _after(0))],
    ),
    "open shards in a row are one span": (
        [_state(0), _state(1, 0, complete=False), _state(2, 5, complete=False), _state(3)],
        False,
        [Span(1, 2, _after(0)), Span(4, None, _after(3))],
    ),
    "two gaps": (
        [
            _state(0, complete=False),
            _state(1),
            _state(2, complete=False),
            _state(3),
            _state(4, 1),
        ],
        False,
        [Span(0, 0, START), Span(2, 2, _after(1))],
    ),
    "an open tail": ([_state(0), _state(1, 4, complete=False)], False, [Span(1, None, _after(0))]),
    "a shard that was never reached": (
        [_state(0), _state(2)],
        False,
        [Span(1, 1, _after(0)), Span(3, None, _after(2))],
    ),
    "never reached behind an open one": (
        [_state(0), _state(1, complete=False), _state(3)],
        False,
        [Span(1, 2, _after(0)), Span(4, None, _after(3))],
    ),
    "grown behind a short tail": (
        [_state(0), _state(1, 4)],
        True,
        [Span(1, None, _after(0))],
    ),
    "grown behind a full tail": ([_state(0), _state(1)], True, [Span(2, None, _after(1))]),
    "an empty input": ([_state(0, 0)], False, []),
    "an empty input that has grown": ([_state(0, 0)], True, [Span(0, None, START)]),
}


@pytest.mark.parametrize(("states", "grown", "spans"), CASES.values(), ids=CASES)
def test_what_is_not_complete_is_read_and_nothing_else(states, grown, spans):
    """As few spans as possible, each from where its first shard starts in the input."""
    assert plan_reading(states, SIZE, grown=grown) == spans


@pytest.mark.parametrize(("states", "grown", "spans"), CASES.values(), ids=CASES)
def test_the_order_of_the_states_does_not_matter(states, grown, spans):
    """A plan depends on what is known, not on the order of telling."""
    assert plan_reading(states[::-1], SIZE, grown=grown) == spans


@pytest.mark.parametrize(
    ("again", "spans"),
    [
        ({1}, [Span(1, 1, _after(0))]),
        ({0, 1}, [Span(0, 1, START)]),
        ({3}, [Span(3, None, _after(2))]),
        ({1, 3}, [Span(1, 1, _after(0)), Span(3, None, _after(2))]),
    ],
)
def test_complete_shards_with_rows_that_are_sent_again_are_read(again, spans):
    """A complete shard is read once more for the rows in it that are wanted, and no other is."""
    states = [_state(0), _state(1), _state(2), _state(3, 4)]
    assert plan_reading(states, SIZE, grown=False, again=again) == spans
