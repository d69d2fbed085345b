"""What the attempts of a pilot took, row by row, from its run directory."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.adapters.environment.sample_file import Kept
from batchrun.adapters.parts.old_part import damaged
from batchrun.adapters.storage.store import part_names
from batchrun.core.estimate.pilot import Seen
from batchrun.rundir.inspect import look_at

_COLUMNS = ["row", "latency_s", "prompt_tokens", "completion_tokens", "cost_usd"]


def seen(directory: str, checkpoint: str, sampled: Sequence[Kept]) -> list[Seen]:
    """What was seen of each sampled row, in the order of the sample. Raises ``DamagedError``."""
    found = [Seen(kept.model, kept.size) for kept in sampled]
    store = look_at(directory, checkpoint).store
    for name in part_names(store, "attempts"):
        try:
            with store.open(f"attempts/{name}") as file:
                table = pq.read_table(file, columns=_COLUMNS, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise damaged(store.where(f"attempts/{name}"), error) from error
        for attempt in table.to_pylist():
            _add(found[attempt["row"]], attempt)
    return found


def _add(row: Seen, attempt: dict[str, float | None]) -> None:
    prompt, completion = attempt["prompt_tokens"], attempt["completion_tokens"]
    row.attempts += 1
    row.prompt_tokens += int(prompt or 0)
    row.completion_tokens += int(completion or 0)
    row.busy_s += attempt["latency_s"] or 0.0
    row.longest_s = max(row.longest_s, attempt["latency_s"] or 0.0)
    if attempt["cost_usd"] is not None:
        if row.cost_usd is not None:
            row.cost_usd += attempt["cost_usd"]
    elif prompt is not None or completion is not None:
        row.cost_usd = None
