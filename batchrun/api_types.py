"""The results of the Python API: a run's summary, and the outcome of one row."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from batchrun.api_errors import public
from batchrun.core.settings.addresses import below, is_remote
from batchrun.errors import UsageError
from batchrun.records import NO_USAGE, Outcome, ToolCall

if TYPE_CHECKING:  # loaded when results are asked for
    from batchrun.views.result_table import ArrowTable


@dataclass(frozen=True, slots=True, repr=False)
class Summary:
    """How a run ended: ``summary.json`` with a type. Notebooks show it as a table.

    ``status`` is ``complete``, ``complete_with_errors``, ``stopped`` (by the guard ``stopped_by``)
    or ``interrupted``; ``stop_message`` says what happened then, and what to do. ``ok``, ``error``
    and ``pending`` count rows over all sessions; ``rows`` is the input's number of rows. ``rows``
    and ``pending`` are None where rows that come only once were not read to their end.
    """

    status: Literal["complete", "complete_with_errors", "stopped", "interrupted"]
    stopped_by: str | None
    stop_message: str | None
    exit_code: int
    rows: int | None
    ok: int
    error: int
    pending: int | None
    totals: Mapping[str, Any]
    errors: Mapping[str, int]
    outputs: Mapping[str, int]
    """Rows with an answer that was ``truncated`` by a token limit, or is ``empty``."""
    started_at: str
    ended_at: str
    wall_s: float
    path: Path | str
    """The run directory: a path, or as text the address of one in an object store."""
    _whole: Mapping[str, Any] = field(compare=False)

    @property
    def scores(self) -> Mapping[str, Any]:
        """By the name of a score: ``scored``, ``null`` and ``error_rows``."""
        return MappingProxyType(self._whole.get("scores") or {})

    @property
    def metrics(self) -> Mapping[str, Any]:
        """By the name of a metric: ``value``, ``n``, ``low``, ``high``, the bounds, and ``groups``
        where it has ``by``; as in ``summary.json``.
        """
        return MappingProxyType(self._whole.get("metrics") or {})

    @property
    def gates(self) -> Mapping[str, Any]:
        """By the name of a gate: ``rule``, ``value``, ``verdict`` and ``why``."""
        return MappingProxyType(self._whole.get("gates") or {})

    @property
    def judges(self) -> Mapping[str, Any]:
        """By the name of a judge: ``rows``, ``unparsed``, ``cost_usd`` and more, as in
        ``summary.json``.
        """
        return MappingProxyType(self._whole.get("judges") or {})

    @property
    def results_path(self) -> Path | str:
        """The folder of results, as pandas, Polars, DuckDB and Arrow read it."""
        return self._below("results")

    @property
    def attempts_path(self) -> Path | str:
        """The folder of the ledger."""
        return self._below("attempts")

    @property
    def cost_usd(self) -> float | None:
        """The bill over all sessions: every attempt. None if no price is known."""
        cost: float | None = self.totals["cost_usd"]
        return cost

    @public()
    def to_arrow(self, columns: Sequence[str] | None = None, *, scores: bool = False) -> ArrowTable:
        """The published results as one Arrow table in the order of the rows; of some columns, if
        they are named. ``scores`` adds a column for each score.

        It reads the files as they are now. Raises ``UsageError`` if there are none yet, or for a
        column that they lack.
        """
        from batchrun.views.result_table import read

        return read(str(self.path), columns, scores=scores)

    @public()
    def to_pandas(self, columns: Sequence[str] | None = None, *, scores: bool = False) -> Any:
        """The same as a pandas ``DataFrame``. Raises ``UsageError`` if pandas is not installed."""
        _installed("pandas")
        return self.to_arrow(columns, scores=scores).to_pandas()

    @public()
    def to_polars(self, columns: Sequence[str] | None = None, *, scores: bool = False) -> Any:
        """The same as a Polars ``DataFrame``. Raises ``UsageError`` if Polars is not installed."""
        polars = _installed("polars")
        return polars.from_arrow(self.to_arrow(columns, scores=scores))

    def __repr__(self) -> str:
        from batchrun.views.summary_table import one_line

        return one_line(self._whole, str(self.path))

    def _repr_html_(self) -> str:
        """An HTML table for notebooks. Texts in it are escaped."""
        from batchrun.views.summary_table import html

        return html(self._whole, str(self.path), self.stop_message)

    def _below(self, name: str) -> Path | str:
        return self.path / name if isinstance(self.path, Path) else below(self.path, name)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``summary.json``; a copy."""
        return copy.deepcopy(dict(self._whole))

    @classmethod
    def of(cls, summary: Mapping[str, Any], folder: str, message: str | None) -> Self:
        """The summary as it was written for a run directory."""
        rows = summary["rows"]
        return cls(
            status=summary["status"],
            stopped_by=summary["stopped_by"],
            stop_message=message,
            exit_code=summary["exit_code"],
            rows=rows["input"],
            ok=rows["ok"],
            error=rows["error"],
            pending=rows["pending"],
            totals=MappingProxyType(summary["totals"]),
            errors=MappingProxyType(summary["errors"]),
            outputs=MappingProxyType(summary["outputs"]),
            started_at=summary["started_at"],
            ended_at=summary["ended_at"],
            wall_s=summary["wall_s"],
            path=folder if is_remote(folder) else Path(folder),
            _whole=summary,
        )


def _installed(name: str) -> Any:
    """An optional library. Raises ``UsageError`` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"to_{name}() needs {name}, which cannot be loaded ({error}): pip install {name}"
        raise UsageError(message) from None


class RowOutcome(NamedTuple):
    """The final state of one row, durable. The columns of ``results/`` have the same names."""

    row: int
    custom_id: str | None
    status: Literal["ok", "error"]
    content: str | None
    reasoning: str | None
    refusal: str | None
    tool_calls: tuple[ToolCall, ...] | None
    finish_reason: str | None
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    attempts: int
    http_status: int | None
    error_class: str | None
    error_code: str | None
    error_message: str | None
    response: str | None
    reused_from: str | None = None
    messages: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the row has a completion."""
        return self.status == "ok"

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        """Convert an outcome of the engine."""
        completion, failure, attempt = outcome.completion, outcome.failure, outcome.attempt
        reused = outcome.reused
        attempt = attempt if reused is None else reused.attempt
        first = completion.first if completion else None
        usage = completion.usage if completion else attempt.usage if attempt else NO_USAGE
        conversation = outcome.conversation
        if conversation is not None:
            usage = conversation.usage
        return cls(
            row=outcome.row,
            custom_id=outcome.custom_id,
            status="ok" if completion else "error",
            content=first.content if first else None,
            reasoning=first.reasoning if first else None,
            refusal=first.refusal if first else None,
            tool_calls=first.tool_calls if first else None,
            finish_reason=first.finish_reason if first else None,
            model=completion.model if completion else None,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            attempts=outcome.attempts,
            http_status=attempt.http_status if attempt else None,
            error_class=failure.error_class if failure else None,
            error_code=failure.code if failure else None,
            error_message=failure.message if failure else None,
            response=outcome.response,
            reused_from=None if reused is None else reused.origin,
            messages=None if conversation is None else conversation.messages,
        )
