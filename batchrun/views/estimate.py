"""``batchrun estimate``: what a run would take, from every row of its input, and nothing sent.

Rows come from the run's own readers and become requests by the run's own ``body.build``; each is
counted and forgotten, so that memory does not grow with the input.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from batchrun.adapters import price_list
from batchrun.adapters.clock import LoopClock
from batchrun.adapters.sample_file import Aside
from batchrun.adapters.sources import opening
from batchrun.adapters.tokenizers import Tokenizers
from batchrun.core import body, shaping, vocabulary
from batchrun.core.estimating import Adder, Sums
from batchrun.core.prompt_tokens import prompt
from batchrun.core.reading import Reading
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
    reused: int = 0
    """Rows whose answer another run has (``--reuse``): they are in no figure but ``rows``."""

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
    """Look at every row of the input, at most ``settings.limit`` of them. Rows whose answer one of
    ``settings.reuse`` has are counted, and left out of everything else.

    Raises what the run raises where the input cannot be opened (``InputError``, ``UsageError``) or
    read on (``InputLostError``), and ``StorageError`` where a sample cannot be kept.
    """
    reading = Reading(quoting=settings.quoting)
    given = opening.find(settings.files, settings.format, shaping.plan(settings), reading)
    if settings.sample is not None:
        given = given.sampled(settings.sample, settings.sample_seed)
    reader = given.reader(given.carry("none", settings.shard_rows), settings.shard_rows)
    if given.pipe is not None:
        given.pipe.release()
    tokenizers = Tokenizers()
    found = Estimate(settings, tokenizers.installed)
    wall_us = LoopClock.wall_us()
    prices = price_list.book(settings, found.notices.append, wall_us)
    adder = Adder(settings.endpoints, prices, wall_us)
    keep = _Keeping(sampling, streams=settings.stream) if sampling is not None else None
    # What a budget asks of a row is no fault of the row.
    build = body.builder(replace(settings, max_cost_pd=None, max_total_tokens=None))
    with contextlib.ExitStack() as stack:
        known = _known(settings, found.notices.append, stack)
        for block in reader.blocks([Span(0, None, Position())], limit=settings.limit):
            found.rows += len(block.rows)
            requests = [request for row in block.rows if (request := _built(row, build))]
            found.bad += len(block.rows) - len(requests)
            taken = known(requests)
            found.reused += len(taken)
            for request in requests:
                if request.row not in taken:
                    _add(request, tokenizers, adder, keep)
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


def _known(
    settings: Settings, say: Callable[[str], None], stack: contextlib.ExitStack
) -> Callable[[Sequence[Request]], Collection[int]]:
    """What finds the rows whose answer another run has."""
    if not settings.reuse:
        return lambda _: ()
    from batchrun.adapters import reuse

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="batchrun-estimate-"))
    answers = reuse.Reuse(settings, reuse.named(settings, ()), Path(folder))
    stack.callback(answers.close)
    answers.index(say)
    return answers.look_up


def _built(row: Row, build: Callable[[Row], Request]) -> Request | None:
    """A row's request; None for a row that cannot be sent."""
    try:
        return build(row)
    except RowError:
        return None


def _add(request: Request, tokenizers: Tokenizers, adder: Adder, keep: _Keeping | None) -> None:
    """Count a request."""
    fields = msgspec.json.decode(request.body)
    counted = prompt(fields, tokenizers.count(request.model))
    adder.add(request.model, fields, request.body, counted)
    if keep is not None:
        keep.offer(request, counted.tokens)
