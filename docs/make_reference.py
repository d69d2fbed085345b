"""Fills in docs/reference.md from the program, and writes docs/config.schema.json. Run it by
`make docs`.

The page itself is written by hand. What stands in it between `<!-- made: NAME -->` and
`<!-- end -->` is made here: the tables and figures that the program has. Every sentence in a table
stands in the program, beside what it describes; a name without one ends the script with an error.
"""
# ruff: noqa: INP001 - a script beside the page that it fills in

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import click  # noqa: E402 - the checkout's package comes first
import pyarrow as pa  # noqa: E402

from batchrun import errors  # noqa: E402
from batchrun.adapters.columns import columns  # noqa: E402
from batchrun.adapters.environment import status_file  # noqa: E402
from batchrun.adapters.environment.signals import SIGNALS  # noqa: E402
from batchrun.adapters.sources.files import finding  # noqa: E402
from batchrun.cli.flags.help_pages import group_of  # noqa: E402
from batchrun.cli.main import COMMANDS, main  # noqa: E402
from batchrun.core.reply import answer, phrases, thinking  # noqa: E402
from batchrun.core.reply.limit_dialects import PERIODS_S, SPELLINGS  # noqa: E402
from batchrun.core.reply.vendor_codes import MEANINGS, SAID_BY  # noqa: E402
from batchrun.core.run import series, summary  # noqa: E402
from batchrun.core.run.series import Series  # noqa: E402
from batchrun.core.run.totals import Totals  # noqa: E402
from batchrun.core.schema import json_schema  # noqa: E402
from batchrun.core.settings import parameters, resolve  # noqa: E402
from batchrun.core.settings.providers import AUTHORIZATION, BUILT_IN, PROVIDERS  # noqa: E402
from batchrun.core.settings.table import FLAGGED, GROUPS, KINDS, SHORT, Setting  # noqa: E402
from batchrun.core.settings.variables import VARIABLES  # noqa: E402
from batchrun.core.starter.config_schema import config_schema  # noqa: E402
from batchrun.core.verdict import outage, rules, trail  # noqa: E402
from batchrun.engine.observe.monitor import Snapshot  # noqa: E402
from batchrun.simulator.catalogue import CATALOGUE  # noqa: E402
from batchrun.views import export, validate  # noqa: E402
from batchrun.views.compare import compare  # noqa: E402
from batchrun.views.estimation import counting, dry_run, estimate_report  # noqa: E402
from batchrun.views.fleet import status as fleet_status  # noqa: E402
from batchrun.views.history import runs, spending  # noqa: E402
from batchrun.views.report import report  # noqa: E402
from batchrun.views.show import shown_row  # noqa: E402
from batchrun.views.verify import findings  # noqa: E402

PAGE = ROOT / "docs" / "reference.md"
SCHEMA = ROOT / "docs" / "config.schema.json"
MARKED = re.compile(r"(<!-- made: (\S+) -->)(.*?)(<!-- end -->)", re.DOTALL)


class UndocumentedError(Exception):
    """The program and the sentences about it do not name the same things."""


def described(
    what: str, names: Iterable[object], meanings: Mapping[Any, str]
) -> list[tuple[Any, str]]:
    """Each name with its sentence, in the order of the names."""
    ordered = list(dict.fromkeys(names))
    missing = [name for name in ordered if not meanings.get(name)]
    gone = [name for name in meanings if name not in ordered]
    if missing or gone:
        message = f"{what}: no sentence about {missing}; sentences about nothing: {gone}"
        raise UndocumentedError(message)
    return [(name, meanings[name]) for name in ordered]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join(lines)


def code(text: object) -> str:
    """Something as code, or nothing for nothing."""
    return f"`{text}`" if text not in (None, "") else ""


def codes(texts: Iterable[object]) -> str:
    """Several things as code."""
    return ", ".join(code(text) for text in texts)


def meanings(head: str, found: Iterable[tuple[object, str]]) -> str:
    """A table of names and their meanings."""
    return table((head, "meaning"), [(code(name), meaning) for name, meaning in found])


# Commands and settings


def commands() -> str:
    """Every command and flag."""
    context = click.Context(main)
    parts = []
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        text = " ".join((command.help or "").replace("\b", "").split("\f")[0].split())
        options = [
            option
            for option in command.params
            if isinstance(option, click.Option) and not option.hidden
        ]
        described(name, [o.opts[-1] for o in options], {o.opts[-1]: o.help or "" for o in options})
        parts.append(f"### `batchrun {name} {usage}`\n\n{text}\n\n{flags(options)}")
    return "\n\n".join(parts)


def flags(options: Sequence[click.Option]) -> str:
    """The flags of a command: a table, or one for each group as in its help."""
    groups: dict[str, list[click.Option]] = {}
    for option in options:
        groups.setdefault(group_of(option), []).append(option)
    if len(groups) == 1:
        return flag_table(options)
    order = [*(g for g in groups if g not in GROUPS), *(g for g in GROUPS if g in groups)]
    titles = {group: f"**{group}**: {about}" for group, about in GROUPS.items()}
    parts = [f"{titles.get(g, f'**{g}**')}\n\n{flag_table(groups[g])}" for g in order]
    return "\n\n".join(parts)


def flag_table(options: Sequence[click.Option]) -> str:
    """A table of flags, with their config keys where they have any."""
    settings = {setting.name.replace(".", "__"): setting for setting in FLAGGED}
    keys = [key_of(settings[o.name]) if o.name in settings else "" for o in options]
    if not any(keys):
        return table(("flag", "meaning"), [(flag(o), option_help(o)) for o in options])
    return table(
        ("flag", "config key", "meaning"),
        [(flag(o), code(key), option_help(o)) for o, key in zip(options, keys, strict=True)],
    )


def flag(option: click.Option) -> str:
    """How a flag is written."""
    names = ", ".join(option.opts)
    if option.secondary_opts:
        names += "/" + ", ".join(option.secondary_opts)
    if option.is_flag:
        return code(names)
    if option.metavar:
        return code(f"{names} {option.metavar}")
    if isinstance(option.type, click.Choice):
        return code(f"{names} {'|'.join(map(str, option.type.choices))}")
    kind = {"integer": "N", "float": "N", "file": "FILE", "path": "FILE"}
    return code(f"{names} {kind.get(option.type.name, 'TEXT')}")


def option_help(option: click.Option) -> str:
    """What a flag means, and its default."""
    text = option.help or ""
    if option.show_default and "[default" not in text:
        default = option.default
        if option.is_flag and option.secondary_opts:
            default = (option.opts if default else option.secondary_opts)[-1].lstrip("-")
        text += f" [default: {default}]"
    return text


def key_of(setting: Setting) -> str:
    """Where a setting stands in the config file."""
    return f"request.params.{setting.key}" if setting in SHORT else setting.name


def settings() -> str:
    """Every setting: config key, flag, keyword, variables, type, default and meaning."""
    described("settings", [s.name for s in FLAGGED], {s.name: s.help for s in FLAGGED})
    rows = []
    for setting in FLAGGED:
        kind = KINDS[setting.kind]
        if setting.choices:
            kind = codes(setting.choices)
        elif setting.low is not None:
            kind += f", at least {setting.low:g}"
            kind += "" if setting.high is None else f", at most {setting.high:g}"
        default = "" if setting.default in (None, (), {}) else code(setting.default)
        if setting.kind == "bool":
            default = code(str(setting.default).lower())
        variables = [
            name for name, variable in VARIABLES.items() if variable.setting == setting.name
        ]
        meaning = setting.help + (" *fixed*" if setting.shapes else "")
        names = (code(key_of(setting)), code(setting.flag), code(setting.keyword), codes(variables))
        rows.append((*names, kind, default, meaning))
    return table(("key", "flag", "keyword", "variable", "type", "default", "meaning"), rows)


def providers() -> str:
    """Every provider that is known by name."""
    rows = []
    for provider in PROVIDERS:
        keys = [
            code(key.name) + ("" if key.header == AUTHORIZATION else f" as {code(key.header)}")
            for key in provider.keys
        ]
        key = ", else ".join(keys) + ("" if provider.key_needed or not keys else ", if set")
        url = code(provider.base_url)
        if provider.base_url is None:
            own = provider.name in BUILT_IN
            url = "started by batchrun" if own else f"by {code(provider.url_variables[0])}"
        rows.append(
            (code(provider.name), provider.title, url, key, provider.remark, provider.source)
        )
    return table(("name", "endpoint", "base URL", "key", "peculiarities", "source"), rows)


def limit_headers() -> str:
    """The headers in which servers report their rate limits."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for spelling in SPELLINGS:
        name, window = spelling.names, "by the reset"
        for period, seconds in PERIODS_S.items():
            if spelling.per_s == seconds:
                window = f"a {period}"
                if name.endswith(f"-{period}") and spelling.server != "Mistral, older":
                    name, window = name.removesuffix(period) + "PERIOD", "in the name"
            elif spelling.usual_s == seconds:
                window = f"a {period}, or by the reset"
        names = rows.setdefault((spelling.server, spelling.kind, window, spelling.remark), [])
        if name not in names:
            names.append(name)
    return table(
        ("server", "limits", "window", "headers", "remarks"),
        [
            (server, kind.replace("_", " "), window, codes(names), remark)
            for (server, kind, window, remark), names in rows.items()
        ],
    )


# Input, files and JSON objects


def input_formats() -> str:
    """The formats of input by their suffixes."""
    carried = {
        "JSON Lines": (("jsonl",), "by the first 10,000 rows"),
        "JSON, an array of rows": (("json",), "by the first 10,000 rows"),
        "CSV, TSV": (("csv", "tsv"), "text"),
        "workbooks": (("xlsx",), "by their cells"),
        "Parquet": (("parquet",), "with their exact types"),
    }
    known: dict[str, list[str]] = {}
    for suffix, kind in finding.FORMATS.items():
        known.setdefault(kind, []).append(suffix)
    rows = [
        (name, " ".join(code(suffix) for kind in kinds for suffix in known.pop(kind)), types)
        for name, (kinds, types) in carried.items()
    ]
    if known:
        message = f"formats of input without a line: {known}"
        raise UndocumentedError(message)
    return table(("format", "suffixes", "types of carried columns"), rows)


def sent_parameters() -> str:
    """The parameters that are sent, by where they are specified."""
    return table(
        ("specified by", "parameters"),
        [(group, " ".join(map(code, sorted(names)))) for group, names in parameters.GROUPS.items()],
    )


def column_table(listed: Sequence[columns.Column]) -> str:
    """The columns of one kind of file."""
    described("columns", [c.name for c in listed], {c.name: c.meaning for c in listed})
    rows = [(code(c.name), type_name(c.type), c.meaning) for c in listed]
    return table(("column", "type", "meaning"), rows)


def type_name(kind: pa.DataType) -> str:
    """A column's type in short."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_struct(kind):
        inside = ", ".join(f"{field.name} {type_name(field.type)}" for field in kind)
        return f"struct ({inside})"
    return str(kind).replace("timestamp[", "timestamp (").replace(", tz=", ", ").replace("]", ")")


def summary_keys() -> list[str]:
    """The keys that `summary.json` may have, with a dot between levels."""
    built = summary.build(
        totals=Totals(),
        rows_input=0,
        stopped_by=None,
        stop_exit_code=None,
        started_at_us=0,
        ended_at_us=0,
        wall_s=0.0,
        settings={},
        version="",
        reuses=True,
        controls=({},),
        labels={},
        run="",
    )
    version = built.pop("version")
    built["totals"]["cost_usd_with_judges"] = None
    built |= {"scores": None, "metrics": None, "judges": None, "gates": None, "version": version}
    return [
        f"{key}.{inner}" if inner else key
        for key, value in built.items()
        for inner in (value if isinstance(value, dict) and value else [""])
    ]


def json_objects() -> dict[str, str]:
    """The keys of every JSON object, by the name of its mark."""
    given = resolve.resolve({"input.files": ["-"], "output.dir": ".", "input.reuse": ["."]})
    nothing, checked = counting.Estimate(given, tokenizer=False), validate.Report()
    nothing.judges["tone"] = counting.Estimate(given, tokenizer=False)
    dry = dry_run.DryRun(given, resumed=False, nowhere=False, checked=checked, estimate=nothing)
    exported = export.Exported(0, 0, 0, 0, live=False)
    found = {
        "summary": (summary_keys(), summary.KEYS),
        "status": ([*(f.name for f in fields(Snapshot)), *status_file.ADDED], status_file.KEYS),
        "status-fleet": (fleet_status.KEYS, fleet_status.KEYS),
        "verify": (findings.Report("").as_dict(), findings.KEYS),
        "validate": (checked.as_dict(), validate.KEYS),
        "estimate": (estimate_report.Report(nothing).as_dict(), estimate_report.KEYS),
        "dry-run": (dry.as_dict(), dry_run.KEYS),
        "compare": (compare.KEYS, compare.KEYS),
        "report": (report.KEYS, report.KEYS),
        "series": (Series().recorded()["points"], series.KEYS),
        "export": (exported.as_dict(), export.KEYS),
        "show": (shown_row.KEYS, shown_row.KEYS),
        "runs": (runs.RunLine.__slots__, runs.KEYS),
        "costs": (spending.Spent().public(), spending.KEYS_OF_SUMS),
    }
    return {f"keys-{name}": meanings("key", described(name, *each)) for name, each in found.items()}


# What replies mean


def actions() -> str:
    """What may become of a row after a reply."""
    found = described("actions", rules.Action, rules.ACTIONS)
    return table(("action", "what it does"), [(f"*{a.value}*", meaning) for a, meaning in found])


def error_classes() -> str:
    """Every error class."""
    given = {rule.error_class for rule in rules.RULES}
    described("error classes", [*rules.ERROR_CLASSES, *given], rules.ERROR_CLASSES)
    return meanings("class", rules.ERROR_CLASSES.items())


def names_in_words() -> dict[str, str]:
    """Our own names for what an error means, in words."""
    reasons = ", ".join(f"`{reason}`" for reason in sorted(rules.UNFINISHED_REASONS))
    ours = phrases.WORDED | {
        rules.UNFINISHED: f"a completion whose finish reason is one of {reasons}"
    }
    used = [name for rule in rules.RULES for name in sorted(rule.codes) if name.startswith("@")]
    described("names of our own", [*used, *MEANINGS], ours)
    return ours


def verdicts() -> str:
    """The verdict table."""
    described("faults", [fault for rule in rules.RULES for fault in rule.faults], rules.FAULTS)
    rows = []
    for rule in rules.RULES:
        action = f"*{rule.action.value}*"
        if rule.tries_max is not None:
            times = {1: "once", 2: "twice"}.get(rule.tries_max, f"{rule.tries_max} times")
            action += f" {times}, then *{rule.then.value}*"
        if rule.backoff_s is not None:
            action += f", first after up to {rule.backoff_s:g} s"
        health = "" if rule.health is None else rule.health.value
        rows.append((signal_of(rule), action, code(rule.error_class), health, rule.source))
    return table(("signal", "action", "class", "health", "seen at"), rows)


def signal_of(rule: rules.Rule) -> str:
    """What a rule matches, in words."""
    if rule.faults:
        text = "; ".join(rules.FAULTS[fault] for fault in rule.faults)
    else:
        text = f"status {ranges(rule.statuses)}" if rule.statuses else "2xx without a completion"
    if rule.codes:
        names = sorted(rule.codes, key=lambda name: (name.startswith("@"), name))
        text += " with " + ", ".join(names_in_words().get(name) or code(name) for name in names)
    if rule.with_wait:
        text += ", and a wait asked for"
    if rule.runs_model:
        text += ", for the run's model rather than one that the row chose"
    if rule.succeeded is not None:
        text += ", after any row had an answer" if rule.succeeded else ", before any answer"
    return text


def ranges(numbers: Collection[int]) -> str:
    """Numbers in order, runs of them as `from to`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in runs)


def vendor_codes() -> str:
    """What vendors' own codes mean."""
    return table(
        ("means", "judged as", "with status", "codes"),
        [
            (
                names_in_words()[name],
                str(meaning.status),
                "any" if meaning.under is None else statuses(meaning.under),
                "; ".join(f"{who}: {codes(words.split())}" for who, words in SAID_BY[name]),
            )
            for name, meaning in MEANINGS.items()
        ],
    )


def statuses(listed: Collection[int]) -> str:
    """Statuses that an error may have come with; a single digit is a class of them."""
    return ", ".join(f"{status}xx" if status < 10 else str(status) for status in listed)


def phrase_table() -> str:
    """What servers say in words only."""
    found = dict.fromkeys((names_in_words()[p.name], p.source) for p in phrases.PHRASES)
    return table(("means", "said by"), found)


def exit_codes() -> str:
    """Every exit code."""
    signals = {
        128 + number: f"Stopped by {number.name}{' (Ctrl-C)' * (number.name == 'SIGINT')}. "
        "The same command resumes the run."
        for number in SIGNALS
    }
    raised = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BatchrunError)
    }
    told = errors.EXIT_CODES | signals
    return table(("code", "meaning"), described("exit codes", sorted(told.keys() | raised), told))


def tables() -> dict[str, str]:
    """The tables of the page by the names of their marks."""
    variables = {name: variable.meaning for name, variable in VARIABLES.items()}
    return {
        "commands": commands(),
        "settings": settings(),
        "providers": providers(),
        "limit-headers": limit_headers(),
        "environment": meanings("variable", described("variables", VARIABLES, variables)),
        "input-formats": input_formats(),
        "parameters": sent_parameters(),
        "columns-results": column_table((*columns.RESULTS, columns.MESSAGES)),
        "columns-attempts": column_table(columns.ATTEMPTS),
        "columns-requests": column_table(columns.REQUESTS),
        "columns-usage": column_table(columns.USAGE),
        **json_objects(),
        "damage": meanings("kind", findings.KINDS.items()),
        "error-classes": error_classes(),
        "actions": actions(),
        "verdicts": verdicts(),
        "trail-first": meanings("first word", trail.FIRST.items()),
        "trail-later": meanings("later word", trail.LATER.items()),
        "vendor-codes": vendor_codes(),
        "phrases": phrase_table(),
        "exit-codes": exit_codes(),
    }


def figures() -> dict[str, str]:
    """What stands within sentences of the page, by the names of their marks."""
    return {
        "periods": codes(PERIODS_S),
        "synonyms": "; ".join(" and ".join(map(code, sorted(s))) for s in parameters.SYNONYMS),
        "think-tags": codes(tag for tag, _, _ in thinking.TAGS),
        "truncated": codes(sorted(answer.TRUNCATED)),
        "schema-weight": f"{json_schema.WEIGHT_MAX:,}",
        "outage-window": str(outage.WINDOW),
        "outage-share": f"{outage.SHARE:.0%}",
        "outage-rows": str(outage.ROWS),
        "outage-rows-dark": str(outage.ROWS_DARK),
        "outage-probe": f"{outage.PROBE_S_MAX:.0f}",
        "outage-free": str(outage.PROBES_FREE),
        "simulator-errors": codes(CATALOGUE),
    }


def filled(text: str) -> str:
    """A page with everything between its marks made anew."""
    made = figures() | {name: f"\n\n{table}\n\n" for name, table in tables().items()}
    described("marks", [match[2] for match in MARKED.finditer(text)], made)
    return MARKED.sub(lambda match: f"{match[1]}{made[match[2]]}{match[4]}", text)


def page() -> str:
    """The page as it should be."""
    return filled(PAGE.read_text("utf-8"))


def schema() -> str:
    """The JSON Schema of the config file, as `batchrun schema config` prints it."""
    return json.dumps(config_schema(), indent=2) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    SCHEMA.write_text(schema(), "utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)} and {SCHEMA.relative_to(ROOT)}\n")
