"""Shared by all commands: messages to stderr, results to stdout, errors to exit codes."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from batchrun.cli.standard_streams import forsake
from batchrun.core.text.legible import json_of, legible
from batchrun.errors import BatchrunError, StorageError
from batchrun.views.layout import wrap
from batchrun.views.text import safe, verdict

if TYPE_CHECKING:
    from batchrun.views.validate import ShownRequest

_UNSAFE = re.compile(r"[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

BROKEN_PIPE = 128 + 13
"""The exit code of a command whose reader went away, as shells give it for SIGPIPE."""


COLUMNS_LEAST = 40
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Characters that begin a formula in a spreadsheet."""
LONG_BYTES = 10_000
"""The size is shown for a longer request, and for every one with an image, a sound or a file."""
_COMMAND = re.compile(r"\s*(?:[a-z, ]+: )?batchrun [a-z]")
"""A line to be copied, which is not wrapped."""


def fitted(text: str, stream: TextIO) -> str:
    """Text for a terminal in lines that end at words; elsewhere unchanged, since other programs
    search it for words. Lines with a command to copy stay whole.
    """
    if not stream.isatty():
        return text
    width = max(COLUMNS_LEAST, shutil.get_terminal_size().columns)
    lines = (
        line if _COMMAND.match(line) else "\n".join(wrap(line, width, hang=2))
        for line in text.split("\n")
    )
    return "\n".join(lines)


def is_coloured(stream: TextIO) -> bool:
    """Whether text on a stream may have colours: it is a terminal, not a dumb one, and ``NO_COLOR``
    (https://no-color.org) is not set.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and stream.isatty()


def _painted(text: str, stream: TextIO) -> str:
    """Text with its verdict coloured, if the stream supports colours."""
    label, rest, colour = verdict(text)
    if colour is None or not is_coloured(stream):
        return text
    return click.style(label, fg=colour, bold=True) + rest


def print_message(text: str) -> None:
    """A message for the user, on stderr. A closed stderr does not stop the command."""
    print_unwrapped(fitted(safe(text), sys.stderr))


def print_unwrapped(text: str) -> None:
    """A line for the user that stays one line however long it is: progress, and log lines."""
    try:
        click.echo(_painted(safe(text), sys.stderr), err=True)
    except OSError:
        forsake(2)


class OutputLostError(StorageError):
    """The result cannot be written to standard output."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror or error}")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn failures to write standard output into ``OutputLostError``, except a reader that went
    away.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        forsake(1)
        raise OutputLostError(error) from None


def print_output(text: str) -> None:
    """A line of the result, on stdout, for people. Raises ``OutputLostError``."""
    with writing():
        click.echo(_painted(fitted(safe(text), sys.stdout), sys.stdout))


def print_lines(lines: Sequence[str]) -> None:
    """Lines on stdout that have their width already. Raises ``OutputLostError``."""
    with writing():
        click.echo("\n".join(map(safe, lines)))


def print_json(value: Any) -> None:
    """The one JSON object of ``--json``, on stdout. Raises ``OutputLostError``."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    ascii_only = not encoding.lower().replace("-", "").startswith("utf")
    text = json_of(value, ascii_only=ascii_only)
    if sys.stdout.isatty():
        text = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        with writing():
            click.echo(text)
    except BrokenPipeError:
        forsake(1)


def put_request(body: bytes) -> None:
    """A request on stdout as a line of its own, byte for byte; on a terminal the same JSON, without
    what could steer it. Raises ``OutputLostError``.
    """
    if sys.stdout.isatty():
        body = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", body.decode()).encode()
    with writing():
        click.echo(body)


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
    """The columns of the terminal on stdout; None if it is not a terminal."""
    if not sys.stdout.isatty():
        return None
    return max(COLUMNS_LEAST, shutil.get_terminal_size().columns)


def takes_blocks() -> bool:
    """Whether stdout can show block characters."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "").startswith("utf")


class Printing:
    """Requests on stdout, one a line and byte for byte, and the sizes of large ones on stderr. A
    reader that stops early (``| head -1``) only ends the printing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._read = True

    def put(self, shown: ShownRequest) -> None:
        """Print a request. Raises ``OutputLostError``."""
        if self._read:
            try:
                put_request(shown.body)
            except BrokenPipeError:
                forsake(1)
                self._read = False
        if not self._quiet and (shown.attachments or len(shown.body) > LONG_BYTES):
            print_message(str(shown))


@contextlib.contextmanager
def exit_codes(*, as_json: bool = False) -> Iterator[None]:
    """Turn our errors into a message and their exit code."""
    try:
        yield
    except BatchrunError as error:
        for line in (f"batchrun: {error}", *getattr(error, "__notes__", ())):
            print_message(line)
        if as_json and not isinstance(error, OutputLostError):
            _put_error(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output stopped early (`| head`); the rest is dropped.
        forsake(1)
        sys.exit(BROKEN_PIPE)
    except Exception as error:  # noqa: BLE001 - a defect: it ends like any failure midway
        print_message(traceback.format_exc().rstrip())
        print_message("batchrun: this is a bug in batchrun. Everything already saved is intact")
        if as_json:
            _put_error(repr(error), 5)
        sys.exit(5)


def _put_error(text: str, exit_code: int) -> None:
    """The JSON object of a command that failed; stderr has the message already."""
    try:
        print_json({"error": text, "exit_code": exit_code})
    except OutputLostError as error:
        print_message(f"batchrun: {error}")
