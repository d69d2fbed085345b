"""A model server in bad weather: answers on virtual time, and counts every exchange.

Its record is what the ledger of a run is held against. Weather comes in spells on the world's
clock, which goes on over the sessions of a run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from batchrun.errors import TransportFault
from batchrun.records import Reply, Request
from batchrun.testing.samples import completion_body, fault, ok, refusal

PROMPT_TOKENS = 7
FOREVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Spell:
    """From ``start_s`` to ``end_s`` (world time) this share of all exchanges ends as ``kind``
    says; see ``_KINDS``. ``wait_s`` goes into a ``retry-after`` header where there is one.
    """

    kind: str
    start_s: float
    end_s: float
    share: float = 1.0
    wait_s: float | None = None


_GARBAGE = (
    b"",
    b"<html><body>Bad gateway</body></html>",
    b'{"id": "chatcmpl-1", "choices": [{"mess',
    b'{"object": "chat.completion", "choices": []}',
    b"[1, 2]",
    b"\xff\xfe\x00",
)

_LOGIN = b"<!DOCTYPE html><html><body>Please sign in</body></html>"

_KINDS: dict[str, Callable[[Spell, random.Random], Reply | TransportFault]] = {
    "throttled": lambda spell, _: refusal(429, retry_after_s=spell.wait_s),
    "slow_down": lambda spell, _: refusal(429, code="slow_down", retry_after_s=spell.wait_s),
    "error": lambda spell, _: refusal(500, retry_after_s=spell.wait_s),
    "overloaded": lambda spell, _: refusal(503, retry_after_s=spell.wait_s),
    "disguised": lambda _, dice: Reply(200, {}, refusal(dice.choice((500, 429))).body),
    "garbage": lambda _, dice: Reply(200, {}, dice.choice(_GARBAGE)),
    "login": lambda *_: Reply(200, {"content-type": "text/html"}, _LOGIN),
    "dead": lambda *_: fault("connect"),
    "cut": lambda _, dice: fault(dice.choice(("cut", "incomplete"))),
    "reset": lambda _, dice: fault(dice.choice(("reset", "stale"))),
    "stalled": lambda *_: fault("timeout"),
    "unknown_host": lambda *_: fault("dns"),
    "untrusted": lambda *_: fault("tls"),
    "refused_key": lambda *_: refusal(401, code="invalid_api_key"),
    "forbidden": lambda *_: refusal(403),
    "unpaid": lambda *_: refusal(402),
    "used_up": lambda *_: refusal(429, code="insufficient_quota"),
    "wrong_path": lambda *_: refusal(404, code="unknown_url"),
    "rejected": lambda *_: refusal(400, code="invalid_value"),
    "too_long": lambda *_: refusal(400, code="context_length_exceeded"),
    "empty": lambda *_: ok(""),
    "truncated": lambda _, dice: _truncated(dice),
}

KINDS = tuple(_KINDS)
"""What a spell can bring."""


def _truncated(dice: random.Random) -> Reply:
    message = {"role": "assistant", "content": "The beg"}
    reason = dice.choice(("length", "length", "network_error"))
    return ok(choices=[{"index": 0, "message": message, "finish_reason": reason}])


_NEVER_SENT = ("connect", "dns", "tls")


@dataclass(slots=True)
class Exchange:
    """One exchange as the server saw it. ``result`` is a status, the kind of a fault, or
    ``cancelled``; None while it is out. ``tokens`` are those that it used, and the estimate where
    that is not known; ``text`` is what a completion said.
    """

    row: int
    request_hash: str
    session: int
    started_us: int
    started_s: float
    tokens: int
    ended_s: float | None = None
    result: int | str | None = None
    text: str | None = None

    @property
    def kept(self) -> bool:
        """Whether its tokens count against a limit: it was neither refused nor never there."""
        return self.result not in _NEVER_SENT and not (
            isinstance(self.result, int) and self.result >= 400
        )


@dataclass(slots=True)
class ModelServer:
    """One endpoint. ``poison`` are rows that always end as a kind says."""

    name: str
    seed: int
    spells: Sequence[Spell]
    poison: dict[int, str]
    latency_s: tuple[float, float]
    exchanges: list[Exchange] = field(default_factory=list)
    asked: dict[int, int] = field(default_factory=dict)
    in_flight: int = 0
    in_flight_max: int = 0

    def weather(self, dice: random.Random, row: int, world_s: float) -> Spell | None:
        """What befalls an exchange that begins now; None: it is answered."""
        for spell in self.spells:
            if spell.start_s <= world_s < spell.end_s and dice.random() < spell.share:
                return spell
        kind = self.poison.get(row)
        return None if kind is None else Spell(kind, 0.0, FOREVER_S)


class ServerTransport:
    """``ports.Transport`` of one session to a model server."""

    remark: str | None = None

    def __init__(
        self,
        server: ModelServer,
        *,
        session: int,
        timeout_s: float,
        world_s: Callable[[], float],
        world_us: Callable[[], int],
        note: Callable[[str], None],
    ) -> None:
        """``world_s`` and ``world_us`` are the world's clock; ``note`` is told what happens."""
        self._server = server
        self._session = session
        self._timeout_s = timeout_s
        self._world_s = world_s
        self._world_us = world_us
        self._note = note
        self.alive = True
        server.in_flight = 0

    def resize(self, concurrency: int) -> None:
        """See ``ports.Transport``. It takes any number."""

    async def send(self, request: Request) -> Reply:
        """See ``ports.Transport``."""
        if not self.alive:
            raise asyncio.CancelledError
        server, row = self._server, request.row
        before = server.asked[row] = server.asked.get(row, 0) + 1
        dice = random.Random(f"{server.seed} {server.name} {row} {before}")
        exchange = Exchange(
            row, request.hash, self._session, self._world_us(), self._world_s(), request.tokens
        )
        server.exchanges.append(exchange)
        server.in_flight += 1
        server.in_flight_max = max(server.in_flight_max, server.in_flight)
        spell = server.weather(dice, row, exchange.started_s)
        try:
            return await self._answer(exchange, spell, dice)
        except asyncio.CancelledError:
            exchange.result = exchange.result or "cancelled"
            raise
        finally:
            if self.alive:
                server.in_flight -= 1
                exchange.ended_s = self._world_s()
                self._note(
                    f"{self._session} {row} {exchange.started_us} {self._world_us()} "
                    f"{exchange.result}"
                )

    async def _answer(self, exchange: Exchange, spell: Spell | None, dice: random.Random) -> Reply:
        low_s, high_s = self._server.latency_s
        latency_s = dice.uniform(low_s, high_s)
        if spell is not None and spell.kind == "stalled":
            latency_s = self._timeout_s
        elif spell is not None and spell.kind in ("dead", "throttled", "unknown_host"):
            latency_s = min(latency_s, 0.05)
        await asyncio.sleep(min(latency_s, self._timeout_s))
        answer: Reply | TransportFault
        if latency_s >= self._timeout_s:
            answer = fault("timeout")
        elif spell is None:
            exchange.text = f"answer {len(self._server.exchanges)} to {exchange.request_hash[:12]}"
            completion_tokens = dice.randrange(1, 20)
            exchange.tokens = PROMPT_TOKENS + completion_tokens
            body = completion_body(
                exchange.text,
                prompt_tokens=PROMPT_TOKENS,
                completion_tokens=completion_tokens,
                id=f"chatcmpl-{exchange.started_us}-{exchange.row}",
            )
            answer = Reply(200, {}, body)
        else:
            answer = _KINDS[spell.kind](spell, dice)
        if isinstance(answer, TransportFault):
            exchange.result = answer.kind
            raise answer
        exchange.result = answer.status
        return answer
