"""Every call by which this package changes what is on the disk, under one roof.

They are the operating system's own functions and cost nothing more than those. What replaces them
here sees all that a run leaves behind, in order: ``tests.harness.power`` builds what a power
cut would make of it. Only SQLite, and stores into the mapped flight log, do not pass here.
"""

from __future__ import annotations

import os
from pathlib import Path

from batchrun.adapters.system import platform

open_file = os.open
"""Open or make a file; returns its descriptor."""

writer = os.fdopen
"""A buffered writer onto a descriptor."""

pwrite = os.pwrite
"""Write into an open file at an offset."""

truncate = os.ftruncate
"""Set the length of an open file."""

fsync = platform.flush
"""A file's content is on the disk. Published files and copies are flushed with it."""

fdatasync = platform.flush_data
"""The same, without what only tells about the file. Logs are flushed with it."""

rename = os.rename
"""Give a file or folder another name, in place of a file that has it."""

unlink = os.unlink
"""Take a name away."""

link = os.link
"""Give a file a second name."""

symlink = os.symlink
"""Make a symbolic link."""

make_folder = os.mkdir
"""Make a folder."""


def sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk as they are now."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        platform.flush(descriptor)
    finally:
        os.close(descriptor)
