"""Markdown for a job summary or a comment: the verdict first, at most 64 KB whatever the run.

Everything that comes from data is escaped: no link, image, mention or HTML of a model's making.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from batchrun.views.ci.outcome import Outcome
from batchrun.views.text import safe

BYTES_MAX = 64 * 1024
CELL_CHARS = 400
ROW_CHARS = 600
_LEFT_OUT = "\n_The rest does not fit into 64 KB._\n"
_SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_HTML = (
    (re.compile(r"&(?=#?\w+;)"), "&amp;"),
    (re.compile(r"<(?=[A-Za-z/!?])"), "&lt;"),
    (re.compile("@"), "&#64;"),
    (re.compile("://"), ":&#47;&#47;"),
    (re.compile(r"(?i)\bwww\."), "www&#46;"),
)
"""What GitHub would make HTML, a mention or a link of."""
_VERDICTS = {
    "pass": "pass",
    "fail": "**FAIL**",
    "inconclusive": "inconclusive",
    "warn": "warning",
    "not_judged": "not judged",
}


def markdown(outcome: Outcome) -> str:
    """An outcome as Markdown, of at most ``BYTES_MAX`` bytes."""
    out, size = [], len(_LEFT_OUT)
    for block in _blocks(outcome):
        size += len(block.encode())
        if size > BYTES_MAX:
            out.append(_LEFT_OUT)
            break
        out.append(block)
    return "".join(out)


def _blocks(outcome: Outcome) -> Iterator[str]:
    """Pieces in the order of weight; each can be the last."""
    yield f"### {_escaped(outcome.title)}: {outcome.word}\n\n"
    yield f"{_escaped(outcome.problem or outcome.headline)}\n"
    if outcome.gates:
        yield "\n| gate | rule | value | verdict | why |\n|---|---|---|---|---|\n"
        for name, gate in outcome.gates_in_order():
            value = "" if gate["value"] is None else f"{gate['value']:.6g}"
            cells = [name, gate["rule"], value]
            listed = " | ".join(map(_escaped, cells))
            yield f"| {listed} | {_VERDICTS[gate['verdict']]} | {_escaped(gate['why'])} |\n"
    if outcome.values:
        yield "\n| metric | value (95 % interval) |\n|---|---|\n"
        for name, value in outcome.values.items():
            yield f"| {_escaped(name)} | {_escaped(value)} |\n"
            for key, group in outcome.groups.get(name, {}).items():
                yield f"| {_escaped(name)}: {_escaped(key)} | {_escaped(group)} |\n"
    if outcome.notes:
        yield "\n"
        yield from (f"- {_escaped(note)}\n" for note in outcome.notes)
    if outcome.rows:
        yield "\n**Rows that got worse**\n\n"
        for name, what in outcome.rows:
            yield f"- {_escaped(name)}: {_escaped(what, ROW_CHARS)}\n"
        if outcome.rows_more:
            yield f"- and {outcome.rows_more:,} more\n"
    yield "\n"


def _escaped(text: str, most: int = CELL_CHARS) -> str:
    """Text as text, in one line."""
    line = " ".join(safe(text).split())
    if len(line) > most:
        line = f"{line[:most]}..."
    line = _SPECIAL.sub(r"\\\g<0>", line)
    for pattern, entity in _HTML:
        line = pattern.sub(entity, line)
    return line
