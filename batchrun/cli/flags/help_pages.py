"""Help on two pages: ``-h`` fits one screen, ``--help`` lists every flag in groups.

click knows neither groups nor a short page. The libraries that add groups cost too much at the
start or require a newer click (docs/adr/0054); the needed parts are in this module.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import click

from batchrun.core.settings.table import GROUPS

OTHERS = "Options"
"""The heading of flags without a group."""
FLAG_COLUMNS = 24
"""Columns of the flags; a longer flag has its text on the next line."""


class Flag(click.Option):
    """An option with a place in the help.

    ``group`` is its heading. ``brief`` is its text on the short page; without one it is only on
    the full page.
    """

    def __init__(self, *names: Any, group: str = "", brief: str = "", **options: Any) -> None:
        super().__init__(*names, **options)
        self.group = group
        self.brief = brief


class Grouped(click.Command):
    """A command whose help lists its flags by group, below ``examples``, which are command
    lines.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The flags, with ``-h`` before ``--help``."""
        found = [*super().get_params(ctx)]
        if any(isinstance(each, Flag) and each.brief for each in found):
            found.insert(-1, _BRIEF_HELP)
        return found

    def get_help_option_names(self, ctx: click.Context) -> list[str]:
        """``-h`` has a page of its own, where there is a short one."""
        names = super().get_help_option_names(ctx)
        short = any(isinstance(each, Flag) and each.brief for each in self.params)
        return [name for name in names if name != "-h" or not short]

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The description, and the examples."""
        super().format_help_text(ctx, formatter)
        _write_examples(self.examples, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Every flag below the heading of its group."""
        for heading, records in by_group(self.get_params(ctx), ctx).items():
            with formatter.section(heading):
                write_list(records, formatter)

    def brief_help(self, ctx: click.Context) -> str:
        """The short page."""
        formatter = ctx.make_formatter()
        self.format_usage(ctx, formatter)
        with formatter.indentation():
            formatter.write_paragraph()
            formatter.write_text((self.help or "").partition("\n\n")[0])
        _write_examples(self.examples, formatter)
        with formatter.section("Most used flags"):
            records = [
                (record[0], each.brief)
                for each in self.params
                if isinstance(each, Flag) and each.brief
                if (record := each.get_help_record(ctx)) is not None
            ]
            write_list(records, formatter)
        formatter.write_paragraph()
        formatter.write_text(f"All flags: {ctx.command_path} --help")
        return formatter.getvalue().rstrip("\n")


def by_group(
    params: Sequence[click.Parameter], ctx: click.Context
) -> Mapping[str, list[tuple[str, str]]]:
    """The lines of a help page by heading: a command's own groups, those of the settings in their
    order, then all other flags.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for each in params:
        record = each.get_help_record(ctx)
        if record is not None and isinstance(each, click.Option):
            found.setdefault(group_of(each), []).append(record)
    shared = (*GROUPS, OTHERS)
    own = [heading for heading in found if heading not in shared]
    return {heading: found[heading] for heading in (*own, *shared) if heading in found}


def group_of(option: click.Option) -> str:
    """The heading that an option is listed under."""
    return getattr(option, "group", "") or OTHERS


def write_list(records: Sequence[tuple[str, str]], formatter: click.HelpFormatter) -> None:
    """Flags and their texts in two columns, the same in every group. Unlike ``write_dl`` it does
    not break a line within a flag.
    """
    indent = formatter.current_indent
    start = indent + FLAG_COLUMNS + 2
    for term, text in records:
        lines = textwrap.wrap(
            text,
            max(formatter.width - start, 20),
            break_on_hyphens=False,
            break_long_words=False,
        )
        begun = f"{'':>{indent}}{term}"
        if len(term) <= FLAG_COLUMNS and lines:
            begun = f"{begun:<{start}}{lines.pop(0)}"
        formatter.write(f"{begun}\n" + "".join(f"{'':>{start}}{line}\n" for line in lines))


def _write_examples(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for line in examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def _show_brief(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        assert isinstance(ctx.command, Grouped)
        click.echo(ctx.command.brief_help(ctx), color=ctx.color)
        ctx.exit()


_BRIEF_HELP = click.Option(
    ["-h"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_brief,
    help="Show the most used flags and exit.",
)
