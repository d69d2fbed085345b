"""Reading the local files that rows name, such as images."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from batchrun.adapters.system import platform
from batchrun.core.request.body import BODY_BYTES_MAX
from batchrun.errors import RowError

FILE_BYTES_MAX = BODY_BYTES_MAX // 4 * 3
"""A larger file, in base64, is more than a body may be."""


def read_file(path: str) -> bytes:
    """The content of a regular file; a relative path counts from the working directory.

    Raises ``RowError`` naming the file. Devices and pipes are refused before they are opened, since
    they could block the reader forever, as could a pipe that takes a file's name in between. Files
    of the kernel about processes are refused: this process's environment has the keys.
    """
    try:
        _require_regular(path, Path(path).stat())
        if platform.is_of_the_kernel(Path(path).resolve()):
            message = f"{path} is not a file on a disk"
            raise RowError(message)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            _require_regular(path, os.fstat(descriptor))
            return file.read(FILE_BYTES_MAX)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        shown = path if len(path) <= 200 else f"{path[:200]}..."
        reason = (isinstance(error, OSError) and error.strerror) or error
        message = f"cannot read {shown!r}: {reason}"
        raise RowError(message) from None


def _require_regular(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        message = f"{path} is not a regular file"
        raise RowError(message)
    if found.st_size > FILE_BYTES_MAX:
        message = f"{path} is {found.st_size:,} bytes; at most {FILE_BYTES_MAX:,} can be sent"
        raise RowError(message)
