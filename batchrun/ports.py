"""The seams: what the engine needs of the outside world, each promise in prose.

Every protocol has a public fake in ``batchrun.testing`` and one exam in ``tests/contracts`` that
the fake and the real one both sit.
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
        """So many exchanges may be out at once from now on."""
        ...

    async def send(self, request: Request) -> Reply:
        """Return the reply, whatever its status.

        Raises ``TransportFault`` where no whole reply came, and ``LocalServerError`` where the
        server was started by this run and has ended. Cancelling leaves nothing open.
        """
        ...


class Credentials(Protocol):
    """The key of one endpoint, which may be renewed while requests are out."""

    generation: int
    """Counts the keys: it is another number once another key is in use."""

    async def renew(self, used: int, *, proved: bool) -> bool:
        """A request that went out with the key of generation ``used`` was refused for it. Return
        whether another key is in use now, so that sending again is worth it.

        ``proved`` says that some request with that key had an answer: a renewed key that never
        had one is not renewed again. One renewal runs at a time, for all that ask; being cancelled
        does not end it. Raises ``KeyUnavailableError`` where there is no key to be had.
        """
        ...


class Permit(Protocol):
    """The right to one exchange, settled exactly once by leaving its ``with`` block.

    ``probe`` says that the gate is held, and this is the one exchange that may find out whether
    the endpoint is back.
    """

    queue_s: float
    probe: bool

    def settle(self, tokens: int | None, usage: Usage = NO_USAGE) -> None:
        """Say how many tokens the exchange really used, by the server's ``usage``; 0: the server
        charged nothing; None: unknown, and the estimate stands.
        """
        ...

    def observed(
        self, reception: Reception, *, sent_at_s: float, latency_s: float, tokens: int | None
    ) -> None:
        """Say what became of the exchange, while the permit is held: it went out at ``sent_at_s``
        (loop time), and its answer has so many completion tokens, if it told.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Gate(Protocol):
    """The limits of one endpoint: concurrency, requests and tokens per minute, cool-down."""

    changed: Callable[[], None] | None
    """Called where somebody may enter sooner than ``ready_in_s`` said."""
    concurrency: int
    """Permits that there are."""
    rpm: float | None
    tpm: float | None
    """Requests and tokens per minute that are let in; None: as many as come."""

    resized: Callable[[int], None] | None
    """Called with the number of permits once it has changed."""

    def window(self) -> dict[str, Any] | None:
        """What was found of the concurrency and the rate that the server takes, as data; None
        where neither is looked for.
        """
        ...

    @property
    def load(self) -> float:
        """The share of the permits that are held."""
        ...

    @property
    def ready_in_s(self) -> float:
        """Seconds until an exchange may enter without standing in line (its turn by the rates
        aside), or be the probe while the gate is held; 0: now; infinite where only ``changed``
        will tell.
        """
        ...

    @property
    def paced(self) -> bool:
        """Whether it may then take a while all the same, for the rates."""
        ...

    @property
    def cooling_s(self) -> float:
        """Seconds for which nobody enters, because the server refused."""
        ...

    @property
    def in_flight(self) -> int:
        """Permits held."""
        ...

    @property
    def bound_by(self) -> str | None:
        """What holds requests back right now, None where nothing here does."""
        ...

    @property
    def storm(self) -> bool:
        """Whether an exchange that holds its permit, if the server refuses it, is refused for
        everybody.
        """
        ...

    def resize(self, concurrency: int) -> None:
        """There are so many permits from now on, whatever the server could take. Where more are
        held, nobody enters until enough have come back; none is taken away.
        """
        ...

    def pause(self) -> None:
        """Nobody enters until ``go_on``; who is in stays in."""
        ...

    def go_on(self) -> None:
        """The pause is over."""
        ...

    def set_rpm(self, rpm: float | None) -> None:
        """Let in so many requests per minute from now on, also of those who wait already."""
        ...

    def set_tpm(self, tpm: float | None) -> None:
        """Let in so many tokens per minute from now on, also of those who wait already."""
        ...

    async def enter(self, tokens: int, request: Request | None = None) -> Permit:
        """Return when an exchange of about this many tokens may be sent, by what its request may
        cost at this endpoint where it is given. First come, first served; a cancelled waiter
        leaves no trace.
        """
        ...

    def cool_down(self, wait_s: float | None, *, sent_at_s: float, for_all: bool = False) -> bool:
        """The server refused a request for now. Returns whether that is everybody's: then nobody
        enters for ``wait_s`` seconds (None: as long as seems wise). Else it is only the refused
        row's, which is to stay away by itself. ``for_all`` says that it is everybody's.

        ``sent_at_s`` (loop time) is when the refused request went out: where the wait is guessed,
        news older than the present cool-down does not lengthen it.
        """
        ...

    def heard(self, reply: Reply | None, *, sent_at_s: float) -> None:
        """A reply came to a request that went out at ``sent_at_s`` (loop time); None: none came.

        Its headers may tell limits of the server. They slow down what enters, and never let more
        enter than was asked for when the gate was made. Junk in them is no error.
        """
        ...

    def limits_told(self) -> list[dict[str, Any]]:
        """The limits that were told last, as data."""
        ...

    def hold(self, wait_s: float) -> None:
        """The endpoint is down: nobody enters until ``open``, but for one probe at a time, the
        first of them after ``wait_s`` seconds. Said again after a probe, it sets the next wait.
        """
        ...

    def open(self) -> None:
        """The endpoint is back: those who wait enter, not all at once."""
        ...


Durable = Callable[["Entry", "Exception | None"], None]
"""Called in the event loop with an entry once it would survive a power cut, or with what broke."""


class Journal(Protocol):
    """The durable store of what is known of rows whose part is not published yet."""

    def post(self, entry: Entry, then: Durable | None = None) -> None:
        """Take an entry; ``then`` is called once it would survive a power cut.

        Entries become durable in the order given. An ``Attempt`` is one that decided nothing: a
        failed exchange of a row that is still open. A ``Turn`` and its attempt become durable
        together. After a failed write, every entry not durable
        yet and every later one is refused with the same error.
        """
        ...

    def sending(self, row: int, attempt: int, endpoint: int, started_at_us: int) -> None:
        """Note, at once and without waiting, that an exchange goes out now. After a kill the note
        tells of attempts whose answer nobody recorded; a power cut may lose it.
        """
        ...

    async def flush(self) -> None:
        """Return when everything posted so far is durable, or raise what broke."""
        ...

    @property
    def backlog_bytes(self) -> int:
        """Bytes held for shards whose part is not published; the feeder waits on this bound."""
        ...


class Answers(Protocol):
    """Answers that other runs were given."""

    async def known(
        self, requests: Sequence[Request], *, together: bool = False
    ) -> Mapping[int, Outcome] | ReusedRows:
        """The outcomes of those requests that were answered before, by row, ready for the journal.
        ``together``: where all were, they may be ``ReusedRows``.

        Raises ``StorageError`` where an answer cannot be read any more.
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
    object store. Names are ``FOLDER/NAME``. Raises ``StorageError`` where it cannot be asked.
    """

    def create(self, name: str, content: bytes) -> bool:
        """Make a record that is not there yet; it would survive a power cut when this returns. Of
        any number of callers one gets True, and the others False: the record is another's.

        The content must be the caller's alone. A call whose answer was lost, and which is made
        again, gets True for its own record.
        """
        ...

    def put(self, name: str, content: bytes) -> float:
        """Write a record that nobody else writes. Returns when, in seconds by the store's clock."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a record; None where there is none."""
        ...

    def written_s(self, name: str) -> float | None:
        """When a record was written last, in seconds by the store's clock; None where there is
        none.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a record that nobody needs any more; one that is not there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names in a folder, in order: of every record that was there before the call."""
        ...


class Observer(Protocol):
    """Somebody who watches a run."""

    def __call__(self, event: object) -> None:
        """Take note, quickly. What an observer raises is counted and shown at the end; it never
        breaks a row.
        """
        ...


class Clock(Protocol):
    """Time, so that tests can run it."""

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
