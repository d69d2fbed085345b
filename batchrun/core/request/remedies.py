"""What a user can do about a bad row or a failed one, and which bad rows are alike.

A row's problem is a sentence: it crosses the seams as one and ends in ``error_message``. Here the
sentences are told apart once more, for the report of ``batchrun validate`` alone; nothing is
decided by them. A test holds every sentence against this table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

OTHERWISE = "fix the row, or remove it from the input"

UTF8 = "iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW, if it comes from a spreadsheet"

REMEDIES: tuple[tuple[str, str], ...] = (
    # First, since what they quote of the schema may hold any of the others' words.
    (
        "schema of response_format is not a JSON Schema",
        "correct the schema; if the server reads it as another dialect, --no-check-schema sends it",
    ),
    ("are not a JSON Schema", "correct the tool's parameters, or leave --check-tools out"),
    ("no turns", "give the row at least one turn, or take it out of the input"),
    ("of the user's turns", 'write the turns as a list of texts: ["Hello.", "And now?"]'),
    ("a turn is a text", 'write the turns as a list of texts: ["Hello.", "And now?"]'),
    ("only the user's turns belong", "put messages of others into `messages`, before the turns"),
    ("is blank", "give the turn its text, or leave it out"),
    ("not text or a list of parts", "write the turn's `content` as text, or as a list of parts"),
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
    (
        "not valid JSON",
        "write one JSON object on one line (jq -c . OLD > NEW); text needs double quotes",
    ),
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


ADVICE: Mapping[str, str] = {
    "invalid_row": (
        "correct these rows in the input, then the same command with --resend-changed "
        "(--retry-failed alone would not read the correction)"
    ),
    "invalid_request": (
        "the server refuses these requests as they are: correct the rows, then --resend-changed; "
        "or the parameters, then --keep-done --retry-class invalid_request"
    ),
    "context_length": (
        "shorten these rows, then --resend-changed; or name a --model with a longer context, then "
        "--keep-done --retry-class context_length"
    ),
    "content_filter": (
        "the filter refuses the same text again: reword these rows, then --resend-changed; or try "
        "another model: --fallback-model M --retry-class content_filter"
    ),
    "payload_too_large": (
        "the server takes no request of this size: make images and texts of these rows smaller, "
        "then --resend-changed"
    ),
    "request_too_large": (
        "the account's rate limit never fits these requests: shorten these rows, then "
        "--resend-changed; or --max-tokens N --keep-done --retry-class request_too_large; or have "
        "the limit raised, then --retry-failed"
    ),
    "truncated_output": (
        "allow longer answers: --on-truncation retry --truncation-limit N --retry-class "
        "truncated_output"
    ),
    "empty_output": (
        "--retry-class empty_output asks again; --on-empty keep takes empty answers as they are"
    ),
    "invalid_output": (
        "--retry-class invalid_output asks again; where the JSON is in a Markdown fence, "
        "--keep-done --accept-fenced --retry-class invalid_output accepts it"
    ),
    "invalid_response": (
        "check with `batchrun doctor` that the URL is an OpenAI-compatible API, then --retry-failed"
    ),
    "response_too_large": (
        "allow larger replies: --max-response-bytes N --retry-class response_too_large"
    ),
    "incomplete_stream": (
        "the stream broke off: --retry-class incomplete_stream sends these rows again"
    ),
    "not_found": (
        "check --model and --base-url with `batchrun doctor`, then --keep-done --retry-class "
        "not_found"
    ),
    "config": (
        "check URL, certificates and proxy with `batchrun doctor`, then --retry-class config"
    ),
    "auth": "check the key with `batchrun doctor`, then --retry-class auth",
    "forbidden": (
        "ask for access to the model, or check the key with `batchrun doctor`, then --retry-class "
        "forbidden"
    ),
    "quota": "raise the quota or wait until it is renewed, then --retry-class quota",
    "billing": "settle the account's billing, then --retry-class billing",
    "rate_limit": (
        "send more slowly (--rpm N, --tpm N, or a lower --concurrency): --retry-class rate_limit"
    ),
    "timeout": "allow more time: --timeout S --retry-class timeout",
    "connection": "once the network holds: --retry-class connection",
    "server_error": "once the server is well: --retry-class server_error",
    "overloaded": (
        "later, or with a lower --concurrency: --retry-class overloaded sends these rows again"
    ),
}
"""What to do about failed rows, by error class: the flags go with the same command."""
