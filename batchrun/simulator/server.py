"""The endpoint's routes: what happens to one exchange, from top to bottom."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from hashlib import blake2b
from itertools import count
from typing import NoReturn

import msgspec
from aiohttp import web

from batchrun.simulator import faults, ledger
from batchrun.simulator.changes import Change
from batchrun.simulator.chat import (
    DEFAULT_MODEL,
    ChatRequest,
    answer_digest,
    read_body,
    read_chat,
)
from batchrun.simulator.completion import Answer, spoil, write_answer
from batchrun.simulator.faults import FaultTable
from batchrun.simulator.gauges import CONTENT_TYPE, write_gauges
from batchrun.simulator.latency import FixedLatency
from batchrun.simulator.ledger import Exchange, ExchangeLog, RequestLedger
from batchrun.simulator.limits import Limits
from batchrun.simulator.plan import SimulatorOptions
from batchrun.simulator.rejections import (
    BARE_429,
    ERROR_200,
    GARBAGE,
    JSON,
    TOO_LARGE,
    RejectedError,
    Rejection,
    injected,
    no_key,
    over_limit,
    queue_full,
    unknown_model,
    unknown_path,
    wrong_key,
)
from batchrun.simulator.scheduler import Job, QueueFullError, Scheduler, Timed
from batchrun.simulator.streaming import EVENT_STREAM, write_chunks, write_events
from batchrun.simulator.writing.draws import draw_exchange, seed_key

_PLAYED_BY_STREAMS = {None, faults.CUT, *faults.STREAM_FAULTS}
NO_LATENCY = FixedLatency()
BODY_BYTES_MAX = 256 * 1024 * 1024
_BEARER = "Bearer "


class HangUp(web.StreamResponse):
    """Closes the connection instead of answering, or of finishing an answer."""

    async def prepare(self, request: web.BaseRequest) -> NoReturn:
        """Raise what aiohttp treats as a disconnected client: it closes silently."""
        del request
        raise ConnectionResetError("the simulator hangs up")


class Simulator:
    """One simulated endpoint; its methods run in one event loop."""

    def __init__(self, options: SimulatorOptions, *, log: ExchangeLog | None = None) -> None:
        self.options = options
        self._key = seed_key(options.seed)
        self._manner = options.manner()
        self._faults = FaultTable(options.fault_rates(), fail_first=options.fail_first)
        self._limits = Limits(
            rpm=options.rpm,
            tpm=options.tpm,
            rpm_window_s=options.rpm_window_s,
            tpm_window_s=options.tpm_window_s,
            now_s=time.monotonic(),
            dialect=options.limit_headers,
            counting=options.counting,
        )
        self._scheduler = Scheduler(options.capacity)
        self._changes_begun = not options.changes
        # Without detail, askings are told apart only where the faults depend on it.
        remember = options.detail or log is not None or self._faults.may_fault
        self.ledger = RequestLedger(remember_requests=remember, log=log)
        self._fingerprint = f"fp_{blake2b(self._key, digest_size=5).hexdigest()}"
        self._models = frozenset(options.models)
        self._started_s = self._now()
        self._run_id = secrets.token_hex(5)
        self._exchange_numbers = count(1)

    def application(self) -> web.Application:
        """The routes as an aiohttp application."""
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post("/v1/chat/completions", self.chat)
        application.router.add_get("/v1/models", self.models)
        application.router.add_get("/health", self.health)
        application.router.add_get("/stats", self.stats)
        if self.options.metrics:
            application.router.add_get("/metrics", self.metrics)
        application.router.add_post("/stats/reset", self.reset_stats)
        application.router.add_route("*", "/{path:.*}", self.unknown)
        return application

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        with self.ledger.exchange() as exchange:
            try:
                return await self._answer(request, exchange)
            except RejectedError as error:
                exchange.answered(error.rejection.status)
                return self._reject(error.rejection)
            except ConnectionResetError:
                return HangUp()  # the client left in the middle of its answer

    async def _answer(self, request: web.Request, exchange: Exchange) -> web.StreamResponse:
        """One exchange in its order: read, check, limit, think, then answer or misbehave."""
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            exchange.unreadable()
            raise RejectedError(TOO_LARGE) from None
        try:
            body, digest = read_body(raw)
        except RejectedError:
            exchange.unreadable()
            raise
        exchange.identify(digest)
        self._check_key(request)
        chat = read_chat(body)
        if self._models and chat.model not in self._models:
            raise unknown_model(chat.model)
        if not self._changes_begun:
            self._begin_changes()

        digest = answer_digest(body, digest)
        answer = write_answer(chat, digest, self._key, self._manner)
        self._require_room(chat, answer)
        asked_before = exchange.admit()
        draws = draw_exchange(self._key, digest, asked_before)
        fault = self._faults.draw(draws.fault, asked_before)
        if not chat.stream and fault in faults.STREAM_FAULTS:
            fault = None
        if fault in faults.ANSWER_FAULTS:
            answer = spoil(answer, fault, draws.latency)
            fault = None
        streams = chat.stream and (fault in _PLAYED_BY_STREAMS)
        answers = streams or fault in {None, faults.CUT}
        async with self._served(answer, draws.latency, answers=answers) as served:
            await served.reach(0)
            if streams:
                return await self._stream(
                    request, exchange, answer, draws.completion_id, fault, served
                )
            await served.reach(1)
        encode = partial(answer.encode, draws.completion_id, self._now(), self._fingerprint)
        if fault is not None:
            return await self._misbehave(fault, request, exchange, encode)
        exchange.completed(chat.prompt_tokens, answer.completion_tokens)
        return web.Response(body=encode(), content_type=JSON, headers=self._headers())

    def _require_room(self, chat: ChatRequest, answer: Answer) -> None:
        """Charge the request to the limits. Raises RejectedError (429) where one is used up, or
        no more requests may wait.
        """
        try:
            self._scheduler.require_room()
        except QueueFullError as error:
            raise queue_full(error.running, error.waiting) from None
        charged = chat.tokens_charged(answer.completion_tokens, self.options.charge)
        refusal = self._limits.admit(charged, time.monotonic())
        if refusal is not None:
            raise over_limit(refusal, chat.model)

    @contextlib.asynccontextmanager
    async def _served(
        self, answer: Answer, draw: float, *, answers: bool
    ) -> AsyncIterator[Timed | Job]:
        """How far an exchange is, by the latency and by what the server can do at once. What is no
        answer generates nothing, and takes no place among those that do.
        """
        capacity = self._scheduler.capacity
        latency = self.options.latency or (NO_LATENCY if capacity is None else capacity.latency)
        begins_s = latency.seconds(draw, 0)
        tokens = answer.completion_tokens if answers else 0
        whole_s = latency.seconds(draw, tokens)
        if capacity is None or not answers:
            yield Timed(begins_s, whole_s)
            return
        if capacity.by_tokens and begins_s > 0:
            await asyncio.sleep(begins_s)
        of_each = -(-tokens // answer.request.choices)
        with self._scheduler.job(whole_s, of_each, answer.request.prompt_tokens) as job:
            yield job

    def _begin_changes(self) -> None:
        """The first request came: the changes begin to count."""
        self._changes_begun = True
        loop = asyncio.get_running_loop()
        for change in self.options.changes:
            loop.call_later(change.at_s, self._change, change)

    def _change(self, change: Change) -> None:
        if change.rate is None and change.name == "capacity":
            self._scheduler.change(change.capacity)
        else:
            kind = "requests" if change.name == "rpm" else "tokens"
            self._limits.set_rate(kind, change.rate, time.monotonic())

    async def _stream(
        self,
        request: web.Request,
        exchange: Exchange,
        answer: Answer,
        completion_id: str,
        fault: str | None,
        served: Timed | Job,
    ) -> web.StreamResponse:
        """Send the answer as a stream, each part when it is there."""
        chunks = write_chunks(answer, completion_id, self._now(), self._fingerprint)
        events = write_events(chunks, fault)
        response = web.StreamResponse(headers=self._headers())
        response.content_type = EVENT_STREAM
        response.enable_chunked_encoding()
        await response.prepare(request)
        if fault == faults.CUT:
            exchange.broken(ledger.CUT)
            whole = b"".join(events)
            await response.write(whole[: len(whole) // 2])
            return HangUp()
        if served.lasts:
            for number, event in enumerate(events[:-1], 1):
                await response.write(event)
                await served.reach(number / len(events))
        elif len(events) > 1:
            await response.write(b"".join(events[:-1]))
        # Settled before the client can see the end.
        match fault:
            case faults.STREAM_STALL:
                exchange.broken(ledger.STALLED)
                await response.write(events[-1])
                await asyncio.get_running_loop().create_future()
            case faults.STREAM_END:
                exchange.broken(ledger.CUT)
            case faults.STREAM_ERROR:
                exchange.answered(200)
            case _:
                exchange.completed(answer.request.prompt_tokens, answer.completion_tokens)
        await response.write(events[-1])
        await response.write_eof()
        return response

    async def _misbehave(
        self, fault: str, request: web.Request, exchange: Exchange, encode: Callable[[], bytes]
    ) -> web.StreamResponse:
        match fault:
            case faults.DROP:
                exchange.broken(ledger.DROPPED)
                return HangUp()
            case faults.STALL:
                exchange.broken(ledger.STALLED)
                await asyncio.get_running_loop().create_future()  # cancelled when the client leaves
                return HangUp()
            case faults.CUT:
                exchange.broken(ledger.CUT)
                body = encode()
                response = web.StreamResponse(headers=self._headers())
                response.content_type = JSON
                response.content_length = len(body)
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
                return HangUp()
            case faults.GARBAGE:
                reply = GARBAGE
            case faults.ERROR_200:
                reply = ERROR_200
            case status:
                reply = injected(status, self.options.retry_after_s)
        raise RejectedError(reply)

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models: the models that are served, or a name that stands for any."""
        try:
            self._check_key(request)
        except RejectedError as error:
            return self._reject(error.rejection)
        cards = [
            {"id": name, "object": "model", "created": self._started_s, "owned_by": "simulator"}
            for name in self.options.models or (DEFAULT_MODEL,)
        ]
        return self._json({"object": "list", "data": cards})

    async def health(self, _request: web.Request) -> web.Response:
        """GET /health: the server answers."""
        return self._json({"status": "ok"})

    async def stats(self, request: web.Request) -> web.Response:
        """GET /stats: the ledger; with `?detail=1` also per request."""
        detail = request.query.get("detail", "0") not in {"", "0"}
        return self._json(self.ledger.stats(detail=detail))

    async def reset_stats(self, _request: web.Request) -> web.Response:
        """POST /stats/reset: forget everything, as if just started."""
        self.ledger.reset()
        return self._json(self.ledger.stats())

    async def metrics(self, _request: web.Request) -> web.Response:
        """GET /metrics: how busy the server is."""
        counts = self.ledger.counts
        body = write_gauges(
            self._scheduler,
            self.ledger.in_flight,
            counts.prompt_tokens,
            counts.completion_tokens,
            self.options.models[0] if self.options.models else DEFAULT_MODEL,
        )
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def unknown(self, request: web.Request) -> web.Response:
        """Any other route."""
        return self._reject(unknown_path(request.method, request.path))

    def _check_key(self, request: web.Request) -> None:
        if self.options.api_key is None:
            return
        given = request.headers.get("Authorization", "")
        if not given.startswith(_BEARER):
            raise no_key()
        key = given.removeprefix(_BEARER)
        if key != self.options.api_key:
            raise wrong_key(key.encode("ascii", "replace").decode())

    def _now(self) -> int:
        return int(self.options.clock())

    def _headers(self) -> dict[str, str]:
        number = next(self._exchange_numbers)
        headers = {"x-request-id": f"req_{self._run_id}{number:012x}"}
        headers.update(self._limits.headers(time.monotonic(), self.options.clock()))
        return headers

    def _reject(self, reply: Rejection) -> web.Response:
        if reply.status == 429 and self.options.bare_429:
            reply = BARE_429
        return web.Response(
            status=reply.status,
            body=reply.body,
            content_type=reply.content_type,
            headers={**self._headers(), **reply.headers},
        )

    def _json(self, value: object) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(value), content_type=JSON, headers=self._headers()
        )
