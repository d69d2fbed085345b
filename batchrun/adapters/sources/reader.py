"""What every reader of an input format offers, and which of its columns are carried."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.core.request import carried
from batchrun.errors import UsageError
from batchrun.records import Block, Row, Span


class Reader(Protocol):
    """The rows of the input files, read synchronously."""

    def schema(self) -> pa.Schema:
        """The carried columns as the input has them, before they are chosen and renamed."""
        ...

    def sample(self) -> Iterator[Mapping[str, Any]]:
        """Rows that tell which columns there are, and which keys inside them: the first ones, or
        one that the input's schema stands for.
        """
        ...

    def sent(self, rows: int) -> tuple[str, ...]:
        """The columns that are sent as request parameters, as the input's schema says; of JSON
        rows those that ``schema`` saw, or the first ``rows``.
        """
        ...

    def blocks(
        self, spans: Iterable[Span], *, limit: int | None, breaks: Collection[int] = ()
    ) -> Iterator[Block]:
        """The blocks of the spans, in input order; only rows numbered below ``limit``. A block
        also ends before each of the rows in ``breaks``, so that its digest can be compared.
        """
        ...

    def where(self, row: Row) -> str:
        """Where a row stands, for a message: its file and line."""
        ...

    def remarks(self) -> list[str]:
        """What the user should hear of the input, as far as it was read or counted."""
        ...

    def count(self, stop: Callable[[], bool]) -> int | None:
        """The number of rows, or None if ``stop`` said so before it was known, or if it is not
        known yet: a pipe tells at its end.
        """
        ...


class ReaderOver:
    """What a reader passes on that changes the blocks of another one."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def schema(self) -> pa.Schema:
        """See ``Reader``: that of the input."""
        return self._reader.schema()

    def sample(self) -> Iterator[Mapping[str, Any]]:
        """See ``Reader``: the first rows of the input."""
        return self._reader.sample()

    def sent(self, rows: int) -> tuple[str, ...]:
        """See ``Reader``."""
        return self._reader.sent(rows)

    def where(self, row: Row) -> str:
        """See ``Reader``: the place in the input."""
        return self._reader.where(row)

    def remarks(self) -> list[str]:
        """See ``Reader``."""
        return self._reader.remarks()


@dataclass(frozen=True, slots=True)
class Carry:
    """Which carried columns are kept, and what they are called in the results."""

    schema: pa.Schema
    """As published: output names, exact types."""
    names: tuple[str, ...]
    """The same columns under the input's names."""
    everything: bool
    """Whether fields without a column are kept too, in ``extra`` (JSON rows)."""
    sent: tuple[str, ...] = ()
    """Columns of the input that are sent as request parameters, as far as they are known when it
    is opened: in JSON rows those of the first ones."""


def choose(
    schema: pa.Schema,
    carry: str | tuple[str, ...],
    *,
    with_extra: bool,
    kept: Collection[str] = (),
    taken: Collection[str] = (),
) -> Carry:
    """Apply ``--carry`` to the columns the input has, and name them for the results. ``kept`` are
    the names of carried columns in a run that is there: it may have one that only a later version
    gave to a column of its own. ``taken`` are names that this run gives to columns besides those
    of every run.

    Raises ``UsageError`` for a column that is not there.
    """
    if carry == "all":
        names = schema.names
    elif carry == "none":
        names = []
    else:
        names = list(carry)
        missing = [name for name in names if name not in schema.names]
        if missing:
            have = ", ".join(schema.names) or "none"
            near = difflib.get_close_matches(missing[0], schema.names, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            message = (
                f"input.carry (--carry) names {missing[0]!r}, which is not a column.{meant} The "
                f"columns to carry are: {have}"
            )
            raise UsageError(message)
    free = {name.casefold() for name in kept} & part_schema.ADDED_LATER
    own = [*(name for name in part_schema.RESULT_NAMES if name not in free), part_schema.EXTRA]
    fields = [
        schema.field(name).with_name(new).with_nullable(True).remove_metadata()  # noqa: FBT003 - Arrow's own
        for name, new in zip(names, carried.output_names(names, [*own, *taken]), strict=True)
    ]
    if with_extra:
        fields.append(pa.field(part_schema.EXTRA, pa.string()))
    return Carry(pa.schema(fields), tuple(names), everything=carry == "all")
