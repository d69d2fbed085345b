"""``batchrun doctor``: check an endpoint before a run uses it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from batchrun.adapters.environment.configuration import read_environment
from batchrun.builtin_simulators import standing_in
from batchrun.cli.console import exit_codes, print_json, print_message, print_output
from batchrun.cli.flags.help_pages import Grouped
from batchrun.cli.paths import config_flag
from batchrun.cli.run import flag, interrupts, setting_flags, settings_of
from batchrun.core.settings import table as setting_table
from batchrun.core.settings.presets import LIMITS
from batchrun.core.text.redact import public_url

if TYPE_CHECKING:
    from batchrun.core.settings.endpoint import Endpoint
    from batchrun.core.settings.resolve import Settings
    from batchrun.core.verdict.diagnosis import Check

TIMEOUT_S = 60.0
_EXAMPLES = (
    "batchrun doctor --model gpt-4.1-mini",
    "batchrun doctor --base-url http://localhost:8000/v1",
    "batchrun doctor --provider groq --model llama-3.3-70b-versatile",
)
_REQUEST = ("request.model", "request.params", "request.stream")
_ASKED = [
    setting
    for setting in setting_table.FLAGGED
    if setting.name in _REQUEST
    or setting in setting_table.SHORT
    or (setting.section == "endpoint" and setting.name not in LIMITS)
]


@click.command("doctor", cls=Grouped, examples=_EXAMPLES)
@config_flag()
@partial(setting_flags, settings=_ASKED)
@flag(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.001),
    default=TIMEOUT_S,
    show_default=True,
    metavar="S",
    group=setting_table.RETRIES,
    help="Seconds that each exchange may take.",
)
@flag(
    "--json",
    "as_json",
    is_flag=True,
    group=setting_table.DISPLAY,
    help="Print the checks as one JSON object.",
)
def command(config_file: str | None, timeout_s: float, as_json: bool, **flags: Any) -> None:
    """Check an endpoint: key, URL, model, and one test request of a few tokens.

    Reports what is wrong and how to fix it. Exits with 0 if a run can start, else 1.
    """
    with exit_codes(as_json=as_json), interrupts():
        # Neither input nor run directory is needed, but a run's settings name both.
        flags["output__dir"] = os.curdir
        environment = read_environment()
        settings, warnings = settings_of(["-"], config_file, flags, environment, None)
        for warning in warnings:
            print_message(f"warning: {warning}")
        settings = replace(settings, timeout_s=timeout_s)
        with contextlib.ExitStack() as stack:
            endpoints = standing_in(settings.endpoints, stack, lambda _: None)
            found = [(each, _examined(settings, each, environment)) for each in endpoints]
        ok = not any(check.status == "failed" for _, checks in found for check in checks)
        if as_json:
            print_json(_report(settings, found, ok=ok))
        else:
            for endpoint, checks in found:
                _show(endpoint, checks)
            print_output("ready to run" if ok else "not ready: see the lines marked failed")
        sys.exit(0 if ok else 1)


def _examined(
    settings: Settings, endpoint: Endpoint, environment: Mapping[str, str]
) -> list[Check]:
    import asyncio

    from batchrun.adapters.http.access import access_to, missing_key
    from batchrun.adapters.http.doctor import examine
    from batchrun.core.verdict.diagnosis import Check
    from batchrun.errors import KeyUnavailableError

    try:
        access = access_to(endpoint, environment, demand_key=False)
    except KeyUnavailableError as error:
        return [Check("key", "failed", str(error))]
    missing = missing_key(endpoint) if access.key is None else None
    if missing is not None:
        key = Check("key", "failed", missing)
    elif access.key is None:
        key = Check("key", "ok", _without(endpoint))
    else:
        key = Check("key", "ok", f"from {access.source}{_place(endpoint)}")
    return [key, *asyncio.run(examine(settings, access, print_message, ask=missing is None))]


def _without(endpoint: Endpoint) -> str:
    variable = endpoint.api_key_env
    return "no key is sent" + (f": {variable} is not set" if variable else ", none is needed")


def _place(endpoint: Endpoint) -> str:
    """Where the variable was found, and the header that the key is sent in."""
    place = ""
    if endpoint.api_key_file is None and endpoint.api_key_command is None:
        found = bool(os.environ.get(endpoint.api_key_env or ""))
        place = " in the environment" if found else " in .env"
    return f"{place}, sent as {endpoint.api_key_header}"


def _report(
    settings: Settings, found: Sequence[tuple[Endpoint, list[Check]]], *, ok: bool
) -> dict[str, Any]:
    """The report. For one endpoint it is flat; several are listed under ``endpoints``."""
    told: list[dict[str, Any]] = [
        {
            "provider": endpoint.provider,
            "base_url": public_url(endpoint.base_url),
            "checks": [check._asdict() for check in checks],
        }
        for endpoint, checks in found
    ]
    model = {"ok": ok, "model": settings.defaults().get("model")}
    if len(told) == 1:
        return model | told[0]
    names = [{"name": endpoint.name} for endpoint, _ in found]
    return model | {"endpoints": [name | one for name, one in zip(names, told, strict=True)]}


def _show(endpoint: Endpoint, checks: list[Check]) -> None:
    print_output(f"{endpoint.name}: {public_url(endpoint.base_url)}")
    for check in checks:
        print_output(f"  {check.status:<8} {check.name:<8} {check.message}")
        if check.todo is not None:
            print_output(f"{'':<20}-> {check.todo}")
