"""The attempt loop for conversations: a row's turns one after the other, each an ordinary request.

A turn goes through ``AttemptLoop`` as a row without turns does: gate, retries, decision, budget,
ledger. The answer to every turn but the last becomes a ``Turn`` in the journal, and the request of
the next turn is made from it; the outcome of the last one, or of one that failed, is the row's.
Attempts are counted over the whole row, everything that is charged to a row over the turn.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import msgspec

from batchrun.core.request.conversation import OpenConversation, Wording, answer_of
from batchrun.engine.attempt import AttemptLoop
from batchrun.engine.lane import Way
from batchrun.engine.open_row import LaterError, RowRun, unsendable
from batchrun.errors import RowError
from batchrun.records import Conversation, Outcome, Turn

_encode = msgspec.json.Encoder().encode


class TurnLoop(AttemptLoop):
    """Sends the turns of rows until each row has an outcome."""

    def __init__(
        self,
        ways: Sequence[Way],
        *,
        wording: Wording,
        answered: MutableMapping[int, Sequence[Turn]],
        **parts: Any,
    ) -> None:
        """``wording`` makes the requests; ``answered`` has the turns that earlier sessions had
        answers to, by row, and loses those of the rows that begin. ``parts`` as for
        ``AttemptLoop``.
        """
        super().__init__(ways, **parts)
        self._wording = wording
        self._answered = answered

    async def first(self, run: RowRun) -> Outcome:
        """See ``AttemptLoop``; the first turn that has no answer yet is sent first."""
        talk = run.conversation = OpenConversation.of(run.request)
        talk.resume(self._answered.pop(run.request.row, ()))
        run.resumed_pd = talk.cost_pd or 0
        if (failed := self._ask(run, talk)) is not None:
            return failed
        return await self._through(run, await super().first(run))

    async def again(self, run: RowRun, later: LaterError) -> Outcome:
        """See ``AttemptLoop``."""
        while True:
            try:
                return await self._through(run, await super().again(run, later))
            except LaterError as still:
                later = still

    async def _through(self, run: RowRun, outcome: Outcome) -> Outcome:
        """The row's outcome, after this one of a turn. Raises ``LaterError`` as ``first`` does."""
        talk = run.conversation
        assert talk is not None
        while outcome.completion is not None and not talk.is_last:
            self._journal.post(_turn_of(run, talk, outcome))
            if (failed := self._ask(run, talk)) is not None:
                return failed
            outcome = await super().first(run)
        return self._whole(run, talk, outcome)

    def _ask(self, run: RowRun, talk: OpenConversation) -> Outcome | None:
        """Have the row send its next turn; its outcome where that cannot be sent."""
        talk.ask()
        try:
            run.take_turn(self._wording.request(talk), talk.answered + 1)
        except RowError as error:
            message = f"turn {talk.answered + 1}: {error}"
            return self._whole(run, talk, unsendable(talk.whole, message, run.number))
        return None

    def _whole(self, run: RowRun, talk: OpenConversation, outcome: Outcome) -> Outcome:
        """The outcome of the row, by that of its latest turn."""
        completion, attempt = outcome.completion, outcome.attempt
        if completion is None:
            # What the earlier turns cost was taken for answers of an ok row.
            self._tally.wasted_pd += (talk.cost_pd or 0) - run.resumed_pd
            if attempt is not None:
                talk.count(attempt.usage, attempt.cost_pd)
        else:
            assert attempt is not None
            self._tally.wasted_pd -= run.resumed_pd
            talk.take(answer_of(completion.first), completion.usage, attempt.cost_pd)
            completion = completion._replace(usage=talk.usage)
        run.conversation = None
        return outcome._replace(
            completion=completion,
            conversation=Conversation(talk.text(), talk.usage, talk.cost_pd),
        )


def _turn_of(run: RowRun, talk: OpenConversation, outcome: Outcome) -> Turn:
    """A turn that was answered, for the journal; the conversation takes the answer."""
    completion, attempt = outcome.completion, outcome.attempt
    assert completion is not None
    assert attempt is not None
    answer, usage = answer_of(completion.first), completion.usage
    talk.take(answer, usage, attempt.cost_pd)
    return Turn(
        run.request.row,
        talk.answered,
        talk.whole.hash,
        _encode(answer),
        usage,
        attempt.cost_pd,
        attempt,
    )
