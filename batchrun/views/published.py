"""Reading the published results of a run directory, while a run may be replacing them.

The folder of parts is opened once, and every file below it: what is replaced meanwhile is read to
its end as it was, and a directory that is moved away does not mix two runs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.old_part import damaged
from batchrun.errors import UsageError

OPEN_TRIES = 5
OPEN_WAIT_S = 0.05


class Results:
    """The published parts of a run directory, in row order."""

    def __init__(self, folder: Path) -> None:
        """Open the folder of parts. Raises ``UsageError`` where nothing is published."""
        self._folder = folder / "results"
        try:
            self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            message = f"{folder} has no results yet: no part is published"
            raise UsageError(message) from None
        except OSError as error:
            message = f"cannot look into {self._folder}: {error.strerror}"
            raise UsageError(message) from None
        try:
            self._names = self._listed()
            with self._part(self._names[0]) as part:
                self.schema: pa.Schema = part.schema_arrow
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)

    def _listed(self) -> list[str]:
        names = os.listdir(self._descriptor)  # noqa: PTH208 - of a descriptor, not of a path
        parts = sorted(n for n in names if n.startswith("part-") and n.endswith(".parquet"))
        if not parts:
            message = f"{self._folder.parent} has no results yet: no part is published"
            raise UsageError(message)
        return parts

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, a row group at a time."""
        for name in self._names:
            with self._part(name) as part:
                if not part.schema_arrow.equals(self.schema):
                    why = f"its columns are not those of {self._names[0]}"
                    raise damaged(self._folder / name, why)
                for group in range(part.num_row_groups):
                    try:
                        yield part.read_row_group(group, columns=columns, use_threads=False)
                    except (OSError, pa.ArrowException) as error:
                        raise damaged(self._folder / name, error) from error

    @contextlib.contextmanager
    def _part(self, name: str) -> Iterator[pq.ParquetFile]:
        path = self._folder / name
        with self._opened(name) as file:
            try:
                part = pq.ParquetFile(file, pre_buffer=False)
            except (OSError, pa.ArrowException) as error:
                raise damaged(path, error) from error
            with part:
                yield part

    def _opened(self, name: str) -> IO[bytes]:
        """A part as it is now. On network file systems a replaced one is gone for a moment."""
        for tried in range(1, OPEN_TRIES + 1):
            try:
                return os.fdopen(os.open(name, os.O_RDONLY, dir_fd=self._descriptor), "rb")
            except FileNotFoundError:
                if tried == OPEN_TRIES:
                    message = f"{self._folder / name} was taken away while it was to be read"
                    raise UsageError(message) from None
                time.sleep(OPEN_WAIT_S)
            except OSError as error:
                message = f"cannot read {self._folder / name}: {error.strerror}"
                raise UsageError(message) from None
        raise AssertionError
