"""Requests kept aside while a sample is drawn, and the file that the sampled ones become."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import msgspec

from batchrun.adapters.storage.files import make_folder, write_whole
from batchrun.core.request.conversation import TURNS
from batchrun.core.settings.addresses import local_path
from batchrun.errors import StorageError, UsageError
from batchrun.records import Request

NAME = "sample.jsonl"
INPUT_ROW = "input_row"
"""The results column with a sampled row's number in the whole input."""


class Kept(NamedTuple):
    """The place of a request in the temporary file, and its properties."""

    offset: int
    bytes: int
    row: int
    model: str
    size: float


class Aside:
    """Requests by ticket, in a temporary file: a reservoir of rows may be larger than memory."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self.kept: dict[int, Kept] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def keep(
        self, ticket: int, request: Request, size: float, *, streams: bool, turns: bool = False
    ) -> None:
        """Keep a request under its ticket. Raises ``StorageError``."""
        line = _line(request, streams=streams, turns=turns)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when this is left
            offset = self._file.seek(0, 2)
            self._file.write(line)
        except OSError as error:
            message = f"cannot write a temporary file: {error.strerror}; make room, or set TMPDIR"
            raise StorageError(message) from error
        self.kept[ticket] = Kept(offset, len(line), request.row, request.model, size)

    def lines(self, tickets: Collection[int]) -> Iterator[bytes]:
        """The requests of the tickets as they are sampled, in input order."""
        for ticket in self.in_order(tickets):
            kept = self.kept[ticket]
            assert self._file is not None
            self._file.seek(kept.offset)
            yield self._file.read(kept.bytes)

    def in_order(self, tickets: Collection[int]) -> list[int]:
        """The tickets in input order."""
        return sorted(tickets, key=lambda ticket: self.kept[ticket].row)


def _line(request: Request, *, streams: bool, turns: bool) -> bytes:
    """A line of an OpenAI Batch input that produces the same request."""
    body = request.body
    line: dict[str, Any] = {} if request.custom_id is None else {"custom_id": request.custom_id}
    if streams or turns:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        if streams:
            # The row of a request without them turned them off: if left out, they would come back.
            fields.setdefault("stream_options", msgspec.Raw(b"null"))
        if turns:
            line[TURNS] = fields.pop(TURNS)
        body = msgspec.json.encode(fields)
    line |= {"method": "POST", "url": "/v1/chat/completions", "body": msgspec.Raw(body)}
    return msgspec.json.encode(line | {INPUT_ROW: request.row}) + b"\n"


def require_place(directory: str, checkpoint: Path) -> None:
    """Raise ``UsageError`` if the directory has something other than a pilot."""
    if (checkpoint / NAME).exists():
        return
    local = local_path(directory)
    places = [checkpoint] if local is None else [checkpoint, Path(local)]
    for place in places:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            message = (
                f"{place} is there already, and is not of a pilot; name a new directory for the "
                "pilot with -o DIR"
            )
            raise UsageError(message)


def write(folder: Path, lines: Iterator[bytes]) -> Path:
    """Write the sample as a file in the folder, which is created. Raises ``UsageError`` if a
    different one exists, or ``StorageError``.
    """
    path = folder / NAME
    content = b"".join(lines)
    try:
        make_folder(folder, private=True)
        if path.exists():
            if path.read_bytes() != content:
                message = (
                    f"{path} is the sample of another pilot: other rows, settings, N or seed. "
                    "Choose another directory with -o DIR"
                )
                raise UsageError(message)
        else:
            write_whole(path, content)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}"
        raise StorageError(message) from error
    return path
