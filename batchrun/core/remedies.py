"""What a user can do about a bad row, and which bad rows are alike.

A row's problem is a sentence: it crosses the seams as one and ends in ``error_message``. Here the
sentences are told apart once more, for the report of ``batchrun validate`` alone; nothing is
decided by them. A test holds every sentence against this table.
"""

from __future__ import annotations

import re

OTHERWISE = "mend the row, or take it out of the input"

UTF8 = "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW, if it comes from a spreadsheet"

REMEDIES: tuple[tuple[str, str], ...] = (
    # First, since what they quote of the schema may hold any of the others' words.
    (
        "schema of response_format is not a JSON Schema",
        "correct the schema; if the server reads it as another dialect, --no-check-schema sends it",
    ),
    ("are not a JSON Schema", "correct the tool's parameters, or leave --check-tools out"),
    ("no model", "add --model M for all rows, or `model` to the row"),
    ("neither `messages` nor", "give the row `messages`, or make them with --prompt"),
    ("extra_body is not", "write extra_body as an object of parameters, or leave it out"),
    ("`body` is not a JSON object", "write the request body as an object under `body`"),
    ("only POST can be run", "set `method` to POST, or leave it out"),
    ("only /v1/chat/completions", "keep the lines for other endpoints in a file of their own"),
    ("must be a list with at least one message", "write `messages` as a list of objects"),
    ("is not an object", 'write every message as {"role": ..., "content": ...}'),
    ("has no `role`", "give the message a role: system, developer, user, assistant or tool"),
    ("no `content`", 'give the message its text; an empty one is ""'),
    (
        "where the header has",
        "give the row as many fields as the header; quote those with the delimiter (--quoting csv)",
    ),
    ("not valid CSV", "close every quote, and write a quote inside a quoted field as two"),
    ("the prompt is empty", "fill in the columns that the prompt shows, or drop the row"),
    ("cannot read", "name a file that is there and can be read, relative to where batchrun runs"),
    ("no `tool_call_id`", "name the tool call that the message answers in `tool_call_id`"),
    ("which JSON cannot hold", "write null, a finite number or text"),
    ("beyond 64 bits", "write the number as text"),
    ("surrogate pair", "write the text as valid Unicode, or drop the broken character"),
    ("cannot be written as JSON", "use objects, lists, text, numbers, booleans and nulls only"),
    ("nested", "flatten the value"),
    ("at most", "shorten the row, or allow larger bodies if the server takes them"),
    ("more than", "split or shorten the line: a line end may be missing"),
    ("not valid UTF-8", "write the file as UTF-8: " + UTF8),
    ("the line is not valid ", "name the encoding that the file is in with --encoding"),
    ("cut off", "write the file again: its end is missing"),
    ("comma", "write the array as JSON: elements with one comma between them"),
    ("behind the end of the array", "write one array, or one JSON object on each line"),
    ("not valid JSON", "write one JSON object on one line; text needs double quotes"),
    ("is not a JSON object", "write one JSON object on one line"),
)
"""A part of the sentence, and the remedy; the first that fits counts."""

_PLACES = re.compile(r"(?<!UTF-)(?!64 bits)\b\d[\d,]*")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def remedy(problem: str) -> str:
    """What to do about a row with this problem."""
    return next((what for part, what in REMEDIES if part in problem), OTHERWISE)


def reason(problem: str) -> str:
    """The problem without what differs from row to row, so that like rows can be counted."""
    text = problem.partition(": ")[0]
    return _PLACES.sub("N", _QUOTED.sub("'...'", text))
