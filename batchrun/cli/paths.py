"""Paths among arguments and options that are no settings."""

from __future__ import annotations

from typing import Any

import click

from batchrun.adapters.storage.home import at_home
from batchrun.errors import UsageError


class HomePath(click.ParamType[str]):
    """A path as text, with ``~`` as the home directory."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path with ``~`` replaced; a home that is not known is a usage error."""
        try:
            return at_home(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


PATH = HomePath()
