"""TCP keep-alive on every kind of connection, read from the sockets that the kernel has."""

import asyncio
import contextlib
import ctypes
import os
import socket
import ssl
import stat
import struct
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from batchrun.adapters.environment.clock import new_loop
from batchrun.adapters.http import keepalive
from batchrun.adapters.http.transport import HttpTransport
from batchrun.core.settings.urls import address
from batchrun.errors import TransportFault
from batchrun.records import Request

pytestmark = [pytest.mark.usefixtures("way"), pytest.mark.linux]

REQUEST = Request(0, None, b'{"messages":[],"model":"m"}', "0" * 64, "m", 10)
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
NONE = (0, None, None, None)
TIMES = [getattr(socket, f"TCP_KEEP{name}", None) for name in ("IDLE", "INTVL", "CNT")]
SO_ATTACH_FILTER = 26
PROBED = (1, 7, 7, keepalive.PROBES)


@pytest.fixture(params=["asyncio", "the run's"])
def play(request):
    """Runs a coroutine, on asyncio's own loop and on the loop of a run."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else new_loop

    def run(coroutine):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return run


def _probing_of(port):
    """What keeps the connection alive that this process has from a local port."""
    for name in map(int, (path.name for path in Path("/proc/self/fd").iterdir())):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(name).st_mode):
                continue
            with socket.socket(fileno=os.dup(name)) as found:
                if found.family == socket.AF_UNIX or found.getsockname()[1] != port:
                    continue
                if not found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
                    return NONE
                return (1, *(found.getsockopt(socket.IPPROTO_TCP, name) for name in TIMES))
    raise AssertionError(f"no socket of this process has port {port}")


class Server:
    """It answers every request, and looks up the connection that it came over."""

    def __init__(self):
        self.seen = []

    async def handle(self, reader, writer):
        """Serve one connection."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"CONNECT"):
                await self._tunnel(head, reader, writer)
                return
            await reader.readexactly(len(REQUEST.body))
            self._look(writer)
            writer.write(REPLY)

    def _look(self, writer):
        peer = writer.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.seen.append(_probing_of(peer[1]))

    async def _tunnel(self, head, reader, writer):
        host, port = head.split()[1].decode().split(":")
        there, back = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        looked = False

        async def pump(source, sink):
            nonlocal looked
            while data := await source.read(65536):
                sink.write(data)
                if source is there and data[:1] == b"\x17" and not looked:
                    looked = True  # TLS speaks of the application: the tunnel is in use
                    self._look(writer)
            sink.close()

        try:
            await asyncio.gather(pump(reader, back), pump(there, writer))
        finally:
            back.transport.abort()


@asynccontextmanager
async def _listening(server, host="127.0.0.1", *, tls=None, path=None):
    open_now = set()

    async def serve(reader, writer):
        open_now.add(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await server.handle(reader, writer)
        finally:
            writer.transport.abort()

    if path:
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


def _http(where, **settings):
    defaults = {
        "key": None,
        "headers": {},
        "concurrency": 4,
        "timeout_s": 20.0,
        "connect_timeout_s": 5.0,
        "body_bytes_max": 100_000,
        "keepalive_s": 7.0,
    }
    return HttpTransport(address(where), **defaults | settings)


async def _exchange(where, times=1, **settings):
    async with _http(where, **settings) as transport:
        for _ in range(times):
            assert (await transport.send(REQUEST)).status == 200


@pytest.fixture(scope="module")
def authority():
    """A private certificate authority."""
    return trustme.CA()


@pytest.fixture
def tls(authority):
    """The server's context, and that of a client which trusts it."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class TestEveryConnection:
    @pytest.mark.parametrize("stream", [False, True], ids=["plain replies", "streams"])
    @pytest.mark.parametrize(
        ("host", "listens"),
        [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1"), ("localhost", "::1"),
         ("localhost", "127.0.0.1")],
        ids=["IPv4", "IPv6", "a name, IPv6", "a name, IPv4"],
    )  # fmt: skip
    def test_direct(self, play, host, listens, stream):
        """A connection is probed on its first exchange and when it is used again, whichever of a
        host's addresses it was made to.
        """
        server = Server()

        async def go():
            async with _listening(server, listens) as port:
                await _exchange(f"http://{host}:{port}/v1", 3, stream=stream)

        if listens not in {found[4][0] for found in socket.getaddrinfo(host.strip("[]"), 80)}:
            pytest.skip(f"{host} has no address {listens} here")
        play(go())
        assert server.seen == [PROBED] * 3

    def test_tls(self, play, tls):
        """The socket below TLS is the one that is probed."""
        server = Server()

        async def go():
            async with _listening(server, tls=tls[0]) as port:
                await _exchange(f"https://127.0.0.1:{port}/v1", 2, tls=tls[1])

        play(go())
        assert server.seen == [PROBED] * 2

    def test_through_a_proxy(self, play):
        """The connection to the proxy is the one that networks see."""
        server = Server()

        async def go():
            async with _listening(server) as port:
                await _exchange("http://llm.example/v1", 2, proxy=f"http://127.0.0.1:{port}")

        play(go())
        assert server.seen == [PROBED] * 2

    def test_tls_through_a_proxy(self, play, tls):
        """So is the one that carries a tunnel."""
        server, proxy = Server(), Server()

        async def go():
            async with _listening(server, tls=tls[0]) as port, _listening(proxy) as by:
                where = f"https://127.0.0.1:{port}/v1"
                await _exchange(where, 2, tls=tls[1], proxy=f"http://127.0.0.1:{by}")

        play(go())
        assert proxy.seen == [PROBED]

    def test_a_unix_socket(self, play, tmp_path):
        """No network can forget it: there is nothing to set, and nothing fails."""

        async def go():
            path = str(tmp_path / "s")
            async with _listening(Server(), path=path):
                await _exchange(f"http+unix://{path.replace('/', '%2F')}/v1")

        play(go())

    def test_switched_off(self, play):
        """0 leaves a connection as the system makes it."""
        server = Server()

        async def go():
            async with _listening(server) as port:
                await _exchange(f"http://127.0.0.1:{port}/v1", keepalive_s=0)

        play(go())
        assert server.seen == [NONE]


class TestOptions:
    @pytest.mark.parametrize(
        ("asked_s", "seconds"), [(0.001, 1), (1, 1), (1.2, 2), (30.0, 30), (32767, 32767)]
    )
    def test_the_kernel_takes_whole_seconds(self, asked_s, seconds):
        """Fractions are rounded up, and the kernel takes what the setting allows."""
        with socket.socket() as found:
            for option in keepalive.options(asked_s):
                found.setsockopt(*option)
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == seconds
            assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == seconds

    def test_a_platform_with_other_names(self, play, monkeypatch):
        """Where the first time has macOS' name it is set by that; where a system has none of the
        options, probes are on with its own times.
        """
        monkeypatch.delattr(socket, "TCP_KEEPIDLE")
        monkeypatch.setattr(socket, "TCP_KEEPALIVE", 4711, raising=False)
        assert (socket.IPPROTO_TCP, 4711, 30) in keepalive.options(30.0)
        for name in ("TCP_KEEPALIVE", "TCP_KEEPINTVL", "TCP_KEEPCNT"):
            monkeypatch.delattr(socket, name)
        assert keepalive.options(30.0) == [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        self._exchanged(play)

    def test_an_option_that_the_system_refuses(self, play, monkeypatch):
        """It costs the probes, never the connection."""
        monkeypatch.setattr(socket, "TCP_KEEPIDLE", 2**30)
        self._exchanged(play)

    @staticmethod
    def _exchanged(play):
        server = Server()

        async def go():
            async with _listening(server) as port:
                await _exchange(f"http://127.0.0.1:{port}/v1")

        play(go())


class TestADeadPeer:
    @pytest.mark.parametrize("used", [False, True], ids=["new", "used before"])
    def test_it_is_a_connection_fault(self, play, monkeypatch, used):
        """A server that vanishes without a word is noticed long before the attempt's time is over;
        the fault says so, and does not blame a connection that lay idle.
        """
        monkeypatch.setattr(keepalive, "PROBES", 1)

        async def vanish(reader, writer):
            for _ in range(used):
                await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(REQUEST.body))
                writer.write(REPLY)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(REQUEST.body))
            await asyncio.sleep(0.2)  # until what came is acknowledged
            # From here on the kernel drops every packet that comes for this connection.
            drop = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
            program = struct.pack("HL", 1, ctypes.addressof(drop))
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as gone:
                gone.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
            await asyncio.Event().wait()

        async def go():
            server = Server()
            server.handle = vanish
            async with (
                _listening(server) as port,
                _http(f"http://127.0.0.1:{port}/v1", keepalive_s=1) as transport,
            ):
                for _ in range(used):
                    await transport.send(REQUEST)
                with pytest.raises(TransportFault) as caught:
                    await transport.send(REQUEST)
                return caught.value

        fault = play(go())
        assert (fault.kind, fault.sent) == ("reset", True)
        assert "no longer answers" in str(fault)
