"""Streams over real sockets: expected or not, and every way in which they can end."""

import asyncio
import gc
import gzip
import json
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from batchrun.adapters.http import reply_body
from batchrun.adapters.http.transport import HttpTransport
from batchrun.core.reply import completion as reading
from batchrun.core.text.redact import REDACTED
from batchrun.core.verdict.judge import Circumstances, judge
from batchrun.errors import TransportFault
from batchrun.records import Request

pytestmark = pytest.mark.usefixtures("way")

REQUEST = Request(0, None, b'{"model":"m","stream":true}', "0" * 64, "m", 10)
KEY = "sk-never-to-be-seen"
TIMEOUT_S = 0.5
BYTES_MAX = 100_000
PATIENCE_S = 60.0

STREAM = "Content-Type: text/event-stream"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(params=[True, False], ids=["asked for", "unasked"])
def transport_of(request):
    """Makes transports that expect streams, and such that do not."""

    def make(url, **settings):
        defaults = {
            "key": KEY, "headers": {}, "concurrency": 4, "timeout_s": TIMEOUT_S,
            "connect_timeout_s": 5.0, "body_bytes_max": BYTES_MAX,
            "stream": request.param,
        }  # fmt: skip
        return HttpTransport(url, **defaults | settings)

    return make


def _head(*headers, status="200 OK"):
    return "\r\n".join([f"HTTP/1.1 {status}", "X-Request-Id: req-1", *headers, "", ""]).encode()


def _chunked(*pieces, end=True):
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return body + (b"0\r\n\r\n" if end else b"")


def _event(delta, finish=None, **more):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "c", "created": 5, "model": "m", "choices": [choice]} | more
    return b"data: %b\n\n" % json.dumps(chunk).encode()


OPEN = _event({"role": "assistant", "content": ""})
TEXTS = [_event({"content": f"word {number} "}) for number in range(40)]
CONTENT = "".join(f"word {number} " for number in range(40))
STOP = _event({}, "stop")
USAGE = _event({}, usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
DONE = b"data: [DONE]\n\n"
WHOLE = [OPEN, *TEXTS, STOP, USAGE, DONE]


@asynccontextmanager
async def _serving(behave):
    """A server that reads a request and then does as it is told; counts its connections."""
    writers, opened = set(), []

    async def handle(reader, writer):
        writers.add(writer)
        opened.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                if not await behave(reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writers.discard(writer)
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", opened
    finally:
        listening.close()
        for writer in writers:
            writer.transport.abort()
        async with asyncio.timeout(5):
            while writers:  # noqa: ASYNC110 - sockets close when they like
                await asyncio.sleep(0.01)


def _sending(*pieces, pause_s=0.0, then="go on"):
    """Send these pieces; then go on, close, reset, or wait for the client to leave."""

    async def behave(reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
        if then == "reset":
            writer.transport.abort()
        if then == "wait":
            await reader.read()
        return then == "go on"

    return behave


def _exchange(make, behave, times=1, **settings):
    """What each exchange brought, a reply or a fault, and how many connections it took."""

    async def play():
        found = []
        async with _serving(behave) as (url, opened), make(url, **settings) as transport:
            for _ in range(times):
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        found.append(await transport.send(REQUEST))
                except TransportFault as fault:
                    found.append(fault)
            return found, len(opened)

    return asyncio.run(play())


def _read(reply):
    return reading.completion(reading.parse(reply.body))


def _verdict(exchange):
    return judge(exchange, Circumstances({}, True, 1e9, 600.0))


def test_a_stream_becomes_a_plain_reply(transport_of):
    """Status, headers, the answer and the time to its first token; connections are kept."""
    behave = _sending(_head(STREAM, CHUNKED), _chunked(*WHOLE))
    found, opened = _exchange(transport_of, behave, times=3)
    for reply in found:
        assert (reply.status, reply.headers.get("x-request-id")) == (200, "req-1")
        answer = _read(reply)
        assert (answer.first.content, answer.first.finish_reason) == (CONTENT, "stop")
        assert answer.usage.total_tokens == 3
        assert 0 < reply.ttft_s < PATIENCE_S
    assert opened == 1


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_cut_anywhere(transport_of, size):
    """Head, chunk sizes and events may be cut by the network wherever it likes."""
    raw = _head(STREAM, CHUNKED) + _chunked(b": hello\r\n\r\n", OPEN, *TEXTS[:4], STOP, DONE)
    pieces = [raw[a:b] for a, b in pairwise([*range(0, len(raw), size), len(raw)])]

    async def behave(_, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        return True

    [reply], _ = _exchange(transport_of, behave, timeout_s=20)
    assert _read(reply).first.content == "word 0 word 1 word 2 word 3 "


@pytest.mark.parametrize(
    ("head", "body", "then"),
    [
        pytest.param([STREAM], b"".join(WHOLE), "close", id="until the connection closes"),
        pytest.param(
            [STREAM, f"Content-Length: {len(b''.join(WHOLE))}"], b"".join(WHOLE), "go on",
            id="with its length",
        ),
        pytest.param(
            ["Content-Type: text/plain", CHUNKED], _chunked(*WHOLE), "go on", id="mislabelled"
        ),
        pytest.param([CHUNKED], _chunked(*WHOLE), "go on", id="not labelled"),
        pytest.param(
            [STREAM, CHUNKED, "Content-Encoding: gzip"],
            _chunked(gzip.compress(b"".join(WHOLE))), "go on", id="compressed",
        ),
        pytest.param(
            [STREAM, CHUNKED, "Connection: close"], _chunked(*WHOLE), "close", id="closing"
        ),
        pytest.param(
            ["content-type:text/event-stream;charset=utf-8", "transfer-encoding:  chunked "],
            _chunked(*WHOLE), "go on", id="odd head",
        ),
        pytest.param(
            [STREAM, CHUNKED], _chunked(b"\n", b"\r\n\r\n", *WHOLE), "go on", id="blank lines first"
        ),
        pytest.param(
            [STREAM, CHUNKED],
            _chunked(*(e.replace(b"data: ", b"").replace(b"\n\n", b"\n") for e in WHOLE[:-1])),
            "go on", id="lines without field names",
        ),
        pytest.param(
            [STREAM, CHUNKED, "X-Policy: " + "x" * 30_000, *(f"X-{n}: v" for n in range(300))],
            _chunked(*WHOLE), "go on", id="a large head",
        ),
    ],
)  # fmt: skip
def test_streams_in_other_clothes(transport_of, head, body, then):
    """However its end is told, labelled or not, a stream is read as one."""
    [reply], _ = _exchange(transport_of, _sending(_head(*head), body, then=then))
    assert _read(reply).first.content == CONTENT
    assert _read(reply).usage.total_tokens == 3


PLAIN = json.dumps(
    {"id": "c", "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
).encode()


@pytest.mark.parametrize("label", ["text/event-stream", "application/json", "text/plain"])
@pytest.mark.parametrize("before", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_plain_json_is_read_as_such(transport_of, label, before):
    """A server that does not stream is understood all the same."""
    body = before + PLAIN
    behave = _sending(_head(f"Content-Type: {label}", CHUNKED), _chunked(body[:5], body[5:]))
    [reply], opened = _exchange(transport_of, behave)
    assert (_read(reply).first.content, reply.ttft_s, opened) == ("hi", None, 1)


def test_a_head_with_bare_line_feeds(transport_of):
    """It is the parser that decides about it, at once and not at the timeout."""
    raw = _head(STREAM, f"Content-Length: {len(b''.join(WHOLE))}").replace(b"\r\n", b"\n")
    [reply], _ = _exchange(transport_of, _sending(raw + b"".join(WHOLE), then="wait"))
    assert _read(reply).first.content == CONTENT


@pytest.mark.parametrize("raw", [b"220 ready\r\n", b"\x15\x03\x01\0\x02\x02\x50"])
def test_what_is_no_http_is_not_waited_for(transport_of, raw):
    """A server that speaks something else is found out by its first words."""
    [fault], _ = _exchange(transport_of, _sending(raw, then="wait"))
    assert fault.kind == "cut" and "not HTTP" in str(fault)
    assert ("https://" in str(fault)) is (raw[0] == 0x15)


def test_a_page_labelled_as_a_stream(transport_of):
    """It is a page, and the verdict shows it."""
    [reply], _ = _exchange(transport_of, _sending(_head(STREAM, CHUNKED), _chunked(b"<html>no")))
    verdict = _verdict(reply)
    assert verdict.error_class == "invalid_response" and "<html>no" in verdict.message


def test_what_a_server_says_in_a_broken_stream_is_told(transport_of):
    """Its words are in the message, a credential among them is not."""
    said = f"data: no more for {KEY}\n\n".encode()
    [fault], _ = _exchange(transport_of, _sending(_head(STREAM, CHUNKED), _chunked(OPEN, said)))
    assert str(fault).endswith(f"the server said: no more for {REDACTED}")


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Slow", "500 Broken", "503 Later"])
def test_refusals_are_read_whole(transport_of, status):
    """An error status has a plain body, whatever its label."""
    behave = _sending(_head(STREAM, CHUNKED, status=status), _chunked(b"data: no", b" more\n\n"))
    [reply], _ = _exchange(transport_of, behave)
    assert (reply.status, reply.body, reply.ttft_s) == (int(status[:3]), b"data: no more\n\n", None)


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize(
    ("events", "whole"),
    [
        pytest.param([OPEN, *TEXTS], False, id="in the text"),
        pytest.param([OPEN, *TEXTS, STOP], True, id="behind the finish reason"),
        pytest.param([OPEN, *TEXTS, DONE], True, id="behind done"),
        pytest.param([OPEN, *TEXTS, STOP.rstrip()], True, id="in the last line break"),
        pytest.param([OPEN], False, id="before the text"),
        pytest.param([], False, id="behind the head"),
    ],
)
def test_a_connection_cut_in_the_middle(transport_of, events, whole, then):
    """A cut costs an answer that was not whole, whose part is kept, and no other."""
    raw = _head(STREAM, CHUNKED) + _chunked(*events, end=False)
    [found], _ = _exchange(transport_of, _sending(raw, pause_s=0.05, then=then))
    if whole:
        assert _read(found).first.content == CONTENT
        return
    if not events and found.partial is None:
        assert found.kind in ("cut", "suspended")  # the latter where this very process stood still
        return
    assert (found.kind, found.sent, found.http_status) == ("incomplete", True, 200)
    assert _verdict(found).error_class == "incomplete_stream"
    text = CONTENT if len(events) > 1 else ""
    assert (_read(found.partial).first.content if events else "") == text
    assert found.partial.headers.get("x-request-id") == "req-1"


@pytest.mark.parametrize("framing", ["chunked", "closing"])
def test_a_good_end_in_the_middle(transport_of, framing):
    """Half an answer whose stream ends in good order is half an answer."""
    if framing == "chunked":
        behave = _sending(_head(STREAM, CHUNKED), _chunked(OPEN, *TEXTS))
    else:
        behave = _sending(_head(STREAM), OPEN, *TEXTS, then="close")
    [fault], _ = _exchange(transport_of, behave)
    assert (fault.kind, str(fault)) == (
        "incomplete",
        "the stream ended in the middle of the answer",
    )
    assert _read(fault.partial).first.content == CONTENT
    assert fault.partial.ttft_s > 0


@pytest.mark.parametrize(
    ("events", "whole"), [([OPEN, *TEXTS], False), ([OPEN, *TEXTS, STOP], True)]
)
def test_a_stream_that_stalls(transport_of, events, whole):
    """The wall clock ends a stalled stream; what it holds counts if it is whole."""
    raw = _head(STREAM, CHUNKED) + _chunked(*events, end=False)
    [found], _ = _exchange(transport_of, _sending(raw, then="wait"))
    if whole:
        assert _read(found).first.content == CONTENT
    else:
        assert (found.kind, found.sent) == ("timeout", True)
        assert _read(found.partial).first.content == CONTENT


def test_a_stream_that_does_not_end_behind_done(transport_of, monkeypatch):
    """Once the end is announced, a server that keeps the connection open holds nobody up."""
    monkeypatch.setattr(reply_body, "DONE_GRACE_S", 0.05)
    raw = _head(STREAM, CHUNKED) + _chunked(*WHOLE, end=False)
    found, opened = _exchange(transport_of, _sending(raw, then="wait"), times=2, timeout_s=20)
    assert [_read(reply).first.content for reply in found] == [CONTENT, CONTENT]
    assert opened == 2


def test_what_comes_late_behind_done(transport_of):
    """The end of the body may come after ``[DONE]`` did, and the connection is used again."""
    pieces = [_head(STREAM, CHUNKED) + _chunked(*WHOLE, end=False), b"0\r\n", b"\r\n"]
    found, opened = _exchange(transport_of, _sending(*pieces, pause_s=0.03), times=2, timeout_s=20)
    assert [_read(reply).first.content for reply in found] == [CONTENT, CONTENT]
    assert opened == 1


def test_words_between_two_answers_cost_the_connection(transport_of, way):
    """What a server says unasked is not taken for the next answer. The plain way can notice it
    only once a request went out, which then is as if its connection had gone stale.
    """
    unasked = _head("Content-Length: 0", "Connection: close", status="408 Idle for too long")

    async def behave(_, writer):
        writer.write(_head(STREAM, CHUNKED) + _chunked(*WHOLE))
        await asyncio.sleep(0.1)
        writer.write(unasked)
        return True

    async def play():
        async with _serving(behave) as (url, opened), transport_of(url) as transport:
            found = []
            while len(found) < 2:
                try:
                    found.append(await transport.send(REQUEST))
                except TransportFault as fault:
                    if (fault.kind, way) != ("stale", "plain"):
                        raise
                await asyncio.sleep(0.2)
            return found, len(opened)

    found, opened = asyncio.run(play())
    assert [_read(reply).first.content for reply in found] == [CONTENT, CONTENT]
    assert opened == 2


def test_a_read_that_looks_like_the_last(transport_of):
    """Bytes that end as a body does, in the middle of one, are taken once."""
    remark = b": 10\r\n\r\n"
    begun = _head(STREAM, CHUNKED) + _chunked(OPEN, *TEXTS[:20], remark, end=False)[:-2]
    assert begun.endswith(b"0\r\n\r\n")
    rest = b"\r\n" + _chunked(*TEXTS[20:], STOP, DONE)
    found, opened = _exchange(
        transport_of, _sending(begun, rest, pause_s=0.05), times=2, timeout_s=20
    )
    assert [_read(reply).first.content for reply in found] == [CONTENT, CONTENT]
    assert opened == 1


def test_what_comes_for_somebody_who_left(transport_of, monkeypatch):
    """A large stream that is given up leaves no turn taken among those that may be large."""
    monkeypatch.setattr(reply_body, "LARGE_AT_ONCE", 1)
    monkeypatch.setattr(reply_body, "UNPACKED_BYTES", 0)
    sent = []

    async def behave(_, writer):
        nth = len(sent)
        sent.append(0)
        writer.write(_head(STREAM, CHUNKED) + _chunked(OPEN, end=False))
        for _ in range(200):
            writer.write(_chunked(_event({"content": "x" * 1000}), end=False))
            sent[nth] += 1
            await asyncio.sleep(0.001)
        writer.write(_chunked(STOP, DONE))
        return True

    async def play():
        async with (
            _serving(behave) as (url, _),
            transport_of(url, timeout_s=20, body_bytes_max=10**6) as transport,
            asyncio.timeout(PATIENCE_S),
        ):
            for nth, pieces in enumerate((1, 30, 60, 90)):
                leaving = asyncio.create_task(transport.send(REQUEST))
                while len(sent) == nth or sent[nth] < pieces:  # noqa: ASYNC110 - until it came
                    await asyncio.sleep(0.001)
                leaving.cancel()
            reply = await transport.send(REQUEST)
            assert len(_read(reply).first.content) == 200_000
            assert not transport._large.slots.locked()

    asyncio.run(play())
    assert len(sent) == 5


def test_surplus_costs_the_connection(transport_of):
    """What a server sends behind a body is not taken for the next answer."""
    raw = _head(STREAM, CHUNKED) + _chunked(*WHOLE) + _head("Content-Length: 2") + b"{}"
    found, opened = _exchange(transport_of, _sending(raw), times=2)
    assert [_read(reply).first.content for reply in found] == [CONTENT, CONTENT]
    assert opened == 2


def test_broken_chunked_coding(transport_of):
    """A coding that cannot be followed ends the stream there, and costs the connection."""
    raw = _head(STREAM, CHUNKED) + _chunked(OPEN, *TEXTS, end=False)
    found, opened = _exchange(
        transport_of, _sending(raw, b"zz\r\n" + STOP, pause_s=0.05, then="wait"), times=2
    )
    # aiohttp closes such a connection and leaves its reader waiting.
    assert {fault.kind for fault in found} <= {"incomplete", "timeout"}
    assert [_read(fault.partial).first.content for fault in found] == [CONTENT] * 2
    assert opened == 2


@pytest.mark.parametrize("finished", [False, True])
def test_too_large_a_stream(transport_of, finished):
    """The limit counts the bytes that come, framing and all, and is not read on beyond it."""

    async def behave(_, writer):
        said = [OPEN, TEXTS[0], STOP] if finished else [OPEN, TEXTS[0]]
        writer.write(_head(STREAM, CHUNKED) + _chunked(*said, end=False))
        await asyncio.sleep(0.05)
        while True:
            writer.write(_chunked(b": keep-alive\n\n" * 700, end=False))
            await writer.drain()

    [fault], _ = _exchange(transport_of, behave, timeout_s=20)
    assert (fault.kind, fault.http_status) == ("too_large", 200)
    assert _read(fault.partial).first.content == "word 0 "


@pytest.mark.parametrize("kind", ["stream", "plain"])
def test_few_replies_are_large_at_once(transport_of, monkeypatch, kind):
    """With room for one large reply, others wait for it or are given up, and all come whole."""
    monkeypatch.setattr(reply_body, "LARGE_AT_ONCE", 1)
    monkeypatch.setattr(reply_body, "UNPACKED_BYTES", 0)
    text = "x" * 150_000
    plain = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    events = [OPEN, _event({"content": text}), STOP, DONE]
    raw = _head(*[STREAM, CHUNKED] if kind == "stream" else [CHUNKED])
    raw += _chunked(*(events if kind == "stream" else [plain]), end=False)
    half, gone = len(raw) // 2, []

    async def behave(_, writer):
        first = not gone
        gone.append(writer)
        writer.write(raw[: half + 20_000])
        await asyncio.sleep(0.3 if first else 0)
        writer.write(raw[half + 20_000 :] + b"0\r\n\r\n")
        return True

    async def play():
        async with (
            _serving(behave) as (url, _),
            transport_of(url, timeout_s=20, body_bytes_max=10**6) as transport,
        ):
            sending = [asyncio.create_task(transport.send(REQUEST)) for _ in range(4)]
            await asyncio.sleep(0.1)
            sending.pop().cancel()
            async with asyncio.timeout(PATIENCE_S):
                replies = await asyncio.gather(*sending)
            assert [_read(reply).first.content for reply in replies] == [text] * 3
            await asyncio.sleep(0)
            assert not transport._large.slots.locked()

    asyncio.run(play())


def test_an_error_in_the_middle_is_judged_by_its_code(transport_of):
    """The status inside is the one that counts; the partial text stays beside it."""
    error = b'data: {"error":{"message":"Slow down.","code":429}}\n\n'
    [reply], _ = _exchange(
        transport_of, _sending(_head(STREAM, CHUNKED), _chunked(OPEN, *TEXTS, error, DONE))
    )
    verdict = _verdict(reply)
    assert (verdict.error_class, verdict.code, verdict.message) == (
        "rate_limit",
        "429",
        "Slow down.",
    )
    assert json.loads(reply.body)["choices"][0]["message"]["content"] == CONTENT


def test_a_key_in_two_chunks_is_redacted(transport_of):
    """A credential that a server spells out piece by piece is found in the whole."""
    events = [OPEN, *(_event({"content": part}) for part in (KEY[:7], KEY[7:])), STOP, DONE]
    [reply], _ = _exchange(transport_of, _sending(_head(STREAM, CHUNKED), _chunked(*events)))
    assert _read(reply).first.content == REDACTED


def test_the_first_token_is_timed(transport_of):
    """The time to the first token is that of the first thing said, not of the head or the end."""
    pieces = [_head(STREAM, CHUNKED) + _chunked(OPEN, end=False), _chunked(TEXTS[0], end=False)]
    pieces += [_chunked(*TEXTS[1:], STOP, DONE)]
    [reply], _ = _exchange(transport_of, _sending(*pieces, pause_s=0.15), timeout_s=20)
    assert 0.14 <= reply.ttft_s < 0.29


@pytest.mark.slow
def test_nothing_is_left_for_the_collector(transport_of):
    """What an exchange needed goes when it ends: cycles of references are collected at a price."""

    async def play():
        raw = _head(STREAM, CHUNKED) + _chunked(*WHOLE)
        async with _serving(_sending(raw)) as (url, _), transport_of(url) as transport:
            await transport.send(REQUEST)
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):
                    await transport.send(REQUEST)
                return gc.collect()
            finally:
                gc.enable()

    assert asyncio.run(play()) < 20


def test_cancelling_closes_the_connection(transport_of):
    """A stream that is given up in the middle leaves nothing open and nothing to complain of."""

    async def play():
        raw = _head(STREAM, CHUNKED) + _chunked(OPEN, *TEXTS, end=False)
        async with (
            _serving(_sending(raw, then="wait")) as (url, _),
            transport_of(url, timeout_s=20) as transport,
        ):
            sending = asyncio.create_task(transport.send(REQUEST))
            await asyncio.sleep(0.1)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending

    asyncio.run(play())


@pytest.mark.parametrize(
    "lines",
    [
        [{"error": {"message": "warming up"}}, {"choices": [{"index": 0, "delta": {}}]}],
        [{"object": "message", "choices": [{"index": 0, "delta": {"content": "ho"}}]}] * 2,
    ],
    ids=["an error", "an object of that name"],
)
def test_bare_lines_that_name_a_message(transport_of, lines):
    """A stream whose lines lack their field names, and the last one its line break, is one also
    where a message is named before the first delta.
    """
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    sending = _sending(_head(STREAM, f"Content-Length: {len(body)}") + body)
    [found], _ = _exchange(transport_of, sending)
    partial = found.partial if isinstance(found, TransportFault) else found
    assert b'"chat.completion"' in partial.body
