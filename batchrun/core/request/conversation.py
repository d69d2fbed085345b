"""Conversations (``--turns``): a row's user turns, and the requests that they become one by one.

The request of such a row is the whole conversation as far as the input gives it: a body with the
messages in front and, under ``turns``, everything the user is going to say. Its hash covers both.
What is sent is made from it turn by turn, with the answers so far in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchrun.core.request import tokens
from batchrun.core.request.worst_case import worst_case
from batchrun.errors import BodyTooLargeError, RowError
from batchrun.records import Choice, Expected, JsonObject, Request, Row, ToolCall, Turn, Usage

TURNS = "turns"
"""The key of a conversation's body that holds the user's turns. No server gets to see it."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def whole(
    row: Row,
    *,
    of_turn: Callable[..., Request],
    body_bytes_max: int,
    earlier: bool = False,
) -> Request:
    """The request of a conversation: body and hash are those of the whole, everything else (model,
    tokens, worst case, what the answer is held against) is that of its first turn.

    ``of_turn`` makes a request of a row without turns (``body.build``); ``earlier`` is passed on
    to it. Raises ``RowError``.
    """
    if row.problem is not None or row.body is None or TURNS not in row.body:
        raise RowError(row.problem or "the row holds no turns")
    body = {key: value for key, value in row.body.items() if key != TURNS}
    turns, front = row.body[TURNS], body.get("messages")
    front = [] if front is None else front
    if not isinstance(front, list):
        return of_turn(row._replace(body=body), earlier=earlier)  # which says what is wrong
    first = of_turn(row._replace(body=body | {"messages": [*front, turns[0]]}), earlier=earlier)
    fields = msgspec.json.decode(first.body, type=dict[str, msgspec.Raw])
    try:
        fields["messages"], fields[TURNS] = msgspec.Raw(_encode(front)), msgspec.Raw(_encode(turns))
    except UnicodeEncodeError:
        message = "the turns hold half of a surrogate pair, which is not valid text"
        raise RowError(message) from None
    except (OverflowError, TypeError, RecursionError) as error:
        message = f"the turns cannot be written as JSON: {error}"
        raise RowError(message) from None
    wire = _encode(dict(sorted(fields.items())))
    if len(wire) > body_bytes_max:
        raise BodyTooLargeError(len(wire), body_bytes_max)
    return first._replace(body=wire, hash=hashlib.sha256(wire).hexdigest())


def answer_of(choice: Choice) -> JsonObject:
    """What the model said, as the message that the next turns send back: text and tool calls.

    A refusal goes back as text, which every server takes. Reasoning does not go back: chat
    templates drop it, and DeepSeek's R1 refuses a request that has it (its guide to reasoning
    models: "remove reasoning_content before making the API request").
    """
    content = choice.content if choice.content is not None else choice.refusal
    calls = choice.tool_calls
    if not calls:
        return {"role": "assistant", "content": content or ""}
    return {"role": "assistant", "content": content, "tool_calls": [_call(one) for one in calls]}


def _call(call: ToolCall) -> JsonObject:
    named: JsonObject = {} if call.id is None else {"id": call.id}
    if call.type == "custom":
        return named | {"type": "custom", "custom": {"name": call.name, "input": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments or ""}
    return named | {"type": call.type or "function", "function": function}


@dataclass(slots=True)
class OpenConversation:
    """A conversation that is going on: what is said so far, and what the answers took.

    ``whole`` is the request of its row. ``messages`` are those of the latest request, and its
    answer once there is one; ``usages`` and ``cost_pd`` (picodollars, None while none is known)
    are of the answered turns.
    """

    whole: Request
    parameters: JsonObject
    turns: list[JsonObject]
    messages: list[JsonObject]
    answered: int = 0
    usages: list[Usage] = field(default_factory=list)
    cost_pd: int | None = None

    @classmethod
    def of(cls, request: Request) -> OpenConversation:
        """The conversation that a row's request begins."""
        fields = _decode(request.body)
        turns, messages = fields.pop(TURNS), fields.pop("messages")
        return cls(request, fields, turns, messages)

    @property
    def is_last(self) -> bool:
        """Whether the turn that is next is the last one."""
        return self.answered + 1 >= len(self.turns)

    def resume(self, durable: Sequence[Turn]) -> None:
        """Take the turns that an earlier session had answers to: those of this conversation that
        come one after the other from the first. The last turn is never among them.
        """
        for turn in durable:
            fits = turn.request_hash == self.whole.hash and turn.number == self.answered + 1
            if not fits or self.is_last:
                return
            self.messages.append(self.turns[self.answered])
            self.take(_decode(turn.message), turn.usage, turn.cost_pd)

    def ask(self) -> None:
        """The user takes the next turn."""
        self.messages.append(self.turns[self.answered])

    def take(self, answer: JsonObject, usage: Usage, cost_pd: int | None) -> None:
        """The model's answer to the turn."""
        self.messages.append(answer)
        self.answered += 1
        self.count(usage, cost_pd)

    def count(self, usage: Usage, cost_pd: int | None) -> None:
        """Add what an exchange took."""
        self.usages.append(usage)
        if cost_pd is not None:
            self.cost_pd = (self.cost_pd or 0) + cost_pd

    @property
    def usage(self) -> Usage:
        """The sums of what the server reported; None where it reported nothing."""
        return summed(self.usages)

    def text(self) -> str:
        """The messages as JSON text."""
        return _encode(self.messages).decode()


def summed(usages: Sequence[Usage]) -> Usage:
    """Token counts added up, each over the exchanges that reported it."""
    counts = zip(*usages, strict=True) if usages else ()
    known = ([count for count in column if count is not None] for column in counts)
    return Usage(*(sum(column) if column else None for column in known))


@dataclass(frozen=True, slots=True)
class Wording:
    """Makes the requests of conversations. ``schema`` is the ``response_format`` of the run's
    ``--schema``, which only the last turn asks for; the others as for ``body.build``.
    """

    body_bytes_max: int
    schema: JsonObject | None = None
    bounded: bool = False
    raised_to: int | None = None

    def request(self, conversation: OpenConversation) -> Request:
        """The request of the turn that is asked now. Its hash is that of the whole. Raises
        ``RowError`` where it cannot be sent.
        """
        body, asked = dict(conversation.parameters), conversation.whole
        expected = asked.expected
        if self._waits_for_the_end(conversation):
            del body["response_format"]
            tools = None if expected is None else expected.tools
            expected = None if tools is None else Expected(tools=tools)
        body["messages"] = conversation.messages
        wire = _encode(dict(sorted(body.items())))
        if len(wire) > self.body_bytes_max:
            raise BodyTooLargeError(len(wire), self.body_bytes_max)
        limit = tokens.stated_limit(body)
        return asked._replace(
            body=wire,
            tokens=tokens.estimate(body, len(wire), limit),
            tokens_stated=limit is not None,
            expected=expected,
            worst=worst_case(body, wire, raised_to=self.raised_to) if self.bounded else None,
        )

    def first(self, whole: Request) -> Request:
        """The request that a conversation begins with."""
        conversation = OpenConversation.of(whole)
        conversation.ask()
        return self.request(conversation)

    def without_answers(self, whole: Request) -> Iterator[Request]:
        """The request of every turn, without the answers that are not there yet, which each has
        in front of the user's turn.
        """
        conversation = OpenConversation.of(whole)
        for _ in conversation.turns:
            conversation.ask()
            yield self.request(conversation)
            conversation.answered += 1

    def _waits_for_the_end(self, conversation: OpenConversation) -> bool:
        if self.schema is None or conversation.is_last:
            return False
        given: Any = conversation.parameters.get("response_format")
        return bool(given == self.schema)
