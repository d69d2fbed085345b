"""``batchrun schema``: JSON Schemas of what users write."""

from __future__ import annotations

import json

import click

from batchrun.cli.console import exit_codes, print_lines


@click.command("schema")
@click.argument("what", metavar="config", type=click.Choice(["config"]))
@click.option("--json", is_flag=True, expose_value=False, help="Accepted: the schema is JSON.")
def command(what: str) -> None:  # noqa: ARG001 - one schema so far
    """Print the JSON Schema of the config file, for completion and checks in an editor.

    Save it next to the config, and name it in the first line of the config:

    \b
      batchrun schema config > config.schema.json
      #:schema ./config.schema.json

    Editors with Taplo or Tombi (VS Code: Even Better TOML, Tombi) read that line.
    """  # noqa: D301 - click's own mark: the paragraph is not wrapped
    with exit_codes():
        from batchrun.core.starter.config_schema import config_schema

        print_lines(json.dumps(config_schema(), indent=2).splitlines())
