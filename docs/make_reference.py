"""Writes docs/reference.md from the program itself. Run it by `make docs`.

Names, types, defaults and rules come from the code. What they mean in a sentence stands here, in
one table per kind. A name without a sentence, or a sentence without a name, ends it with an error.
"""
# ruff: noqa: INP001 - a script beside the page that it makes

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import click  # noqa: E402 - the checkout's package comes first
import pyarrow as pa  # noqa: E402

from batchrun import errors  # noqa: E402
from batchrun.adapters.environment.signals import SIGNALS  # noqa: E402
from batchrun.adapters.parts import schema as part_schema  # noqa: E402
from batchrun.adapters.sources.files import finding  # noqa: E402
from batchrun.cli.console import BROKEN_PIPE  # noqa: E402
from batchrun.cli.main import COMMANDS, main  # noqa: E402
from batchrun.core.reply import answer, phrases, thinking  # noqa: E402
from batchrun.core.reply.limit_dialects import PERIODS_S, SPELLINGS  # noqa: E402
from batchrun.core.reply.vendor_codes import MEANINGS, SAID_BY  # noqa: E402
from batchrun.core.run import summary  # noqa: E402
from batchrun.core.run.totals import Totals  # noqa: E402
from batchrun.core.schema import json_schema  # noqa: E402
from batchrun.core.settings import parameters, resolve  # noqa: E402
from batchrun.core.settings.providers import AUTHORIZATION, PROVIDERS, SIMULATOR  # noqa: E402
from batchrun.core.settings.table import FLAGGED, TABLE  # noqa: E402
from batchrun.core.verdict import outage, rules, trail  # noqa: E402
from batchrun.core.verdict.rules import RULES, Action  # noqa: E402
from batchrun.engine.observe.monitor import Snapshot  # noqa: E402
from batchrun.simulator.catalogue import CATALOGUE  # noqa: E402
from batchrun.views import dry_run, estimate, estimate_report, export, validate  # noqa: E402
from batchrun.views.verify.findings import KINDS as DAMAGES  # noqa: E402
from batchrun.views.verify.findings import Report  # noqa: E402

PAGE = ROOT / "docs" / "reference.md"

RESULTS = {
    "row": "The row's number in the input, from 0. Over several files it goes on counting.",
    "custom_id": "The input's `custom_id`; a number becomes text. Null where there is none.",
    "status": "`ok` for a completion, `error` for a failure.",
    "content": (
        "The answer's text. Parts are joined; content that is JSON and no text is its JSON text. "
        "Null in an `error` row."
    ),
    "reasoning": (
        "The model's reasoning, where the server sends it apart from the answer or `--think split` "
        "takes it out of the content."
    ),
    "refusal": "The text with which the model refused; null for white space.",
    "tool_calls": (
        "The tools that the model wants called. `arguments` is the text as sent. A call without "
        "name, arguments and id is none."
    ),
    "finish_reason": (
        "Why the model stopped, as sent: `stop`, `length`, `tool_calls`, ... Null where the server "
        "gave no reason; null written as text (`null`, `None`, an empty text) is none."
    ),
    "choices": (
        "All choices by index, where there are several or where there are logprobs; else null. "
        "`logprobs` is JSON text. The flat columns repeat the choice with the lowest index."
    ),
    "model": "The model that answered, as the server named it.",
    "response_id": "The server's id of the completion.",
    "system_fingerprint": "The server's fingerprint of its configuration.",
    "service_tier": "The service tier that answered.",
    "created": "When the server says that it made the completion.",
    "prompt_tokens": "Tokens of the prompt, as reported. Null where not reported, never 0 instead.",
    "completion_tokens": "Tokens of the answer, as reported.",
    "total_tokens": "Prompt and answer together, as reported.",
    "cached_tokens": "Prompt tokens that came from the server's cache, as reported.",
    "cache_write_tokens": "Prompt tokens that were written into the server's cache, as reported.",
    "reasoning_tokens": "Tokens of the answer that were spent on reasoning, as reported.",
    "cost_usd": (
        "The cost of the last attempt; in an `ok` row, of its answer. Null where it is not known."
    ),
    "attempts": "Exchanges sent for this row, over all runs. 0 for a row that could not be sent.",
    "http_status": "The HTTP status of the last attempt. Null where no reply came.",
    "error_class": "Why the row failed: one of the error classes below. Null in an `ok` row.",
    "error_code": "The server's code or type of the error, or the kind of transport fault.",
    "error_message": "What went wrong, as the server says it. For a bad row: file and line.",
    "endpoint": "The name of the endpoint that was asked.",
    "request_id": "The server's name for the exchange (`x-request-id`), for its support.",
    "started_at": "When the last attempt was sent.",
    "latency_s": (
        "Seconds from sending the last attempt to the end of its reply, less those for which "
        "batchrun was suspended."
    ),
    "ttft_s": (
        "Seconds from sending the last attempt to the first thing the model said: text, "
        "reasoning, a refusal or a tool call. Null where the answer was not streamed."
    ),
    "reused_from": (
        "`RUN:ROW` where `--reuse` took the answer of another run: the id of the run whose "
        "endpoint gave it, and its row there. Then tokens, times and endpoint are those of that "
        "answer, `cost_usd` is 0, the ledger has no line of it, and `attempts` counts what this "
        "run sent for the row before, nearly always 0. Null elsewhere."
    ),
    "request_hash": "SHA-256 of the request body as sent, in hex.",
    "model_asked": "The model that the request named.",
    "media": (
        "Images, sounds and files in the answer: `kind`, `mime`, and `bytes` up to 1 MiB; above "
        "that `file` names one in `responses/`. What the server only gave an address of has that "
        "as its `file`."
    ),
    "response": (
        "The raw JSON of the completion up to 1 MiB, above that the file of `responses/` that has "
        'it, as `{"file": "responses/SHA256"}`; or the first 4 KiB of an error\'s body. A '
        "streamed answer stands here as the plain completion that it makes, half of one too. "
        "Which rows have it is set by `--raw`."
    ),
}
ATTEMPTS = {
    "row": "The row that the exchange was sent for.",
    "attempt": "Counts the row's exchanges from 1, over all runs.",
    "endpoint": "The name of the endpoint that was asked.",
    "model": "The model that answered, else the one that was asked for.",
    "service_tier": "The service tier that answered.",
    "started_at": "When it was sent.",
    "queue_s": "Seconds waited for the limits before it was sent.",
    "latency_s": (
        "Seconds from sending it to the end of its reply, less those for which batchrun was "
        "suspended."
    ),
    "http_status": "The HTTP status. Null where no reply came.",
    "error_class": "The error class. Null for success.",
    "error_code": (
        "The server's code or type of the error, or the kind of transport fault; `interrupted` "
        "where the run ended before the reply came; `ledger_lost` where a repair knows nothing of "
        "the exchange but that it was."
    ),
    "retry_after_s": "Seconds that the server asked to wait.",
    "prompt_tokens": "As in the results.",
    "completion_tokens": "As in the results.",
    "total_tokens": "As in the results.",
    "cached_tokens": "As in the results.",
    "cache_write_tokens": "As in the results.",
    "reasoning_tokens": "As in the results.",
    "cost_usd": "What this exchange cost. Null where no price, or no usage, is known.",
    "request_id": "The server's name for the exchange.",
    "decided_by": (
        "How batchrun decided what happens to the row after this exchange: the words of the steps "
        "that changed something, in order, joined by `>`. See "
        "[how a decision is made](#how-a-decision-is-made). Null where an earlier version, or a "
        "repair, wrote the line."
    ),
    "usage_raw": "The server's usage object as JSON text; whatever the columns make of it.",
    "billed_from": (
        "What priced it: `reported_cost`, `parts` (prompt and completion), `total` (it has tokens "
        "that the parts lack) or `cached_beside` (cached tokens next to the prompt's); null "
        "without a cost."
    ),
    "unanswered": (
        "True where the request may have reached the server and no whole reply came back: it may "
        "have been billed without being seen."
    ),
}
USAGE = {
    "endpoint": "The endpoint. Null together with the next two for rows that were never sent.",
    "model": "The model that answered, else the one that was asked for.",
    "service_tier": "The service tier.",
    "rows_ok": "Rows with a completion, counted where their last attempt went.",
    "rows_error": "Rows that failed, counted the same way.",
    "attempts": "Exchanges, those of pending rows too.",
    "prompt_tokens": "Sum over the attempts.",
    "completion_tokens": "Sum over the attempts.",
    "total_tokens": "Sum over the attempts.",
    "cached_tokens": "Sum over the attempts.",
    "cache_write_tokens": "Sum over the attempts.",
    "reasoning_tokens": "Sum over the attempts.",
    "rows_without_usage": "Completions without any token count: the sums miss them.",
    "cost_usd": "Sum over the attempts: the bill. Null where no cost is known.",
    "wasted_cost_usd": "The bill less the answers of `ok` rows. Null where no cost is known.",
    "unanswered_attempts": "Attempts that may have been billed without being seen.",
}
SUMMARY = {
    "status": "`complete`, `complete_with_errors`, `stopped` (by a guard) or `interrupted`.",
    "stopped_by": (
        "What ended the run: an error class, `misconfiguration`, `repeated_failure`, "
        "`max_failures`, `max_truncated`, `max_empty`, `max_cost`, `max_total_tokens`, "
        "`deadline`, `min_free_disk`, or a signal; "
        "else null."
    ),
    "exit_code": "The exit code of the command.",
    "rows.input": (
        "Rows of the input; with `--limit` at most that many, with `--sample` those of the sample. "
        "Null until a pipe ends."
    ),
    "rows.ok": "Rows with a completion.",
    "rows.error": "Rows that failed.",
    "rows.pending": "Rows without an outcome: `input - ok - error`; null as `rows.input` is.",
    "totals.attempts": "Lines of the ledger.",
    "totals.prompt_tokens": "Sum over the ledger.",
    "totals.completion_tokens": "Sum over the ledger.",
    "totals.total_tokens": "Sum over the ledger.",
    "totals.cache_write_tokens": "Sum over the attempts.",
    "totals.cached_tokens": "Sum over the ledger.",
    "totals.reasoning_tokens": "Sum over the ledger.",
    "totals.unanswered_attempts": "Attempts that may have been billed without being seen.",
    "totals.cost_usd": (
        "Sum over the ledger, exact in picodollars, then the nearest double. Null where no cost is "
        "known."
    ),
    "totals.wasted_cost_usd": "The bill less the answers of `ok` rows.",
    "totals.unpriced_attempts": (
        "Attempts with a usage whose cost is not known, so that `cost_usd` misses them. Null where "
        "an earlier version, which did not count them, wrote a part of the run."
    ),
    "totals.by_day": (
        "`attempts`, `prompt_tokens`, `completion_tokens` and `cost_usd` by the day (UTC) on which "
        "attempts were sent; `unknown` for those a repair could not date. Null as above."
    ),
    "errors": "Failed rows by error class.",
    "endpoints": (
        "By the name of the endpoint: `rows_ok`, `rows_error`, `attempts`, tokens and "
        "`unanswered_attempts`."
    ),
    "budget.charged_usd": (
        "What is charged to `--max-cost`: the bill, and the worst case of exchanges whose cost "
        "nobody told. Null without it."
    ),
    "budget.held_usd": "Of it, those worst cases.",
    "budget.charged_tokens": "The same for `--max-total-tokens`.",
    "budget.held_tokens": "Of it, the worst cases of exchanges that did not tell.",
    "projected.cost_usd": (
        "What the whole run will have cost, if its pending rows cost as the others did (retries "
        "included). Null where no row is pending, and where it cannot be told."
    ),
    "projected.low_usd": "The lower end of the interval that holds it in nine of ten cases.",
    "projected.high_usd": "The upper end. Both are null below 30 finished rows.",
    "projected.pending_cost_usd": "Of `cost_usd`, the pending rows.",
    "run": "The id of the run, which `reused_from` of other runs names.",
    "outputs.truncated": "Of the `ok` rows, those with an answer that a token limit cut off.",
    "outputs.empty": "Of the `ok` rows, those with an answer that says nothing.",
    "started_at": "When the first session began, UTC.",
    "ended_at": "When the last session ended, UTC.",
    "wall_s": "Seconds of all sessions together.",
    "settings": "The settings in force. Of headers only the names, of keys only the variable.",
    "version": "The version of batchrun.",
}
STATUS = {
    "state": "`running`, or `stopping` once a stop was asked for.",
    "elapsed_s": "Seconds of this session.",
    "rows_input": "Rows of the input. Null while they are being counted, and until a pipe ends.",
    "ok": "Rows with a durable completion, those of earlier sessions included.",
    "error": "Rows with a durable failure, those of earlier sessions included.",
    "reused": "Of the completions, those that this session took from other runs (`--reuse`).",
    "resumed": "Of those, the rows that earlier sessions finished.",
    "retries": "Further attempts in this session.",
    "throttled": "Replies in this session that told it to slow down.",
    "requests": "Requests sent in this session.",
    "in_flight": "Rows that hold a permit: sent, or next in line for the limits.",
    "prompt_tokens": "Prompt tokens of the rows finished in this session.",
    "completion_tokens": "Completion tokens of the rows finished in this session.",
    "requests_per_s": "Requests per second over the last 15 seconds.",
    "tokens_per_s": "Tokens per second over the last 15 seconds.",
    "eta_s": "Seconds left at the present rate. Null while unknown.",
    "bound_by": (
        "What holds the run back: `concurrency`, `rpm`, `tpm`, `limits` (those that the server "
        "tells), `server` (its throttling), `outage`, `budget` (nearly used up), "
        "`source` (reading the input), `cpu`, or null."
    ),
    "cost_usd": "The bill so far, of all sessions. Null while no cost is known.",
    "wasted_cost_usd": "Of it, what was no answer of an `ok` row.",
    "money": (
        "Null while no cost is known and there is no budget. Else an object, null in what cannot "
        "be told: `per_hour_usd` (over the last 15 seconds), `per_ok_row_usd`; `projected_usd` for "
        "the whole run, `projected_low_usd` and `projected_high_usd`, which hold it in nine of ten "
        "cases; `max_cost_usd` with `charged_usd`, `held_usd` (of it, for exchanges whose cost "
        "nobody told) and `reserved_usd` (set aside for those that are out, on top); the same with "
        "`max_total_tokens`, `charged_tokens`, `held_tokens`, `reserved_tokens`."
    ),
    "pid": "The process.",
    "host": "Its machine.",
    "endpoints": (
        "One object per endpoint: `name`; `state` (`up`, `throttled` by the server, `down`, where "
        "probes alone go there, or `closed`: left out for the reason in `why`); `in_flight`; "
        "`requests`, `answers`, `refusals` and `failures`, in exchanges; `requests_per_s`; "
        "`bound_by`; `limits`: those that the server told last, objects of `kind` (`requests`, "
        "`tokens`, `input_tokens`, `output_tokens`), `per` (`second` to `month`, `unknown`), "
        "`per_s`, `limit`, `remaining`, `reset_s` and `source`, the headers' names, null where "
        "they were not told."
    ),
    "updated_at": "When this was written, UTC; about twice a second.",
}
STATUS_ADDED = ("pid", "host", "updated_at")
VERIFY = {
    "ok": "Whether everything holds.",
    "rows": "Rows found in `results/`.",
    "attempts": "Attempts found in `attempts/`.",
    "parts": "Pairs of parts read.",
    "digests": "Files whose SHA-256 was compared with the recorded one.",
    "compared": "Rows compared with the input. Null without `--against`.",
    "notes": "What could not be checked, and why; what is odd and harmless.",
    "kinds": "How often each kind of damage was found, by a short name for the kind.",
    "problems": "What does not hold, a sentence each; the first ten of every kind.",
}
EXPORT = {
    "rows": "Rows written.",
    "ok": "Of those, rows with a completion.",
    "error": "Of those, rows that failed.",
    "pending": "Rows without an outcome, or not published yet. Null where it is not known.",
    "live": "Whether the run goes on.",
}
VALIDATE = {
    "ok": "Whether every row can be sent.",
    "rows": "Rows looked at.",
    "bad": "Rows that cannot be sent.",
    "reasons": "Bad rows by reason; what differs from row to row is left out of it.",
    "problems": (
        "The first 20 bad rows: `row`, `file`, `line` (from 1; in Parquet the row in its file, "
        "from 0), `reason`, `remedy`."
    ),
    "duplicate_ids": (
        "`ids` that come more than once, the `rows` they come in, and the `first` 20 of them with "
        "the rows where they came first and second. Exact, however many rows there are."
    ),
    "sent": "Input columns that are sent as request parameters.",
    "carried": "Input columns that go along to the results, by their names in the input.",
    "identical_requests": (
        "`requests` that more than one row makes, the `rows` that make them, and the `first` 20 of "
        "them with their first and second row. Exact, however many rows there are."
    ),
    "shortest": (
        "The request with the fewest `bytes`: its `row`, `file`, `line`, `custom_id`, and the "
        "`prompt_tokens` it is estimated to have. Null where no row can be sent."
    ),
    "longest": "The request with the most `bytes`, with the same keys.",
    "requests": "With `--show N`: the first N requests as they would be sent; else empty.",
    "attachments": (
        "The images, sounds and files in these requests: `row`, `kind` (the media type), `bytes`."
    ),
    "notices": "How files are read where that is not the usual: delimiter, encoding, names given.",
    "warnings": (
        "What makes no row bad: repeated ids, identical requests, rows of different kinds."
    ),
}
DRY_RUN = {
    "dry_run": "True.",
    "exit_code": "0 if every row can be sent, else 1.",
    "dir": "The run directory; null where none is named.",
    "resumed": "Whether the directory was begun, so that the run would go on there.",
    "rows": (
        "The `input` rows, those that are `done` and would not be sent, those `to_send`, and those "
        "that are `bad`."
    ),
    "requests": "The first two requests as they would be sent.",
    "validate": "The keys of `validate --json` for the rows that are not done.",
    "estimate": "The keys of `estimate --json` for the rows that are not done.",
}
ESTIMATE = {
    "rows": "Rows read.",
    "bad": "Rows that cannot be sent; `batchrun validate` names them.",
    "prompt_tokens": "Tokens of all prompts: `estimate`, and between `low` and `high`.",
    "completion_tokens": (
        "Tokens of all answers, with the same keys: a prior, see [the page](estimate.md)."
    ),
    "cost_usd": "What these cost, with the same keys. Null where a row has no price.",
    "figures_from": (
        "`requests`, or `pilot`: then the figures above are extrapolated from the pilot's answers."
    ),
    "at_most": (
        "The bound of all requests sent once, in `tokens` and `cost_usd`. Null where a row does "
        "not limit its answer, or has no price."
    ),
    "time": (
        "The seconds that the limits alone take: `at_least_by_rpm_s`, and `at_least_by_tpm_s` with "
        "`estimate`, `low`, `high`. Null without limits."
    ),
    "models": (
        "The same figures by model, the cost at each of the `endpoints` that serve it, "
        "`batch_cost_usd` by the prices of the Batch API (null where they are not known), and "
        "`prices` by endpoint: `input`, `output`, `cached_input`, `batch_input`, `batch_output` in "
        "USD per million tokens, their `source` and `date`. With several `--model`, the report has "
        "`rows`, `bad`, `models` and `notes`, and each model the figures of the whole input."
    ),
    "tokens_counted_by": "`tokenizer`, or `bytes` where the extra `tokenizer` is not installed.",
    "notes": "What the figures rest on, and what would make them better.",
    "pilot": (
        "Null without `--pilot`; else its `rows`, how many of them `failed`, its `directory`, "
        "`wall_s`, `spent_usd`, and with confidence `level` the figures of the whole input, each "
        "with `estimate`, `low`, `high`: `prompt_tokens`, `completion_tokens`, `cost_usd`, "
        "`time_s`; `time_held_by` is `concurrency`, `rpm` or `tpm`. Figures are null where the "
        "pilot was stopped."
    ),
}
ERROR_CLASSES = {
    "invalid_row": "The input row cannot become a request. It is never sent.",
    "invalid_request": "The server refuses the request as malformed.",
    "context_length": "The request is longer than the model's context.",
    "content_filter": "The server's content filter refuses the request.",
    "payload_too_large": "The request is larger than the server takes.",
    "request_too_large": "The request can never fit the account's rate limit.",
    "rate_limit": "The server throttles. Waited out and not charged: it stands in the ledger only.",
    "quota": "The account's quota or spending limit is used up.",
    "auth": "The key is missing or not accepted.",
    "billing": "The server asks for payment.",
    "forbidden": "The key may not do this, or not from here.",
    "not_found": "The server knows no such model or path.",
    "config": "A redirect, a refusing proxy, a bad certificate, or a path that takes no POST.",
    "timeout": "No whole reply within `--timeout`, or the server itself timed out.",
    "connection": "The connection could not be made, or broke.",
    "server_error": "The server failed.",
    "overloaded": "The server says that it is overloaded.",
    "incomplete_stream": "A stream ended before the answer in it did.",
    "invalid_response": "A success status without a completion in it.",
    "invalid_output": (
        "The answer does not fit the JSON Schema of its request or is no JSON, or a tool call does "
        "not fit its tool; or the model wrote what its own server could not read (Groq)."
    ),
    "truncated_output": "A token limit cut the answer off; only with `--on-truncation`.",
    "empty_output": "No content, tool call or refusal; only with `--on-empty`.",
    "response_too_large": "The reply is larger than `--max-response-bytes`.",
}
ELSEWHERE = {"invalid_row", "truncated_output", "empty_output"}
"""Classes that no rule of the verdict table gives."""

ACTIONS = {
    Action.DONE: "The row is `ok`.",
    Action.THROTTLE: (
        "Sent again when the server may take it. Where many recent replies were refusals, all "
        "requests wait; else only this row does. Not charged to the row. After an hour of "
        "nothing but refusals (three times `--max-wait`, if that is longer) the run stops."
    ),
    Action.PAUSE: (
        "*throttle*, if the server names a wait that is within `--max-wait`; else *stop*."
    ),
    Action.FREE: "Sent again at once. Not charged to the row.",
    Action.AGAIN: "Sent again after a backoff. Charged to the row; at `--max-attempts` it fails.",
    Action.FAIL: "The row ends as an `error` row.",
    Action.STOP: "The run stops with exit code 3. The row stays pending.",
    Action.HOLD: (
        "During an outage, in place of *again*: sent again when the endpoint is back, or at "
        "another one. Not charged to the row."
    ),
    Action.LEAVE: (
        "In place of *stop*, where other endpoints serve the row's model: only this endpoint is "
        "left out, and the row is sent to another one. Not charged to the row."
    ),
    Action.SWITCH: "The row is sent again, to `--fallback-model`.",
    Action.WITHHOLD: (
        "In place of *fail*, while nothing was answered since the row was sent: it fails once an "
        "answer shows that the endpoint is well."
    ),
}
OUTAGES = (
    "*Health* is what a signal tells of the endpoint. Where the last",
    f"{outage.WINDOW} exchanges tell of nothing but bad health ({outage.SHARE:.0%} of them, of",
    f"{outage.ROWS} different rows or more; {outage.ROWS_DARK} rows do where one of them would",
    "fail and nothing was answered meanwhile), it is an outage: sending stops, and one request at",
    "a time finds out whether the endpoint is back, after pauses that grow from a second to",
    f"{outage.PROBE_S_MAX:.0f} s. No row is charged for it, neither for what failed before it was",
    "clear; only a row that was asked with more than",
    f"{outage.PROBES_FREE} times in vain, at an *ailing* endpoint, is charged for more: its own",
    "request may be what the server cannot digest. First exchanges count as signs, and retries at",
    "an endpoint that is *down*. An endpoint that never answered at all is waited for no longer",
    "than `--max-wait`; then the run stops.",
    "",
)
FAULTS = {
    "timeout": "no whole reply in time",
    "dns": "host name not found",
    "connect": "no connection",
    "stale": "a kept-alive connection is closed before a reply",
    "reset": "connection closed before a reply",
    "cut": "connection closed within the reply",
    "incomplete": "a stream ends before its answer does",
    "suspended": "one of these while batchrun itself was stopped, or asleep with its machine",
    "tls": "TLS failure",
    "proxy": "the proxy refuses",
    "too_large": "reply too large",
}
OWN_NAMES = {
    phrases.CONTEXT: "words for a prompt beyond the context",
    phrases.SPENDING: "words or a code for a spending limit",
    phrases.PER_DAY: "words or a quota id for a limit per day",
    phrases.NO_LIMIT: "a limit of 0",
    phrases.TOO_LARGE: "more requested than the limit, by the message's figures",
    phrases.MODERATED: "words or a code for moderation",
    phrases.GATEWAY_QUOTA: "words for a gateway's quota",
    phrases.WRONG_PATH: "words for an unknown path",
    phrases.SILENT: "no readable error",
    phrases.PAGE: "a page in place of an error",
    phrases.NO_FUNDS: "words or a code for an empty account",
    phrases.RESETS: "words or a code for a budget that is renewed by itself",
    phrases.ALLOCATED: "words for tokens per minute",
    phrases.BAD_KEY: "words or a code for a key that is not accepted",
    phrases.FORBIDDEN: "a code for a missing permission",
    phrases.NO_MODEL: "words or a code for an unknown model",
    phrases.LIMITED: "words or a code for a rate limit",
    phrases.BUSY: "words or a code for an overload",
    phrases.UNPARSED: "words or a code for a request body that is no JSON",
    phrases.INVALID: "a code for an invalid request",
    phrases.FAILED: "a code for a failure of the server",
    rules.UNFINISHED: (
        "a completion whose finish reason is one of "
        + ", ".join(f"`{reason}`" for reason in sorted(rules.UNFINISHED_REASONS))
    ),
}
EXIT_CODES = {
    0: "Every row is `ok`. For `verify`: all of it holds. For `validate`: every row can be sent.",
    1: (
        "Finished, and some rows are `error` rows. For `verify`: something does not hold. For "
        "`validate`: a row is bad."
    ),
    2: (
        "A flag, the configuration, the input or the run directory is not in order; or another "
        "process works on the directory. Nothing was sent."
    ),
    3: "A guard stopped the run and rows are pending. The same command goes on.",
    5: (
        "Storage, input or the program failed midway: a full disk, an input that became "
        "unreadable, a bug. The same command goes on."
    ),
    129: "Stopped by SIGHUP. The same command goes on.",
    130: "Stopped by SIGINT (Ctrl-C). The same command goes on.",
    141: "Whoever read the command's output went away (`| head`).",
    143: "Stopped by SIGTERM. The same command goes on.",
}
FIXED_CODES = {0, 1, 2, 3, 5}
ENVIRONMENT = {
    "OPENAI_API_KEY": (
        "The key, unless `--api-key-env` names another variable, or a file or a command gives it."
    ),
    "OPENAI_BASE_URL": "The base URL, unless a `provider` other than `openai` is named.",
    "OPENAI_API_BASE": "The older name of the same; a warning if both are set and differ.",
    **{
        key.name: f"The key of provider `{provider.name}`, sent as `{key.header}`."
        for provider in PROVIDERS
        for key in provider.keys
        if provider.name != "openai"
    },
    "AZURE_OPENAI_ENDPOINT": "The resource of provider `azure`, or a whole base URL.",
    "OPENAI_API_VERSION": (
        "For provider `azure`: a date means deployment URLs; `preview` and `latest` are those of "
        "the v1 API."
    ),
    "OPENAI_ORG_ID": "Sent to hosts of `openai.com`, as the header `OpenAI-Organization`.",
    "OPENAI_PROJECT_ID": "Sent to hosts of `openai.com`, as the header `OpenAI-Project`.",
    "HTTPS_PROXY": "The proxy for `https://` endpoints. Lower case works too.",
    "HTTP_PROXY": "The proxy for `http://` endpoints. Lower case works too.",
    "ALL_PROXY": "The proxy where neither of the two is set. Lower case works too.",
    "NO_PROXY": "Hosts that are reached without the proxy. Lower case works too.",
    "SSL_CERT_FILE": "A file of certificate authorities to trust, unless `--ca-file` is given.",
    "SSL_CERT_DIR": "Folders of such files, named by their hash as `openssl rehash` does it.",
    "NO_COLOR": "Set to anything: the progress display has no colours.",
}
KINDS = {
    "text": "text",
    "path": "path",
    "paths": "list of paths",
    "dirs": "list of paths",
    "int": "whole number",
    "number": "number",
    "bool": "true or false",
    "choice": "text",
    "delimiter": "one character, or `tab`",
    "encoding": "an encoding's name",
    "columns": "text, or list of names",
    "object": "table",
    "names": "list of names",
    "messages": "list of tables",
    "schema": "path, or table",
    "headers": "table of text",
    "concurrency": "whole number or `auto`",
    "command": "text",
    "provider": "a provider's name",
    "prices": "tables of numbers",
    "header_name": "text",
    "bytes": "bytes, such as `500MB` or `2GiB`",
    "models": "list of names, or table of text",
    "share": "share, such as `5%`",
    "bound": "whole number, or share such as `5%`",
}


class UndocumentedError(Exception):
    """The program and the sentences about it do not name the same things."""


def described(
    what: str, names: Iterable[str | int | Action], prose: Mapping[Any, str]
) -> list[tuple[Any, str]]:
    """Each name with its sentence, in the order of the names."""
    ordered = list(dict.fromkeys(names))
    missing = [name for name in ordered if not prose.get(name)]
    gone = [name for name in prose if name not in ordered]
    if missing or gone:
        message = f"{what}: no sentence about {missing}; sentences about nothing: {gone}"
        raise UndocumentedError(message)
    return [(name, prose[name]) for name in ordered]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
    yield ""


def code(text: object) -> str:
    """Something as code, or nothing for nothing."""
    return f"`{text}`" if text not in (None, "") else ""


def commands() -> Iterator[str]:
    """Every command and flag."""
    yield "## Commands"
    yield ""
    yield "`batchrun --help` and `batchrun COMMAND --help` print the same. `batchrun --version`"
    yield "prints the version. Messages and progress go to stderr; stdout carries only what was"
    yield "asked for. `--json` prints one JSON object."
    yield ""
    context = click.Context(main)
    settings = {setting.flag: setting for setting in FLAGGED if setting.flag}
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        yield f"### `batchrun {name} {usage}`"
        yield ""
        yield " ".join((command.help or "").split("\f")[0].split())
        yield ""
        rows = []
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            if not option.help:
                message = f"batchrun {name} {option.opts[-1]} has no help"
                raise UndocumentedError(message)
            setting = settings.get(option.opts[-1]) if name == "run" else None
            rows.append((flag(option), code(setting.name) if setting else "", option_help(option)))
        if any(key for _, key, _ in rows):
            yield from table(("flag", "config key", "meaning"), rows)
        else:
            yield from table(("flag", "meaning"), [(given, told) for given, _, told in rows])


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


def configuration() -> Iterator[str]:
    """Every key of the config file."""
    yield "## Config file"
    yield ""
    yield "TOML, given with `-c FILE`. Paths in it are relative to the file. An unknown key is an"
    yield "error. A flag wins over the environment, the environment over `.env`, `.env` over the"
    yield "file, and the file over the default. There may be several `[[endpoint]]` tables: see"
    yield "[endpoints.md](endpoints.md). A setting marked"
    yield "*fixed* shapes requests or parts: it may not differ between the runs on one directory."
    yield ""
    yield "Of `endpoint.api_key_env`, `endpoint.api_key_file` and `endpoint.api_key_command` one is"
    yield "given: they say where the key comes from, and two in the file, or two flags, are an"
    yield "error. A flag of these replaces whichever stands in the file. Where a file or a command"
    yield "is named, `OPENAI_API_KEY` is not used. [network.md](network.md) tells more."
    yield ""
    yield 'A table `[prices."MODEL"]` has the prices of a model, asked for or answering:'
    yield "`input` and `output`, and if they differ `cached_input`, `reasoning`, `batch_input` and"
    yield "`batch_output`. [cost.md](cost.md) tells more."
    yield ""
    rows = []
    for setting in TABLE:
        if not setting.help:
            message = f"{setting.name} has no help"
            raise UndocumentedError(message)
        kind = KINDS[setting.kind]
        if setting.choices:
            kind = ", ".join(map(code, setting.choices))
        elif setting.low is not None:
            kind += f", at least {setting.low:g}"
            kind += "" if setting.high is None else f", at most {setting.high:g}"
        default = "" if setting.default in (None, (), {}) else code(setting.default)
        if setting.kind == "bool":
            default = code(str(setting.default).lower())
        told = setting.help + (" *fixed*" if setting.shapes else "")
        rows.append((code(setting.name), kind, default, code(setting.flag), told))
    yield from table(("key", "type", "default", "flag", "meaning"), rows)


def providers() -> Iterator[str]:
    """Every provider that is known by name."""
    yield "## Providers"
    yield ""
    yield "What `--provider NAME` (in the config file `provider`) fills in, unless it is given:"
    yield "the base URL, the variable of the key (the first that is set) and the header of the"
    yield "key, which is `Authorization: Bearer` where nothing else is said. Where there is no"
    yield "variable, no key is sent. [providers.md](providers.md) tells more; samples are in"
    yield "`samples/providers/`."
    yield ""
    rows = []
    for provider in PROVIDERS:
        keys = [
            code(key.name) + ("" if key.header == AUTHORIZATION else f" as {code(key.header)}")
            for key in provider.keys
        ]
        key = ", else ".join(keys) + ("" if provider.key_needed or not keys else ", if set")
        url = code(provider.base_url)
        if provider.base_url is None:
            inside = provider.name == SIMULATOR
            url = "in the process" if inside else f"by {code(provider.url_variables[0])}"
        rows.append(
            (code(provider.name), provider.title, url, key, provider.remark, provider.source)
        )
    heads = ("name", "endpoint", "base URL", "key", "what is odd", "read in")
    yield from table(heads, rows)


def environment() -> Iterator[str]:
    """Every environment variable."""
    yield "## Environment"
    yield ""
    yield "Variables are read from the environment and from `.env` in the working directory; the"
    yield "environment wins. An empty variable counts as unset. The last one is read from the"
    yield "environment only."
    yield ""
    yield from table(("variable", "meaning"), [(code(n), text) for n, text in ENVIRONMENT.items()])


def suffixes(kind: str) -> str:
    """The suffixes of a format."""
    return " ".join(code(suffix) for suffix, named in finding.FORMATS.items() if named == kind)


_ONCE = """\
- whatever else is no regular file: a named pipe, `/dev/stdin`, `/dev/fd/N`, `<(command)`.
  It is read once, as `-` is, and no other input goes with it. Its suffix, `--format` or
  its first bytes say what it holds. Directories and globs pass pipes, sockets and devices over.

`~` and `~user` at the beginning of a path are home directories, in the config file too.
Earlier versions made a folder called `~` of it: where that path exists, the command ends
with exit code 2 and names both; write `./~/...` for that one. A name that is no UTF-8 is
shown, and written into `summary.json`, with escapes such as `\\xe9`.
"""
_DIALECTS = """\
CSV is read with the delimiter and in the encoding that its first 256 KiB tell, each file
by itself. Another delimiter than the comma (`;`, tab, `|`) is taken where header and rows
agree on it and not on the comma; TSV has tabs. Another encoding than UTF-8 is taken where
it is certain: UTF-16 and UTF-32 by their byte order mark or, for UTF-16, by their zeros;
Windows-1252 (`cp1252`) where the bytes are no UTF-8 and are its letters and signs. What is
not the default is said when the run starts. A first line `sep=;`, as spreadsheets write
it, names the delimiter and is no row. `--delimiter` (one character, or `tab`) and
`--encoding` decide; `--encoding` takes any name that Python knows, save those whose line
ends are not bytes of their own (UTF-7, ISO-2022, EBCDIC). Both are recorded with the run
directory, also where they were detected: it goes on with them, and asking for others
needs `--restart`. A line that is not valid in the encoding is an `invalid_row`.

A column without a name in the header is called by its place, `column_3` for the third, and
that is said. It gets `_` behind it where another column has that name.
"""
_QUOTES = """\
In CSV, quotes enclose fields, and a quoted field may hold line breaks. In TSV a quote is
text like any other: every line is a row. `--quoting csv` reads TSV as spreadsheets write
it, `--quoting none` reads CSV without quotes. `validate` and `run` report quoted records
that take several lines, with a warning if those lines look like rows of their own or are
100 and more. The quoting is recorded: the directory goes on with it, and asking for
another needs `--restart`. A run begun by a version without the setting goes on as it was
read then, with quotes in TSV.

`NaN` and infinities, also as bare words in JSON, mean that there is no value. Where they
are carried they are null at any depth, and a template shows nothing. A row that would
send one is an `invalid_row`. A number too large for a float, such as `1e999`, is an
infinity. A float column of Parquet or Arrow keeps its type, with nulls in their place.
"""


_SENT = """\
**What is sent of a row.** With a prompt every column is data, whatever it is called (`model`,
`n`, `user`, `messages`, `body`, `tools`, ...), in every format and from Python: templates may
show it, it is carried, and it is not sent. `--send COL,...` names columns that are request
parameters, `--send all` takes every column that is one of the parameters below and what stands
under `extra_body`. In chat bodies all of these are sent by default, and `--send` narrows them:
`messages` always go out. In tables (CSV, TSV, Parquet, Arrow, data frames) `user`, `metadata` and
`store` of a chat body are sent only where `--send` names them. The body of a Batch line is sent
as it is. A column that `--send` names is sent whatever it is called, and carried as well, unless
`--carry` leaves it out; so is a parameter that `--send all` takes of a data row. Null, and an
empty cell of CSV, is not sent. A name that the input does not have is exit code 2.

`run` says once at the start which columns are sent, if any are, and `validate` always does.
A row's `model` that is sent overrides `--model`: `--send none` keeps the model that wrote a text
from being the one that is asked about it. Where neither settings nor sent columns nor rows name
a model, `run` ends with exit code 2.

`--model` and `--param` may be templates (`--model '{{ model }}'`, `--param 'user={{ customer }}'`,
which needs no quotes of JSON). A parameter whose template is one expression keeps the JSON type of
its value; over CSV and TSV, whose cells are text, it is read as a cell of that parameter would be.
A null, or an empty cell, leaves the parameter out; a row that is left without a model is an
`invalid_row`. `--temperature`, `--max-tokens`, `--top-p` and `--seed` are short for `--param`: they
win over the config file, and giving one parameter both ways is an error. `--max-tokens` is sent as
`max_completion_tokens` to providers that take that (OpenAI, Azure, UCloud), by name or address.

`--id COL` names the column that is `custom_id`; numbers become text. It is carried too, and a
column called `custom_id` is then data. `send` and `id` are recorded; another id needs `--restart`.
A directory begun by a version without them goes on as it was begun: there, columns called like
parameters are sent unless the prompt shows them, and rows with messages keep theirs.

Results of a run are no input: a run directory, its `results/` or a part is exit code 2.
`batchrun export DIR -o answers.parquet --columns custom_id,content` makes a file of them.
"""


_FORMATS = """\
A `.json` file is an array of rows, on one line or on many. It is read element by element,
in the memory of a few rows, and a resume goes on at an element; messages name the number of
an element, from 1. An element that cannot be parsed is an `invalid_row`, and so is what a
file ends with that was cut off. A `.json` file with a row on each line is read as JSON
Lines, and a `.jsonl` file that begins with `[` as an array. An object around the rows
(`{"data": [...]}`) is exit code 2, with the command that takes them out.

Workbooks need the extra `excel` (`pip install 'batchrun-llm[excel]'`). The first row that
is not empty names the columns, empty rows are no rows, and messages name the row of the
sheet. Whole numbers are int64, other numbers double, dates date32, dates with a time
timestamps without a zone, times time64, and a column with cells of several kinds is text.
Templates show dates and times in ISO 8601. Formulas are read as their last value; an error
such as `#N/A` and an empty cell are null. A sheet is in memory as a whole, one at a time,
and takes about 200 bytes for each of its cells; Excel's have at most 1,048,576 rows.

Folders named `key=value` below a directory, or from the first wildcard of a glob on, are
columns of text behind those of the files, in every format. Percent escapes are undone, and
`__HIVE_DEFAULT_PARTITION__` is null. Where a file has a column of that name, it keeps its
own values.

A run directory that an earlier version began goes on as it was read then: commas, UTF-8,
and no columns from folders.
"""


def names_of_parameters() -> Iterator[str]:
    """Parameters under several names, and whole numbers among them."""
    names = (sorted(names) for names in parameters.SYNONYMS)
    pairs = "; ".join(" and ".join(f"`{name}`" for name in group) for group in names)
    yield f"Some parameters have several names: {pairs}."
    yield "A row that sets one of them, null included, is sent without the run's default under"
    yield "another name; so is a flag without the config file's. A row that has two of them keeps"
    yield "both. A parameter that is a whole number and comes as a float, as from a pandas column"
    yield "with gaps (`max_tokens` = 100.0), is sent as an integer; in a table NaN counts as a gap"
    yield "there, and is not sent. A run directory of an earlier version goes on without these"
    yield "rules."
    yield ""


def inputs() -> Iterator[str]:
    """Which keys are sent."""
    yield "## Input"
    yield ""
    yield from _sources()
    yield "The first record of a CSV file names its columns. A row with too few or too many fields,"
    yield "with invalid UTF-8, or with broken quotes is an `invalid_row`; reading goes on at the"
    yield "next line. A record may be 16 MiB, a line of JSON 64 MiB. Files with different columns"
    yield "are one table, matched by name, with nulls for what a file does not have."
    yield ""
    yield from _DIALECTS.split("\n")
    yield from _QUOTES.split("\n")
    yield from _FORMATS.split("\n")
    yield "A row is one of:"
    yield ""
    yield "1. **An OpenAI Batch line**: `custom_id`, `method`, `url` and `body`. The body is sent"
    yield "   as it is, with the run's defaults filled in. Other keys are carried to the results."
    yield "2. **A chat body**: `messages` and other parameters. The parameters below, and whatever"
    yield "   stands under `extra_body`, are sent. Other keys are carried to the results."
    yield "3. **A data row**. With `--prompt` or `[[request.messages]]` every row is one, and the"
    yield "   templates make its messages. All its columns are carried to the results."
    yield "   [templates.md](templates.md) has the rest."
    yield ""
    yield from _SENT.split("\n")
    yield "`stream` of a row is not sent: `--stream` says it for the whole run. In Parquet, a"
    yield "parameter may be a nested value or JSON text. In CSV, a parameter that is not text by"
    yield "nature is JSON, a number or a boolean. A column with a name that is no known parameter"
    yield "is sent as JSON where it holds an object or an array."
    yield ""
    yield from names_of_parameters()
    yield from sent_parameters()


def _sources() -> Iterator[str]:
    """What may be an input."""
    yield "One run reads one format, told by the file names or `--format`:"
    yield ""
    yield from table(
        ("format", "suffixes", "carried columns"),
        [
            ("JSON Lines", suffixes("jsonl"), "by the first 10,000 rows"),
            ("JSON, an array of rows", suffixes("json"), "by the first 10,000 rows"),
            ("CSV, TSV", f"{suffixes('csv')} {suffixes('tsv')}", "text"),
            ("workbooks", suffixes("xlsx"), "by their cells"),
            ("Parquet", suffixes("parquet"), "with their exact types"),
        ],
    )
    yield ""
    yield "Text may be compressed, with `.gz` or `.zst` behind the suffix. An input is:"
    yield ""
    yield "- a file; several are read one after the other, and their rows are numbered on;"
    yield "- a glob in quotes (`'rows/*.parquet'`; `**` crosses folders) or a directory: its files"
    yield "  in the order of their paths. Of a directory, files of a known suffix at any depth;"
    yield "  `.json` files and workbooks only where it holds no other data, since beside data they"
    yield "  describe it. Names that begin with `_` or `.` are passed over;"
    yield "- a sheet of a workbook, `FILE.xlsx#SHEET`, also behind a glob; without it, the first;"
    yield "- an address: `file://`, `s3://` and `gs://` (through Arrow: credentials, region and"
    yield "  endpoint from the environment), `hf://` and others through fsspec where it is"
    yield "  installed. Globs and directories work there too;"
    yield "- `-`, standard input. Its first bytes tell what it is: JSON by its first character,"
    yield "  else TSV where tabs divide its columns, else CSV; `--format` decides. It is read as it"
    yield "  comes. To resume, pipe the same bytes in again: what was read before is compared as it"
    yield "  passes, and a difference ends the run with exit code 2 before such a row is sent;"
    yield from _ONCE.split("\n")
    yield "Only what is there at the start is input. A file whose size, modification time and etag"
    yield "are those of the earlier run is trusted, another one is compared with what was read."
    yield ""


def sent_parameters() -> Iterator[str]:
    """The table of the parameters that are sent, by where they are from."""
    groups = (
        ("the specification", parameters.SPECIFIED),
        ("vLLM", parameters.VLLM),
        ("SGLang", parameters.SGLANG),
        ("llama.cpp", parameters.LLAMA_CPP),
        ("other servers", parameters.OTHERS),
    )
    if frozenset().union(*(names for _, names in groups)) != parameters.SENT:
        message = "core.parameters.SENT holds more than the groups named here"
        raise UndocumentedError(message)
    yield from table(
        ("taken from", "parameters"),
        [(told, " ".join(code(name) for name in sorted(names))) for told, names in groups],
    )


def streaming() -> Iterator[str]:
    """What `--stream` does."""
    yield "## Streaming"
    yield ""
    yield "With `--stream` every request asks for a stream (`stream`, and `stream_options` with"
    yield "`include_usage`). The answer is put together as it arrives and has the same columns as"
    yield "if it had come whole; `ttft_s` has a value. A server that answers with a plain reply"
    yield "all the same is understood, and so is one that streams without being asked."
    yield ""
    yield "It is worth its cost where a proxy cuts off answers that are silent for long, where"
    yield "answers are very long, and where the time to the first token matters. A server that"
    yield "refuses `stream_options` is asked without it by `--param stream_options=null`; its"
    yield "answers then have no token counts. Other `stream_options`, of a row or by `--param`,"
    yield "are laid over `include_usage`."
    yield ""
    yield "An answer is whole if each of its choices has a finish reason, or if `[DONE]` came,"
    yield "however the connection ended. Any other end is tried again and is `incomplete_stream`"
    yield "at last; if the time ran out, it is `timeout`. An error among the events is judged"
    yield "like an error reply with the status inside it. What had arrived of a failed row is in"
    yield "`response`. `--max-response-bytes` counts a stream as it comes, with all that frames"
    yield "its events."
    yield ""
    yield "Some servers send a `message` in a chunk: the whole answer again in the last one, or the"
    yield "answer so far in each. The answer counts once: of a message and deltas that agree, the"
    yield "longer one is taken, field by field. Of two that contradict each other, the deltas are"
    yield "taken, unless the chunk calls itself a `chat.completion`; the other one is in"
    yield "`response`, under `contradicting` in its choice. Where no delta says anything, messages"
    yield "that do not repeat what came before are pieces of the answer."
    yield ""


def reasoning() -> Iterator[str]:
    """What `--think` does."""
    yield "With `--think split`, reasoning between tags at the start of the content moves to"
    yield "`reasoning` before anything else is looked at. The tags are"
    yield f"{', '.join(code(tag) for tag, _, _ in thinking.TAGS)}, each up to its closing tag. So"
    yield "does everything before a closing tag that has no opening one, since chat templates open"
    yield "the block for the model; unless the server sent reasoning, or the tag is in quotes or"
    yield "within a sentence. Without a closing tag, a block is reasoning where a token limit cut"
    yield "the answer off, and stays in the content otherwise; `content` is null where nothing is"
    yield "left. Reasoning that the server sent too stays, and what it does not hold is added."
    yield ""
    yield "Unless `--think` says so, the name of the run's model decides when a run begins: names"
    yield "like `deepseek-r1`, `qwq`, `qwen3`, `magistral`, `glm-4.5`, `minimax-m2` or with"
    yield "`thinking`, `reasoning` or `reasoner` in them imply `split`; all others, models that"
    yield "rows bring along, and directories begun by a version without this setting, `keep`."
    yield ""


def answers() -> Iterator[str]:
    """What answers are held against."""
    truncated = ", ".join(code(reason) for reason in sorted(answer.TRUNCATED))
    yield "## Answers"
    yield ""
    yield "An answer to a request whose `response_format` has a JSON Schema is held against it,"
    yield "and one to `json_object` must be JSON. One that does not fit is asked for again at"
    yield "once; each attempt is charged, and at `--max-attempts` the row fails as"
    yield "`invalid_output`. The schema of `--schema FILE` is sent as the `response_format` of"
    yield "rows that set none: `json_schema`, `strict`, and named after the file up to its first"
    yield "dot. The file may also hold OpenAI's object of `name`, `strict` and `schema`, or a"
    yield "whole `response_format`; what it says wins."
    yield ""
    yield "A row whose schema is none is an `invalid_row`; a file that is none ends the command"
    yield "with exit code 2. Dialects are draft 4 to 2020-12, by `$schema`; without one it is"
    yield "2020-12. Unknown keywords are ignored, `format` is not checked, and a `$ref` to"
    yield "another document is refused: nothing is fetched. A schema whose references multiply to"
    yield f"more than {json_schema.WEIGHT_MAX:,} checks of one value is refused too."
    yield "`--no-check-schema` sends everything and looks at nothing."
    yield ""
    yield "Refusals are answers and are not held against a schema, nor is what stands beside a"
    yield "tool call. With `n` above 1 every choice must fit. Nothing is repaired; but with"
    yield "`--accept-fenced`, JSON in a Markdown fence is the answer if exactly one fence in the"
    yield "content holds JSON, whatever stands around it. It becomes `content`, and `response`"
    yield "keeps what was sent."
    yield ""
    yield from reasoning()
    yield f"An answer is *cut off* if its finish reason is {truncated}, in upper or lower case. It"
    yield "is *empty* without content, tool call and refusal; white space is no content, a call"
    yield "without name, arguments and id is no call, and reasoning alone is no answer."
    yield "`--on-truncation` and `--on-empty` say what becomes of such a row: `keep` counts it in"
    yield "`summary.json`, `fail` makes it an error row at once,"
    yield "`retry` asks again within `--max-attempts` first. They come before the schema."
    yield ""
    yield "With `--check-tools` each tool call must name a tool of its request (`tools`, or the"
    yield "older `functions`), with arguments that fit its `parameters`; else it is asked for"
    yield "again and fails as `invalid_output`. No arguments at all count as `{}`. Arguments are"
    yield "stored as sent in any case. [outputs.md](outputs.md) has examples."
    yield ""


def columns(title: str, schema: pa.Schema, prose: Mapping[str, str], more: str) -> Iterator[str]:
    """The columns of one kind of file."""
    yield f"## {title}"
    yield ""
    yield more
    yield ""
    types = {field.name: field.type for field in schema}
    yield from table(
        ("column", "type", "meaning"),
        [
            (code(name), type_name(types[name]), told)
            for name, told in described(title, types, prose)
        ],
    )


def type_name(kind: pa.DataType) -> str:
    """A column's type in short."""
    if pa.types.is_list(kind):
        return f"list of {type_name(kind.value_type)}"
    if pa.types.is_struct(kind):
        inside = ", ".join(f"{field.name} {type_name(field.type)}" for field in kind)
        return f"struct ({inside})"
    return str(kind).replace("timestamp[", "timestamp (").replace(", tz=", ", ").replace("]", ")")


def files() -> Iterator[str]:
    """Every column of every file."""
    fixed = part_schema.results_schema(pa.schema([]))
    yield from columns(
        "Columns of `results/`",
        fixed,
        RESULTS,
        "One row per input row, in input order. The carried input columns follow under their own\n"
        "names; where a name is taken, as `input_NAME`. JSON Lines add the column `extra`: a JSON\n"
        "object of carried fields that fit no column. Parquet columns keep their exact types. For\n"
        "JSON Lines the first 10,000 rows fix names and types: integers widen to floats, and what\n"
        "mixes otherwise is text. A key that first appears later goes to `extra`.",
    )
    yield from columns(
        "Columns of `attempts/`",
        part_schema.attempts_schema(),
        ATTEMPTS,
        "The ledger: one row per exchange, ordered by row and attempt.",
    )
    yield from columns(
        "Columns of `usage.parquet`",
        part_schema.USAGE_SCHEMA,
        USAGE,
        "Totals per endpoint, model and service tier.",
    )


def summary_keys() -> list[str]:
    """The keys that `summary.json` has, with a dot between levels."""
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
        run="",
    )
    return [
        f"{key}.{inner}" if inner else key
        for key, value in built.items()
        for inner in (value if isinstance(value, dict) and value else [""])
    ]


def json_files() -> Iterator[str]:
    """Every key of every JSON object."""
    yield "## Keys of `summary.json`"
    yield ""
    yield "Written when a run ends in any orderly way; `run --json` prints the same. Where nothing"
    yield 'could be run, `--json` prints `{"error": ..., "exit_code": ...}` instead.'
    yield ""
    found = described("summary.json", summary_keys(), SUMMARY)
    yield from table(("key", "meaning"), [(code(name), told) for name, told in found])
    yield "With `--reuse` there are two more: `rows.reused`, the `ok` rows that took the answer of"
    yield "another run, and `reused`, the same by the endpoint that gave the answer. `run` is not"
    yield "there in directories that an earlier version began."
    yield ""
    yield "## Keys of `checkpoint/status.json`"
    yield ""
    yield "Replaced as a whole while a run works, for `status` and for programs of your own. After"
    yield "a kill it tells the last state known. `status --json` prints `state` (`running`,"
    yield "`killed` or the summary's status) and either this object under `live` or the summary"
    yield "under `summary`."
    yield ""
    names = [field.name for field in fields(Snapshot)]
    found = described("status.json", [*names, *STATUS_ADDED], STATUS)
    yield from table(("key", "meaning"), [(code(name), told) for name, told in found])
    yield "## Keys of `verify --json`"
    yield ""
    found = described("verify --json", Report("").as_dict(), VERIFY)
    yield from table(("key", "meaning"), [(code(name), told) for name, told in found])
    yield "## Kinds of damage"
    yield ""
    yield from table(("kind", "meaning"), [(code(name), told) for name, told in DAMAGES.items()])
    yield "## Keys of `validate --json`"
    yield ""
    found = described("validate --json", validate.Report().as_dict(), VALIDATE)
    yield from table(("key", "meaning"), [(code(name), told) for name, told in found])
    yield "## Keys of `estimate --json`"
    yield ""
    given = resolve.resolve({"input.files": ["-"], "output.dir": "."})
    keys = estimate_report.Report(estimate.Estimate(given, tokenizer=False)).as_dict()
    found = described("estimate --json", keys, ESTIMATE)
    yield from table(("key", "meaning"), [(code(name), told) for name, told in found])
    yield "## Keys of `run --dry-run --json`"
    yield ""
    nothing = estimate.Estimate(given, tokenizer=False)
    keys = dry_run.DryRun(
        given, resumed=False, nowhere=False, checked=validate.Report(), estimate=nothing
    ).as_dict()
    found = described("run --dry-run --json", keys, DRY_RUN)
    yield from table(("key", "meaning"), [(code(name), told) for name, told in found])
    yield "## Keys of `export --json`"
    yield ""
    keys = export.Exported(0, 0, 0, 0, live=False).as_dict()
    found = described("export --json", keys, EXPORT)
    yield from table(("key", "meaning"), [(code(name), told) for name, told in found])


def verdicts() -> Iterator[str]:
    """Every error class, and the table that assigns them."""
    yield "## Error classes"
    yield ""
    names = [name for name in ERROR_CLASSES if name in ELSEWHERE]
    names += [rule.error_class for rule in RULES]
    described("error classes", names, ERROR_CLASSES)
    yield from table(("class", "meaning"), [(code(n), t) for n, t in ERROR_CLASSES.items()])
    yield "## What a reply means"
    yield ""
    yield "The first line that matches decides. A reply with status 2xx and a completion is a"
    yield "success and never comes here. A 2xx whose body is an error enters with the status named"
    yield "in it, or with the status that belongs to its code or type, else with 500. Codes are"
    yield "compared as a whole with what the error calls itself: `code`, `type`, `status`,"
    yield "`reason`, those of inner errors, and `detail` or messages of one word. Where the table"
    yield "knows the code, the type counts no more. Messages are not searched, except for the words"
    yield "below. `x-should-retry: false` makes *fail* of every other try, `true` makes *again* of"
    yield "*fail* and *stop* while the row has attempts left. Where the server asks for a longer"
    yield "wait than `--max-wait`, *again* and *throttle* become *stop*."
    yield ""
    yield from table(
        ("action", "what it does"),
        [(f"*{action.value}*", text) for action, text in described("actions", Action, ACTIONS)],
    )
    described("transport faults", [fault for rule in RULES for fault in rule.faults], FAULTS)
    own = [name for rule in RULES for name in sorted(rule.codes) if name.startswith("@")]
    own += [name for name in MEANINGS if name not in own]
    described("names of our own", own, OWN_NAMES)
    rows = []
    for rule in RULES:
        action = f"*{rule.action.value}*"
        if rule.tries_max is not None:
            times = {1: "once", 2: "twice"}.get(rule.tries_max, f"{rule.tries_max} times")
            action += f" {times}, then *{rule.then.value}*"
        if rule.backoff_s is not None:
            action += f", first after up to {rule.backoff_s:g} s"
        health = "" if rule.health is None else rule.health.value
        rows.append((signal_of(rule), action, code(rule.error_class), health, rule.source))
    yield from table(("signal", "action", "class", "health", "seen at"), rows)
    yield from OUTAGES
    yield from codes_of_vendors()
    yield "Some servers say in words only what they mean. These are recognised, as regular"
    yield "expressions from the start of the message, with no quotation before the words:"
    yield ""
    yield from table(
        ("means", "said by"),
        dict.fromkeys((OWN_NAMES[phrase.name], phrase.source) for phrase in phrases.PHRASES),
    )
    yield "The wait that a server asks for is the first of: `retry-after-ms`; `retry-after`; a"
    yield "field of the error (`retry_after`, Google's `RetryInfo`, headers that OpenRouter passes"
    yield 'on); its message ("try again in 5.2s"); and with status 429 the reset of a limit that is'
    yield "used up: of a day's, or the `x-ratelimit-reset` headers. Seconds, durations (`1m30s`),"
    yield "HTTP dates, RFC 3339 and moments in seconds or milliseconds since the epoch are read, up"
    yield "to a week; anything else counts as nothing."
    yield ""
    yield "`batchrun simulate --error NAME=RATE` plays these:"
    yield ", ".join(code(name) for name in CATALOGUE) + "."
    yield ""


def trails() -> Iterator[str]:
    """The words of `decided_by`."""
    yield "## How a decision is made"
    yield ""
    yield "After each exchange, batchrun decides once what happens to its row. The table above says"
    yield "what the reply means by itself; later steps may change that. `decided_by` in `attempts/`"
    yield "names the steps that spoke, in order, joined by `>`:"
    yield "`server_error>attempts_used_up` is a 5xx that used up the last of the row's attempts."
    yield ""
    yield "The first word is the error class of the exchange (`truncated_output`, `empty_output`"
    yield "and `invalid_output` for an answer that failed a check), or one of these:"
    yield ""
    yield from table(("first word", "meaning"), [(code(w), t) for w, t in trail.FIRST.items()])
    yield "Each of the words that may follow stands for a change:"
    yield ""
    yield from table(("later word", "meaning"), [(code(w), t) for w, t in trail.LATER.items()])
    yield "A refusal that every row waits out has no word of its own, and neither does a failed row"
    yield "that is withheld for a while: both say nothing about the exchange."
    yield ""


def codes_of_vendors() -> Iterator[str]:
    """What vendors' own codes mean, and what counts as a report of failure under status 200."""
    yield "Vendors' own codes decide under which status an error is judged, whatever status it came"
    yield "with. Words are compared without case, punctuation and a final `error`, also by the last"
    yield "or first part of a dotted one. Numbers count in the vendor's own field: MiniMax's"
    yield "`base_resp.status_code` (or in parentheses behind its words), Baidu's `error_code`,"
    yield "Spark's `header.code`; those of Zhipu, SiliconFlow and some of Spark's in any `code`."
    yield "The first line that fits decides; the status it came with must be one of those named."
    yield ""
    yield from table(
        ("means", "judged as", "come with", "codes"),
        [
            (
                OWN_NAMES[name],
                str(meaning.status),
                "any status" if meaning.under is None else under(meaning.under),
                "; ".join(f"{who}: {listed(words)}" for who, words in SAID_BY[name]),
            )
            for name, meaning in MEANINGS.items()
        ],
    )
    yield "An error under status 200 is judged as any other: by such a code, else by the status or"
    yield "the name inside it; a report of a failure that says nothing else is a `server_error`."
    yield "Reports are an `error`, `errors`, MiniMax's `base_resp`, Spark's `header`, Baidu's"
    yield "`error_code`, Tencent's `Response`, `success: false`, a `status` of 400 or more, and a"
    yield "flat `code` other than 0, 2xx or a word for success with a `message` or `msg`. A"
    yield "completion that says anything is kept, whatever stands beside it."
    yield ""


def under(statuses: Collection[int]) -> str:
    """The statuses that an error may have come with; a single digit is a class of them."""
    return ", ".join(f"{status}xx" if status < 10 else str(status) for status in statuses)


def listed(words: str) -> str:
    """Codes as they are written."""
    return ", ".join(code(word) for word in words.split())


def signal_of(rule: Any) -> str:
    """What a rule matches, in words."""
    if rule.faults:
        text = "; ".join(FAULTS[fault] for fault in rule.faults)
    else:
        text = f"status {ranges(rule.statuses)}" if rule.statuses else "2xx without a completion"
    if rule.codes:
        names = sorted(rule.codes, key=lambda name: (name.startswith("@"), name))
        text += " with " + ", ".join(OWN_NAMES.get(name) or code(name) for name in names)
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


def exit_codes() -> Iterator[str]:
    """Every exit code."""
    yield "## Exit codes"
    yield ""
    known = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BatchrunError)
    }
    known |= FIXED_CODES | {128 + number for number in SIGNALS} | {BROKEN_PIPE}
    rows = described("exit codes", sorted(known), EXIT_CODES)
    yield from table(("code", "meaning"), [(number, text) for number, text in rows])


def limit_headers() -> Iterator[str]:
    """How servers tell their limits."""
    yield "## Limits that servers tell"
    yield ""
    yield "These headers of replies are read, whoever sends them; `*` is `limit`, `remaining` and"
    yield "`reset` in turn, `PERIOD` one of " + ", ".join(map(code, PERIODS_S)) + "."
    yield "Where the name does not tell the window, the reset does."
    yield "[providers.md](providers.md#limits-that-servers-tell) says what is done with them."
    yield ""
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
        if code(name) not in names:
            names.append(code(name))
    yield from table(
        ("server", "limits", "window", "headers", "remarks"),
        [
            (server, kind.replace("_", " "), window, ", ".join(names), remark)
            for (server, kind, window, remark), names in rows.items()
        ],
    )
    yield f"Of the IETF draft from version 7 on, {code('RateLimit')} and {code('RateLimit-Policy')}"
    yield "are read: policies in requests or tokens."
    yield ""


def page() -> str:
    """The whole page."""
    lines = [
        "<!-- Made by docs/make_reference.py from the program. Do not edit: run `make docs`. -->",
        "",
        "# Reference",
        "",
        "Every command, flag, key, column, error class and exit code. The README says how to",
        "start; [architecture.md](architecture.md) says how it works.",
        "",
    ]
    for chapter in (
        commands,
        configuration,
        providers,
        limit_headers,
        environment,
        inputs,
        streaming,
        answers,
        files,
        json_files,
        verdicts,
        trails,
        exit_codes,
    ):
        lines += chapter()
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")
