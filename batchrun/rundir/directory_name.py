"""Checks the name of a new run directory before it is made."""

from __future__ import annotations

from pathlib import Path

from batchrun.adapters.journal.journal import STATES
from batchrun.core.settings.addresses import file_meant, format_address, local_path
from batchrun.core.text.legible import shell_word
from batchrun.errors import UsageError


def require_directory_name(directory: str, checkpoint: Path) -> None:
    """Raises ``UsageError`` if a new run directory would be named like a file of results. An
    existing directory with such a name is accepted.
    """
    stem = file_meant(directory)
    local = local_path(directory)
    if stem is None or (local is not None and Path(local).is_dir()):
        return
    if local is None and (checkpoint / STATES).exists():
        return
    name, folder = shell_word(format_address(directory)), shell_word(stem)
    target = shell_word(format_address(directory).rsplit("/", 1)[-1])
    message = (
        f"{name} names a file, and a run writes a directory. Name one, such as -o {folder}; "
        f"afterwards its results become one file with\n  batchrun export {folder} -o {target}"
    )
    raise UsageError(message)
