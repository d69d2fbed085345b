"""Messages in a stream, where deltas should be.

Three kinds of servers send them: a last chunk repeats the whole answer (one-api, and gateways built
on it), every chunk has the answer so far (Perplexity), or the delta is called ``message``. Which
one it is shows by comparing: a message that says all that was said before, and maybe more, is the
answer so far and counts once. Where no delta says anything, any other message is a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from batchrun.core.reply.content import covers, says_anything

JsonObject = dict[str, Any]

EARLY_MAX = 4
"""So many messages that each say all of those before are the answer so far, and no pieces: two
pieces may be alike by chance ("ha", "ha")."""


class WholeMessages:
    """The messages of one choice. ``last`` is the answer that they make where they are no pieces;
    ``final`` says that the server calls it the completion.
    """

    __slots__ = ("_early", "_labelled", "_pieces_length", "final", "last")

    def __init__(self) -> None:
        self.last: JsonObject = {}
        self.final = False
        self._early: list[JsonObject] | None = []
        """Messages that may yet turn out to be pieces."""
        self._labelled = True
        """Whether every message so far was in a completion: then the name says nothing."""
        self._pieces_length: int | None = None
        """How much text the pieces have, once the messages are known to be pieces."""

    def not_alone(self) -> None:
        """Deltas have said something: these messages are no pieces."""
        if self._pieces_length is None:
            self._early = None

    def take(
        self, message: JsonObject, *, final: bool, told: Callable[[], JsonObject]
    ) -> Sequence[JsonObject]:
        """Take the next message; returns what turns out to be pieces of the answer, in order.
        ``told`` gives the message that deltas and pieces make so far.
        """
        begun = says_anything(self.last) or self._pieces_length is not None
        if not says_anything(message):
            self.last = self.last or message
            return ()
        self._labelled, final = (
            self._labelled and final,
            final and not (self._labelled and begun),
        )
        if self._pieces_length is not None:
            length = _length(message)
            if not final and (length < self._pieces_length or not covers(message, told())):
                self._pieces_length += length
                return (message,)
        elif self._early is not None and not final and not covers(message, self.last):
            pieces = [*self._early, message]
            self.last, self._early = {}, None
            self._pieces_length = sum(map(_length, pieces))
            return pieces
        if covers(message, self.last):
            self.last = message
        else:
            self.last, _ = merged(self.last, message, final=final)
        self.final = self.final or final
        if self._early is not None:
            self._early.append(message)
            if len(self._early) == EARLY_MAX:
                self._early = None
        return ()


def merged(told: JsonObject, said: JsonObject, *, final: bool) -> tuple[JsonObject, JsonObject]:
    """One message out of what was told so far and a message that says it again, field by field;
    and what is in neither of them because the two contradict each other.

    A field is taken from the message if it says all that was told. If it says something else, it
    counts where it is ``final``, and otherwise what was told stays.
    """
    found, left = dict(told), {}
    for key, value in said.items():
        before = told.get(key)
        if key == "role":
            continue
        if covers(value, before):
            found[key] = value
        elif not covers(before, value):
            if final:
                found[key] = value
            left[key] = before if final else value
    return found, left


def _length(message: JsonObject) -> int:
    """How much text a message has, roughly."""
    texts = (value for key, value in message.items() if key != "role")
    return sum(len(text) for text in texts if isinstance(text, str))
