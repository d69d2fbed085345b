"""The files of a starter, as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CONFIG, ROWS = "config.toml", "rows.jsonl"

_DELETE = re.compile("\x7f")
_BARE = re.compile(r"[A-Za-z0-9_-]+")

EVAL_CONFIG = """\
# An evaluation: every row is asked, scored and summed up, and gates decide about the exit code.
#   batchrun run -c config.toml -o run-1
# It runs against the built-in simulator, which knows no answers: put your endpoint in its place.

[input]
files = ["rows.jsonl"]

[request]
model = "sim-small"
prompt = "{{ question }} Answer with a word or a number, nothing else."
params = { temperature = 0 }

[[endpoint]]
provider = "simulator"    # or base_url = "http://localhost:8000/v1"

[scores]                  # one value per row: SQL over the columns of the results
correct = "exact(content, expected)"

[metrics]                 # aggregates over results and scores
accuracy = "avg(correct)"
by_topic = { value = "avg(correct)", by = "topic" }

[gates]                   # the exit code is 4 if one fails
error_rate = "<= 0.01"
# accuracy = ">= 0.80"

# [gates.compare]         # against the run that `batchrun bless run-1` made the baseline
# baseline = "baseline"
# accuracy = { not_worse_by = 0.02 }
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


@dataclass(frozen=True, slots=True)
class Starter:
    """A config, its rows, and sentences about what could not be taken over."""

    config: str
    rows: str
    notes: tuple[str, ...] = ()


def eval_starter() -> Starter:
    """An evaluation of ten questions that runs against the simulator."""
    rows = [
        {"custom_id": f"q{number}", "topic": topic, "question": question, "expected": expected}
        for number, (topic, question, expected) in enumerate(_QUESTIONS, 1)
    ]
    return Starter(EVAL_CONFIG, jsonl(rows))


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
