"""Reading the local files that rows name, such as images."""

from __future__ import annotations

import stat
from pathlib import Path

from batchrun.core.body import BODY_BYTES_MAX
from batchrun.errors import RowError

FILE_BYTES_MAX = BODY_BYTES_MAX // 4 * 3
"""A larger file, in base64, is more than a body may be."""


def read_file(path: str) -> bytes:
    """The content of a regular file; a relative path counts from the working directory.

    Raises ``RowError`` naming the file. Devices and pipes are refused before they are opened: they
    could keep the reader waiting for ever.
    """
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            message = f"{path} is no regular file"
            raise RowError(message)
        if found.st_size > FILE_BYTES_MAX:
            message = f"{path} is {found.st_size:,} bytes; at most {FILE_BYTES_MAX:,} can be sent"
            raise RowError(message)
        with Path(path).open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        shown = path if len(path) <= 200 else f"{path[:200]}..."
        reason = (isinstance(error, OSError) and error.strerror) or error
        message = f"cannot read {shown!r}: {reason}"
        raise RowError(message) from None
