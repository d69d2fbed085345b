"""Tables on stdout as ``--csv`` has them, and the width that a terminal has for others."""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from batchrun.cli.console import COLUMNS_LEAST, writing
from batchrun.core.text.legible import legible

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def print_csv(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A header and lines; nothing is an empty field. Text that a spreadsheet would run as a
    formula gets an apostrophe in front. Raises ``OutputLostError``.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_cell, heads))
    writer.writerows([map(_cell, row) for row in rows])
    with writing():
        click.echo(out.getvalue(), nl=False)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = legible(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def terminal_width() -> int | None:
    """The columns of the terminal that stdout is; None where it is none."""
    if not sys.stdout.isatty():
        return None
    return max(COLUMNS_LEAST, shutil.get_terminal_size().columns)


def takes_blocks() -> bool:
    """Whether stdout can be written block characters."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")
