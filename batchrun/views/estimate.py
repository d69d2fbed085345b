"""``batchrun estimate``: what a run would take, from every row of its input, and nothing sent.

Rows come from the run's own readers and become requests by the run's own ``body.build``; each is
counted and forgotten, so that memory does not grow with the input.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from batchrun.adapters import price_list
from batchrun.adapters.clock import LoopClock
from batchrun.adapters.sample_file import Aside
from batchrun.adapters.sources import opening
from batchrun.adapters.tokenizers import Tokenizers
from batchrun.core import body, shaping, vocabulary
from batchrun.core.estimating import Adder, Sums
from batchrun.core.prompt_tokens import prompt
from batchrun.core.settings import Settings
from batchrun.core.strata import Sampler, Stratum
from batchrun.errors import RowError
from batchrun.records import Position, Request, Row, Span


@dataclass(slots=True)
class Estimate:
    """What was found. ``tokenizer`` says whether one counted; ``guessed`` are the models whose
    vocabulary is not known. ``strata`` are those of the pilot, if there is to be one.
    """

    settings: Settings
    tokenizer: bool
    rows: int = 0
    bad: int = 0
    models: dict[str, Sums] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    strata: list[Stratum] = field(default_factory=list)

    @property
    def guessed(self) -> list[str]:
        """Models with a vocabulary that is not known."""
        return [model for model in self.models if vocabulary.of_model(model) is None]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the sample of a pilot is drawn, and where its requests are kept meanwhile."""

    rows: int
    seed: int
    aside: Aside


def look(settings: Settings, sampling: Sampling | None = None) -> Estimate:
    """Look at every row of the input, at most ``settings.limit`` of them.

    Raises what the run raises where the input cannot be opened (``InputError``, ``UsageError``) or
    read on (``InputLostError``), and ``StorageError`` where a sample cannot be kept.
    """
    plan = shaping.plan(settings)
    given = opening.find(settings.files, settings.format, plan, settings.reading)
    if settings.sample is not None:
        given = given.sampled(settings.sample, settings.sample_seed)
    given.require_model(settings)
    reader = given.reader(given.carry("none", settings.shard_rows), settings.shard_rows)
    if given.pipe is not None:
        given.pipe.release()
    tokenizers = Tokenizers()
    found = Estimate(settings, tokenizers.installed, notices=list(given.notices))
    wall_us = LoopClock.wall_us()
    prices = price_list.book(settings, found.notices.append, wall_us)
    adder = Adder(settings.endpoints, prices, wall_us)
    keep = _Keeping(sampling, streams=settings.stream) if sampling is not None else None
    # What a budget asks of a row is no fault of the row.
    build = body.builder(replace(settings, max_cost_pd=None, max_total_tokens=None))
    for block in reader.blocks([Span(0, None, Position())], limit=settings.limit):
        found.rows += len(block.rows)
        for row in block.rows:
            found.bad += not _add(row, build, tokenizers, adder, keep)
    found.models = adder.models
    found.notices.extend(reader.remarks())
    if keep is not None:
        found.strata = keep.sampler.strata()
    return found


class _Keeping:
    """The sample while it is drawn."""

    def __init__(self, sampling: Sampling, *, streams: bool) -> None:
        self.sampler = Sampler(sampling.rows, random.Random(sampling.seed).randrange)
        self._aside = sampling.aside
        self._streams = streams

    def offer(self, request: Request, size: float) -> None:
        ticket = self.sampler.offer(request.model, size)
        if ticket is not None:
            self._aside.keep(ticket, request, size, streams=self._streams)


def _add(
    row: Row,
    build: Callable[[Row], Request],
    tokenizers: Tokenizers,
    adder: Adder,
    keep: _Keeping | None,
) -> bool:
    """Count a row; False for one that cannot be sent."""
    try:
        request = build(row)
    except RowError:
        return False
    fields = msgspec.json.decode(request.body)
    counted = prompt(fields, tokenizers.count(request.model))
    adder.add(request.model, fields, request.body, counted)
    if keep is not None:
        keep.offer(request, counted.tokens)
    return True
