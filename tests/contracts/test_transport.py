"""The exam of the transport: against a fake, and over real sockets against a server by hand."""

import asyncio
import gzip
import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from batchrun.adapters.http import connections
from batchrun.adapters.http.transport import HttpTransport
from batchrun.core.text.redact import Redactor, secrets_of
from batchrun.errors import TransportFault
from batchrun.records import Reply, Request
from batchrun.testing.fakes import FakeTransport, script_of
from batchrun.testing.samples import completion_body, error_body, fault

KEY = "sk-never-to-be-seen"
BODY = b'{"messages":[],"model":"m"}'
TIMEOUT_S = 0.4
BYTES_MAX = 100_000
EXPECTING = {"stream": False}


@pytest.fixture(autouse=True, params=[False, True], ids=["plain", "streams expected"])
def _expecting(request, monkeypatch):
    """The whole exam twice: what is no stream must not suffer from one being expected."""
    monkeypatch.setitem(EXPECTING, "stream", request.param)


def _request(row=0, body=BODY):
    return Request(row, None, body, "0" * 64, "m", 10)


def _reply(status, body, *headers):
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Exchange:
    """One request as the server got it."""

    head: str
    body: bytes


@dataclass
class Server:
    """A server by hand: it reads whole requests and does with the connection what it is told."""

    behave: object
    exchanges: list[Exchange] = field(default_factory=list)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    opened: int = 0

    async def handle(self, reader, writer):
        """Serve one connection."""
        self.writers.add(writer)
        self.opened += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lengths = [
                    int(line.split(":")[1])
                    for line in head.splitlines()
                    if line.lower().startswith("content-length")
                ]
                body = await reader.readexactly(lengths[0])
                self.exchanges.append(Exchange(head, body))
                if not await self.behave(reader, writer, len(self.exchanges)):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def gone(self):
        """Wait until no connection is open."""
        async with asyncio.timeout(5):
            while self.writers:  # noqa: ASYNC110 - sockets close when they like
                await asyncio.sleep(0.01)


def _answering(*replies):
    """Answer with these bytes, the last of them again and again; None closes the connection."""

    async def behave(_, writer, count):
        data = replies[min(count, len(replies)) - 1]
        if data is None:
            return False
        writer.write(data)
        await writer.drain()
        return True

    return behave


def _cutting(data):
    async def behave(_, writer, __):
        writer.write(data)
        await writer.drain()
        return False

    return behave


async def _dripping(_, writer, __):
    """A byte now and then: never silent for long, never done."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
    for _ in range(9000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)
    return True


async def _endless(_, writer, __):
    """A body that goes on and on."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n")
    while True:
        writer.write(b"x" * 50_000)
        await writer.drain()


async def _silent(reader, _, __):
    """Nothing, until the client goes away."""
    await reader.read()
    return False


@asynccontextmanager
async def _serving(behave):
    server = Server(behave)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield server, f"http://127.0.0.1:{port}/v1/chat/completions"
    finally:
        listening.close()
        for writer in server.writers:
            writer.transport.abort()
        await server.gone()


def _http(url, **settings):
    defaults = {
        "key": KEY,
        "headers": {},
        "redactor": Redactor(secrets_of(KEY, {}, url)),
        "concurrency": 8,
        "timeout_s": TIMEOUT_S,
        "connect_timeout_s": 5.0,
        "body_bytes_max": BYTES_MAX,
    }
    return HttpTransport(url, **defaults | EXPECTING | settings)


async def _fault_of(sending):
    with pytest.raises(TransportFault) as caught:
        await sending
    return caught.value


class TransportContract:
    """What any transport promises. ``playing(what)`` makes one whose server does that."""

    def playing(self, what):
        """Make one; an async context manager."""
        raise NotImplementedError

    @pytest.mark.parametrize("status", [200, 201, 302, 400, 401, 404, 408, 429, 500, 503, 529, 599])
    def test_any_status_is_a_reply(self, status):
        """Whatever a server answers in full is a reply, with its headers and its body."""

        async def play():
            async with self.playing(status) as transport:
                reply = await transport.send(_request())
                assert reply.status == status
                assert reply.body == completion_body("Played.")
                assert reply.headers.get("retry-after") == "7"

        asyncio.run(play())

    @pytest.mark.parametrize("what", ["drip", "silence"])
    def test_the_wall_clock_ends_an_exchange(self, what):
        """No server holds an exchange beyond its time, however it spends it."""

        async def play():
            async with self.playing(what) as transport:
                began_s = asyncio.get_running_loop().time()
                found = await _fault_of(transport.send(_request()))
                took_s = asyncio.get_running_loop().time() - began_s
                assert (found.kind, found.sent) == ("timeout", True)
                assert TIMEOUT_S <= took_s < TIMEOUT_S + 1

        asyncio.run(play())

    @pytest.mark.parametrize(
        ("what", "kind", "sent"),
        [
            ("refused", "connect", False),
            ("dropped", "reset", True),
            ("cut", "cut", True),
            ("oversize", "too_large", True),
        ],
    )
    def test_no_whole_reply_is_a_fault(self, what, kind, sent):
        """Each way of ending without a whole reply has its kind, and tells whether the request
        may have been seen.
        """

        async def play():
            async with self.playing(what) as transport:
                found = await _fault_of(transport.send(_request()))
                assert (found.kind, found.sent) == (kind, sent)
                assert KEY not in f"{found} {found!r}"

        asyncio.run(play())

    def test_cancelling_leaves_nothing_open(self):
        """A cancelled exchange ends as cancelled, and others are not disturbed."""

        async def play():
            async with self.playing("silence") as transport:
                sending = [asyncio.create_task(transport.send(_request(n))) for n in range(4)]
                await asyncio.sleep(0.1)
                sending[1].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending[1]
                for n in (0, 2, 3):
                    assert (await _fault_of(sending[n])).kind == "timeout"

        asyncio.run(play())

    def test_exchanges_run_side_by_side(self):
        """Many exchanges at once all get their reply."""

        async def play():
            async with self.playing(200) as transport:
                sending = (transport.send(_request(n)) for n in range(30))
                assert {reply.status for reply in await asyncio.gather(*sending)} == {200}

        asyncio.run(play())


class TestFakeTransport(TransportContract):
    @asynccontextmanager
    async def playing(self, what):
        """A fake whose script does what the server would do."""
        latency_s = 0.0
        match what:
            case int(status):
                answer = Reply(status, {"retry-after": "7"}, completion_body("Played."))
            case "drip" | "silence":
                latency_s, answer = 3600.0, None
            case _:
                kinds = {"refused": "connect", "dropped": "reset", "oversize": "too_large"}
                answer = fault(kinds.get(what, what))
        fake = FakeTransport(script_of({}, then=answer), latency_s=latency_s, timeout_s=TIMEOUT_S)
        yield fake
        assert fake.in_flight == 0


@pytest.mark.usefixtures("way")
class TestHttpTransport(TransportContract):
    @asynccontextmanager
    async def playing(self, what):
        """The real one against a server that does it over real sockets."""
        whole = _reply(200, completion_body())
        match what:
            case int(status):
                data = _reply(
                    status, completion_body("Played."), "Retry-After: 7", "Location: /elsewhere"
                )
                behave = _answering(data)
            case "drip":
                behave = _dripping
            case "silence" | "refused":
                behave = _silent
            case "dropped":
                behave = _answering(None)
            case "cut":
                behave = _cutting(whole[:-20])
            case "oversize":
                behave = _answering(_reply(200, b" " * (BYTES_MAX + 1)))
        async with _serving(behave) as (server, url):
            if what == "refused":
                with socket.socket() as unheard:
                    unheard.bind(("127.0.0.1", 0))
                    nobody = f"http://127.0.0.1:{unheard.getsockname()[1]}/v1"
                    async with _http(nobody) as transport:
                        yield transport
                return
            async with _http(url) as transport:
                yield transport
                if what in ("drip", "silence", "cut", "dropped"):
                    await server.gone()


def _exchanged(behave, *requests, **settings):
    """What came back for each request, sent one after another, and what the server saw."""

    async def play():
        async with _serving(behave) as (server, url), _http(url, **settings) as transport:
            found = []
            for request in requests:
                try:
                    found.append(await transport.send(request))
                except TransportFault as error:
                    found.append(error)
            return found, server

    return asyncio.run(play())


@pytest.mark.usefixtures("way")
class TestOnTheWire:
    def test_the_request_is_sent_as_it_is(self):
        """The body goes out byte by byte as it was made, with type, length and key."""
        [reply], server = _exchanged(_answering(_reply(200, b"{}")), _request())
        assert reply.status == 200
        [exchange] = server.exchanges
        assert exchange.body == BODY
        lines = exchange.head.lower().splitlines()
        assert lines[0] == "post /v1/chat/completions http/1.1"
        assert f"authorization: bearer {KEY}" in lines
        assert f"content-length: {len(BODY)}" in lines
        assert "content-type: application/json" in lines

    def test_a_large_body_arrives_whole(self):
        """Bodies beyond a megabyte are sent as well as small ones."""
        body = b'{"x":"' + b"y" * 3_000_000 + b'"}'
        [reply], server = _exchanged(
            _answering(_reply(200, b"{}")), _request(body=body), timeout_s=20
        )
        assert reply.status == 200 and server.exchanges[0].body == body

    def test_own_headers_replace_ours(self):
        """A header given by the user stands in place of ours of that name, in any case."""
        given = {"authorization": "Custom abc", "X-Team": "a"}
        _, server = _exchanged(_answering(_reply(200, b"{}")), _request(), headers=given)
        head = server.exchanges[0].head
        assert KEY not in head and head.lower().count("authorization:") == 1
        assert "Custom abc" in head and "X-Team: a" in head

    def test_redirects_are_not_followed(self):
        """A redirect is a reply; the key goes nowhere else."""
        moved = _reply(307, b"", "Location: http://127.0.0.1:9/stolen")
        [reply], server = _exchanged(_answering(moved), _request())
        assert reply.status == 307 and len(server.exchanges) == 1

    def test_a_connection_is_used_again(self):
        """Replies read to their end, of any status, leave their connection for the next."""
        replies = [_reply(status, b"{}") for status in (200, 500, 429, 200)]
        found, server = _exchanged(_answering(*replies), *[_request()] * 4)
        assert [reply.status for reply in found] == [200, 500, 429, 200]
        assert server.opened == 1

    def test_a_connection_that_went_stale(self):
        """A kept-alive connection that the server closes on the next request is told apart."""
        found, _ = _exchanged(_answering(_reply(200, b"{}"), None), _request(), _request())
        assert found[0].status == 200
        assert (found[1].kind, found[1].sent) == ("stale", True)

    def test_connections_that_are_lost_each_time_are_not_kept(self):
        """A server that closes after each answer and does not say so is met twice, then known."""
        connections = {}

        async def once(_, writer, __):
            connections[writer] = connections.get(writer, 0) + 1
            if connections[writer] == 1:
                writer.write(_reply(200, b"{}"))
                await writer.drain()
            return connections[writer] == 1

        found, server = _exchanged(once, *[_request()] * 12)
        kinds = [getattr(one, "kind", "answered") for one in found]
        assert kinds == ["answered", "stale", "answered", "stale"] + ["answered"] * 8
        assert server.opened == 2 + 8

    def test_connections_that_are_lost_now_and_then_are_kept(self):
        """Most that are used again serve: losing some is no reason to give up on all."""

        async def forgetful(_, writer, count):
            if count % 10 == 0:
                return False
            writer.write(_reply(200, b"{}"))
            await writer.drain()
            return True

        found, server = _exchanged(forgetful, *[_request()] * 60)
        assert sum(isinstance(one, TransportFault) for one in found) == 6
        assert server.opened == 6

    def test_connections_that_lie_idle_are_closed(self, monkeypatch):
        """By themselves, and by whoever comes next: sending, or getting beside it."""
        monkeypatch.setattr(connections, "IDLE_S_MAX", 0.3)

        async def play():
            async with (
                _serving(_answering(_reply(200, b"{}"))) as (server, url),
                _http(url) as transport,
            ):
                await asyncio.gather(*(transport.send(_request(n)) for n in range(4)))
                opened = server.opened
                await asyncio.sleep(0.15)
                await transport.send(_request(4))
                assert server.opened == opened
                await server.gone()
                await transport.send(_request(5))
                assert server.opened == opened + 1

        asyncio.run(play())

    def test_a_server_in_trouble_does_not_cost_its_connections(self):
        """Where new connections are lost as well, nothing is learnt about kept ones."""

        async def restarting(_, writer, count):
            if count in (2, 3, 4, 6, 7):
                return False
            writer.write(_reply(200, b"{}"))
            await writer.drain()
            return True

        found, server = _exchanged(restarting, *[_request()] * 20)
        assert sum(isinstance(one, TransportFault) for one in found) == 5
        assert server.opened == 6

    def test_interim_responses_are_passed_over(self):
        """What a server says before its answer (100 to 199) is not the answer."""
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
        [reply], _ = _exchanged(_answering(hints * 2 + _reply(200, b"{}")), _request())
        assert (reply.status, reply.body) == (200, b"{}")

    def test_an_early_answer_costs_the_connection(self):
        """An answer before the whole request went out counts; the rest of the request must not
        be taken for the next one.
        """
        connections = []

        class Hasty(asyncio.Protocol):
            def connection_made(self, transport):
                connections.append(transport)
                transport.pause_reading()
                transport.write(_reply(413, b"{}"))

        async def play():
            loop = asyncio.get_running_loop()
            listening = await loop.create_server(Hasty, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
            async with _http(f"http://127.0.0.1:{port}/v1", timeout_s=20) as transport:
                for _ in range(2):
                    reply = await transport.send(_request(body=b" " * 30_000_000))
                    assert reply.status == 413
            listening.close()
            for connection in connections:
                connection.abort()

        asyncio.run(play())
        assert len(connections) == 2

    def test_compressed_replies_are_read(self):
        """A reply may come compressed."""
        packed = gzip.compress(completion_body("Packed."))
        [reply], _ = _exchanged(
            _answering(_reply(200, packed, "Content-Encoding: gzip")), _request()
        )
        assert reply.body == completion_body("Packed.")

    def test_an_endless_reply_is_not_read_on(self):
        """A reply that grows too large is given up there and then, with its connection."""

        async def play():
            async with _serving(_endless) as (server, url), _http(url, timeout_s=60) as transport:
                found = await _fault_of(transport.send(_request()))
                assert (found.kind, found.http_status) == ("too_large", 200)
                await server.gone()

        asyncio.run(play())

    def test_a_large_head_is_read(self):
        """Security policies and chains of proxies make large heads."""
        lines = ["X-Policy: " + "x" * 30_000, *(f"X-{number}: v" for number in range(300))]
        [reply], _ = _exchanged(_answering(_reply(200, b"{}", *lines)), _request())
        assert (reply.status, len(reply.headers["X-Policy"])) == (200, 30_000)

    def test_a_length_beyond_the_bound_is_enough(self):
        """A reply that announces more than is allowed is not waited for."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n{"
        [found], _ = _exchanged(_answering(head), _request(), timeout_s=20)
        assert found.kind == "too_large" and "999,999,999,999" in str(found)

    def test_a_server_that_speaks_first_is_not_called_again_and_again(self):
        """One exchange opens one connection, whatever comes before the request."""
        opened = []

        class Greeter(asyncio.Protocol):
            def connection_made(self, transport):
                opened.append(transport)
                transport.write(b"220 ready\r\n")

        async def play():
            loop = asyncio.get_running_loop()
            listening = await loop.create_server(Greeter, "127.0.0.1", 0)
            port = listening.sockets[0].getsockname()[1]
            async with _http(f"http://127.0.0.1:{port}/v1", timeout_s=20) as transport:
                found = [await _fault_of(transport.send(_request())) for _ in range(5)]
            listening.close()
            for connection in opened:
                connection.abort()
            return found

        found = asyncio.run(play())
        assert {fault.kind for fault in found} <= {"cut", "reset"}
        assert len(opened) == 5

    def test_a_bomb_is_not_unpacked(self):
        """A small reply that unpacks to more than is allowed is too large."""
        packed = gzip.compress(b" " * (50 * BYTES_MAX))
        [found], _ = _exchanged(
            _answering(_reply(200, packed, "Content-Encoding: gzip")), _request()
        )
        assert found.kind == "too_large"

    @pytest.mark.parametrize(
        ("data", "kind", "status"),
        [
            (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", "cut", 200),
            (b"HTTP/1.1 503 No\r\nContent-Length: 50\r\n\r\nhalf", "cut", 503),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                "cut",
                200,
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Le", "reset", None),
            (b"", "reset", None),
        ],
    )
    def test_where_a_reply_was_cut(self, data, kind, status):
        """A fault knows the status if the reply's head had come."""
        [found], _ = _exchanged(_cutting(data), _request())
        assert (found.kind, found.http_status, found.sent) == (kind, status, True)

    def test_the_status_of_a_reply_that_was_too_slow(self):
        """A timeout knows the status if the reply's head had come."""
        [found], _ = _exchanged(_dripping, _request())
        assert (found.kind, found.http_status) == ("timeout", 200)

    def test_no_http_at_all(self):
        """What is not HTTP is a fault of a known kind, not an error of another library."""
        [found], _ = _exchanged(_cutting(b"220 mail.example.com ESMTP\r\n"), _request())
        assert isinstance(found, TransportFault) and found.sent

    def test_cancelling_closes_the_connection(self):
        """The server sees a cancelled exchange end, at once."""

        async def play():
            async with _serving(_silent) as (server, url), _http(url, timeout_s=60) as transport:
                sending = asyncio.create_task(transport.send(_request()))
                while not server.exchanges:  # noqa: ASYNC110 - until it is out
                    await asyncio.sleep(0.01)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
                await server.gone()

        asyncio.run(play())

    def test_what_a_server_says_unasked_is_no_answer(self, way):
        """A server that talks on an idle connection: each request still gets its own answer. The
        plain way can notice it only once a request went out, which then counts as stale.
        """
        servers = []
        spoken = asyncio.Event()

        async def chatty(_, writer, count):
            writer.write(_reply(200, servers[0].exchanges[-1].body))
            if count == 1:
                await asyncio.sleep(0.02)
                writer.write(_reply(200, b'{"stale":true}'))
                spoken.set()
            return True

        async def play():
            async with _serving(chatty) as (server, url), _http(url) as transport:
                servers.append(server)
                await transport.send(_request(body=b'{"n":0}'))
                await spoken.wait()
                await asyncio.sleep(0.05)
                answers = []
                while len(answers) < 4:
                    body = b'{"n":%d}' % (len(answers) + 1)
                    try:
                        answers.append((await transport.send(_request(body=body))).body)
                    except TransportFault as error:
                        if (error.kind, way) != ("stale", "plain"):
                            raise
                assert answers == [b'{"n":%d}' % n for n in range(1, 5)]

        asyncio.run(play())

    def test_a_cancel_is_not_taken_for_a_timeout(self):
        """Who is cancelled just when the time runs out is cancelled."""

        async def play():
            async with _serving(_silent) as (_, url), _http(url, timeout_s=0.2) as transport:
                sending = asyncio.create_task(transport.send(_request()))
                await asyncio.sleep(0.1)
                transport._deadlines._due.clear()  # the timer would cancel in this turn too
                transport._deadlines._expired.add(sending)
                sending.cancel()
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending

        asyncio.run(play())

    def test_never_more_connections_than_permits(self):
        """The pool is as large as the concurrency, beyond the library's default of 100 too."""

        async def play():
            async with (
                _serving(_silent) as (server, url),
                _http(url, concurrency=120, timeout_s=60) as transport,
            ):
                sending = [asyncio.create_task(transport.send(_request(n))) for n in range(150)]
                async with asyncio.timeout(10):
                    while len(server.exchanges) < 120:  # noqa: ASYNC110 - until all are out
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                assert server.opened == 120
                for task in sending:
                    task.cancel()
                await asyncio.gather(*sending, return_exceptions=True)

        asyncio.run(play())


class TestIdleConnections:
    """Which are used again, and which are closed; the plain way leaves that to aiohttp."""

    def test_the_connection_used_last_serves_next(self):
        """One row after the other keeps to one connection, and the others are left to expire."""
        served = []

        async def behave(_, writer, __):
            served.append(writer)
            writer.write(_reply(200, b"{}"))
            await writer.drain()
            return True

        async def play():
            async with _serving(behave) as (_, url), _http(url) as transport:
                await asyncio.gather(*(transport.send(_request(n)) for n in range(4)))
                for number in range(4, 12):
                    await transport.send(_request(number))

        asyncio.run(play())
        assert len(set(served[:4])) == 4
        assert len(set(served[4:])) == 1

    def test_a_smaller_number_closes_the_connections_beyond_it(self):
        """Those that are idle at once, those in use after their answers: whoever serves one
        connection per thread would wait on each of them. What is left is used again, and a larger
        number opens more.
        """
        ready = asyncio.Event()

        async def behave(_, writer, __):
            await ready.wait()
            writer.write(_reply(200, b"{}"))
            await writer.drain()
            return True

        async def play():
            async with _serving(behave) as (server, url), _http(url) as transport:

                async def send(count):
                    await asyncio.gather(*(transport.send(_request(n)) for n in range(count)))

                async def left(count):
                    async with asyncio.timeout(5):
                        while len(server.writers) != count:  # noqa: ASYNC110 - sockets close
                            await asyncio.sleep(0.01)

                transport.resize(8)
                sending = asyncio.create_task(send(8))
                await left(8)
                transport.resize(5)
                ready.set()
                await sending
                await left(5)
                transport.resize(2)
                await left(2)
                await send(2)
                assert server.opened == 8
                transport.resize(8)
                await send(8)
                assert server.opened == 14
                await left(8)

        asyncio.run(play())

    def test_broken_connections_leave_room_for_others(self):
        """A connection that was lost or given up does not count among those that are kept."""

        async def behave(reader, writer, count):
            if count <= 3:
                return False
            return await _answering(_reply(200, b"{}"))(reader, writer, count)

        async def play():
            async with _serving(behave) as (server, url), _http(url) as transport:
                transport.resize(1)
                for number in range(3):
                    with pytest.raises(TransportFault):
                        await transport.send(_request(number))
                for number in range(3, 8):
                    await transport.send(_request(number))
                assert server.opened == 4

        asyncio.run(play())


@pytest.mark.usefixtures("way")
class TestKeys:
    def test_no_repr_shows_the_key(self):
        """Neither the transport nor what it raises shows the key, down to the first cause."""

        async def play():
            seen = []
            behaviours = [
                _answering(None),
                _cutting(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n"),
                _cutting(b"HTTP/1.1 xx\r\n\r\n"),
                _silent,
            ]
            for behave in behaviours:
                async with _serving(behave) as (_, url), _http(url) as transport:
                    found = await _fault_of(transport.send(_request()))
                    seen += [repr(transport), str(transport)]
                    while found is not None:
                        seen += [str(found), repr(found)]
                        found = found.__cause__
            return seen

        seen = asyncio.run(play())
        assert len(seen) > 10
        for text in seen:
            assert KEY not in text, text

    def test_a_key_that_the_server_repeats_is_taken_out(self):
        """A reply that quotes the key comes back without it."""
        data = _reply(401, error_body(f"Incorrect API key provided: {KEY}"))
        [reply], _ = _exchanged(_answering(data), _request())
        assert reply.status == 401 and KEY.encode() not in reply.body


class TestProxies:
    def test_requests_go_through_it(self):
        """A proxy gets the request with the whole URL."""

        async def play():
            async with _serving(_answering(_reply(200, b"{}"))) as (server, url):
                proxy = url.removesuffix("/v1/chat/completions")
                async with _http("http://a.example/v1", proxy=proxy) as transport:
                    assert (await transport.send(_request())).status == 200
                return server.exchanges[0].head

        assert asyncio.run(play()).startswith("POST http://a.example/v1 HTTP/1.1")

    def test_our_process_environment_is_not_consulted(self, monkeypatch):
        """Only the environment that was handed in counts."""
        monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://127.0.0.1:9")
        [reply], _ = _exchanged(_answering(_reply(200, error_body("fine"))), _request())
        assert reply.status == 200
