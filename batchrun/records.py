"""The records that pass through the pipeline, each immutable.

``Row`` leaves the source, becomes a ``Request``, is answered by a ``Reply`` in one or more
``Attempt``s, and ends as an ``Outcome``. Times on the wall are integers in microseconds since the
epoch (UTC); durations are float seconds.

What is made for every row is a ``NamedTuple``: built in half the time of a frozen dataclass, and
written to the journal as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

JsonObject = dict[str, Any]


class Position(NamedTuple):
    """Where a row starts in the input.

    ``file`` counts the input files from 0; ``offset`` is a byte offset in JSONL and a row number
    in Parquet; ``line`` is the line (from 0) at that offset, the same as ``offset`` in Parquet.
    """

    file: int = 0
    offset: int = 0
    line: int = 0


class Row(NamedTuple):
    """One input record. ``number`` counts from 0 over all files in input order.

    ``body`` is the request body as far as the row gives it. A row that cannot be sent has a
    sentence in ``problem`` and no body. ``file`` and ``line`` are the number of the file, and the
    line in it (from 1; the row from 0 in Parquet).
    """

    number: int
    custom_id: str | None
    body: JsonObject | None
    problem: str | None = None
    size_bytes: int = 0
    file: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of one shard, as the source yields them.

    ``carried`` holds the rows' carried columns as one Arrow IPC stream. ``rows_read`` and
    ``digest`` fingerprint the shard's input from its first row to the end of this block, which is
    where ``end`` points.
    """

    shard: int
    first_row: int
    rows: tuple[Row, ...]
    carried: bytes
    rows_read: int
    digest: bytes
    end: Position

    @property
    def size_bytes(self) -> int:
        """The approximate size of the block in memory."""
        return len(self.carried) + sum(row.size_bytes for row in self.rows)


class Expected(NamedTuple):
    """The requirements of a request on its answer that are checked.

    ``json`` is whether the content must be JSON, and ``schema`` is the text of the JSON Schema that
    it must match. ``tools`` has the text of the parameters' schema (None: any) by the name of the
    tool, and is None if tool calls are not checked.
    """

    json: bool = False
    schema: bytes | None = None
    tools: Mapping[str, bytes | None] | None = None


class WorstCase(NamedTuple):
    """The most that a request can cost: tokens in and out, over all its choices, and the requested
    service tier.
    """

    input_tokens: int
    output_tokens: int
    tier: str | None = None

    @property
    def tokens(self) -> int:
        """Both together."""
        return self.input_tokens + self.output_tokens


class Request(NamedTuple):
    """A body ready for the wire: serialised once, hashed once.

    ``body`` is canonical: top-level keys sorted, compact, UTF-8, everything below in the order
    given (the order of a JSON Schema's properties can change an answer). ``hash`` is its SHA-256 in
    hex. ``tokens`` estimates prompt plus completion, for the token rate limit; ``tokens_stated`` is
    whether the body itself limits the completion. ``expected`` is what the answer is checked
    against, None without checks; ``worst`` is its maximum cost, None if not needed.
    """

    row: int
    custom_id: str | None
    body: bytes
    hash: str
    model: str
    tokens: int
    tokens_stated: bool = False
    expected: Expected | None = None
    worst: WorstCase | None = None


class Reply(NamedTuple):
    """What came back from one exchange, whatever its status. ``headers`` ignores case.

    A streamed answer is folded into the plain ``body`` that it stands for; ``ttft_s`` is then the
    time from sending to the first output of the model.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    ttft_s: float | None = None


class Usage(NamedTuple):
    """Token counts as the server reported them; None if it did not, never 0 instead.

    Fields are added at the end: a log of an earlier version only has the first ones.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None


NO_USAGE = Usage()
"""The usage if the server reported nothing."""


class ToolCall(NamedTuple):
    """One tool call; ``arguments`` is the text as sent, valid JSON or not."""

    id: str | None
    type: str | None
    name: str | None
    arguments: str | None


class Choice(NamedTuple):
    """One answer of a completion. ``logprobs`` is JSON text."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which is never called
    content: str | None
    reasoning: str | None
    refusal: str | None
    finish_reason: str | None
    tool_calls: tuple[ToolCall, ...] | None
    logprobs: str | None


class Media(NamedTuple):
    """An image, a sound or a file in an answer. ``kind`` is ``image``, ``audio``, ``video`` or
    ``file``; ``mime`` its media type if the server named it. Either ``data`` has its bytes, or
    ``file`` its place: a file in the run directory, or the address that the server gave.
    """

    kind: str
    mime: str | None
    data: bytes | None
    file: str | None = None


class Completion(NamedTuple):
    """A chat completion. ``first`` is the choice with the lowest index, which fills the flat result
    columns; ``choices`` is kept only if there are several, or logprobs; ``media`` is the content
    besides text.
    """

    first: Choice
    choices: tuple[Choice, ...] | None
    model: str | None
    response_id: str | None
    system_fingerprint: str | None
    service_tier: str | None
    created_s: int | None
    usage: Usage
    media: tuple[Media, ...] | None = None


class Failure(NamedTuple):
    """Why a row has no completion: class of the contract, the server's code, a bounded message."""

    error_class: str
    code: str | None
    message: str


class Attempt(NamedTuple):
    """One physical exchange: a line of the ledger.

    ``error_class`` is None for the attempt that succeeded. ``unanswered`` marks a request that may
    have reached the server without a whole answer coming back: it may have been billed. ``cost_pd``
    is in picodollars (``core.cost.money``), None if it is not known; ``billed_from`` names the
    reading that priced it (``core.cost.billing``). ``usage_raw`` is the server's usage object, as
    JSON text. ``decided_by`` names the steps that decided what became of the row
    (``core.verdict.trail``); None if an earlier version, or a repair, wrote the line. ``turn`` is
    the turn of the row's conversation, from 1; None without conversations, or if not known.
    """

    row: int
    number: int
    endpoint: str
    model: str | None
    service_tier: str | None
    started_at_us: int
    queue_s: float
    latency_s: float
    http_status: int | None
    error_class: str | None
    error_code: str | None
    retry_after_s: float | None
    usage: Usage
    cost_pd: int | None
    request_id: str | None
    unanswered: bool
    ttft_s: float | None = None
    usage_raw: str | None = None
    billed_from: str | None = None
    decided_by: str | None = None
    turn: int | None = None


class Turn(NamedTuple):
    """A turn of a conversation that was answered, and is not the last one.

    ``number`` counts from 1. ``message`` is the answer as the later turns send it back, in JSON;
    ``usage`` and ``cost_pd`` are those of the turn. ``attempt`` is its exchange; the ledger has it
    separately, so a turn that is read back has None. ``request_hash`` is that of the whole
    conversation.
    """

    row: int
    number: int
    request_hash: str
    message: bytes
    usage: Usage
    cost_pd: int | None
    attempt: Attempt | None = None


class Conversation(NamedTuple):
    """How the conversation of a row went: all messages as JSON text, and the total usage and cost
    of its answers (``cost_pd`` is None while no cost is known); for a failed one, including its
    last exchange.
    """

    messages: str
    usage: Usage
    cost_pd: int | None


class Reused(NamedTuple):
    """The origin of a reused answer.

    ``origin`` is ``RUN:ROW``: the id of the run whose endpoint gave the answer, and its row there.
    ``attempt`` is the exchange as that run recorded it, at no cost: it is not a line of this run's
    ledger.
    """

    origin: str
    attempt: Attempt


class Outcome(NamedTuple):
    """The final state of a row: a completion or a failure, never both (the journal refuses it).

    ``attempt`` is the exchange that decided it (None for a row that was never sent); earlier
    exchanges reach the journal on their own. ``response`` is the reply's text as it will be stored;
    ``model_asked`` the model that the deciding request named. A row that took the answer of another
    run has ``reused`` and no ``attempt``. ``body`` is the request's body if the session keeps it
    (``--requests``): empty if it only keeps those of other rows, None if it keeps none.
    ``conversation`` is set for rows with turns (``--turns``) that were sent; the usage of their
    completion is the sum over the turns.
    """

    row: int
    custom_id: str | None
    completion: Completion | None
    failure: Failure | None
    attempts: int
    attempt: Attempt | None
    request_hash: str | None
    response: str | None
    model_asked: str | None = None
    reused: Reused | None = None
    body: bytes | None = None
    conversation: Conversation | None = None

    @property
    def ok(self) -> bool:
        """Whether the row has a completion."""
        return self.completion is not None


class ReusedRows(NamedTuple):
    """The outcomes of ``rows`` consecutive rows, the first of them ``row``, that all took the
    answers of another run: instead of an ``Outcome`` each. ``results`` is an Arrow IPC stream of
    their fixed columns of results; those that are null throughout may be left out.
    """

    row: int
    rows: int
    results: bytes


Entry = Outcome | Attempt | Turn | Block | ReusedRows
"""The entries that a running session makes in the journal."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """The journal's record of one shard.

    ``rows_read``, ``digest`` and ``end`` fingerprint the input read so far; ``generation`` counts
    the parts published (0: none yet); ``complete`` is whether the part has every row.
    """

    shard: int
    rows_read: int
    digest: bytes
    end: Position
    generation: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier sessions left of a shard: the rows with a final outcome, and the last attempt
    number of rows that have none yet or are sent again.

    ``recorded`` is whether the shard's input was read to its end and its parts have every row: a
    block of it without a row to send needs no record. ``kept`` has rows that are sent again and
    keep their answer unless the new one is better: the flaws that the new one may have.
    """

    done: Collection[int]
    attempts: Mapping[int, int]
    recorded: bool = False
    kept: Mapping[int, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """Shards ``first`` to ``last`` (both included; None: to the input's end), starting at
    ``start``.
    """

    first: int
    last: int | None
    start: Position


class Reception(Enum):
    """How a server received a request, as evidence of its capacity."""

    ANSWERED = "answered"
    REFUSED = "refused"
    REFUSED_AT_ONCE = "refused_at_once"
    """It was refused, and the server named the requests in flight as the reason."""
    OVERLOADED = "overloaded"
    OTHER = "other"
    """It failed in a way that says nothing about capacity, such as an invalid request."""

    @property
    def refused(self) -> bool:
        """Whether the server refused it for now."""
        return self in {Reception.REFUSED, Reception.REFUSED_AT_ONCE}
