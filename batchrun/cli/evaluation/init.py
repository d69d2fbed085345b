"""``batchrun init``: a config and rows to begin with."""

from __future__ import annotations

import os
from pathlib import Path

import click

from batchrun.cli.console import exit_codes, print_json, print_message, print_output
from batchrun.cli.paths import PATH
from batchrun.core.text.wording import verb
from batchrun.errors import StorageError, UsageError


@click.command("init")
@click.argument("kind", type=click.Choice(["eval"]), default="eval", required=False)
@click.option(
    "--from-openai-evals",
    "export",
    type=PATH,
    metavar="FILE",
    help="Take the items and graders of an eval, a run or a data set of OpenAI's hosted Evals.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(kind: str, export: str | None, as_json: bool) -> None:  # noqa: ARG001 - one kind so far
    """Write config.toml and rows.jsonl into the current folder, never over a file.

    They run as they are, against the built-in simulator: batchrun run -c config.toml -o run-1
    """
    with exit_codes(as_json=as_json):
        from batchrun.core.starter import openai_evals
        from batchrun.core.starter.starter_files import CONFIG, ROWS, eval_starter

        _require_free(CONFIG, ROWS)
        if export is None:
            starter = eval_starter()
        else:
            from batchrun.adapters.columns.columns import RESULTS

            taken = [column.name for column in RESULTS]
            starter = openai_evals.starter_of(_read(export), export, taken)
        for name, text in ((CONFIG, starter.config), (ROWS, starter.rows)):
            _write(name, text)
        for note in starter.notes:
            print_message(note)
        if as_json:
            print_json({"files": [CONFIG, ROWS], "notes": list(starter.notes)})
        else:
            print_output(f"wrote {CONFIG} and {ROWS}\nbatchrun run -c {CONFIG} -o run-1")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: {getattr(error, 'strerror', None) or error}"
        raise UsageError(message) from None


def _require_free(*names: str) -> None:
    there = [name for name in names if os.path.lexists(name)]
    if there:
        exist = verb(len(there), "exists", "exist")
        message = f"{' and '.join(there)} {exist} here; init never writes over a file"
        raise UsageError(message)


def _write(name: str, text: str) -> None:
    """Make a file that is not there yet."""
    try:
        with Path(name).open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        message = f"{name} exists here; init never writes over a file"
        raise UsageError(message) from None
    except OSError as error:
        message = f"cannot write {name}: {error.strerror}"
        raise StorageError(message) from error
