"""The endpoint's own count of what it received and did.

Every exchange is counted when it arrives and settled exactly once: answered with a status,
dropped, cut, stalled, or given up by the client. With nothing in flight, `requests_total` is the
sum of them. A settlement is visible before the client can see its answer.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

DROPPED = "dropped"
CUT = "cut"
STALLED = "stalled"  # settled when it begins, while the exchange is still in flight
GIVEN_UP = "given_up"  # the client went away, or the server stopped, before there was an answer


@dataclass(slots=True)
class Asks:
    """How often one request was sent."""

    asked: int = 0
    admitted: int = 0  # got past the checks and limits: numbers the askings that draw chances
    answered_ok: int = 0


@dataclass(slots=True)
class Counts:
    """Everything since the start or the last reset."""

    requests_total: int = 0
    by_status: dict[int, int] = field(default_factory=dict)
    other_ends: dict[str, int] = field(
        default_factory=lambda: {DROPPED: 0, STALLED: 0, CUT: 0, GIVEN_UP: 0}
    )
    unreadable: int = 0  # bodies that are no JSON object: they belong to no request
    in_flight_max: int = 0
    prompt_tokens: int = 0  # of completed answers, as the completion tokens
    completion_tokens: int = 0
    asked_again: int = 0  # exchanges whose request had been asked before
    asks: dict[bytes, Asks] = field(default_factory=dict)


class ExchangeLog:
    """One JSON line per settled exchange, handed to the operating system at once."""

    def __init__(self, path: Path) -> None:
        """Open for appending; raises OSError."""
        self._file: BinaryIO = path.open("ab", buffering=0)

    def write(self, digest: bytes | None, ask: int | None, status: int | str) -> None:
        """`ask` counts from 1; `status` is a number, or how it ended without one."""
        line = {
            "t": time.time(),
            "hash": None if digest is None else digest.hex(),
            "ask": ask,
            "status": status,
        }
        self._file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RequestLedger:
    """The counts of one endpoint. Not thread-safe: it belongs to the endpoint's event loop."""

    def __init__(self, *, remember_requests: bool, log: ExchangeLog | None = None) -> None:
        """`remember_requests` costs about 180 bytes per distinct request."""
        self.remembers = remember_requests
        self.log = log
        self.in_flight = 0
        self.counts = Counts()

    def exchange(self) -> "Exchange":
        """Count an arriving exchange; a context manager that lasts as long as it is in flight."""
        return Exchange(self)

    def reset(self) -> None:
        """Forget everything, including how often each request was sent.

        Exchanges in flight are settled in the counts in which they began, which are gone.
        """
        self.counts = Counts(in_flight_max=self.in_flight)

    def stats(self, *, detail: bool = False) -> dict[str, object]:
        """The ledger as `GET /stats` shows it; the figures per request only with `detail`."""
        counts = self.counts
        stats: dict[str, object] = {
            "requests_total": counts.requests_total,
            "by_status": {str(status): n for status, n in sorted(counts.by_status.items())},
            **counts.other_ends,
            "unreadable": counts.unreadable,
            "in_flight": self.in_flight,
            "in_flight_max": counts.in_flight_max,
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "distinct_requests": len(counts.asks) if self.remembers else None,
            "asked_again": counts.asked_again if self.remembers else None,
        }
        if detail:
            stats["requests"] = {
                digest.hex(): {"asked": asks.asked, "answered_ok": asks.answered_ok}
                for digest, asks in counts.asks.items()
            }
        return stats


class Exchange:
    """One exchange from its arrival to its end; unless it is settled before, it was given up."""

    __slots__ = ("_ask", "_asks", "_counts", "_digest", "_ledger", "_settled")

    def __init__(self, ledger: RequestLedger) -> None:
        self._ledger = ledger
        self._counts = ledger.counts
        self._digest: bytes | None = None
        self._asks: Asks | None = None
        self._ask: int | None = None
        self._settled = False

    def __enter__(self) -> Self:
        ledger, counts = self._ledger, self._counts
        counts.requests_total += 1
        ledger.in_flight += 1
        counts.in_flight_max = max(counts.in_flight_max, ledger.in_flight)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ledger.in_flight -= 1
        if not self._settled:
            self._end(GIVEN_UP)

    def identify(self, digest: bytes) -> None:
        """Note which request this is, by the digest of its canonical body."""
        self._digest = digest
        if not self._ledger.remembers:
            return
        asks = self._counts.asks.get(digest)
        if asks is None:
            asks = self._counts.asks[digest] = Asks()
        else:
            self._counts.asked_again += 1
        asks.asked += 1
        self._asks, self._ask = asks, asks.asked

    def unreadable(self) -> None:
        """Note that the body is not a JSON object."""
        self._counts.unreadable += 1

    def admit(self) -> int:
        """Note that the request got past checks and limits; returns how often it did before.

        Always 0 in a ledger that does not remember requests.
        """
        if self._asks is None:
            return 0
        self._asks.admitted += 1
        return self._asks.admitted - 1

    def answered(self, status: int) -> None:
        """Settle: the client gets a complete reply of this status."""
        self._counts.by_status[status] = self._counts.by_status.get(status, 0) + 1
        self._settle(status)

    def completed(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Settle: the client gets a completion."""
        self._counts.prompt_tokens += prompt_tokens
        self._counts.completion_tokens += completion_tokens
        if self._asks is not None:
            self._asks.answered_ok += 1
        self.answered(200)

    def broken(self, how: str) -> None:
        """Settle: the client gets no complete reply; `how` is DROPPED, CUT or STALLED."""
        self._end(how)

    def _end(self, how: str) -> None:
        self._counts.other_ends[how] += 1
        self._settle(how)

    def _settle(self, status: int | str) -> None:
        self._settled = True
        if self._ledger.log is not None:
            self._ledger.log.write(self._digest, self._ask, status)
