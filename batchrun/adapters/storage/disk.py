"""Every call by which this package changes files on disk, in one place.

They are the operating system's own functions, at no extra cost. A replacement sees everything that
a run writes, in order: ``tests.harness.power`` builds from it what a power cut would leave. Only
SQLite, and stores into the mapped flight log, bypass this module.
"""

from __future__ import annotations

import os
from pathlib import Path

from batchrun.adapters.system import platform

open_file = os.open
"""Open or make a file; returns its descriptor."""

writer = os.fdopen
"""A buffered writer for a descriptor."""

pwrite = os.pwrite
"""Write into an open file at an offset."""

truncate = os.ftruncate
"""Set the length of an open file."""

fsync = platform.flush
"""Flush a file to the disk. Used for published files and copies."""

fdatasync = platform.flush_data
"""Flush a file without metadata that reading it does not need. Used for logs."""

rename = os.rename
"""Rename a file or folder, replacing a file of that name."""

unlink = os.unlink
"""Remove a name."""

link = os.link
"""Give a file a second name."""

symlink = os.symlink
"""Make a symbolic link."""

make_folder = os.mkdir
"""Make a folder."""


def sync_folder(folder: Path) -> None:
    """Flush the present names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        platform.flush(descriptor)
    finally:
        os.close(descriptor)
