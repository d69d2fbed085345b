"""Advice after a run that a wrong setting stopped: what to change, a check, and the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from batchrun.core.text.legible import shell_word

if TYPE_CHECKING:
    from batchrun.adapters.http.access import Access
    from batchrun.core.settings.resolve import Settings
    from batchrun.core.verdict.next_steps import Fix
    from batchrun.engine.session.guards import Cause, Stop


class Advice(NamedTuple):
    """Lines about what to change, and the arguments of the command that resumes after that."""

    lines: tuple[str, ...]
    arguments: list[str]


def advice_on(
    stop: Stop | None,
    summary: Mapping[str, Any],
    settings: Settings,
    environment: Mapping[str, str],
    arguments: list[str],
) -> Advice:
    """The advice on the end of a run, whose ``summary`` is given; no lines if no setting is to
    blame. ``arguments`` are those of the run, as they may be shown.
    """
    from batchrun.core.verdict import next_steps

    if stop is not None and stop.by in next_steps.GUARDS:
        fix = _of_budget(stop, summary) or next_steps.NO_FIX
        told = "; ".join(filter(None, (next_steps.GUARDS[stop.by], fix.text)))
        if summary["rows"]["pending"] == 0:  # the rows that failed are all that is left
            fix = _kept(summary, fix)
        return Advice((f"to fix: {told}",), with_fix(arguments, fix))
    answered = summary["rows"]["ok"] > 0
    cause = None if stop is None else stop.cause
    if cause is None and not answered:
        cause = _of_all_rows(summary)
    if cause is None or not (
        cause.error_class in next_steps.SETTINGS_TO_BLAME
        or (not answered and cause.error_class in next_steps.OF_THE_SETTINGS)
    ):
        return Advice((), arguments)
    known = next_steps.of_words(cause.message)
    found = known
    if found is None and len(settings.endpoints) == 1:
        found = _looked_up(cause, settings, environment)
    if found is None:
        if cause.error_class == "invalid_request":  # it may well be the rows
            return Advice((), with_fix(arguments, _kept(summary, next_steps.NO_FIX)))
        found = next_steps.Fix("correct the setting that the message names")
    lines = [f"to fix: {found.text}"]
    if known is None:
        lines.append(f"to check: {_doctor(with_fix(arguments, found))}")
    return Advice(tuple(lines), with_fix(arguments, _kept(summary, found)))


def _kept(summary: Mapping[str, Any], fix: Fix) -> Fix:
    """The fix for a run that has failed rows: they are sent again, and the command is not refused
    where the correction changes the requests.
    """
    if not summary["rows"]["error"]:
        return fix
    return fix._replace(flags={**fix.flags, "--keep-done": None, "--retry-failed": None})


def _of_budget(stop: Stop, summary: Mapping[str, Any]) -> Fix | None:
    """A cap that is enough for the pending rows of a run that its budget stopped; None if something
    else stopped it.
    """
    from batchrun.core.cost.money import usd
    from batchrun.core.verdict import next_steps

    if stop.needs is None:
        return None
    rows, totals, budget = summary["rows"], summary["totals"], summary["budget"]
    pending, done = rows["pending"], rows["ok"] + rows["error"]
    if stop.by == "max_cost":
        charged, needs = budget["charged_usd"], usd(stop.needs)
        ahead = summary["projected"].get("pending_cost_usd")
        high = summary["projected"].get("high_usd")
        if ahead is not None:
            cost = summary["projected"]["cost_usd"] - ahead
            ahead = ahead * next_steps.ROOM if high is None else high - cost
    else:
        charged, needs = budget["charged_tokens"], float(stop.needs)
        known = done and pending is not None
        ahead = totals["total_tokens"] / done * pending * next_steps.ROOM if known else None
    flag = f"--{stop.by.replace('_', '-')}"
    cap = next_steps.enough(charged, needs, ahead, pending)
    return next_steps.Fix(f"{flag} {cap} should be enough for all rows", {flag: cap})


def _of_all_rows(summary: Mapping[str, Any]) -> Cause | None:
    """The failure of the rows of a run in which none was answered, if all failed alike."""
    from batchrun.engine.session.guards import Cause

    classes = list(summary["errors"])
    example = summary.get("examples", {}).get(classes[0]) if len(classes) == 1 else None
    return None if not example else Cause(classes[0], str(example["message"]))


def _looked_up(cause: Cause, settings: Settings, environment: Mapping[str, str]) -> Fix | None:
    """The fix that the endpoint and its key suggest."""
    from batchrun.adapters.http import stop_causes
    from batchrun.core.verdict import next_steps

    endpoint = settings.endpoint
    access = stop_causes.access_again(endpoint, environment)
    kind, path = cause.error_class, cause.rule in ("wrong_path", "path_gone")
    if kind == "not_found" and path:
        return next_steps.of_path(address_of(endpoint.base_url))
    if kind == "forbidden":
        return next_steps.Fix("check the permissions of the key and its allowed regions")
    if access is None:
        return None
    if kind == "auth":
        return next_steps.of_key(str(access.source), access.key, endpoint.api_key_env)
    if kind == "not_found":
        return _of_model(cause, settings, access)
    secure = access.address.url.startswith("https:")
    if kind == "connection" or cause.rule == "tls" or next_steps.wants_tls(cause.message):
        speaks = stop_causes.speaks_tls(access)
        if speaks is not None and speaks is not secure:
            return next_steps.of_tls(endpoint.base_url, speaks_tls=speaks)
    if cause.rule == "tls":
        return next_steps.of_certificate(cause.message)
    if kind == "config":
        redirected = next_steps.of_redirect(endpoint.base_url, cause.message)
        return redirected or next_steps.of_path(access.address.url)
    if kind == "connection":
        return next_steps.of_connection(endpoint.provider)
    if kind == "invalid_response":
        return next_steps.of_path(access.address.url)
    return None


def _of_model(cause: Cause, settings: Settings, access: Access) -> Fix:
    import asyncio

    from batchrun.adapters.http import stop_causes
    from batchrun.core.verdict import diagnosis, next_steps

    chosen = settings.one_model
    model = chosen or next_steps.model_named(cause.message)
    listed = asyncio.run(stop_causes.models_listed(settings, access))
    near = [] if model is None or model in listed else diagnosis.nearest(model, listed)
    found = next_steps.of_model(model, near, listed)
    if chosen is not None:
        return found
    # Rows that name their model are to be corrected themselves.
    return found._replace(text=found.text.replace("--model ", ""), flags={})


def address_of(base_url: str) -> str:
    """The URL that requests to an endpoint go to."""
    from batchrun.core.settings.urls import address

    return address(base_url).url


def _doctor(arguments: Sequence[str]) -> str:
    """``batchrun doctor`` with those flags of the run that it has too."""
    from batchrun.cli.main import main

    doctor = main.get_command(click.Context(main), "doctor")
    assert doctor is not None
    flags = {
        name: each
        for each in doctor.params
        if isinstance(each, click.Option)
        for name in (*each.opts, *each.secondary_opts)
    }
    kept, valued = ["batchrun", "doctor"], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if valued:
            kept.append(argument)
            valued = False
        elif name in flags and name not in ("--json", "--timeout"):
            kept.append(argument)
            valued = not (equals or flags[name].is_flag)
    return " ".join(map(shell_word, kept))


def with_fix(arguments: Sequence[str], fix: Fix) -> list[str]:
    """The arguments of a command with a fix applied."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in fix.dropped:
            value = value if equals else next(rest, "")
            parameter = fix.dropped[name]
            kept += [] if parameter is None else ["--param", f"{parameter}={value}"]
        elif name not in fix.flags:
            kept.append(argument)
        elif fix.flags[name] is not None and not equals:
            next(rest, None)
    for name, new in fix.flags.items():
        kept += [name] if new is None else [name, new]
    return kept
