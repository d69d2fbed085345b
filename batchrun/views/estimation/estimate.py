"""``batchrun estimate``: what a run would take, from every row of its input, and nothing sent.

Rows come from the run's own readers and become requests by the run's own ``body.build``; each is
counted and forgotten, so that memory does not grow with the input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa

from batchrun.adapters.sources.reader import Reader
from batchrun.core.request import body
from batchrun.core.request import prompt as prompts
from batchrun.core.settings.resolve import Settings
from batchrun.errors import NoModelError, RowError, UsageError
from batchrun.records import Position, Request, Row, Span
from batchrun.rundir.chain import inputs
from batchrun.views.estimation.counting import Estimate, Estimating, Sampling


def estimate_input(
    settings: Settings, sampling: Sampling | None = None, others: Sequence[Settings] = ()
) -> list[Estimate]:
    """Estimate every row of the input, at most ``settings.limit`` of them. ``others`` are the same
    settings with other models: one estimate for each, from one reading of the input.

    Raises what the run raises where the input cannot be opened (``InputError``, ``UsageError``) or
    read on (``InputLostError``), ``UsageError`` for a row without a model, and ``StorageError``
    where a sample cannot be kept.
    """
    plan = prompts.plan(settings)
    given = inputs.find(settings, plan, settings.reading)
    if settings.sample is not None:
        given = given.sampled(settings.sample, settings.sample_seed)
    given.require_model(settings)
    # Judges are shown what the results carry.
    carried = settings.carry if settings.evaluation.judges else "none"
    carry = given.carry(carried, settings.shard_rows)
    reader = given.reader(carry, settings.shard_rows)
    if given.pipe is not None:
        given.pipe.release()
    each = [Estimating(settings, sampling), *map(Estimating, others)]
    for one in each:
        one.found.notices += given.notices
        with_judges(one, carry.schema)
    # What a budget asks of a row is no fault of the row.
    builds = [
        body.builder(replace(one.found.settings, max_cost_pd=None, max_total_tokens=None))
        for one in each
    ]
    with contextlib.ExitStack() as stack:
        for one in each:
            stack.enter_context(one)
        for block in reader.blocks([Span(0, None, Position())], limit=settings.limit):
            for one, build in zip(each, builds, strict=True):
                one.add([_built(row, build, reader) for row in block.rows], block)
        return [one.ended(reader.remarks()) for one in each]


def _built(row: Row, build: Callable[[Row], Request], reader: Reader) -> Request | None:
    """A row's request; None for a row that cannot be sent."""
    try:
        return build(row)
    except NoModelError as error:
        message = f"{reader.where(row)}: {error}. --model A --model B compares models"
        raise UsageError(message) from None
    except RowError:
        return None


def with_judges(estimating: Estimating, carried: pa.Schema) -> None:
    """Count what the judges of the run will be asked, too. ``carried`` are the columns of its
    results that are the input's. Raises ``UsageError`` for a judge that cannot be.
    """
    found = estimating.found
    if found.settings.evaluation.judges:
        from batchrun.views.estimation.judgements import judgements  # for runs with judges alone

        estimating.judged_by(judgements(found.settings, carried, found.notices.append))
