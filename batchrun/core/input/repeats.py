"""``--repeat K``: the arithmetic of rows that are sent K times.

Row r of the input gives the rows r·K to r·K + K - 1 of the results. A shard holds whole rows of the
input, so that reading can go on at its border: its size is the number of results asked for, rounded
down to a multiple of K.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

NAME = "repeat"
"""What templates call the number of the repeat, counted from 0."""


def whole_rows(shard_rows: int, repeat: int) -> int:
    """The rows of a shard that holds all repeats of its input rows: at most ``shard_rows``, unless
    one input row alone has more.
    """
    return max(repeat, shard_rows - shard_rows % repeat)


def answer_key(request_hash: bytes, repeat: int) -> bytes:
    """By what the answer to a repeat is found again in another run: the hash of its request for
    the first one, as in a run without repeats, and a hash of both for every other.
    """
    return request_hash if repeat == 0 else sha256(b"repeat %d\0" % repeat + request_hash).digest()


class BodyOfEach(dict[str, Any]):
    """The body of a row whose repeats differ: that of the first repeat, and in ``each`` what every
    repeat sends, or in words why it cannot be sent.
    """

    def __init__(self, each: tuple[dict[str, Any] | str, ...]) -> None:
        first = each[0]
        super().__init__(first if isinstance(first, dict) else {})
        self.each = each


def with_each(body: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """A body with more in it; of a row whose repeats differ, in that of each."""
    if not isinstance(body, BodyOfEach):
        return {**body, **more}
    return BodyOfEach(tuple(one if isinstance(one, str) else {**one, **more} for one in body.each))
