"""The transport's look at another URL of its server, over real sockets."""

import asyncio
import contextlib
import time

import pytest

from batchrun.adapters.http.transport import HttpTransport
from batchrun.errors import TransportFault

KEY = "sk-never-to-be-seen"


def _reply(status, body):
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _get(answer, **options):
    """What a GET of /v1/models yields from a server that writes ``answer``, and its request. None
    lets the client wait.
    """
    heads = []
    served = asyncio.Event()

    async def serve(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if answer is None:
            with contextlib.suppress(ConnectionError):
                await reader.read()
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        served.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        settings = {"key": KEY, "headers": {}, "timeout_s": 5.0} | options
        async with HttpTransport(
            f"{base}/chat/completions",
            concurrency=1,
            connect_timeout_s=5.0,
            body_bytes_max=10_000,
            **settings,
        ) as transport:
            try:
                found = await transport.get(f"{base}/models")
            except TransportFault as fault:
                found = fault
        await served.wait()
    return found, heads


@pytest.mark.parametrize("status", [200, 307, 404, 500])
def test_any_status_is_a_reply(status):
    """With the run's headers sent, nothing followed, and the key taken out of the body."""
    reply, (head,) = asyncio.run(_get(_reply(status, f'{{"key": "{KEY}"}}'.encode())))
    assert (reply.status, reply.body) == (status, b'{"key": "[redacted]"}')
    assert head.startswith("GET /v1/models HTTP/1.1")
    assert f"Authorization: Bearer {KEY}" in head


def test_the_key_in_another_header():
    """Whole, without a scheme before it."""
    _, (head,) = asyncio.run(_get(_reply(200, b"{}"), key_header="api-key"))
    assert f"api-key: {KEY}\r\n" in head
    assert "Authorization" not in head


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "cut"),
        (_reply(200, b"[" * 20_000), "too_large"),
        (b"no HTTP at all\r\n\r\n", "cut"),
    ],
)
def test_what_is_no_whole_reply_is_a_fault(answer, kind):
    """The kinds are those of a request."""
    fault, _ = asyncio.run(_get(answer))
    assert isinstance(fault, TransportFault), fault
    assert fault.kind == kind


def test_a_server_that_never_answers():
    """The time is that of an attempt."""
    began_s = time.monotonic()
    fault, _ = asyncio.run(_get(None, timeout_s=0.1))
    assert (fault.kind, str(fault)) == ("timeout", "no whole reply within 0.1 s")
    assert time.monotonic() - began_s < 5
