"""The accounts of a whole run: what the model server counted against what is on the disk.

Nothing here asks the engine what it believes. What it was told to be durable, what the server saw,
the published files and ``verify`` have to agree, after every session and at the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchrun.adapters.storage.store import KINDS
from batchrun.core.run.changes import Changes
from batchrun.core.settings.resolve import Settings
from batchrun.errors import StorageError
from batchrun.records import Outcome
from batchrun.views.verify import verify
from tests.harness.model_server import Exchange, ModelServer
from tests.harness.stage import Ended, Fate
from tests.harness.tables import Line, Result, published
from tests.harness.worlds import Line as InputLine

_NOT_A_ROWS_FAULT = frozenset("rate_limit quota auth billing forbidden config".split())
_AT_ONCE = frozenset((400, 404, 413, 422))
"""Statuses that end a row at its first exchange."""
_CHARGED_FAULTS = frozenset("timeout cut incomplete connect dns".split())
_BRIEF_S = 1e-6


@dataclass(frozen=True, slots=True)
class Told:
    """An outcome that the engine was told to be durable. ``exchanges`` is how many there were by
    then; ``started_us`` is None for a row that was never sent.
    """

    ok: bool
    request_hash: str | None
    started_us: int | None
    exchanges: int
    session: int


@dataclass(slots=True)
class Accounts:
    """What is known of one run from outside."""

    server: ModelServer
    folder: Path
    plain: bool
    """Whether parts are plain files instead of Parquet."""
    edited: bool = False
    """Whether somebody edited the input or the settings."""
    kept_some: bool = False
    """Whether outcomes may be those of an earlier input or of earlier settings."""
    notes_lost: bool = False
    """Whether a power cut may have taken notes of requests that were out."""
    doubtful: set[int] = field(default_factory=set)
    """Sessions that left notes of requests that were out: they died, or the disk was full."""
    _told: dict[int, Told] = field(default_factory=dict)
    _told_before: dict[int, Told] = field(default_factory=dict)
    _failed_now: dict[int, Outcome] = field(default_factory=dict)
    _first: int = 0
    _session: int = 0
    _files: dict[str, tuple[int, int]] = field(default_factory=dict)

    # What happens

    def told(self, outcome: Outcome) -> None:
        """The engine is told that an outcome is durable."""
        row, attempt = outcome.row, outcome.attempt
        now = self._told.get(row)
        assert now is None or now is self._told_before.get(row), f"row {row} has a second outcome"
        self._told[row] = Told(
            outcome.ok,
            outcome.request_hash,
            None if attempt is None else attempt.started_at_us,
            len(self.server.exchanges),
            self._session,
        )
        if not outcome.ok:
            self._failed_now[row] = outcome

    def session_begins(self) -> None:
        """What is asked from here on is asked by another session."""
        self._session += 1
        self._first = len(self.server.exchanges)
        self._told_before = dict(self._told)
        self._failed_now = {}
        self.server.in_flight_max = 0
        self._files = self._published()

    def untouched(self) -> None:
        """A session was refused: nothing was sent, no part was touched."""
        assert len(self.server.exchanges) == self._first, "a refused session sent something"
        assert self._published() == self._files, "a refused session touched a part"

    def _published(self) -> dict[str, tuple[int, int]]:
        found = {}
        for kind in KINDS:
            for path in (self.folder / kind).glob("*"):
                stat = path.stat()
                found[f"{kind}/{path.name}"] = (stat.st_size, stat.st_mtime_ns)
        return found

    # After a session

    def session_ended(
        self,
        ended: Ended,
        settings: Settings,
        fate: Fate,
        changes: Changes,
        said: Sequence[str],
        began_s: float,
    ) -> None:
        """Check what must hold however a session ended; more where it ended in order."""
        exchanges = self.server.exchanges[self._first :]
        [endpoint] = settings.endpoints
        most = self.server.in_flight_max
        assert most <= endpoint.concurrency, f"{most} in flight, {endpoint.concurrency} allowed"
        self._nothing_after(fate, exchanges, ended, settings, began_s)
        self._nothing_twice(exchanges, changes)
        if endpoint.rpm is not None:
            burst = max(1.0, endpoint.rpm * max(0.1, 60 / endpoint.rpm) / 60)
            events = [(exchange.started_s, 1.0) for exchange in exchanges]
            _paced(events, endpoint.rpm / 60, burst + 1, "requests")
        if endpoint.tpm is not None and exchanges:
            self._tokens_paced(exchanges, endpoint.tpm / 60)
        if ended.killed or isinstance(ended.error, StorageError):
            self.doubtful.add(self._session)
            self.notes_lost |= fate.death is not None and fate.death.power and ended.killed
        outage = any("does not answer" in text for text in said)
        self._charged(exchanges, settings, exact=ended.result is not None and not outage)
        if ended.result is not None:
            self._in_order(ended.result.summary)

    def _nothing_after(
        self,
        fate: Fate,
        exchanges: Iterable[Exchange],
        ended: Ended,
        settings: Settings,
        began_s: float,
    ) -> None:
        """After a signal nothing is sent, and the session ends within its grace."""
        if not fate.signals_s or ended.took_s < min(fate.signals_s):
            return
        first_s = min(fate.signals_s)
        for exchange in exchanges:
            assert exchange.started_s <= began_s + first_s + _BRIEF_S, (
                f"row {exchange.row} was sent {exchange.started_s - began_s - first_s:g} s after "
                "the signal"
            )
        if ended.result is not None and len(fate.signals_s) == 2:
            grace_s = min(settings.grace_s, max(fate.signals_s) - first_s)
            # What is left then is the disk's.
            assert ended.took_s <= first_s + grace_s + 60, (
                f"{ended.took_s - first_s:.1f} s from the first signal to the end"
            )

    def _nothing_twice(self, exchanges: Sequence[Exchange], changes: Changes) -> None:
        """A row whose outcome was durable is sent again only where that was asked for."""
        for place, exchange in enumerate(exchanges, self._first):
            row, digest = exchange.row, exchange.request_hash
            before, now = self._told_before.get(row), self._told.get(row)
            if before is not None:
                # A session that died since may have made another outcome durable, and told nobody.
                unsure = any(session > before.session for session in self.doubtful)
                changed = changes.resend_changed and (unsure or before.request_hash != digest)
                wanted = changed or (changes.retry_failed and (unsure or not before.ok))
                assert wanted, f"row {row} had a durable outcome, and was sent again"
            if now is not None and now is not before:
                assert place < now.exchanges, f"row {row} was sent again after its outcome"

    def _tokens_paced(self, exchanges: Sequence[Exchange], per_s: float) -> None:
        """Refused requests are given back, so they count until then, and answers may be longer than
        expected: at most what was out.
        """
        largest = max(exchange.tokens for exchange in exchanges)
        slack = largest * (1 + self.server.in_flight_max)
        events = [(e.started_s, float(e.tokens)) for e in exchanges if e.kept]
        _paced(events, per_s, max(1.0, per_s) + slack, "tokens")

    def _charged(self, exchanges: Sequence[Exchange], settings: Settings, *, exact: bool) -> None:
        """No row is charged for more than its attempts, nor given up before."""
        results: defaultdict[int, list[int | str | None]] = defaultdict(list)
        for exchange in exchanges:
            results[exchange.row].append(exchange.result)
        most = settings.max_attempts
        if exact:
            for row, ends in results.items():
                certain = sum(
                    end in _CHARGED_FAULTS or (isinstance(end, int) and end >= 500) for end in ends
                )
                assert certain <= most, f"row {row} was charged {certain} of {most}: {ends}"
        for row, outcome in self._failed_now.items():
            failure = outcome.failure
            assert failure is not None
            assert failure.error_class not in _NOT_A_ROWS_FAULT, f"row {row} failed: {failure}"
            ends = results[row]
            if outcome.attempt is None or ends[-1] in _AT_ONCE:
                continue
            if failure.error_class in ("empty_output", "truncated_output"):
                continue
            charged = [end for end in ends if end != 429]
            least = most if {*charged} <= {500} else min(most, 3)
            assert len(charged) >= least, (
                f"row {row} was given up after {len(charged)} of {most} attempts: {ends}"
            )

    def _in_order(self, summary: Any) -> None:
        """After an orderly end everything there is is published, and every exchange is counted."""
        if not self.plain:
            report = verify.check(str(self.folder))
            assert report.ok, f"verify: {report.problems}"
        waiting = sorted(p.name for p in (self.folder / "checkpoint").glob("shard-*.log"))
        assert not waiting, f"logs wait to be published: {waiting}"
        results, ledger = published(self.folder, plain=self.plain)
        rows, totals = summary["rows"], summary["totals"]
        failed = Counter(result.error_class for result in results if result.error_class)
        assert rows["ok"] + rows["error"] == len(results), f"{rows}, {len(results)} published"
        assert rows["error"] == failed.total(), f"{rows}, {failed}"
        assert summary["errors"] == failed, f"{summary['errors']}, {failed}"
        assert rows["input"] == rows["ok"] + rows["error"] + rows["pending"], rows
        assert rows["pending"] >= 0, rows
        assert totals["attempts"] == len(ledger)
        assert totals["unanswered_attempts"] == sum(line.unanswered for line in ledger)
        assert totals["total_tokens"] == sum(line.total_tokens or 0 for line in ledger)
        asked = len(self.server.exchanges)
        held = len(ledger) == asked or (self.notes_lost and len(ledger) < asked)
        assert held, f"{len(ledger)} attempts in the ledger, the server counted {asked}"
        lost = self._told.keys() - {result.row for result in results}
        assert not lost, f"rows {sorted(lost)} had durable outcomes, and none is published"

    # At the end

    def whole_run(self, settings: Settings, lines: Sequence[InputLine]) -> str:
        """The run is complete. Returns what was published, as text."""
        if not self.plain:
            against = () if self.kept_some else settings.files
            report = verify.check(str(self.folder), against=against)
            assert report.ok, f"verify: {report.problems}"
        results, ledger = published(self.folder, plain=self.plain)
        rows = [result.row for result in results]
        assert rows == list(range(len(lines))), f"published are the rows {rows}"
        asked: defaultdict[int, list[Exchange]] = defaultdict(list)
        for exchange in self.server.exchanges:
            asked[exchange.row].append(exchange)
        noted: defaultdict[int, list[Line]] = defaultdict(list)
        for line in ledger:
            noted[line.row].append(line)
        for row in asked.keys() | noted.keys():
            self._same_exchanges(row, noted[row], asked[row])
        for result, given in zip(results, lines, strict=True):
            self._answer(result, given, asked[result.row], noted[result.row])
        return repr((results, ledger))

    def _same_exchanges(self, row: int, noted: Sequence[Line], asked: Sequence[Exchange]) -> None:
        """The ledger of a row is what the server saw of it, line by line."""
        if not self.notes_lost:
            assert len(noted) == len(asked), (
                f"row {row}: {len(noted)} attempts in the ledger, the server counted {len(asked)}"
            )
        numbers = [line.number for line in noted]
        assert numbers == list(range(1, len(noted) + 1)), f"row {row}: attempts {numbers}"
        left = iter(asked)
        for line in noted:
            for exchange in left:
                if _fits(line, exchange, doubtful=exchange.session in self.doubtful):
                    break
                assert self.notes_lost, f"row {row}: the ledger says {line}, it was {exchange}"
            else:
                raise AssertionError(f"row {row}: the server never saw {line}")

    def _answer(
        self, result: Result, line: InputLine, asked: Sequence[Exchange], noted: Sequence[Line]
    ) -> None:
        """A published row is what the server last said of it, and no older than what was told."""
        row, told = result.row, self._told.get(result.row)
        assert result.attempts == len(noted), f"{result}, and {len(noted)} in the ledger"
        good = line.kind == "good"
        if not self.kept_some:
            assert good == (result.error_class != "invalid_row"), f"{result} of {line}"
            assert good == (result.request_hash is not None), f"{result} of {line}"
        if not (self.kept_some or (self.plain and self.edited)):
            assert result.custom_id == (None if line.kind == "not_json" else line.custom_id)
        started_us = result.started_us
        if told is not None and told.started_us is not None:
            older = started_us is not None and started_us < told.started_us
            assert not older, f"a newer outcome was lost: {told}, published {result}"
            if told.ok and result.error_class is not None:
                resent = any(exchange.started_us > told.started_us for exchange in asked)
                assert resent or not good, f"a durable answer was lost: {told}, published {result}"
        if started_us is None:
            return
        assert any(
            exchange.request_hash == result.request_hash
            and exchange.started_us == started_us
            and (result.error_class or exchange.text in (None, result.content))
            for exchange in asked
        ), f"row {row} has an answer that was not given to it: {result}"


def _fits(line: Line, exchange: Exchange, *, doubtful: bool) -> bool:
    """Whether a line of the ledger may tell of this exchange."""
    if doubtful and line.unanswered and line.error_code == "interrupted":
        # A note tells of the row's latest request; one before it may have been lost with it.
        return line.started_us >= exchange.started_us
    if line.started_us != exchange.started_us:
        return False
    if isinstance(exchange.result, int):
        return line.http_status == exchange.result and not line.unanswered
    return line.http_status is None


def _paced(events: Sequence[tuple[float, float]], per_s: float, burst: float, what: str) -> None:
    """In every window of any length there is no more than its share and one burst."""
    level, at_s = 0.0, events[0][0] if events else 0.0
    for moment_s, amount in events:
        level = max(0.0, level - (moment_s - at_s) * per_s) + amount
        at_s = moment_s
        assert level <= burst * (1 + 1e-6) + 1e-3, (
            f"{level:,.1f} {what} at once, {burst:,.1f} allowed"
        )
