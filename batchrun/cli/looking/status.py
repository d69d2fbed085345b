"""``batchrun status``: watch a run from another terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from batchrun.cli.console import (
    exit_codes,
    is_coloured,
    print_json,
    print_message,
    print_output,
)
from batchrun.cli.paths import FOLDER

if TYPE_CHECKING:
    _Whole = click.ParamType[int]
else:
    _Whole = click.ParamType  # generic at run time in late releases alone

PORT_MAX = 65535


class _Port(_Whole):
    """A port of this machine; 0 is any free one."""

    name = "port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """See ``click.ParamType``."""
        text = str(value)
        if not (text.isascii() and text.isdigit()):
            why = "put the directory first: batchrun status DIR --serve [PORT]"
            self.fail(f"{text!r} is not a port; {why}", param, ctx)
        if int(text) > PORT_MAX:
            self.fail(f"{text} is not a port: it must be at most {PORT_MAX}", param, ctx)
        return int(text)


@click.command("status")
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option(
    "--checkpoint", type=FOLDER, metavar="DIR", help="Folder of the checkpoint, if not in DIR."
)
@click.option("--watch", is_flag=True, help="Keep redrawing until the run ends.")
@click.option(
    "--serve",
    is_flag=False,
    flag_value=0,
    default=None,
    type=_Port(),
    metavar="[PORT]",
    help="Serve the same view to browsers on this machine, and /metrics for Prometheus [default: a "
    "free port].",
)
@click.option("--json", "as_json", is_flag=True, help="Print the status as one JSON object.")
def command(
    folder: str, checkpoint: str | None, watch: bool, serve: int | None, as_json: bool
) -> None:
    """Show the progress of the run in DIR, live or finished. Needs no write permission."""
    with exit_codes(as_json=as_json):
        _require_one(watch=watch, serve=serve is not None, as_json=as_json)
        from batchrun.cli.process import load_arrow

        load_arrow()
        if serve is not None:
            from batchrun.views.watch import page_server

            page_server.serve(folder, checkpoint, serve, print_message)
        elif watch:
            _watch(folder, checkpoint)
        else:
            from batchrun.views import run_status

            found = run_status.read(folder, checkpoint)
            if as_json:
                print_json(found)
                return
            for line in run_status.lines(found, folder, checkpoint):
                print_output(line)


def _require_one(**given: bool) -> None:
    """Raises ``UsageError`` where several ways to show the status are asked for."""
    names = [f"--{name.removeprefix('as_')}" for name, wanted in given.items() if wanted]
    if len(names) > 1:
        from batchrun.errors import UsageError

        message = f"{' and '.join(names)} exclude each other: give one of them"
        raise UsageError(message)


def _watch(folder: str, checkpoint: str | None) -> None:
    """Show the run until it ends. Ctrl-C ends the watching, and nothing else."""
    from batchrun.views.watch import terminal

    try:
        if sys.stdout.isatty():
            terminal.redraw(folder, checkpoint, print_output, coloured=is_coloured(sys.stdout))
        else:
            terminal.follow(folder, checkpoint, print_output)
    except KeyboardInterrupt:
        sys.exit(130)
