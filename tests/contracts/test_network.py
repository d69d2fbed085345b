"""The transport over real sockets of all kinds: TLS, proxies, redirects, IPv6, Unix sockets."""

import asyncio
import base64
import contextlib
import datetime as dt
import itertools
import json
import socket
import ssl
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
import trustme

from batchrun.adapters.environment.clock import new_loop
from batchrun.adapters.http import reply_body
from batchrun.adapters.http.tls import context_of
from batchrun.adapters.http.transport import HttpTransport
from batchrun.core.settings.resolve import resolve
from batchrun.core.settings.table import BY_NAME
from batchrun.core.settings.urls import Address, address
from batchrun.core.settings.values import checked
from batchrun.errors import TransportFault, UsageError
from batchrun.records import Request

pytestmark = pytest.mark.usefixtures("way")

KEY = "sk-never-to-be-seen"
PLAIN = b'{"choices":[{"message":{"content":"plain"},"finish_reason":"stop"}]}'
REQUEST = Request(0, None, b'{"messages":[],"model":"m"}', "0" * 64, "m", 10)


@pytest.fixture(params=["asyncio", "the run's"])
def play(request):
    """Runs a coroutine, on asyncio's own loop and on the loop of a run: their TLS differs."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else new_loop

    def run(coroutine):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return run


def _reply(status=200, *headers, body=b"{}"):
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Server:
    """It answers each request by its number, or by ``answer(path)``."""

    answer: object
    heads: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    port: int = 0
    connections: int = 0

    async def handle(self, reader, writer):
        """Serve one connection."""
        self.connections += 1
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(line.split(":")[1])
                for line in head.splitlines()
                if line.lower().startswith("content-length")
            )
            self.heads.append(head)
            self.bodies.append(await reader.readexactly(length))
            writer.write(self.answer(head.split()[1]))
            await writer.drain()


@asynccontextmanager
async def _listening(handle, host="127.0.0.1", *, path=None, tls=None):
    """Serve connections; yields the port. None is left open."""
    open_now = set()

    async def serve(reader, writer):
        open_now.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()

    if path is not None:
        listening = await asyncio.start_unix_server(serve, path)
    else:
        listening = await asyncio.start_server(serve, host, 0, ssl=tls)
    try:
        yield None if path else listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _serving(answer=lambda _: _reply(), host="127.0.0.1", tls=None):
    server = Server(answer)
    async with _listening(server.handle, host, tls=tls) as server.port:
        yield server


def _http(where, **settings):
    defaults = {
        "key": KEY,
        "headers": {},
        "concurrency": 4,
        "timeout_s": 20.0,
        "connect_timeout_s": 5.0,
        "body_bytes_max": 100_000,
    }
    return HttpTransport(where, **defaults | settings)


async def _sent(where, **settings):
    """The reply to one request, or the fault."""
    async with _http(where, **settings) as transport:
        try:
            return await transport.send(REQUEST)
        except TransportFault as fault:
            return fault


@pytest.fixture(scope="module")
def authority():
    """A private certificate authority."""
    return trustme.CA()


@pytest.fixture
def endpoint():
    """The settings of an endpoint by its keys."""

    def make(**given):
        raw = {f"endpoint.{key}": str(value) for key, value in given.items()}
        return resolve({"input.files": ["x"], "output.dir": "d", **raw}).endpoint

    return make


@pytest.fixture
def ca_file(authority, tmp_path):
    """The authority's own certificate as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def _server_tls(authority, *names, **more):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    return context


@contextlib.contextmanager
def _refusing_handshakes(tls):
    """A server whose handshakes fail, and that says so before it closes the connection: asyncio's
    would not. Yields the port.
    """

    def serve():
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = listening.accept()
                found = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with contextlib.suppress(ssl.SSLError):
                    found.do_handshake()
                raw = socket.socket(fileno=found.detach())
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
                raw.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _over_tls(play, server_tls, client_tls, host="127.0.0.1"):
    async def go():
        async with _serving(tls=server_tls) as server:
            return await _sent(f"https://{host}:{server.port}/v1", tls=client_tls), server

    return play(go())


def _streamed(*texts):
    """An answer in chunks, each an event and a chunk of the transfer coding."""
    deltas = [({"content": text}, None) for text in texts] + [({}, "stop")]
    chunks = [
        {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        for delta, finish in deltas
    ]
    events = [b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks]
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked"
    coded = [b"%x\r\n%b\r\n" % (len(event), event) for event in [*events, b"data: [DONE]\n\n"]]
    return b"".join([head.encode(), b"\r\n\r\n", *coded, b"0\r\n\r\n"])


async def _streams(where, times, **settings):
    """The texts of so many streamed answers in a row."""
    async with _http(where, stream=True, **settings) as transport:
        bodies = [json.loads((await transport.send(REQUEST)).body) for _ in range(times)]
    return [body["choices"][0]["message"]["content"] for body in bodies]


class TestTls:
    def test_streams(self, play, authority, endpoint, ca_file):
        """Streams and plain replies by turns come through TLS as they do without, over one
        connection.
        """
        replies = itertools.cycle([_streamed(*"streams"), _reply(body=PLAIN), _streamed("again")])
        tls = context_of(endpoint(ca_file=ca_file), {})

        async def go():
            async with _serving(
                lambda _: next(replies), tls=_server_tls(authority, "127.0.0.1")
            ) as server:
                return await _streams(f"https://127.0.0.1:{server.port}/v1", 6, tls=tls), server

        texts, server = play(go())
        assert texts == ["streams", "plain", "again"] * 2
        assert server.connections == 1

    def test_what_comes_for_somebody_who_left(
        self, play, authority, endpoint, ca_file, monkeypatch
    ):
        """A large stream that is given up keeps no turn among those that may be large, also where
        TLS stands between.
        """
        monkeypatch.setattr(reply_body, "LARGE_AT_ONCE", 1)
        monkeypatch.setattr(reply_body, "UNPACKED_BYTES", 0)
        tls = context_of(endpoint(ca_file=ca_file), {})
        reply = _streamed(*["x" * 1000] * 200)

        async def dripping(reader, writer):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(REQUEST.body))
                for start in range(0, len(reply), 10_000):
                    writer.write(reply[start : start + 10_000])
                    await asyncio.sleep(0.002)

        async def go():
            async with (
                _listening(dripping, tls=_server_tls(authority, "127.0.0.1")) as port,
                _http(
                    f"https://127.0.0.1:{port}/v1", tls=tls, stream=True, body_bytes_max=10**6
                ) as transport,
            ):
                for wait_s in (0.03, 0.04, 0.05, 0.06):
                    leaving = asyncio.create_task(transport.send(REQUEST))
                    await asyncio.sleep(wait_s)
                    leaving.cancel()
                async with asyncio.timeout(10):
                    body = json.loads((await transport.send(REQUEST)).body)
                assert not transport._large.slots.locked()
                return body["choices"][0]["message"]["content"]

        assert play(go()) == "x" * 200_000

    def test_an_authority_of_our_own(self, play, authority, endpoint, ca_file):
        """What a private authority vouches for is trusted where it is named."""
        tls = context_of(endpoint(ca_file=ca_file), {})
        reply, server = _over_tls(play, _server_tls(authority, "127.0.0.1"), tls)
        assert reply.status == 200 and f"Bearer {KEY}" in server.heads[0]

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_the_variables_of_openssl(self, play, authority, endpoint, tmp_path, variable):
        """They are honoured wherever they come from, ``.env`` included."""
        folder = tmp_path / "cas"
        folder.mkdir()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        if variable == "SSL_CERT_DIR":
            import subprocess

            subprocess.run(["openssl", "rehash", folder], check=True, capture_output=True)
        value = folder / "ca.pem" if variable == "SSL_CERT_FILE" else folder
        tls = context_of(endpoint(), {variable: str(value)})
        reply, _ = _over_tls(play, _server_tls(authority, "127.0.0.1"), tls)
        assert reply.status == 200

    @pytest.mark.parametrize(
        ("names", "more", "reason"),
        [
            (["other.example"], {}, "127.0.0.1"),
            (["127.0.0.1"], {"not_after": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
                             "not_before": dt.datetime(2019, 1, 1, tzinfo=dt.UTC)},
             "expired"),
        ],
        ids=["another host", "expired"],
    )  # fmt: skip
    def test_a_certificate_that_does_not_hold(
        self, play, authority, endpoint, ca_file, names, more, reason
    ):
        """It is a fault that stops the run, and says which host and why. Nothing was sent."""
        tls = context_of(endpoint(ca_file=ca_file), {})
        fault, server = _over_tls(play, _server_tls(authority, *names, **more), tls)
        assert (fault.kind, fault.sent) == ("tls", False)
        assert f"127.0.0.1:{server.port} is not accepted" in str(fault) and reason in str(fault)
        assert server.heads == []

    @pytest.mark.parametrize("named", ["nobody", "somebody else"])
    def test_an_unknown_authority(self, play, authority, endpoint, tmp_path, named):
        """Neither the system's authorities nor another one vouch for it; the flag is named."""
        given = {}
        if named == "somebody else":
            trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
            given["ca_file"] = tmp_path / "other.pem"
        tls = context_of(endpoint(**given), {})
        fault, server = _over_tls(play, _server_tls(authority, "127.0.0.1"), tls)
        assert fault.kind == "tls" and "--ca-file" in str(fault)
        assert server.heads == []

    def test_a_client_certificate(self, play, authority, endpoint, ca_file, tmp_path):
        """A server that demands one gets it, from one file or from two."""
        mine = authority.issue_cert("me@example.org")
        both, cert, key = (tmp_path / name for name in ("both.pem", "cert.pem", "key.pem"))
        mine.private_key_and_cert_chain_pem.write_to_path(both)
        mine.cert_chain_pems[0].write_to_path(cert)
        mine.private_key_pem.write_to_path(key)
        demanding = _server_tls(authority, "127.0.0.1")
        demanding.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(demanding)
        for files in ({"client_cert": both}, {"client_cert": cert, "client_key": key}):
            tls = context_of(endpoint(ca_file=ca_file, **files), {})
            reply, _ = _over_tls(play, demanding, tls)
            assert reply.status == 200

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_client_certificate_that_is_missing(
        self, play, authority, endpoint, ca_file, version, way
    ):
        """The refusal may come after the handshake: it is told from a broken connection. The plain
        way aiohttp may be writing meanwhile, and then knows of a broken connection only.
        """
        demanding = _server_tls(authority, "127.0.0.1")
        demanding.verify_mode = ssl.CERT_REQUIRED
        demanding.maximum_version = version
        authority.configure_trust(demanding)
        with _refusing_handshakes(demanding) as port:
            for _ in range(5 if way == "plain" else 1):
                tls = context_of(endpoint(ca_file=ca_file), {})
                fault = play(_sent(f"https://127.0.0.1:{port}/v1", tls=tls))
                if fault.kind != "reset":
                    break
        late = way == "plain" and version is ssl.TLSVersion.TLSv1_3
        assert fault.kind == "tls" or (late and fault.kind == "reset"), repr(fault)
        assert fault.kind == "reset" or "--client-cert" in str(fault)

    def test_a_server_without_tls(self, play, endpoint):
        """https:// where http:// is spoken stops the run, and says so."""

        async def go():
            async def refuse(reader, writer):
                await reader.read(100)
                writer.write(_reply(400, "Connection: close"))
                await writer.drain()
                await reader.read()

            async with _listening(refuse) as port:
                return await _sent(f"https://127.0.0.1:{port}/v1", tls=context_of(endpoint(), {}))

        fault = play(go())
        assert fault.kind == "tls" and "http://" in str(fault), repr(fault)

    def test_a_connection_lost_in_the_handshake_is_tried_again(self, play, endpoint):
        """A server that goes away meanwhile is no reason to stop the run."""

        async def go():
            async def hang_up(reader, writer):
                await reader.read(10)
                writer.close()

            async with _listening(hang_up) as port:
                return await _sent(f"https://127.0.0.1:{port}/v1", tls=context_of(endpoint(), {}))

        fault = play(go())
        assert fault.kind in ("connect", "reset"), repr(fault)


class TestFilesOfCertificates:
    def test_what_cannot_be_used_is_named(self, authority, endpoint, tmp_path):
        """A file that is missing, of another kind, encrypted or of another key is exit 2."""
        from cryptography.hazmat.primitives import serialization

        text, cert, key, locked = (tmp_path / f"{n}.pem" for n in ("text", "cert", "key", "locked"))
        text.write_text("no certificate")
        mine, other = authority.issue_cert("a@b.example"), authority.issue_cert("c@d.example")
        mine.cert_chain_pems[0].write_to_path(cert)
        other.private_key_pem.write_to_path(key)
        private = serialization.load_pem_private_key(mine.private_key_pem.bytes(), None)
        locked.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"hunter2"),
            )
        )
        cases = [
            ({"ca_file": "/nowhere.pem"}, {}, "/nowhere.pem cannot be read"),
            ({"ca_file": text}, {}, "PEM"),
            ({"ca_file": tmp_path}, {}, str(tmp_path)),
            ({}, {"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE /nowhere.pem cannot be read"),
            ({}, {"SSL_CERT_DIR": "/nowhere"}, "SSL_CERT_DIR /nowhere is not a folder"),
            ({"client_cert": "/nowhere.pem"}, {}, "/nowhere.pem"),
            ({"client_cert": cert}, {}, "certificate and its key"),
            ({"client_cert": cert, "client_key": key}, {}, "not that of the certificate"),
            ({"client_cert": cert, "client_key": locked}, {}, "encrypted"),
        ]
        for given, environment, words in cases:
            with pytest.raises(UsageError) as caught:
                context_of(endpoint(**given), environment)
            assert words in str(caught.value)

    def test_a_key_without_a_certificate(self, endpoint):
        """It says nothing of itself."""
        with pytest.raises(UsageError, match="client_cert"):
            endpoint(client_key="k.pem")


def _redirecting(play, *hops, **settings):
    """What comes of a server whose n-th reply is the n-th hop (the last for ever)."""
    answers = iter(hops)
    last = [hops[-1]]

    def answer(_):
        return next(answers, last[0])

    async def go():
        async with _serving(answer) as server:
            url = f"http://127.0.0.1:{server.port}/v1/chat/completions?key=abc"
            return await _sent(url, **settings), server

    return play(go())


class TestRedirects:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("status", [307, 308])
    def test_on_the_same_server_it_is_followed(self, play, status, stream):
        """The request is sent again as it was, key and body and all."""
        reply, server = _redirecting(
            play, _reply(status, "Location: /v2/chat?x=1"), _reply(), stream=stream
        )
        assert reply.status == 200
        assert [head.split()[1] for head in server.heads] == [
            "/v1/chat/completions?key=abc",
            "/v2/chat?x=1",
        ]
        assert server.bodies == [REQUEST.body] * 2
        assert all(f"Bearer {KEY}" in head for head in server.heads)

    def test_a_circle_is_left(self, play):
        """After three redirects the fourth is the reply."""
        reply, server = _redirecting(play, _reply(307, "Location: /again"))
        assert reply.status == 307 and len(server.heads) == 4

    @pytest.mark.parametrize(
        ("status", "location"),
        [
            (301, "/v2"), (302, "/v2"), (303, "/v2"),
            (307, "http://localhost:{port}/v2"), (307, "https://127.0.0.1:{port}/v2"),
            (308, "http://127.0.0.1/v2"), (307, "//evil.example/v2"), (307, "http://[::1"),
            (307, "http://u:p@127.0.0.1:{port}/v2"), (307, ""),
        ],
    )  # fmt: skip
    def test_no_other_is(self, play, status, location):
        """Elsewhere, and as another method, the request is not repeated."""

        async def go():
            async with _serving(
                lambda _: _reply(status, f"Location: {location.format(port=server.port)}")
            ) as server:
                reply = await _sent(f"http://127.0.0.1:{server.port}/v1")
                return reply, server

        reply, server = play(go())
        assert reply.status == status and len(server.heads) == 1

    def test_all_hops_have_the_time_of_one_attempt(self, play):
        """A server that redirects slowly gains nothing by it."""

        async def go():
            async def slow(reader, writer):
                while True:
                    await reader.readuntil(b'"m"}')
                    await asyncio.sleep(0.15)
                    writer.write(_reply(307, "Location: /again"))

            async with _listening(slow) as port:
                return await _sent(f"http://127.0.0.1:{port}/v1", timeout_s=0.3)

        assert play(go()).kind == "timeout"


class TestKeysInFlight:
    def test_another_key_is_sent_from_then_on(self, play):
        """By the short way, after a redirect, and through a proxy."""

        async def go():
            answers = iter([_reply(307, "Location: /v2"), _reply()] * 2)
            async with _serving(lambda _: next(answers)) as server:
                where = f"http://127.0.0.1:{server.port}"
                async with _http(f"{where}/v1") as transport:
                    await transport.send(REQUEST)
                    transport.replace_key("sk-another")
                    await transport.send(REQUEST)
            async with _serving() as proxy:
                through = f"http://127.0.0.1:{proxy.port}"
                async with _http("http://a.example/v1", proxy=through) as transport:
                    await transport.send(REQUEST)
                    transport.replace_key("sk-another")
                    await transport.send(REQUEST)
            return server.heads, proxy.heads

        direct, proxied = play(go())
        for heads, half in ((direct, 2), (proxied, 1)):
            assert len(heads) == 2 * half
            assert all(f"Bearer {KEY}\r\n" in head for head in heads[:half])
            assert all("Bearer sk-another\r\n" in head for head in heads[half:])


@asynccontextmanager
async def _proxying(status=200):
    """A proxy by hand that makes tunnels, or refuses to."""
    asked = []

    async def copy(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def handle(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head)
        if status != 200:
            writer.write(f"HTTP/1.1 {status} Nope\r\nContent-Length: 0\r\n\r\n".encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            return
        host, _, port = head.split()[1].rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(copy(reader, back), copy(there, writer))
        finally:
            back.transport.abort()

    async with _listening(handle) as port:
        yield port, asked


class TestTunnels:
    def test_https_goes_through_a_tunnel(self, play, authority, endpoint, ca_file):
        """The proxy learns host and port and its own password; TLS is with the server itself."""

        async def go():
            server_tls = _server_tls(authority, "localhost")
            async with _serving(tls=server_tls) as server, _proxying() as (port, asked):
                tls = context_of(endpoint(ca_file=ca_file), {})
                reply = await _sent(
                    f"https://localhost:{server.port}/v1",
                    tls=tls,
                    proxy=f"http://user:p%40ss@127.0.0.1:{port}",
                )
                return reply, asked, server

        reply, asked, server = play(go())
        assert reply.status == 200 and f"Bearer {KEY}" in server.heads[0]
        assert asked[0].startswith(f"CONNECT localhost:{server.port} ")
        assert KEY not in asked[0]
        basic = base64.b64encode(b"user:p@ss").decode()
        assert f"Proxy-Authorization: Basic {basic}" in asked[0]
        assert "Proxy-Authorization" not in server.heads[0]

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(403, "proxy"), (407, "proxy"), (502, "connect"), (503, "connect"), (504, "connect")],
    )
    def test_a_proxy_that_makes_no_tunnel(self, play, endpoint, status, kind):
        """A refusal stops the run; that the server cannot be reached may pass."""

        async def go():
            async with _proxying(status) as (port, _):
                return await _sent(
                    "https://a.example/v1",
                    tls=context_of(endpoint(), {}),
                    proxy=f"http://user:hunter2@127.0.0.1:{port}",
                )

        fault = play(go())
        assert (fault.kind, fault.sent) == (kind, False)
        assert "hunter2" not in repr(fault) and str(status) in str(fault)
        assert "a.example" in str(fault) and "127.0.0.1" in str(fault)

    def test_a_proxy_that_is_not_there(self, play):
        """It is named, without its password."""
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            port = unheard.getsockname()[1]
            fault = play(
                _sent("http://a.example/v1", proxy=f"http://user:hunter2@127.0.0.1:{port}")
            )
        assert fault.kind == "connect" and f"the proxy 127.0.0.1:{port}" in str(fault)
        assert "hunter2" not in repr(fault)


def _has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as found:
        found.bind(("::1", 0))
        return True
    return False


class TestAddresses:
    @pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
    def test_an_ipv6_literal(self, play):
        """It is written in brackets, in the request too."""

        async def go():
            async with _serving(host="::1") as server:
                return await _sent(f"http://[::1]:{server.port}/v1"), server

        reply, server = play(go())
        assert reply.status == 200 and f"Host: [::1]:{server.port}" in server.heads[0]

    @pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
    @pytest.mark.parametrize("alive", ["127.0.0.1", "::1"])
    @pytest.mark.parametrize("dead", ["refusing", "silent"])
    def test_one_dead_family_does_no_harm(self, play, monkeypatch, alive, dead):
        """A host with two addresses is reached where one of them refuses or never answers."""
        other = "127.0.0.1" if alive == "::1" else "::1"

        async def go():
            async with _serving(host=alive) as server:
                with contextlib.ExitStack() as stack:
                    if dead == "silent":
                        _fill(stack, other, server.port)
                    loop = asyncio.get_running_loop()
                    transport = _http(f"http://two.example:{server.port}/v1")
                    async with transport:

                        async def resolve(_, host, port, **__):
                            families = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}
                            return [
                                {"hostname": host, "host": found, "port": port,
                                 "family": families[found], "proto": 0,
                                 "flags": socket.AI_NUMERICHOST}
                                for found in (other, alive)
                            ]  # fmt: skip

                        monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
                        began_s = loop.time()
                        reply = await transport.send(REQUEST)
                        return reply, loop.time() - began_s

        reply, took_s = play(go())
        assert reply.status == 200 and took_s < 2

    def test_a_unix_socket(self, play, tmp_path):
        """A server on a socket of the file system is reached by it, and no proxy is asked."""
        path = tmp_path / "llm server.sock"

        async def go():
            server = Server(lambda _: _reply())
            where = f"http+unix://{str(path).replace('/', '%2F').replace(' ', '%20')}/v1"
            async with _listening(server.handle, path=path):
                return await _sent(address(where)), server

        reply, server = play(go())
        assert reply.status == 200
        assert server.heads[0].startswith("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost")

    def test_a_unix_socket_that_is_not_there(self, play, tmp_path):
        """It is named."""
        path = str(tmp_path / "no.sock")
        fault = play(_sent(Address("http://localhost/v1", path)))
        assert (fault.kind, fault.sent) == ("connect", False)
        assert path in str(fault) and "No such file" in str(fault)


def _fill(stack, host, port):
    """A listener that answers no connection: its queue is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = stack.enter_context(socket.socket(family))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(0)
    for _ in range(3):
        waiting = stack.enter_context(socket.socket(family))
        waiting.setblocking(False)
        waiting.connect_ex((host, port))


def test_settings_of_paths_are_checked():
    """An empty path is refused."""
    with pytest.raises(UsageError, match="ca_file"):
        checked(BY_NAME["endpoint.ca_file"], "")
