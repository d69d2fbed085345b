"""The summary of a run: what ``summary.json`` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from batchrun.core.cost.money import usd
from batchrun.core.cost.projection import Projection
from batchrun.core.run.totals import Totals
from batchrun.core.text.wording import shortened

COMPLETE, WITH_ERRORS, STOPPED, INTERRUPTED = (
    "complete",
    "complete_with_errors",
    "stopped",
    "interrupted",
)


KEYS: Mapping[str, str] = {
    "status": (
        "`complete`, `complete_with_errors`, `stopped` (by a guard or an error that stops runs) or "
        "`interrupted`."
    ),
    "stopped_by": (
        "What ended the run: an error class, `misconfiguration`, `repeated_failure`, "
        "`max_failures`, `max_truncated`, `max_empty`, `max_cost`, `max_total_tokens`, "
        "`deadline`, `min_free_disk`, `local_server` (that of `--provider local` ended), `drain` "
        "(`batchrun ctl`), or a signal; else null."
    ),
    "exit_code": "The exit code of the command.",
    "rows.input": (
        "Rows of the input: at most N with `--limit N`, the rows of the sample with `--sample`; "
        "with `--repeat K` each counts K times. Null until a piped input ends."
    ),
    "rows.ok": "Rows with a completion.",
    "rows.error": "Rows that failed.",
    "rows.pending": "Rows without an outcome: `input - ok - error`. Null whenever `input` is.",
    "rows.reused": (
        "Of the `ok` rows, those that took the answer of another run. Only with `--reuse`."
    ),
    "totals.attempts": "Attempts, which is the number of lines in the ledger.",
    "totals.prompt_tokens": "Prompt tokens, summed over the ledger.",
    "totals.completion_tokens": "Completion tokens, summed over the ledger.",
    "totals.total_tokens": "All tokens, summed over the ledger.",
    "totals.cached_tokens": "Prompt tokens read from a cache, summed over the ledger.",
    "totals.cache_write_tokens": "Prompt tokens written to a cache, summed over the ledger.",
    "totals.reasoning_tokens": "Reasoning tokens, summed over the ledger.",
    "totals.unanswered_attempts": (
        "Attempts without a whole reply, which may have been billed unseen."
    ),
    "totals.cost_usd": (
        "The bill: the cost of all attempts, added up exactly in picodollars and then rounded to "
        "the nearest double. Null if no cost is known."
    ),
    "totals.wasted_cost_usd": "The bill minus the cost of the answers in `ok` rows.",
    "totals.unpriced_attempts": (
        "Attempts with a usage but no known price, which `cost_usd` therefore misses. Null if a "
        "part of the run was written by an earlier version, which did not count them."
    ),
    "totals.by_day": (
        "`attempts`, `prompt_tokens`, `completion_tokens` and `cost_usd` by the day (UTC) on which "
        "the attempts were sent, with `unknown` for those that a repair could not date. Null if a "
        "part of the run was written by an earlier version."
    ),
    "totals.cost_usd_with_judges": (
        "What the run and its judges cost together: the bill and theirs. Only with judges."
    ),
    "errors": "Failed rows by error class.",
    "examples": (
        "One failed row of each error class: an object of `row` and `message`. A class of which no "
        "session noted one is missing."
    ),
    "outputs.truncated": "Of the `ok` rows, those whose answer a token limit cut off.",
    "outputs.empty": "Of the `ok` rows, those whose answer is empty.",
    "reused": (
        "Rows that took the answer of another run, by the endpoint that gave it. Only with "
        "`--reuse`."
    ),
    "endpoints": (
        "By the endpoint's name: `rows_ok`, `rows_error`, `attempts`, the token counts and "
        "`unanswered_attempts`. Where the latest session that sent something found the concurrency "
        "(`--concurrency auto`) or the rate that the server takes, `window` says what it was at "
        "the end: the object of `status --json`."
    ),
    "budget.charged_usd": (
        "What counts against `--max-cost`: the bill, plus the worst case of every attempt whose "
        "cost is unknown. Null without `--max-cost`."
    ),
    "budget.held_usd": "The part of it that is worst cases.",
    "budget.charged_tokens": (
        "What counts against `--max-total-tokens`: the tokens used, plus the worst case of every "
        "attempt whose usage is unknown. Null without `--max-total-tokens`."
    ),
    "budget.held_tokens": "The part of it that is worst cases.",
    "projected.cost_usd": (
        "The projected cost of the whole run, if its pending rows cost as much as the others did, "
        "retries included. Null if no row is pending, or no projection is possible."
    ),
    "projected.low_usd": "The lower end of the 90% interval. Null below 30 finished rows.",
    "projected.high_usd": "The upper end of the 90% interval. Null below 30 finished rows.",
    "projected.pending_cost_usd": "The share of `projected.cost_usd` that is still to be spent.",
    "notices": ("What the latest session that sent something reported on stderr: a list of texts."),
    "started_at": "When the first session began, UTC.",
    "ended_at": "When the last session ended, UTC.",
    "wall_s": "Wall-clock seconds, summed over all sessions.",
    "labels": (
        "The labels of the run, as `--label` and `[labels]` gave them; a later session adds to "
        "them. Missing if there are none."
    ),
    "settings": (
        "The settings in force. Headers are listed by name only, and keys by the variable, file or "
        "command that they come from."
    ),
    "controls": (
        "What `batchrun ctl` changed while the run was live, over all sessions: objects of `at` "
        "(UTC) and `set`, with `rpm`, `tpm`, `concurrency` and `max_cost` (after an endpoint's "
        "name and a dot, of that endpoint), `paused` or `drain`. At most the last 1,000; missing "
        "if nothing was changed."
    ),
    "scores": (
        "By the name of a score: `scored` and `null` count the `ok` rows with and without a value, "
        "`error_rows` the failed rows; `sha256` is by what the definition is known again. Only "
        "with `[scores]`."
    ),
    "metrics": (
        "By the name of a metric: `value`, `n`, the 95% interval `low` to `high`, and what the "
        "value would be `as_if_errors_wrong` and `as_if_errors_right`; with `by` also `groups`, "
        "the same for each group. Only with `[metrics]`."
    ),
    "judges": (
        "By the name of a judge: `rows` counts the answers with a judgement of theirs; of those, "
        "`unparsed` have no verdict that can be read, `failed` no answer from the judge. "
        "`stale` judgements are of answers that are not there any more, `missing` are `ok` rows "
        "without a judgement, `pending` rows that the judge still has to judge, and `flips` pairs "
        "whose verdict changed with the order. `status`, `stopped_by`, `model`, `attempts`, "
        "`cost_usd` and `wasted_cost_usd` are those of the judge's run; `sha256` is by what its "
        "model, prompt, schema and parameters are known again. Only with judges."
    ),
    "gates": (
        "By the name of a gate: `rule`, `value`, `verdict` (`pass`, `fail`, `warn`, "
        "`inconclusive` or `not_judged`), `why`, and `blocks`: whether it makes the exit code 4. "
        "A gate against a baseline is called `compare.NAME`; its value is the difference. Only "
        "with `[gates]`."
    ),
    "run": (
        "The run's id, which `reused_from` in other runs names. Missing in directories that an "
        "earlier version began."
    ),
    "version": "The version of batchrun.",
}
"""What the keys of ``summary.json`` mean, with a dot between the levels, for the reference."""

NO_BUDGET: Mapping[str, Any] = dict.fromkeys(
    ("charged_usd", "held_usd", "charged_tokens", "held_tokens")
)


NO_EXAMPLES: Mapping[str, tuple[int, str]] = {}
SAID_MAX = 300
"""Characters of an example's message."""


def format_examples(
    found: Mapping[str, tuple[int, str]], errors: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Examples of failed rows as JSON values, for the classes that rows failed with: what was said
    on one line of at most ``SAID_MAX`` characters.
    """
    return {
        name: {"row": row, "message": shortened(said, SAID_MAX)}
        for name in errors
        for row, said in (found.get(name, (0, None)),)
        if said is not None
    }


def moment(microseconds: int) -> str:
    """A wall-clock time as text, UTC."""
    when = datetime.fromtimestamp(microseconds / 1e6, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def in_step(
    summary: Mapping[str, Any], totals: Totals, wall_s: float, shaping: Mapping[str, Any]
) -> bool:
    """Whether a summary counts what these totals and the journal's ``wall_s`` do, and tells of the
    settings that shape requests. Where a kill came between, one of them is older; so it is where
    other settings were allowed since.
    """
    rows, settings = summary.get("rows"), summary.get("settings")
    if not isinstance(settings, dict) or any(
        settings.get(name) != value for name, value in shaping.items()
    ):
        return False
    counted = (rows.get("ok"), rows.get("error")) if isinstance(rows, dict) else None
    return (
        counted == totals.rows()
        and summary.get("errors") == dict(sorted(totals.errors.items()))
        and _own(summary.get("totals")) == totals.overall()
        and summary.get("outputs") == totals.outputs
        and summary.get("reused", {}) == totals.reused
        and summary.get("wall_s") == round(wall_s, 3)
    )


def _own(told: object) -> object:
    """Totals without what was added to them of judges."""
    if not isinstance(told, dict):
        return told
    return {name: value for name, value in told.items() if name != "cost_usd_with_judges"}


def build(
    *,
    totals: Totals,
    rows_input: int | None,
    stopped_by: str | None,
    stop_exit_code: int | None,
    started_at_us: int,
    ended_at_us: int,
    wall_s: float,
    settings: dict[str, Any],
    version: str,
    budget: Mapping[str, Any] = NO_BUDGET,
    projected: Projection | None = None,
    fault_exit_code: int = 5,
    reuses: bool = False,
    run: str | None = None,
    controls: Sequence[Mapping[str, Any]] = (),
    notices: Sequence[str] = (),
    windows: Mapping[str, Mapping[str, Any]] = {},
    labels: Mapping[str, str] | None = None,
    examples: Mapping[str, tuple[int, str]] = NO_EXAMPLES,
) -> dict[str, Any]:
    """The summary. A stop that left nothing pending is not a stop; ``wall_s`` sums the sessions.
    A session that neither ended nor was stopped ends with ``fault_exit_code``. ``projected`` is
    written down where rows are pending; what was reused, where the run ``reuses`` answers;
    ``controls``, where somebody changed the live run. ``windows`` are what was found of the
    concurrency and rate that endpoints take, by their names.
    """
    ok, error = totals.rows()
    pending = None if rows_input is None else rows_input - ok - error
    if pending == 0:
        status = WITH_ERRORS if error else COMPLETE
        exit_code = 1 if error else 0
        stopped_by = None
    else:
        signalled = stop_exit_code is not None and stop_exit_code > 128
        status = INTERRUPTED if signalled or stop_exit_code is None else STOPPED
        exit_code = fault_exit_code if stop_exit_code is None else stop_exit_code
    return {
        "status": status,
        "stopped_by": stopped_by,
        "exit_code": exit_code,
        "rows": {
            "input": rows_input,
            "ok": ok,
            "error": error,
            "pending": pending,
            **({"reused": sum(totals.reused.values())} if reuses or totals.reused else {}),
        },
        "totals": totals.overall(),
        "errors": dict(sorted(totals.errors.items())),
        "examples": format_examples(examples, totals.errors),
        "outputs": dict(totals.outputs),
        **({"reused": dict(sorted(totals.reused.items()))} if reuses or totals.reused else {}),
        "endpoints": {
            name: own | ({"window": dict(windows[name])} if name in windows else {})
            for name, own in totals.by_endpoint().items()
        },
        "budget": dict(budget),
        "projected": _projected(projected if pending else None),
        "notices": list(notices),
        "started_at": moment(started_at_us),
        "ended_at": moment(ended_at_us),
        "wall_s": round(wall_s, 3),
        **({} if labels is None else {"labels": dict(labels)}),
        "settings": settings,
        **({"controls": list(controls)} if controls else {}),
        **({"run": run} if run is not None else {}),
        "version": version,
    }


def _projected(found: Projection | None) -> dict[str, float | None]:
    """What the whole run will have cost, and what of that its pending rows will."""
    amounts = {
        "cost_usd": found and found.total,
        "low_usd": found and found.low,
        "high_usd": found and found.high,
        "pending_cost_usd": found and found.pending,
    }
    return {name: None if cost is None else usd(cost) for name, cost in amounts.items()}
