"""``batchrun providers``: the endpoints that are known by name."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import click

from batchrun.adapters.environment.configuration import read_environment
from batchrun.cli.console import exit_codes, print_json, print_output
from batchrun.core.settings.providers import BUILT_IN, PROVIDERS, Provider

WIDTH = 88


@click.command("providers")
@click.option("--json", "as_json", is_flag=True, help="Print the list as one JSON object.")
def command(as_json: bool) -> None:
    """List the endpoints that --provider knows: base URL, key variable, peculiarities.

    Shows whether the variable is set, never its value.
    """
    with exit_codes(as_json=as_json):
        found = [_as_dict(provider, read_environment()) for provider in PROVIDERS]
        if as_json:
            print_json({"providers": found})
            return
        for number, row in enumerate(found):
            print_output(("\n" if number else "") + _told(row))


def _as_dict(provider: Provider, environment: Mapping[str, str]) -> dict[str, Any]:
    key = provider.key_in(environment)
    return {
        "name": provider.name,
        "title": provider.title,
        "base_url": provider.base_url,
        "url_variables": list(provider.url_variables),
        "key_variables": [key.name for key in provider.keys],
        "key_header": None if key is None else key.header,
        "key_needed": provider.key_needed,
        "key_set": key is not None and bool(environment.get(key.name, "").strip()),
        "remark": provider.remark,
        "source": provider.source,
    }


def _told(row: Mapping[str, Any]) -> str:
    if row["key_variables"]:
        key = " or ".join(row["key_variables"])
        key += ": set" if row["key_set"] else ": not set"
        key += "" if row["key_needed"] else " (not needed)"
    else:
        key = "no key"
    url = row["base_url"]
    if url is None:
        url = "started by batchrun" if row["name"] in BUILT_IN else row["url_variables"][0]
    lines = [f"{row['name']:<12}{url}", f"{'':<12}{key}"]
    return "\n".join(
        [
            *lines,
            textwrap.fill(
                row["remark"].replace("`", ""),
                WIDTH,
                initial_indent=" " * 12,
                subsequent_indent=" " * 12,
            ),
        ]
    )
