"""The protocol of input readers, and the choice of carried columns."""

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
        """The input's columns that can be carried, before they are chosen and renamed."""
        ...

    def sample(self) -> Iterator[Mapping[str, Any]]:
        """Rows that show the columns and the keys inside them: the first rows, or an example made
        from the input's schema.
        """
        ...

    def sent(self, rows: int) -> tuple[str, ...]:
        """The columns that are sent as request parameters, according to the input's schema; for
        JSON rows those found by ``schema``, or in the first ``rows`` rows.
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
        """A row's file and line, for a message."""
        ...

    def remarks(self) -> list[str]:
        """Notices about the input that was read or counted so far."""
        ...

    def count(self, stop: Callable[[], bool]) -> int | None:
        """The number of rows, or None if ``stop`` returned true before it was known, or if it is
        not known yet: for a pipe it is known at its end.
        """
        ...


class ReaderOver:
    """Base of readers that change the blocks of another one."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def schema(self) -> pa.Schema:
        """See ``Reader``: the input's schema."""
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
    """The carried columns, and their names in the results."""

    schema: pa.Schema
    """As published: output names, exact types."""
    names: tuple[str, ...]
    """The same columns under the input's names."""
    everything: bool
    """Whether fields without a column are kept too, in ``extra`` (JSON rows)."""
    sent: tuple[str, ...] = ()
    """Columns of the input known to be sent as request parameters when it is opened: for JSON,
    those of the first rows.
    """


def choose(
    schema: pa.Schema,
    carry: str | tuple[str, ...],
    *,
    with_extra: bool,
    kept: Collection[str] = (),
    taken: Collection[str] = (),
) -> Carry:
    """Apply ``--carry`` to the columns of the input, and name them for the results. ``kept`` are
    the names of carried columns in an existing run: one may be a name that a later version uses for
    a fixed column. ``taken`` are names that this run uses for additional columns.

    Raises ``UsageError`` for a missing column.
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
