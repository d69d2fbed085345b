"""Values too large for their column: raw replies and media, each in a file of ``responses/``.

A file is named by the SHA-256 of its content, and written and flushed before the part that names
it: a kill in between leaves an unnamed file, and the same row, published again from its log, names
the same file. Nothing here is ever changed or deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from batchrun.adapters.columns.columns import MEDIUM
from batchrun.adapters.storage.store import RESPONSES, Store, StoreReader
from batchrun.errors import DamagedError
from batchrun.records import Media, Outcome

COLUMN_BYTES_MAX = 2**20
"""A longer value goes into a file."""
_SURELY_SMALL = COLUMN_BYTES_MAX // 4
"""Characters of a text that cannot be longer in UTF-8."""
_NAMED = '{"file": "' + RESPONSES + "/"
_REFERENCE = re.compile(re.escape(_NAMED) + r'([0-9a-f]{64})"\}')


def shelved(store: Store, outcomes: Sequence[Outcome]) -> list[Outcome] | None:
    """Outcomes with at most ``COLUMN_BYTES_MAX`` per column: larger values are in files, durable
    when this returns. None if nothing is larger. Raises ``OSError`` or ``StorageError``.
    """
    candidates = [
        place
        for place, outcome in enumerate(outcomes)
        if (outcome.response is not None and len(outcome.response) > _SURELY_SMALL)
        or (outcome.completion is not None and outcome.completion.media)
    ]
    lean = {}
    for place in candidates:
        found = _shelved(store, outcomes[place])
        if found is not outcomes[place]:
            lean[place] = found
    return [lean.get(place, o) for place, o in enumerate(outcomes)] if lean else None


def _shelved(store: Store, outcome: Outcome) -> Outcome:
    response, completion = outcome.response, outcome.completion
    if response is not None and len(response) > _SURELY_SMALL:
        content = response.encode("utf-8", "replace")
        if len(content) > COLUMN_BYTES_MAX:
            named = json.dumps({"file": _put(store, content)})
            outcome = outcome._replace(response=named)
    if completion is not None and completion.media:
        media = tuple(_lean(store, medium) for medium in completion.media)
        if media != completion.media:
            outcome = outcome._replace(completion=completion._replace(media=media))
    return outcome


def _lean(store: Store, medium: Media) -> Media:
    if medium.data is None or len(medium.data) <= COLUMN_BYTES_MAX:
        return medium
    return medium._replace(data=None, file=_put(store, medium.data))


def _put(store: Store, content: bytes) -> str:
    """Write a file, unless it exists; returns its name."""
    name = f"{RESPONSES}/{hashlib.sha256(content).hexdigest()}"
    if store.size(name) != len(content):
        with store.draft(name) as draft:
            draft.write(content)
            store.publish([draft])
    return name


def are_in_place(results: pa.Table) -> bool:
    """Whether all replies are certain to be in their column, and to belong there."""
    named = _NAMED.encode()
    if "response" not in results.schema.names:
        return True
    for chunk in results.column("response").chunks:
        _, offsets, data = chunk.buffers()
        if data is None:
            continue
        ends = memoryview(offsets).cast("B").cast("i")[chunk.offset : chunk.offset + len(chunk) + 1]
        if ends[-1] - ends[0] > COLUMN_BYTES_MAX and any(
            end - start > COLUMN_BYTES_MAX for start, end in itertools.pairwise(ends)
        ):
            return False
        if bytes(data[ends[0] : ends[-1]]).find(named) >= 0:
            return False
    return True


def reference(response: str | None) -> str | None:
    """The file that a ``response`` column names; None if it has the reply itself."""
    found = None if response is None else _REFERENCE.fullmatch(response)
    return None if found is None else f"{RESPONSES}/{found[1]}"


def has_references(results: pa.Table | pa.RecordBatch) -> bool:
    """Whether any of these results names a file."""
    import pyarrow.compute as pc  # it imports numpy, which a run does not need

    names = results.schema.names
    if "response" in names:
        found = pc.any(pc.starts_with(results.column("response"), _NAMED)).as_py()
        if found:
            return True
    return _has_media(results) and any(True for _ in _named_media(results))


def _has_media(results: pa.Table | pa.RecordBatch) -> bool:
    """Whether there is a column of media: in a run that version 0.1 began, a column of that name
    may be carried from the input.
    """
    place = results.schema.get_field_index("media")
    return bool(place >= 0 and results.schema.field(place).type == pa.list_(MEDIUM))


def _named_media(results: pa.Table | pa.RecordBatch) -> Iterator[str]:
    column = results.column("media")
    if column.null_count == len(column):
        return
    for media in column.to_pylist():
        for medium in media or ():
            if medium["file"] is not None and medium["file"].startswith(f"{RESPONSES}/"):
                yield medium["file"]


def references(results: pa.Table | pa.RecordBatch) -> Iterator[str]:
    """The files that these results name."""
    for response in results.column("response").to_pylist():
        if (name := reference(response)) is not None:
            yield name
    if _has_media(results):
        yield from _named_media(results)


def whole(store: StoreReader, results: pa.Table) -> Iterator[pa.Table]:
    """Results with everything in their columns, row by row if files have to be read. Raises
    ``DamagedError`` for a file that is missing.
    """
    if not has_references(results):
        yield results
        return
    for place in range(results.num_rows):
        row = results.slice(place, 1)
        yield _filled(store, row) if has_references(row) else row


def _filled(store: StoreReader, row: pa.Table) -> pa.Table:
    if "response" in row.schema.names:
        name = reference(row.column("response")[0].as_py())
        if name is not None:
            text = _content(store, name).decode("utf-8", "replace")
            row = _with(row, "response", text)
    if _has_media(row) and (media := row.column("media")[0].as_py()):
        for medium in media:
            if medium["file"] is not None and medium["file"].startswith(f"{RESPONSES}/"):
                medium["bytes"] = _content(store, medium["file"])
                medium["file"] = None
        row = _with(row, "media", media)
    return row


def _with(row: pa.Table, name: str, value: object) -> pa.Table:
    place = row.schema.get_field_index(name)
    field = row.schema.field(place)
    return row.set_column(place, field, pa.array([value], field.type))


def _content(store: StoreReader, name: str) -> bytes:
    try:
        with store.open(name) as file:
            return file.read()
    except FileNotFoundError:
        where = store.where(name)
        message = (
            f"{where} is missing, and a row of the results names it: the reply was too large for "
            "its column. Restore it from a copy; `batchrun verify` names all such rows"
        )
        raise DamagedError(message, path=where) from None
