"""The files of a starter, as text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIG, ROWS = "config.toml", "rows.jsonl"

_DELETE = re.compile("\x7f")
_BARE = re.compile(r"[A-Za-z0-9_-]+")

SCHEMA_LINE = "#:schema ./config.schema.json"
_HEAD = f"""\
{SCHEMA_LINE}
# Completion and checks in an editor: batchrun schema config > config.schema.json
"""

EVAL_CONFIG = f"""\
{_HEAD}
# An evaluation: every row is sent, scored and summed up, and gates decide the exit code.
#   batchrun run -c config.toml
#   batchrun report run-1
# Scores need the extra `eval`: pip install "batchrun-llm[eval]"
# The built-in simulator does not know the answers: put your endpoint in its place.

[input]
files = ["rows.jsonl"]

[output]
dir = "run-1"             # -o run-2 for the next run; then: batchrun compare run-1 run-2

[request]
model = "sim-small"
prompt = "{{{{ question }}}} Answer with a word or a number, nothing else."
params = {{ temperature = 0 }}

[[endpoint]]
provider = "simulator"    # or base_url = "http://localhost:8000/v1"

[scores]                  # one value per row: SQL over the columns of the results
correct = "exact(content, expected)"

[metrics]                 # aggregates over results and scores
accuracy = "avg(correct)"
by_topic = {{ value = "avg(correct)", by = "topic" }}

[gates]                   # the exit code is 4 if one fails
error_rate = "<= 0.01"
# accuracy = ">= 0.80"

# [gates.compare]         # against the run that `batchrun bless run-1` made the baseline
# baseline = "baseline"
# accuracy = {{ not_worse_by = 0.02 }}
"""

BULK_CONFIG = f"""\
{_HEAD}
# A bulk job: one request per row of a table, made by a prompt template.
#   batchrun run -c config.toml                         # again to resume
#   batchrun export answers -o answers.csv
# The built-in simulator answers with made-up text: put your endpoint in its place.

[input]
files = ["rows.csv"]      # CSV, xlsx, Parquet or JSON Lines; globs and folders too
id = "ticket"             # the column that names a row in the results

[output]
dir = "answers"

[request]
model = "sim-small"
system = "You sort support tickets. Reply with one of: billing, delivery, account, other."
prompt = '''
Subject: {{{{ subject }}}}
Message: {{{{ message }}}}
'''
params = {{ temperature = 0, max_tokens = 200 }}

[[endpoint]]
provider = "simulator"    # or base_url = "http://localhost:8000/v1"
# concurrency = 32        # requests in flight; found automatically by default
# rpm = 500               # requests per minute

[guards]
max_failures = "5%"       # stop if more rows fail, once 100 are done
# max_cost_usd = 5        # spending cap
"""

BATCH_CONFIG = f"""\
{_HEAD}
# A file of the OpenAI Batch API, sent to any endpoint, as output lines of that API.
#   batchrun run -c config.toml                         # again to resume
#   batchrun export batch-1 -o output.jsonl --errors errors.jsonl
# The built-in simulator answers with made-up text: put your endpoint in its place.

[input]
files = ["rows.jsonl"]    # one {{"custom_id", "method", "url", "body"}} per line

[output]
dir = "batch-1"

[request]
# model = "gpt-4.1-mini"  # for bodies that name none
# params = {{ max_tokens = 200 }}   # for bodies that do not set it

[[endpoint]]
provider = "simulator"    # or provider = "openai", with the key in OPENAI_API_KEY
"""

_QUESTIONS = (
    ("geography", "What is the capital of Portugal?", "Lisbon"),
    ("geography", "Which ocean lies between Africa and Australia?", "Indian Ocean"),
    ("geography", "Which river flows through Vienna and Budapest?", "Danube"),
    ("science", "What is the chemical symbol of gold?", "Au"),
    ("science", "How many planets orbit the Sun?", "8"),
    ("science", "Which gas do plants take from the air?", "Carbon dioxide"),
    ("numbers", "What is 17 times 6?", "102"),
    ("numbers", "How many minutes are three hours?", "180"),
    ("numbers", "What is the smallest prime above 10?", "11"),
    ("words", "What is the opposite of 'always'?", "never"),
)


_TICKETS = (
    ("Charged twice", "My card was charged twice for order 5521. Please return one payment."),
    ("Where is my parcel?", "It was due on Monday, and tracking has not moved since Friday."),
    ("Password reset", "The link in the mail says that it has expired, three times now."),
    ("Invoice address", "Can you put our VAT number, and the new street, on the May invoice?"),
    ("Broken on arrival", 'The mug was in pieces. The box said "fragile, this side up".'),
    ("Delete my account", "Please remove everything that you hold about me."),
    ("Wrong colour", "I ordered green and got blue; do I send it back first?"),
    ("Opening hours", "Is the shop in Leith open on the first of May?"),
    ("Cannot log in", "Since the update the app closes as soon as I enter my mail address."),
    ("Refund still missing", "You wrote on 3 March that the refund is on its way. It is June."),
)
_TASKS = (
    ("translate", "Translate into German: The train leaves from platform four."),
    ("translate", "Translate into Spanish: Please keep the receipt for two years."),
    ("translate", "Translate into French: The museum is closed on Tuesdays."),
    ("summarise", "Say in one sentence what a lighthouse keeper does."),
    ("summarise", "Say in one sentence why bread rises."),
    ("summarise", "Say in one sentence how a canal lock works."),
    ("rewrite", "Make this polite: Send the figures today."),
    ("rewrite", "Make this shorter: We would like to inform you that we are closed today."),
    ("extract", "List the dates in this text: Born on 2 May 1911, died on 30 June 1984."),
    ("extract", "List the cities in this text: From Turin via Lyon to Ghent."),
)


@dataclass(frozen=True, slots=True)
class Starter:
    """A config, its rows, and sentences about what could not be taken over.

    ``rows_name`` is the file of the rows; ``commands`` are what to type next.
    """

    config: str
    rows: str
    notes: tuple[str, ...] = ()
    rows_name: str = ROWS
    commands: tuple[str, ...] = (f"batchrun run -c {CONFIG}",)


def eval_starter() -> Starter:
    """An evaluation of ten questions that runs against the simulator."""
    rows = [
        {"custom_id": f"q{number}", "topic": topic, "question": question, "expected": expected}
        for number, (topic, question, expected) in enumerate(_QUESTIONS, 1)
    ]
    return Starter(
        EVAL_CONFIG,
        jsonl(rows),
        commands=(f"batchrun run -c {CONFIG}", "batchrun report run-1"),
    )


def bulk_starter() -> Starter:
    """A table of ten support tickets, a prompt over its columns, and an export to CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("ticket", "subject", "message"))
    writer.writerows((f"T-{number}", *ticket) for number, ticket in enumerate(_TICKETS, 101))
    return Starter(
        BULK_CONFIG,
        text.getvalue(),
        rows_name="rows.csv",
        commands=(f"batchrun run -c {CONFIG}", "batchrun export answers -o answers.csv"),
    )


def batch_starter() -> Starter:
    """Ten lines as the OpenAI Batch API takes them, and an export to its output lines."""
    rows = [
        {
            "custom_id": f"{kind}-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "gpt-4.1-mini",
                "messages": [{"role": "user", "content": task}],
                "max_tokens": 200,
            },
        }
        for number, (kind, task) in enumerate(_TASKS, 1)
    ]
    export = "batchrun export batch-1 -o output.jsonl --errors errors.jsonl"
    return Starter(BATCH_CONFIG, jsonl(rows), commands=(f"batchrun run -c {CONFIG}", export))


STARTERS: Mapping[str, Callable[[], Starter]] = {
    "eval": eval_starter,
    "bulk": bulk_starter,
    "batch": batch_starter,
}
"""What ``batchrun init`` can write, by name."""


def jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def toml_value(value: Any) -> str:
    """A value as TOML has it in a line. Raises ``ValueError`` for what TOML has not."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for a character that TOML wants escaped and JSON does not.
        return _DELETE.sub("\\\\u007f", json.dumps(value, ensure_ascii=False))
    if isinstance(value, (bool, int, float)):
        return json.dumps(value, allow_nan=False)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    message = f"TOML has no {value!r}"
    raise ValueError(message)


def toml_key(key: str) -> str:
    """A key as TOML has it."""
    return key if _BARE.fullmatch(key) else toml_value(key)
