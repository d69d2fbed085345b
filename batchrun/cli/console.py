"""What all commands share: messages to stderr, results to stdout, errors to exit codes."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import click

from batchrun.cli.standard_streams import forsake
from batchrun.errors import BatchrunError
from batchrun.views.text import safe

BROKEN_PIPE = 128 + 13
"""The exit code of a command whose reader went away, as shells give it for SIGPIPE."""


def say(text: str) -> None:
    """A message for the user, on stderr. A closed stderr is no reason to stop."""
    try:
        click.echo(safe(text), err=True)
    except OSError:
        forsake(2)


def show(text: str) -> None:
    """A line of what was asked for, on stdout, for people."""
    click.echo(safe(text))


def put_json(value: Any) -> None:
    """The one JSON object of ``--json``, on stdout."""
    try:
        click.echo(json.dumps(value, ensure_ascii=False))
    except BrokenPipeError:
        forsake(1)


@contextlib.contextmanager
def exit_codes(*, as_json: bool = False) -> Iterator[None]:
    """Turn our errors into a message and their exit code."""
    try:
        yield
    except BatchrunError as error:
        for line in (f"batchrun: {error}", *getattr(error, "__notes__", ())):
            say(line)
        if as_json:
            put_json({"error": str(error), "exit_code": error.exit_code})
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever reads our output has seen enough (`| head`); what is left goes nowhere.
        forsake(1)
        sys.exit(BROKEN_PIPE)
    except Exception as error:  # noqa: BLE001 - a defect: it ends like any failure midway
        say(traceback.format_exc().rstrip())
        say("batchrun: this is a defect of batchrun. What was committed is intact")
        if as_json:
            put_json({"error": repr(error), "exit_code": 5})
        sys.exit(5)
