"""A run that is stopped (SIGSTOP) in the middle and goes on (SIGCONT): real processes and sockets.

Stops are longer than --timeout, so that every timer of the run is over when it wakes up.
"""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

TIMEOUT_S = 2
STOP_S = 3.0


def _suspend(live, for_s=STOP_S):
    live.suspend()
    time.sleep(for_s)
    os.kill(live.process.pid, signal.SIGCONT)


def _run(cli, rows, endpoint, *more):
    return cli.start(
        *("run", rows, "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--timeout", TIMEOUT_S, "--no-progress", *more),
    )


def _proven(cli, published, rows):
    """Every row is ok by its first attempt."""
    cli.verified("run")
    results = published(cli.folder / "run").to_pylist()
    assert [row["status"] for row in results] == ["ok"] * rows
    assert {row["attempts"] for row in results} == {1}, [row["attempts"] for row in results]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("size", [10, 300_000], ids=["small", "large"])
def test_answers_that_came_meanwhile_are_taken(
    cli, scripted, answer, jsonl, until, published, authority, tls, size
):
    """They wait in the sockets, also where they fill them; no row is sent twice."""

    def reply(*_):
        time.sleep(0.8)
        return 200, {}, answer("x" * size)

    endpoint = scripted(reply, authority.server_tls() if tls else None)
    flags = ("--ca-file", authority.file) if tls else ()
    live = _run(cli, jsonl(24), endpoint, "--concurrency", 8, "--max-attempts", 1, *flags)
    for _ in range(2):
        seen = len(endpoint.requests)
        until(lambda seen=seen: len(endpoint.requests) >= min(24, seen + 8))
        _suspend(live)
    done = live.wait()
    assert done.code == 0, done.err
    results = _proven(cli, published, 24)
    assert len(endpoint.requests) == 24
    assert all(row["latency_s"] < TIMEOUT_S for row in results)


@pytest.mark.slow
def test_a_stream_goes_on_where_it_was(cli, streaming, jsonl, until, published):
    """It keeps its connection, and the time to its first token is measured without the stop."""
    endpoint = streaming(events=20, every_s=0.06)
    live = _run(cli, jsonl(8), endpoint, "--stream", "--concurrency", 4)
    until(lambda: endpoint.opened >= 4)
    _suspend(live)
    until(lambda: endpoint.requests >= 8)
    _suspend(live)
    done = live.wait()
    assert done.code == 0, done.err
    results = _proven(cli, published, 8)
    assert {row["content"] for row in results} == {"".join(f"{n} " for n in range(20))}
    assert all(0 < row["ttft_s"] <= row["latency_s"] < TIMEOUT_S for row in results)
    assert endpoint.requests == 8


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "by its end"])
def test_answers_of_a_server_that_closed_the_connection_are_taken(
    cli, streaming, jsonl, until, published, how
):
    """An answer counts though its connection was closed behind it."""
    endpoint = streaming(events=5, every_s=0.1, ending=how)
    live = _run(cli, jsonl(8), endpoint, "--stream", "--concurrency", 4)
    until(lambda: endpoint.opened >= 4)
    _suspend(live)
    done = live.wait()
    assert done.code == 0, done.err
    _proven(cli, published, 8)


@pytest.mark.slow
def test_a_suspended_run_keeps_its_grace(cli, scripted, answer, jsonl, until, published):
    """A run that is asked to end, and suspended for longer than --grace, takes what came."""

    def reply(*_):
        time.sleep(1.0)
        return 200, {}, answer()

    endpoint = scripted(reply)
    live = _run(cli, jsonl(20), endpoint, "--concurrency", 4, "--grace", 1.5)
    until(lambda: len(endpoint.requests) >= 4)
    live.signal(signal.SIGTERM)
    time.sleep(0.1)
    _suspend(live)
    assert live.wait().code == 143
    assert published(cli.folder / "run")["status"].to_pylist() == ["ok"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "streams"])
def test_connections_that_broke_meanwhile_cost_no_attempt(
    cli, streaming, jsonl, until, published, mode
):
    """A server that resets what is not read, each time anew: rows that may fail once do not."""
    endpoint = streaming(events=3, every_s=0.1, breaks=3)
    more = ("--stream",) if mode == "streams" else ()
    live = _run(cli, jsonl(2), endpoint, "--concurrency", 2, "--max-attempts", 1, *more)
    for nth in range(1, 4):
        until(lambda nth=nth: endpoint.requests >= 2 * nth)
        live.suspend()
        endpoint.break_all()
        time.sleep(STOP_S)
        os.kill(live.process.pid, signal.SIGCONT)
    done = live.wait()
    assert done.code == 0, done.err
    cli.verified("run")
    assert published(cli.folder / "run")["status"].to_pylist() == ["ok", "ok"]
    ledger = published(cli.folder / "run", "attempts").to_pylist()
    lost = [line for line in ledger if line["error_class"]]
    assert {(line["error_class"], line["error_code"]) for line in lost} == {
        ("connection", "suspended")
    }
    assert len(lost) == 6


@pytest.mark.linux
@pytest.mark.slow
def test_a_connection_that_was_being_made_costs_no_attempt(cli, jsonl, until, published, streaming):
    """Its time is over when the run wakes up; it is made anew, and the row is not charged."""
    endpoint = streaming(events=1, every_s=0.0, shut=True)
    already = _connecting(endpoint.port)
    live = _run(
        cli, jsonl(2), endpoint, *("--concurrency", 2), *("--max-attempts", 1),
        *("--connect-timeout", 1.5),
    )  # fmt: skip
    until(lambda: _connecting(endpoint.port) >= already + 2)
    live.suspend()
    time.sleep(STOP_S)
    endpoint.open()
    os.kill(live.process.pid, signal.SIGCONT)
    done = live.wait()
    assert done.code == 0, done.err
    assert published(cli.folder / "run")["status"].to_pylist() == ["ok", "ok"]


@pytest.mark.slow
def test_a_key_command_keeps_its_time():
    """A command that prints the key while the run is suspended was not too slow."""
    program = (
        "from batchrun.adapters.http.key_command import output_of\n"
        "print('ready', flush=True)\n"
        "print(output_of(['sh', '-c', 'sleep 1; echo key'], lambda: False, timeout_s=2))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    with process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        time.sleep(STOP_S)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == b"b'key\\n'\n"


def _connecting(port):
    """Connections to a local port that wait for it to say yes."""
    with open("/proc/net/tcp", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel
        fields = [line.split() for line in file.readlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "02" for line in fields)


class Streaming:
    """A server of raw sockets that speaks slowly, and whose connections a test may break."""

    def __init__(self, *, events, every_s, ending="whole", breaks=0, shut=False):
        self._events, self._every_s, self._ending = events, every_s, ending
        self._breaks = breaks
        self._lock = threading.Lock()
        self._open = set()
        self._fillers = []
        self.opened = self.requests = 0
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=0 if shut else 64)
        self.port = self._listening.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        if shut:
            self._shut()
        else:
            self.open()

    def _shut(self):
        """Fill the queue of those who connect: the kernel lets nobody else in."""
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", self.port))
            self._fillers.append(filler)
        time.sleep(0.1)

    def open(self):
        """Let everybody in."""
        for filler in self._fillers:
            filler.close()
        self._listening.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        """Leave nothing open."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def break_all(self):
        """Reset every connection."""
        with self._lock:
            self._breaks -= 1
            for connection in self._open:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            self._open.clear()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with self._lock:
                    self._open.add(connection)
                    self.opened += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError, ValueError), connection:
            while head := self._head(connection):
                with self._lock:
                    self.requests += 1
                if self._breaks > 0:
                    time.sleep(60)  # until it is broken
                self._answer(connection, streamed=b'"stream":true' in head)
                if self._ending != "whole":
                    return

    @staticmethod
    def _head(connection):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split()[0])
        while len(body) < length:
            body += connection.recv(65536)
        return body.replace(b" ", b"")

    def _answer(self, connection, *, streamed):
        if not streamed:
            time.sleep(self._events * self._every_s)
            choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}}
            body = json.dumps({"choices": [choice | {"finish_reason": "stop"}]}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        chunked = self._ending == "whole"
        coding = b"Transfer-Encoding: chunked" if chunked else b"Connection: close"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n\r\n"
        connection.sendall(head % coding)
        events = [{"delta": {"content": f"{n} "}, "finish_reason": None}
                  for n in range(self._events)]  # fmt: skip
        for event in [*events, {"delta": {}, "finish_reason": "stop"}, None]:
            time.sleep(self._every_s)
            data = b"[DONE]"
            if event is not None:
                data = json.dumps({"id": "c", "choices": [{"index": 0} | event]}).encode()
            data = b"data: %b\n\n" % data
            connection.sendall(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            connection.sendall(b"0\r\n\r\n")


@pytest.fixture
def streaming():
    """Starts such a server."""
    servers = []

    def start(**settings):
        servers.append(Streaming(**settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
