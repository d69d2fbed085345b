"""Paths among arguments and options that are not settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from batchrun.adapters.storage.home import at_home
from batchrun.cli.flags.completing import Completer, files, folders
from batchrun.cli.flags.help_pages import Flag
from batchrun.errors import UsageError

if TYPE_CHECKING:
    _Text = click.ParamType[str]
else:
    _Text = click.ParamType  # generic at run time in late releases alone


_Command = TypeVar("_Command", bound=Callable[..., Any])


class HomePath(_Text):
    """A path as text, with ``~`` as the home directory."""

    name = "path"

    def __init__(self, completer: Completer = files) -> None:
        self._completer = completer

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Files, or folders."""
        return self._completer(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path with ``~`` replaced; a home that is not known is a usage error."""
        try:
            return at_home(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


PATH = HomePath()
FOLDER = HomePath(folders)
"""The same, completed with folders alone."""


def config_flag(
    sentence: str = "TOML file with the settings.", **place: str
) -> Callable[[_Command], _Command]:
    """The flag ``-c`` of a command, which gets it as ``config_file``. ``place`` is its place in the
    help (``cli.flags.help_pages.Flag``).
    """
    return click.option(
        "-c",
        "--config",
        "config_file",
        cls=Flag,
        type=PATH,
        metavar="FILE",
        help=sentence,
        **place,
    )
