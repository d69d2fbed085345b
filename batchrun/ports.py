"""The seams: what the engine needs from the outside world, with each promise in prose.

Every protocol has a public fake in ``batchrun.testing`` and one exam in ``tests/contracts`` for the
fake and the real one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from batchrun.records import NO_USAGE

if TYPE_CHECKING:
    from batchrun.records import (
        Block,
        Entry,
        Outcome,
        Reception,
        Reply,
        Request,
        ReusedRows,
        Span,
        Usage,
    )


class Source(Protocol):
    """The input, read ahead of the engine in bounded memory."""

    def blocks(self, spans: Iterable[Span]) -> AsyncIterator[Block]:
        """Yield the blocks of the given spans in input order.

        A block never crosses a shard's border. A bad row is yielded with its problem; an input
        that can no longer be read raises ``InputLostError``.
        """
        ...


class Transport(Protocol):
    """One HTTP exchange, neither retried nor judged."""

    remark: str | None
    """A warning about the way requests are sent, if there is one."""

    def resize(self, concurrency: int) -> None:
        """Allow ``concurrency`` exchanges at once from now on, and keep no more connections."""
        ...

    async def send(self, request: Request) -> Reply:
        """Return the reply, whatever its status.

        Raises ``TransportFault`` if no whole reply came, and ``LocalServerError`` if the
        server was started by this run and has ended. Cancelling leaves nothing open.
        """
        ...


class Credentials(Protocol):
    """The key of one endpoint, which may be renewed while requests are out."""

    generation: int
    """Number of the key in use; it changes when the key does."""

    async def renew(self, used: int, *, proved: bool) -> bool:
        """Renew the key after a request with the key of generation ``used`` was refused. Return
        whether another key is in use now, so that it is worth sending the request again.

        ``proved`` is true if some request with that key was answered: a renewed key that never
        worked is not renewed again. One renewal runs at a time, for all callers; cancelling a
        caller does not end it. Raises ``KeyUnavailableError`` if no key can be found.
        """
        ...


class Permit(Protocol):
    """The right to one exchange, settled exactly once by leaving its ``with`` block.

    ``probe`` is true if the gate is held and this is the one exchange that checks whether the
    endpoint is back.
    """

    queue_s: float
    probe: bool

    def settle(self, tokens: int | None, usage: Usage = NO_USAGE) -> None:
        """Charge the tokens that the exchange actually used, by the server's ``usage``; 0: the
        server charged nothing; None: unknown, and the estimate stays.
        """
        ...

    def observed(
        self, reception: Reception, *, sent_at_s: float, latency_s: float, tokens: int | None
    ) -> None:
        """Report the result of the exchange while the permit is held: ``sent_at_s`` (loop time) is
        when it went out, ``tokens`` the answer's completion tokens, if reported.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Gate(Protocol):
    """The limits of one endpoint: concurrency, requests and tokens per minute, cool-down."""

    changed: Callable[[], None] | None
    """Called when an exchange may enter sooner than ``ready_in_s`` returned."""
    concurrency: int
    """Number of permits."""
    rpm: float | None
    tpm: float | None
    """Limits on requests and tokens per minute; None: no limit."""

    resized: Callable[[int], None] | None
    """Called with the number of permits after it has changed."""

    def window(self) -> dict[str, Any] | None:
        """The concurrency and the rate found for the server, as data; None if neither is searched
        for.
        """
        ...

    @property
    def load(self) -> float:
        """The share of the permits that are held."""
        ...

    @property
    def ready_in_s(self) -> float:
        """Seconds until an exchange may enter without queueing (apart from its turn by the rates),
        or be the probe while the gate is held; 0: now; infinite: wait for ``changed``.
        """
        ...

    @property
    def paced(self) -> bool:
        """Whether an exchange may still have to wait after that, because of the rates."""
        ...

    @property
    def cooling_s(self) -> float:
        """Seconds until exchanges may enter again after a refusal by the server."""
        ...

    @property
    def in_flight(self) -> int:
        """Number of permits held, by exchanges that were sent and by ``waiting`` ones."""
        ...

    @property
    def waiting(self) -> int:
        """Exchanges that have a permit and may not be sent yet: ``bound_by`` says what for."""
        ...

    @property
    def bound_by(self) -> str | None:
        """What holds requests back right now; None if the gate does not."""
        ...

    @property
    def storm(self) -> bool:
        """Whether a refusal of an exchange in flight would count for all rows."""
        ...

    def resize(self, concurrency: int) -> None:
        """Set the number of permits, whatever the server could take. If more are held, no exchange
        enters until enough have been returned; none is revoked.
        """
        ...

    def pause(self) -> None:
        """Let no exchange enter until ``go_on``; those in flight continue."""
        ...

    def go_on(self) -> None:
        """End the pause."""
        ...

    def set_rpm(self, rpm: float | None) -> None:
        """Set the limit on requests per minute, also for those already waiting."""
        ...

    def set_tpm(self, tpm: float | None) -> None:
        """Set the limit on tokens per minute, also for those already waiting."""
        ...

    async def enter(self, tokens: int, request: Request | None = None) -> Permit:
        """Return when an exchange of about ``tokens`` tokens may be sent; with ``request``, by the
        tokens that this endpoint charges for it. First come, first served; a cancelled waiter
        leaves no trace.
        """
        ...

    def cool_down(self, wait_s: float | None, *, sent_at_s: float, for_all: bool = False) -> bool:
        """Report that the server refused a request for now. Returns whether the refusal counts for
        all rows: then no exchange enters for ``wait_s`` seconds (None: the gate chooses).
        Otherwise only the refused row has to wait. ``for_all`` makes it count for all rows.

        ``sent_at_s`` (loop time) is when the refused request went out: if the gate chooses the
        wait, a request from before the current cool-down does not lengthen it.
        """
        ...

    def heard(self, reply: Reply | None, *, sent_at_s: float) -> None:
        """Report the reply to a request that went out at ``sent_at_s`` (loop time); None: no reply.

        Limits in its headers slow down what enters, and never let in more than the gate's own
        limits. Invalid headers are ignored.
        """
        ...

    def limits_told(self) -> list[dict[str, Any]]:
        """The limits that the server reported last, as data."""
        ...

    def hold(self, wait_s: float) -> None:
        """Hold the gate because the endpoint is down: until ``open``, only one probe at a time
        enters, the first after ``wait_s`` seconds. Called again after a probe, it sets the next
        wait.
        """
        ...

    def open(self) -> None:
        """Open the gate because the endpoint is back: waiting exchanges enter gradually."""
        ...


Durable = Callable[["Entry", "Exception | None"], None]
"""Called in the event loop with an entry once it would survive a power cut, or with what broke."""


class Journal(Protocol):
    """The durable store of the outcomes of rows whose part is not published yet."""

    def post(self, entry: Entry, then: Durable | None = None) -> None:
        """Take an entry; ``then`` is called once it would survive a power cut.

        Entries become durable in the order given. An ``Attempt`` is one that decided nothing: a
        failed exchange of a row that is still open. A ``Turn`` and its attempt become durable
        together. After a failed write, every entry not durable
        yet and every later one is refused with the same error.
        """
        ...

    def sending(self, row: int, attempt: int, endpoint: int, started_at_us: int) -> None:
        """Note, without waiting, that a request is sent now. After a kill the note shows attempts
        whose answer was not recorded; a power cut may lose it.
        """
        ...

    async def flush(self) -> None:
        """Return when everything posted so far is durable, or raise what broke."""
        ...

    @property
    def backlog_bytes(self) -> int:
        """Bytes held for shards whose part is not published; too many make the feeder wait."""
        ...


class Answers(Protocol):
    """Answers from other runs."""

    async def known(
        self, requests: Sequence[Request], *, together: bool = False
    ) -> Mapping[int, Outcome] | ReusedRows:
        """The outcomes of the requests that were answered before, by row, ready for the journal.
        With ``together``, they may be ``ReusedRows`` if all were answered.

        Raises ``StorageError`` if an answer cannot be read any more.
        """
        ...


class Publisher(Protocol):
    """Turns a shard's journal records into its Parquet parts."""

    async def publish(self, shard: int, *, complete: bool) -> None:
        """Return when the shard's parts are durable under their names and the journal knows.

        Old parts and the journal's records are merged; the journal wins. ``complete`` promises
        that every row of the shard has an outcome. Raises ``StorageError``; then nothing was
        taken out of the journal.
        """
        ...


class ClaimStore(Protocol):
    """Small records that the processes of a fleet share: on a disk that all of them see, or in an
    object store. Names are ``FOLDER/NAME``. Raises ``StorageError`` if it cannot be reached.
    """

    def create(self, name: str, content: bytes) -> bool:
        """Create a record; it would survive a power cut when this returns. Of any number of callers
        one gets True, and the others False. The content must be unique to the caller: a call that
        is repeated because its answer was lost gets True for its own record.
        """
        ...

    def put(self, name: str, content: bytes) -> float:
        """Write a record that has no other writer. Returns the store's time of it, in seconds."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a record; None if it does not exist."""
        ...

    def written_s(self, name: str) -> float | None:
        """When a record was written last, in seconds by the store's clock; None if it does not
        exist.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a record; a missing one is no error."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names in a folder, in order: of every record that existed before the call."""
        ...


class Observer(Protocol):
    """A callback that watches a run."""

    def __call__(self, event: object) -> None:
        """Handle an event, quickly. Exceptions are counted and shown at the end; they never break
        a row.
        """
        ...


class Clock(Protocol):
    """Time, replaceable in tests."""

    missed_s: float
    """Seconds of ``now_s`` in which this process did not run: it was stopped, or its loop busy."""
    slept_s: float
    """Seconds for which the machine slept; ``now_s`` does not count them."""

    def now_s(self) -> float:
        """Monotonic seconds, the event loop's time."""
        ...

    def wall_us(self) -> int:
        """Microseconds since the epoch, UTC."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        ...
