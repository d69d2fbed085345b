"""What tests share: the real command in a subprocess, endpoints to talk to, inputs to run."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from tests.harness import door, forked
from tests.harness.slow import examples
from tests.harness.suspending import suspend

# How long an example takes says how busy the machine is.
settings.register_profile(
    "busy",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=examples(100),
)
settings.load_profile("busy")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Ten thousand tests are no garbage: while they are found, and later, nobody looks at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "batchrun")
PATIENCE_S = 240.0


def pytest_collection_modifyitems(items):
    """Leave out what looks at Linux' own files, where there are none."""
    if sys.platform != "linux":
        for item in items:
            if item.get_closest_marker("linux"):
                item.add_marker(pytest.mark.skip(reason="looks at what Linux alone shows"))


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended: exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one JSON object on stdout."""
        return json.loads(self.out)


def _is_special(environment, popen):
    """Whether a command takes an interpreter of its own: its streams are given, or what the
    interpreter or a library reads as it starts.
    """
    special = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC", "ARROW")
    return bool(
        popen
        or os.environ.get("BATCHRUN_FRESH")
        or any(name.startswith(special) for name in environment or ())
    )


@contextlib.contextmanager
def _pipe_of(data):
    """The reading end of a pipe through which these bytes come."""
    reading, writing = os.pipe()

    def write():
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as end:
            end.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield reading
    finally:
        os.close(reading)
        writer.join()


class Live:
    """A command that runs on. Its output goes to files, so that it never waits for a reader."""

    def __init__(self, process, out, err):
        self.process = process
        self._out = out
        self._err = err

    @property
    def err(self):
        """What it wrote to stderr so far."""
        return self._err.read_text("utf-8", errors="replace")

    def signal(self, number):
        """Send a signal."""
        self.process.send_signal(number)

    def suspend(self):
        """Stop it where it is, until SIGCONT."""
        suspend(self.process.pid)

    @property
    def out(self):
        """What it wrote to stdout so far."""
        return self._out.read_text("utf-8", errors="replace")

    def wait(self, timeout_s=PATIENCE_S):
        """Wait for its end."""
        code = self.process.wait(timeout_s)
        return Ended(
            code,
            self._out.read_text("utf-8", errors="replace"),
            self._err.read_text("utf-8", errors="replace"),
        )

    def kill(self):
        """End it, however it takes it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Cli:
    """The command as a user runs it, in a folder of its own and with an environment of its own."""

    def __init__(self, folder):
        self.folder = folder
        self._live = []

    def _environment(self, more):
        kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL") if k in os.environ}
        return kept | {"PYTHONPATH": str(ROOT), "HOME": str(self.folder)} | (more or {})

    def __call__(self, *arguments, env=None, timeout_s=PATIENCE_S, cwd=None, stdin=None, **popen):
        """Run a command to its end: forked, unless its output or its interpreter are special.
        ``stdin`` is an open file or pipe, or bytes that come through one.
        """
        if isinstance(stdin, bytes):
            with _pipe_of(stdin) as reading:
                return self(*arguments, env=env, cwd=cwd, stdin=reading, **popen)
        given = {} if stdin is None else {"stdin": stdin}
        if _is_special(env, popen):
            return self.fresh(*arguments, env=env, timeout_s=timeout_s, cwd=cwd, **given, **popen)
        out = self.folder.parent / f"forked-{time.monotonic_ns()}.out"
        err = out.with_suffix(".err")
        descriptor = getattr(stdin, "fileno", lambda: stdin)()
        process = forked.start(
            list(map(str, arguments)),
            self._environment(env),
            cwd or self.folder,
            out,
            err,
            stdin=os.devnull if stdin is None else f"/proc/{os.getpid()}/fd/{descriptor}",
        )
        try:
            process.join(timeout_s)
            code = process.exitcode
            if code is None:
                raise subprocess.TimeoutExpired(list(map(str, arguments)), timeout_s)
        finally:
            if process.exitcode is None:
                process.kill()
                process.join()
            process.close()
        said = (path.read_text("utf-8", errors="replace") for path in (out, err))
        return Ended(code, *said)

    def shell(self, script, env=None):
        """Run what a page shows in bash, with ``batchrun`` as the command, to its first failure.
        The command is forked (``tests/harness/door.py``).
        """
        with door.opened() as command:
            return subprocess.run(
                ["bash", "-c", f'set -eu\nbatchrun() {{ {command} "$@"; }}\n{script}'],
                cwd=self.folder,
                env=self._environment(env),
                capture_output=True,
                encoding="utf-8",
                timeout=300,
                check=False,
            )

    def fresh(self, *arguments, env=None, timeout_s=PATIENCE_S, cwd=None, **popen):
        """Run ``python -m batchrun`` to its end."""
        streams = {"stdin": subprocess.DEVNULL} | dict.fromkeys(
            ("stdout", "stderr"), subprocess.PIPE
        )
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd or self.folder,
            env=self._environment(env),
            timeout=timeout_s,
            check=False,
            **(streams | popen),
        )
        return Ended(
            done.returncode,
            (done.stdout or b"").decode(errors="replace"),
            (done.stderr or b"").decode(errors="replace"),
        )

    def run(self, *arguments, **more):
        """``batchrun run`` with a model, against whatever the arguments name."""
        return self("run", "--model", "m", *arguments, **more)

    def start(self, *arguments, env=None, fresh=False, **popen):
        """Start a command and come back: forked, as when it is called, or a ``fresh`` interpreter
        whose memory can be measured.
        """
        out = self.folder / f"live-{time.monotonic_ns()}.out"
        err = out.with_suffix(".err")
        words, environment = list(map(str, arguments)), self._environment(env)
        with out.open("wb") as to_out, err.open("wb") as to_err:
            if fresh or _is_special(env, popen):
                streams = {"stdin": subprocess.DEVNULL, "stdout": to_out, "stderr": to_err}
                process = subprocess.Popen(
                    [*COMMAND, *words], cwd=self.folder, env=environment, **(streams | popen)
                )
            else:
                process = forked.Forked(forked.start(words, environment, self.folder, out, err))
        live = Live(process, out, err)
        self._live.append(live)
        return live

    def verified(self, folder):
        """Assert that the accounting of a run directory holds; returns the report.

        In this process, which is quicker; the command itself has tests of its own.
        """
        from batchrun.views.verify import verify

        report = verify.check(str(self.folder / folder))
        assert report.problems == []
        return report.as_dict()

    def close(self):
        """Leave nothing running."""
        for live in self._live:
            live.kill()


@pytest.fixture
def cli(tmp_path):
    """The command, run in a new folder."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    command = Cli(folder)
    yield command
    command.close()


@pytest.fixture
def here(cli, monkeypatch):
    """``batchrun run`` with a model, inside this process: quicker, for tests of many runs."""
    from click.testing import CliRunner

    from batchrun.cli.run import command

    monkeypatch.chdir(cli.folder)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    # It is for processes of our own: others go on after the run.
    monkeypatch.setattr("batchrun.cli.process.make_lean", lambda: None)

    def run(*arguments):
        done = CliRunner().invoke(command, ["--model", "m", *map(str, arguments)])
        return Ended(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def simulator():
    """Starts simulated endpoints by their options; the last one is gone when the test ends."""
    from batchrun.simulator.embedded import EmbeddedSimulator
    from batchrun.simulator.plan import SimulatorOptions

    with contextlib.ExitStack() as stack:

        def start(**options):
            return stack.enter_context(EmbeddedSimulator(SimulatorOptions(**options)))

        yield start


@dataclass
class Scripted:
    """An HTTP endpoint whose every answer is written by the test."""

    base_url: str
    requests: list = field(default_factory=list)


@pytest.fixture
def served(tmp_path, until):
    """Starts `batchrun simulate` as a process of its own, on a port; a test may kill it."""
    processes = []

    def start(port=0, *flags):
        ready = tmp_path / f"port-{len(processes)}"
        ready.touch()
        words = ["simulate", "--port", str(port), *flags]
        process = forked.Forked(forked.start(words, dict(os.environ), tmp_path, ready, ready))
        processes.append(process)
        until(lambda: b"http://" in ready.read_bytes() or process.poll() is not None)
        text = ready.read_text()
        assert "http://" in text, text
        return process, int(text.split("127.0.0.1:")[1].split("/")[0])

    yield start
    for process in processes:
        process.kill()
        process.wait()


class _Server(ThreadingHTTPServer):
    """Lets as many connect at once as a run does; those that find no room wait for seconds."""

    request_queue_size = 256


@pytest.fixture
def scripted():
    """Starts an endpoint that answers ``answer(body, headers, nth)``: status, headers, body. With
    an SSL context it speaks TLS. A GET has no body (None). It has no ``/metrics``, and does not
    count who asks for that, unless it ``reports_load``.
    """
    servers = []

    def start(answer, tls=None, *, reports_load=False):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.path.endswith("/metrics") and not reports_load:
                    self.send_error(404)
                else:
                    self._answer(None)

            def do_POST(self):
                self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def _answer(self, body):
                with lock:
                    endpoint.requests.append((self.path, dict(self.headers), body))
                    nth = len(endpoint.requests)
                status, headers, reply = answer(body, self.headers, nth)
                if isinstance(reply, dict):
                    reply = json.dumps(reply).encode()
                with contextlib.suppress(ConnectionError):
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(reply)))
                    self.end_headers()
                    self.wfile.write(reply)

            def log_message(self, *_):
                pass

        lock = threading.Lock()
        server = _Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        scheme = "http"
        if tls is not None:
            scheme = "https"
            server.handle_error = lambda *_: None  # handshakes that clients give up
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        endpoint = Scripted(f"{scheme}://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        servers.append((server, thread))
        return endpoint

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def unix_simulator():
    """Starts a simulated endpoint on a Unix socket."""
    from aiohttp import web

    from batchrun.simulator.plan import SimulatorOptions
    from batchrun.simulator.server import Simulator

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runners = []

    async def listen(path):
        runners.append(web.AppRunner(Simulator(SimulatorOptions()).application()))
        await runners[-1].setup()
        await web.UnixSite(runners[-1], path).start()

    def start(path):
        asyncio.run_coroutine_threadsafe(listen(str(path)), loop).result(10)

    yield start
    for runner in runners:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def authority(tmp_path):
    """A private certificate authority, ``ca.pem`` in a folder, and a server's SSL context."""
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")

    def server_tls(*names, **more):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*(names or ("127.0.0.1", "localhost")), **more).configure_cert(context)
        return context

    return Authority(ca, tmp_path / "ca.pem", server_tls)


@dataclass(frozen=True, slots=True)
class Authority:
    """What vouches for servers in tests."""

    ca: object
    file: Path
    server_tls: object


@pytest.fixture
def answer():
    """The body of a completion."""

    def write(content="ok", **more):
        choice = {"index": 0, "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {"id": "c", "choices": [choice], "usage": usage} | more

    return write


@pytest.fixture
def chat():
    """A chat row by number, with more keys if wanted."""

    def row(number, **more):
        return {"messages": [{"role": "user", "content": f"question {number}"}]} | more

    return row


@pytest.fixture
def jsonl(tmp_path, chat):
    """Writes rows (a number of chat rows, or the rows themselves) as a JSONL file."""

    def write(rows, name="rows.jsonl", **more):
        if isinstance(rows, int):
            rows = [chat(number, **more) for number in range(rows)]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


@pytest.fixture
def published():
    """Reads the results, or another kind of parts, of a run directory as one Arrow table."""

    def read(folder, kind="results"):
        parts = sorted((Path(folder) / kind).glob("part-*.parquet"))
        tables = [pq.read_table(part, partitioning=None) for part in parts]
        assert all(table.schema.equals(tables[0].schema) for table in tables)
        return pa.concat_tables(tables)

    return read


@pytest.fixture
def summary():
    """Reads the summary of a run directory."""

    def read(folder):
        return json.loads((Path(folder) / "summary.json").read_text("utf-8"))

    return read


@pytest.fixture
def until():
    """Waits until something holds, and says what was seen where it does not."""

    def wait(holds, timeout_s=60.0):
        deadline_s = time.monotonic() + timeout_s
        while not (seen := holds()):
            assert time.monotonic() < deadline_s, seen
            time.sleep(0.01)
        return seen

    return wait


@pytest.fixture
def samples():
    """The folder of samples."""
    return ROOT / "samples"


@pytest.fixture(scope="session")
def stored():
    """Puts a verdict through Parquet as the attempt loop would: returns the row that is read back,
    whose texts are those that went in.
    """
    from batchrun.adapters.columns import schema as part_schema
    from batchrun.core.reply import completion as reading
    from batchrun.core.reply.headers import request_id
    from batchrun.records import Attempt, Outcome

    def through_parquet(table):
        table.validate(full=True)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        back = pq.read_table(pa.BufferReader(sink.getvalue()))
        assert back.equals(table)
        return back.to_pylist()[0]

    def store(verdict, reply):
        completion = verdict.completion
        attempt = Attempt(
            row=0, number=1, endpoint="e",
            model=completion.model if completion else None,
            service_tier=completion.service_tier if completion else None,
            started_at_us=0, queue_s=0.0, latency_s=0.0, http_status=reply.status,
            error_class=verdict.error_class, error_code=verdict.code,
            retry_after_s=verdict.wait_s, usage=verdict.usage,
            cost_pd=None, request_id=request_id(reply.headers), unanswered=False,
        )  # fmt: skip
        failure = None
        if completion is None:
            failure = reading.failure(verdict.error_class, verdict.code, verdict.message)
        outcome = Outcome(
            row=0, custom_id=None, completion=completion, failure=failure, attempts=1,
            attempt=attempt, request_hash=None, response=reading.text_of(reply.body, 4096),
        )  # fmt: skip
        through_parquet(
            pa.Table.from_arrays(
                part_schema.attempt_columns([attempt]), schema=part_schema.attempts_schema()
            )
        )
        row = through_parquet(
            pa.Table.from_arrays(
                part_schema.result_columns([outcome]),
                schema=part_schema.results_schema(pa.schema([])),
            )
        )
        if completion is not None:
            first = completion.first
            assert (row["content"], row["reasoning"]) == (first.content, first.reasoning)
        return row

    return store


@pytest.fixture
def interrupted(cli, simulator, jsonl, until):
    """Makes a run that SIGINT ended midway: the run directory, the input and the endpoint.

    ``rows`` of them, at least ``done`` of which were answered and at least some were not.
    """

    def make(rows=40, done=5, shard_rows=10, source=None):
        from batchrun.simulator.latency import FixedLatency

        endpoint = simulator(latency=FixedLatency(0.03))
        source = source or jsonl(rows)
        folder = cli.folder / "run"
        live = cli.start(
            *("run", source, "-o", folder, "--model", "m", "--base-url", endpoint.base_url),
            *("--shard-rows", shard_rows, "--concurrency", 2, "--no-progress"),
        )
        until(lambda: endpoint.stats()["by_status"].get("200", 0) >= done)
        live.signal(signal.SIGINT)
        assert live.wait().code == 130
        return folder, source, endpoint

    return make


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket of an S3 server, and the environment in which a command finds it."""

    bucket: str
    env: dict
    client: object

    def put(self, key, data):
        """Store an object; returns its address."""
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"s3://{self.bucket}/{key}"

    def get(self, key):
        """The content of an object."""
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self, prefix=""):
        """The keys of the objects under a prefix, without those that stand for folders."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", ())
        return [o["Key"] for o in found if not o["Key"].endswith("/")]


@contextlib.contextmanager
def s3_at(folder, command):
    """The address of an S3 server while it serves: a process started by the words that
    ``command`` makes of a port. What it says goes into a log in ``folder``.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log, address = folder / "log", f"http://127.0.0.1:{port}"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, *command(port)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        deadline_s = time.monotonic() + 60
        while True:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5),  # noqa: S310 - ours
            ):
                break
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """The address of a real S3 server, a process of its own on the loopback interface."""
    pytest.importorskip("moto")

    def command(port):
        return ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    with s3_at(tmp_path_factory.mktemp("s3"), command) as address:
        yield address


@pytest.fixture
def store(s3_server, monkeypatch):
    """A new bucket of the S3 server."""
    env = {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("s3", region_name="us-east-1")
    bucket = f"rows-{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    yield Store(bucket, env, client)
    client.close()


@pytest.fixture
def impatient_s3(monkeypatch):
    """Makes Arrow's S3 client give up at once, where it tries for six seconds, at an endpoint."""
    from pyarrow import fs

    from batchrun.adapters.storage import filesystems

    def at(endpoint):
        once = fs.AwsStandardS3RetryStrategy(max_attempts=1)
        system = fs.S3FileSystem(endpoint_override=endpoint, retry_strategy=once)
        monkeypatch.setattr(filesystems, "_arrow_system", lambda *_: system)

    return at
