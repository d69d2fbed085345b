"""Checks of conversations: turns, ledger, sums and messages of a row tell of the same exchange.

The chain of a row is the attempt that decided it and, in front of that, the answer to each earlier
turn, the latest one before the next. It shares no code with what wrote the files: see ``verify``.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa

from batchrun.views.verify.check_ledger import IDENTICAL
from batchrun.views.verify.findings import Report
from batchrun.views.verify.part_reader import MESSAGES
from batchrun.views.verify.recount import PICODOLLARS, TOKENS

INTERRUPTED = "interrupted"
"""The code of attempts that a kill cut off, whose turn may not be known."""
_LINE = ("row", "attempt", "turn", "decided_by", "error_class", *IDENTICAL, *TOKENS, "cost_usd")
_RESULT = ("row", "status", "attempts", "reused_from", "content", *_LINE[4:], MESSAGES)

Line = dict[str, Any]


def compare(
    results: pa.RecordBatch, lines: pa.RecordBatch, report: Report, absent: Collection[str]
) -> None:
    """Rows of conversations beside the lines of the ledger for the same rows and those between."""
    if any(name in absent for name in (*_LINE, *_RESULT)):
        return  # it is said elsewhere that columns are missing
    of_row: defaultdict[int, list[Line]] = defaultdict(list)
    for line in _dicts(lines, _LINE):
        of_row[line["row"]].append(line)
    for ledger in of_row.values():
        for text in numbering(ledger):
            report.found("turn_number", text)
    for result in _dicts(results, _RESULT):
        for kind, found in faults(result, of_row.get(result["row"], [])):
            report.found(kind, found)


def numbering(ledger: Sequence[Line]) -> Iterator[str]:
    """Lines of one row whose turn cannot be: none where one is known, or one that comes before
    the turn in front of it was answered.
    """
    answered = {0}
    for line in ledger:
        turn, where = line["turn"], f"row {line['row']}, attempt {line['attempt']}"
        if turn is None:
            if line["error_code"] != INTERRUPTED and not _lost(line):
                yield f"{where} has no turn"
            continue
        if turn - 1 not in answered and not any(map(_lost, ledger)):
            yield f"{where} is of turn {turn}, and turn {turn - 1} was not answered before"
        if line["error_class"] is None:
            answered.add(turn)


def faults(result: Line, ledger: Sequence[Line]) -> Iterator[tuple[str, str]]:
    """What is wrong with a row, by kind of damage. ``ledger`` has its lines in order."""
    name = f"row {result['row']}"
    if (result["attempts"] or 0) != len(ledger):
        text = f"{name} says {result['attempts']} attempts, the ledger has {len(ledger)}"
        yield "attempts", text
    if result["reused_from"] is not None or any(map(_lost, ledger)):
        return
    sent = result["endpoint"] is not None
    deciding = next((line for line in reversed(ledger) if _decides(line, result)), None)
    if sent and deciding is None:
        yield "ledger", f"{name}: no attempt in the ledger is the one that decided it"
        return
    ok = result["status"] == "ok"
    # Later lines may have answers, of a conversation that was sent again and not to its end.
    chain = _chain(ledger, deciding)
    if deciding is not None and len(chain) != (deciding["turn"] or 0):
        turn = deciding["turn"]
        yield (
            "turn_number",
            f"{name} ends with turn {turn}, and not every earlier one has an answer",
        )
        return
    if deciding is None and (not chain or result[MESSAGES] is None):
        return  # it was not sent, or not in the session that it failed in
    for column in (*TOKENS, "cost_usd"):
        wanted = _sum(chain, column)
        if result[column] != wanted:
            yield "turn_sums", f"{name} has {column} {result[column]}, its turns add up to {wanted}"
    answers = len(chain) - (not ok and deciding is not None)
    wrong = _messages(result, answers, ok=ok)
    if wrong is not None:
        yield "turn_messages", f"{name}: {wrong}"


def _lost(line: Line) -> bool:
    """Whether a repair wrote the line, which is the one that says not how it was decided."""
    return line["decided_by"] is None


def _decides(line: Line, result: Line) -> bool:
    return all(line[name] == result[name] for name in ("error_class", *IDENTICAL))


def _chain(ledger: Sequence[Line], deciding: Line | None) -> list[Line]:
    """The answers to the turns of a row and, at the end, the attempt that decided it; those of the
    latest turns where no attempt did.
    """
    chain: list[Line] = [] if deciding is None else [deciding]
    before = None if deciding is None else deciding["attempt"]
    turn = None if deciding is None else (deciding["turn"] or 0) - 1
    for line in reversed(ledger):
        if line["error_class"] is not None or (before is not None and line["attempt"] >= before):
            continue
        if turn is None or line["turn"] == turn:
            chain.insert(0, line)
            before, turn = line["attempt"], (line["turn"] or 0) - 1
    return chain


def _sum(chain: Sequence[Line], column: str) -> Any:
    known = [line[column] for line in chain if line[column] is not None]
    if not known:
        return None
    if column != "cost_usd":
        return sum(known)
    return sum(round(cost * PICODOLLARS) for cost in known) / PICODOLLARS


def _messages(result: Line, answers: int, *, ok: bool) -> str | None:
    """What is wrong with the messages of a row that had so many answers."""
    try:
        said = json.loads(result[MESSAGES] or "null")
        roles = [message["role"] for message in said]
    except (ValueError, TypeError, KeyError):
        return "`messages` is not a list of messages"
    tail = ["user", "assistant"] * answers + ([] if ok else ["user"])
    if len(roles) < len(tail) or roles[len(roles) - len(tail) :] != tail:
        return f"`messages` does not end with {answers} answered turns"
    if ok and result["content"] is not None and said[-1].get("content") != result["content"]:
        return "`messages` does not end with `content`"
    return None


def _dicts(batch: pa.RecordBatch, names: Sequence[str]) -> Iterator[Line]:
    columns = [batch.column(name).to_pylist() for name in names]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))
