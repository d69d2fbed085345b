"""Completions that the shell offers for flags and arguments.

Commands, flags and choices are completed by click itself. Completion must never fail, wait or print
anything: after any error, nothing is offered.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from batchrun.core.settings.table import Setting

Completer = Callable[[click.Context, click.Parameter, str], list[Any]]

ROWS = 100
"""Rows of JSON Lines whose keys are offered as columns."""


def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, completed by the shell."""
    return [CompletionItem(incomplete, type="file")]


def folders(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders, completed by the shell."""
    return [CompletionItem(incomplete, type="dir")]


def providers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Names for ``--provider``, with what each is."""
    from batchrun.core.settings.providers import PROVIDERS

    return [
        CompletionItem(each.name, help=each.title)
        for each in PROVIDERS
        if each.name.startswith(incomplete)
    ]


def error_classes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Error classes, one or several with commas between."""
    from batchrun.core.verdict.rules import ERROR_CLASSES

    return _after_comma(incomplete, ERROR_CLASSES)


def retry_classes(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Error classes, and the kept answers that ``--retry-class`` can select."""
    from batchrun.core.verdict.rules import ERROR_CLASSES

    return _after_comma(incomplete, [*ERROR_CLASSES, "truncated", "empty"])


def columns(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Columns of the input that the command line names, or its config file."""
    return _after_comma(incomplete, _columns(ctx))


def columns_or_words(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """The same, and the words for all and none of them."""
    first = [] if "," in incomplete else ["all", "none"]
    return _after_comma(incomplete, [*first, *_columns(ctx)])


def completer_of(setting: Setting) -> Completer | None:
    """What completes the flag of a setting; None leaves it to the flag's type."""
    if setting.name in ("input.carry", "input.send"):
        return columns_or_words
    if setting.name in ("input.id", "request.image", "request.file"):
        return columns
    if setting.kind == "provider":
        return providers
    if setting.kind in ("path", "dirs", "schema"):
        return folders if (setting.metavar or "").startswith("DIR") else files
    return None


def _after_comma(incomplete: str, words: Iterable[str]) -> list[Any]:
    """Words that complete the text after the last comma, prefixed with the text before it."""
    before, comma, begun = incomplete.rpartition(",")
    given = set(before.split(","))
    return [
        CompletionItem(f"{before}{comma}{word}")
        for word in words
        if word.startswith(begun) and word not in given
    ]


def _columns(ctx: click.Context) -> list[str]:
    with contextlib.suppress(Exception):
        names = _inputs(ctx)
        if names:
            from batchrun.adapters.sources.opening import column_names

            return column_names(names, ctx.params.get("input__format") or "auto", ROWS)
    return []


def _typed() -> tuple[list[str], str | None]:
    """The words of the command line that are not values of flags, and the value of ``-c``."""
    words = shlex.split(os.environ.get("COMP_WORDS", ""))
    pairs = list(itertools.pairwise(words))[1:]
    config = next((word for before, word in pairs if before in ("-c", "--config")), None)
    return [word for before, word in pairs if "-" not in (before[:1], word[:1])], config


def _inputs(ctx: click.Context) -> list[str]:
    """The local input files of a command line; neither pipes nor addresses, which could wait."""
    given = [*(ctx.params.get("inputs") or ()), *ctx.args]
    config = ctx.params.get("config_file")
    if not given and not config:  # click before 8.2 reads nothing behind a flag without its value
        given, config = _typed()
    if not given and config:
        from batchrun.adapters.environment.configuration import read_config

        given = read_config(config).get("input.files", [])
    return [name for name in given if os.path.isfile(name)]  # noqa: PTH113 - no Path for a check
