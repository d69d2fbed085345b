"""``batchrun init``: a config file and rows to start from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from batchrun.cli.console import exit_codes, print_json, print_message, print_output
from batchrun.cli.paths import PATH
from batchrun.core.text.wording import verb
from batchrun.errors import StorageError, UsageError

KINDS = ("eval", "bulk", "batch")


@click.command("init")
@click.argument(
    "kind", metavar="[eval|bulk|batch]", type=click.Choice(KINDS), default="eval", required=False
)
@click.option(
    "--from-openai-evals",
    "export",
    type=PATH,
    metavar="FILE",
    help="Convert an eval, a run or a data set exported from OpenAI's hosted Evals.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the file names as one JSON object.")
def command(kind: str, export: str | None, as_json: bool) -> None:
    """Write a commented config.toml and ten sample rows into the current folder.

    eval (the default) scores answers and checks gates; bulk sends a CSV through a prompt template
    and exports CSV; batch runs lines of the OpenAI Batch API. Each runs as it is, against the
    built-in simulator: batchrun run -c config.toml

    Never overwrites a file.
    """
    with exit_codes(as_json=as_json):
        from batchrun.core.starter import openai_evals
        from batchrun.core.starter.starter_files import CONFIG, STARTERS

        if export is not None and kind != "eval":
            message = f"--from-openai-evals writes an evaluation: batchrun init eval, not {kind}"
            raise UsageError(message)
        starter = STARTERS[kind]()
        names = (CONFIG, starter.rows_name)
        _require_free(*names)
        if export is not None:
            from batchrun.adapters.columns.columns import RESULTS

            taken = [column.name for column in RESULTS]
            starter = openai_evals.starter_of(_read(export), export, taken)
        for name, text in zip(names, (starter.config, starter.rows), strict=True):
            _write(name, text)
        for note in starter.notes:
            print_message(note)
        if as_json:
            next_ = list(starter.commands)
            print_json({"files": list(names), "notes": list(starter.notes), "next": next_})
        else:
            print_output("\n".join([f"wrote {' and '.join(names)}; next:", *starter.commands]))


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
        message = f"{' and '.join(there)} already {exist} here; init never overwrites a file"
        raise UsageError(message)


def _write(name: str, text: str) -> None:
    """Make a file that is not there yet."""
    try:
        with Path(name).open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        message = f"{name} already exists here; init never overwrites a file"
        raise UsageError(message) from None
    except OSError as error:
        message = f"cannot write {name}: {error.strerror}"
        raise StorageError(message) from error
