"""Requests of a run counted one after the other, before any is sent: what ``estimate`` and
``--dry-run`` add up. Each is counted and forgotten, so that memory does not grow with the input.
"""

from __future__ import annotations

import contextlib
import random
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

import msgspec
import pyarrow as pa

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.environment import price_list
from batchrun.adapters.environment.clock import LoopClock
from batchrun.adapters.environment.sample_file import Aside
from batchrun.adapters.environment.tokenizers import Tokenizers
from batchrun.core.cost.price_book import Quoted
from batchrun.core.cost.pricing import Price, price
from batchrun.core.estimate import vocabulary
from batchrun.core.estimate.estimating import Adder, Answers, Range, Sums
from batchrun.core.estimate.prompt_tokens import prompt
from batchrun.core.estimate.strata import Sampler, Stratum
from batchrun.core.request.turns import wording_of
from batchrun.core.settings.resolve import Settings
from batchrun.records import Block, Request
from batchrun.rundir.chain.assumed_rows import ANSWER

QUOTED_MAX = 100
"""Models whose unit prices are shown; rows may name any number of them."""
_PLACES = re.compile(rf"{ANSWER}|\\+u{ord(ANSWER):04x}", re.IGNORECASE)
"""Where an answer is shown, also as JSON within a text."""


@dataclass(slots=True)
class Estimate:
    """What was found. ``tokenizer`` says whether one counted; ``guessed`` are the models whose
    vocabulary is not known. ``quotes`` are the unit prices by model and endpoint; ``strata`` are
    those of the pilot, if there is to be one.
    """

    settings: Settings
    tokenizer: bool
    rows: int = 0
    bad: int = 0
    models: dict[str, Sums] = field(default_factory=dict)
    quotes: dict[str, dict[str, Quoted | None]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    strata: list[Stratum] = field(default_factory=list)
    reused: int = 0
    """Rows whose answer another run has (``--reuse``): they are in no figure but ``rows``."""
    judges: dict[str, Estimate] = field(default_factory=dict)
    """What each judge of the run will be asked, by name."""

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


class OfAnswers(Protocol):
    """Counts what is made of the answers to a run: the judgements of one of its judges."""

    name: str

    def add(self, requests: Sequence[Request], carried: pa.Table | None) -> None:
        """There will be answers to these requests. ``carried`` is what their rows carry."""
        ...

    def ended(self) -> Estimate:
        """The estimate, once every request was added."""
        ...


class Estimating:
    """Takes the requests of a run one after the other and adds up what they will take. Those whose
    answer one of ``settings.reuse`` has are counted, and left out of everything else.
    """

    def __init__(self, settings: Settings, sampling: Sampling | None = None) -> None:
        self._tokenizers = Tokenizers()
        self.found = Estimate(settings, self._tokenizers.installed)
        self._wall_us = LoopClock.wall_us()
        prices = price_list.book(settings, self.found.notices.append, self._wall_us)
        self._adder = Adder(settings.endpoints, prices, self._wall_us, self._batch)
        self._asked: Callable[[Request], Iterable[Request]] = lambda request: (request,)
        if settings.turns is not None:
            self._asked = replace(wording_of(settings), bounded=False).without_answers
        self._keep = None
        self._stack = contextlib.ExitStack()
        self._look_up: Callable[[Sequence[Request]], Collection[int]] | None = None
        self._quotes: dict[str, dict[str, Quoted | None]] = {}
        self._batches: dict[tuple[str, str], Price | None] = {}
        self._judgements: Sequence[OfAnswers] = ()
        if sampling is not None:
            turns = settings.turns is not None
            self._keep = _Keeping(sampling, streams=settings.stream, turns=turns)

    def __enter__(self) -> Self:
        if self.found.settings.reuse:
            self._look_up = self._answers_of_others()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _answers_of_others(self) -> Callable[[Sequence[Request]], Collection[int]]:
        from batchrun.rundir.reuse import lookup

        settings = self.found.settings
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="batchrun-estimate-"))
        answers = lookup.Reuse(settings, lookup.named(settings, ()), Path(folder))
        self._stack.callback(answers.close)
        answers.index(self.found.notices.append)
        return answers.look_up

    def judged_by(self, judgements: Sequence[OfAnswers]) -> None:
        """Let these counters count what the judges of the run will be asked."""
        self._judgements = judgements

    def add(self, requests: Sequence[Request | None], block: Block) -> None:
        """Requests of some rows of a block; None stands for a row that cannot be sent."""
        whole = [request for request in requests if request is not None]
        known = () if self._look_up is None else self._look_up(whole)
        self.found.rows += len(requests)
        self.found.bad += len(requests) - len(whole)
        self.found.reused += len(known)
        for request in whole:
            if request.row not in known:
                self._count(request)
        if self._judgements and whole:
            self._judge(whole, block)

    def _judge(self, requests: Sequence[Request], block: Block) -> None:
        """The answers to these requests will be judged, whoever gave them."""
        carried = None
        if block.carried:
            places = pa.array([request.row - block.first_row for request in requests], pa.int64())
            carried = part_schema.from_ipc(block.carried).take(places)
        for each in self._judgements:
            each.add(requests, carried)

    def count_judgement(self, request: Request, answer: Answers, verdict: Range) -> None:
        """The request of a judge, which shows an ``answer`` in each place of ``ANSWER``; its own
        answer is a ``verdict``.
        """
        text = request.body.decode()
        shown = answer.times(len(_PLACES.findall(text)))
        bare = _PLACES.sub("", text).encode()
        fields = msgspec.json.decode(bare)
        counted = prompt(fields, self._tokenizers.count(request.model))
        self._adder.add(request.model, fields, bare, counted, shown=shown, verdict=verdict)

    def _count(self, request: Request) -> None:
        size = 0.0
        count = self._tokenizers.count(request.model)
        for earlier, asked in enumerate(self._asked(request)):
            fields = msgspec.json.decode(asked.body)
            counted = prompt(fields, count)
            self._adder.add(asked.model, fields, asked.body, counted, earlier)
            size += counted.tokens
        if self._keep is not None:
            self._keep.offer(request, size)

    def ended(self, remarks: Sequence[str]) -> Estimate:
        """The estimate, once every row was added; ``remarks`` are those of the reader."""
        found = self.found
        found.models = self._adder.models
        found.notices.extend(remarks)
        for model in list(found.models)[:QUOTED_MAX]:
            found.quotes[model] = self._quoted(model)
        if self._keep is not None:
            found.strata = self._keep.sampler.strata()
        found.judges = {each.name: each.ended() for each in self._judgements}
        return found

    def _quoted(self, model: str) -> dict[str, Quoted | None]:
        if model not in self._quotes:
            if len(self._quotes) >= QUOTED_MAX:
                return {}
            self._quotes[model] = price_list.quotes(self.found.settings, model, self._wall_us)
        return self._quotes[model]

    def _batch(self, endpoint: str, model: str) -> Price | None:
        key = (endpoint, model)
        if key not in self._batches:
            if len(self._batches) >= QUOTED_MAX:
                return None
            found = self._quoted(model).get(endpoint)
            if found is None or found.batch is None:
                self._batches[key] = None
            else:
                given, output = found.batch
                quote = found.quote._replace(input=given, output=output)
                self._batches[key] = price(quote)
        return self._batches[key]


class _Keeping:
    """The sample while it is drawn."""

    def __init__(self, sampling: Sampling, *, streams: bool, turns: bool) -> None:
        self.sampler = Sampler(sampling.rows, random.Random(sampling.seed).randrange)
        self._aside = sampling.aside
        self._streams, self._turns = streams, turns

    def offer(self, request: Request, size: float) -> None:
        """Keep the request if it is drawn."""
        ticket = self.sampler.offer(request.model, size)
        if ticket is not None:
            self._aside.keep(ticket, request, size, streams=self._streams, turns=self._turns)
