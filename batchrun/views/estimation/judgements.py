"""What the judges of a run (``[judge.NAME]``) will be asked, before there is an answer to judge.

Each judgement is made as the judge's own run makes it, by its templates, and counted as any request
is; where a template shows an answer, the tokens of the answer that is expected are added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import pyarrow as pa

from batchrun.adapters.environment.configuration import read_environment
from batchrun.core.estimate.estimating import answer_to
from batchrun.core.estimate.verdicts import verdict_tokens
from batchrun.core.request import body
from batchrun.core.request import prompt as prompts
from batchrun.core.schema.response_format import schema_of
from batchrun.core.settings.resolve import Settings
from batchrun.errors import NoModelError, RowError, UsageError
from batchrun.records import Request, Row
from batchrun.rundir.chain.assumed_rows import AssumedRows
from batchrun.rundir.judges.prepare import JudgeRun, prepare, require_other, require_templates
from batchrun.views.estimation.counting import Estimate, Estimating


class Judgements:
    """Counts what one judge will be asked about the answers to the requests of a run."""

    def __init__(self, run: JudgeRun, carried: pa.Schema) -> None:
        """``carried`` are the columns that the results of the run carry. Raises ``UsageError`` for
        a template that names what the answers will not have.
        """
        require_templates(run, carried)
        settings = run.settings
        plan = prompts.plan(settings)
        assert plan is not None  # a judge has a prompt
        self.name = run.judge.name
        self._key = run.judge.key
        self._estimating = Estimating(settings)
        self._rows = AssumedRows(plan, carried)
        self._build = body.builder(replace(settings, max_cost_pd=None, max_total_tokens=None))
        self._verdict = verdict_tokens(schema_of(settings.schema))
        self._problem: str | None = None

    def add(self, requests: Sequence[Request], carried: pa.Table | None) -> None:
        """The answers to these requests will be judged. ``carried`` is what their rows carry."""
        bodies = [msgspec.json.decode(request.body) for request in requests]
        rows = self._rows.of(requests, [fields.get("messages") for fields in bodies], carried)
        for row, fields in zip(rows, bodies, strict=True):
            self._estimating.found.rows += 1
            request = self._request(row)
            if request is not None:
                self._estimating.count_judgement(request, answer_to(fields), self._verdict)

    def _request(self, row: Row) -> Request | None:
        """The request of a judgement; None where it cannot be made."""
        try:
            return self._build(row)
        except NoModelError as error:
            message = f"{self._key}: {error}"
            raise UsageError(message) from None
        except RowError as error:
            self._estimating.found.bad += 1
            self._problem = self._problem or str(error)
            return None

    def ended(self) -> Estimate:
        """The estimate, once every request was added."""
        found = self._estimating.ended(())
        if found.bad:
            found.notices.append(
                f"{found.bad:,} of its prompts cannot be made before there are answers, and are in "
                f"no figure: {self._problem}"
            )
        return found


def judgements(
    settings: Settings, carried: pa.Schema, say: Callable[[str], None]
) -> list[Judgements]:
    """What counts the judgements of each judge of a run. Raises ``UsageError`` for a judge that
    cannot be.
    """
    environment = read_environment()
    found = []
    for judge in settings.evaluation.judges:
        run, warnings = prepare(judge, settings.dir, settings.checkpoint, environment)
        for warning in warnings:
            say(f"{judge.key}: {warning}")
        try:
            require_other(run, [settings.one_model])
        except UsageError as error:
            say(str(error))
        found.append(Judgements(run, carried))
    return found
