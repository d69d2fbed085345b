"""What others learn of a run: the status page, metrics, a command at the end, a webhook."""

import json
import re
import signal
import socket
import stat
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families

import batchrun
from batchrun.adapters.environment import exposition, metrics_file, notify
from batchrun.simulator.latency import FixedLatency
from tests.harness.snapshots import snapshot


def metrics(text):
    """The samples of an exposition by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fetched(address, *, method="GET", **headers):
    """The status, headers and text of a reply."""
    request = urllib.request.Request(address, method=method, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
            return reply.status, dict(reply.headers), reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


@pytest.fixture
def hook():
    """A webhook: its URL with a secret in it, what was posted, and how it replies."""
    posted, manner = [], {"status": 200, "wait_s": 0.0}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, dict(self.headers), json.loads(body)))
            time.sleep(manner["wait_s"])
            self.send_response(manner["status"])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook/s3cr3t?t=t0ken", posted, manner
    server.shutdown()
    server.server_close()


@pytest.fixture
def served(cli, until):
    """`batchrun status DIR --serve`, as a process: its address."""

    def start(folder="run"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = cli.start("status", folder, "--serve", port)

        def listens():
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        until(listens)
        return f"http://127.0.0.1:{port}", process

    return start


# The command and the webhook


def test_a_command_and_a_webhook_are_told_how_it_ended(cli, simulator, jsonl, hook, summary):
    """The summary on stdin, the environment, and one POST; also of a run with failed rows."""
    url, posted, _ = hook
    (cli.folder / "c.toml").write_text(f'[notify]\nwebhook = "{url}"\n')
    told = '"$BATCHRUN_STATUS $BATCHRUN_EXIT_CODE $BATCHRUN_DIR"'
    keep = f"sh -c 'cat > got.json; echo {told} > env'"
    endpoint = simulator(error_rates={"400": 0.5}, seed=1)
    flags = ("-o", "run", "--no-progress", "-c", "c.toml", "--on-finish", keep, "--json")
    done = cli.run(jsonl(10), *flags, "--base-url", endpoint.base_url)
    assert done.code == 1, done.err
    assert json.loads((cli.folder / "got.json").read_text()) == summary(cli.folder / "run")
    where = str(cli.folder / "run")
    assert (cli.folder / "env").read_text() == f"complete_with_errors 1 {where}\n"
    ((path, headers, body),) = posted
    assert path == "/hook/s3cr3t?t=t0ken" and headers["Content-Type"] == "application/json"
    assert set(body) == {"text", "status", "exit_code", "dir"}
    assert (body["status"], body["exit_code"], body["dir"]) == ("complete_with_errors", 1, where)
    assert body["text"].startswith("batchrun run: complete, with errors: ")
    assert done.json["status"] == "complete_with_errors"


def test_stops_and_failures_are_told_too(cli, scripted, jsonl, hook):
    """A guard, a directory that is none, and a signal: the exit code is what it was."""
    url, posted, _ = hook
    (cli.folder / "c.toml").write_text(f'[notify]\nwebhook = "{url}"\n')
    refusing = scripted(lambda *_: (401, {}, {"error": {"message": "bad key"}}))
    flags = ("--no-progress", "-c", "c.toml")
    stopped = cli.run(jsonl(3), "-o", "run", *flags, "--base-url", refusing.base_url)
    assert stopped.code == 3
    (cli.folder / "strange").mkdir()
    (cli.folder / "strange" / "file").write_text("x")
    refused = cli.run(jsonl(3), "-o", "strange", *flags, "--base-url", refusing.base_url)
    assert refused.code == 2
    told = [(body["status"], body["exit_code"]) for _, _, body in posted]
    assert told == [("stopped", 3), ("failed", 2)]
    assert "holds other files" in posted[1][2]["text"]


def test_a_signal_is_told_as_well(cli, simulator, jsonl, until):
    """SIGTERM: the command runs once the run has stopped in order."""
    endpoint = simulator(latency=FixedLatency(0.3))
    command = ("run", jsonl(200), "--model", "m", "-o", "run", "--base-url", endpoint.base_url)
    tell = "sh -c 'echo $BATCHRUN_STATUS $BATCHRUN_EXIT_CODE >> told'"
    live = cli.start(*command, "--no-progress", "--concurrency", 2, "--on-finish", tell)
    until(lambda: endpoint.stats()["requests_total"] > 2)
    live.signal(signal.SIGTERM)
    assert live.wait().code == 143
    assert (cli.folder / "told").read_text() == "interrupted 143\n"


def test_what_is_told_never_changes_how_it_ended(cli, simulator, jsonl, hook):
    """A webhook that refuses, redirects or is not there, a command that fails or is none."""
    url, posted, manner = hook
    endpoint = simulator()
    source = jsonl(2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/s3cr3t"
    for status, where, words in (
        (500, url, "the webhook at 127.0.0.1 replied with status 500"),
        (302, url, "the webhook at 127.0.0.1 replied with status 302"),
        (200, nowhere, "the webhook at 127.0.0.1 cannot be reached: Connection refused"),
    ):
        manner["status"] = status
        (cli.folder / "c.toml").write_text(f'[notify]\nwebhook = "{where}"\n')
        flags = ("-o", f"run-{status}-{len(words)}", "--no-progress", "-c", "c.toml")
        done = cli.run(source, *flags, "--base-url", endpoint.base_url)
        assert done.code == 0 and words in done.err, done.err
        assert "s3cr3t" not in done.err and "t0ken" not in done.err
    assert [path for path, _, _ in posted] == ["/hook/s3cr3t?t=t0ken"] * 2
    for command, words in (
        ("false", "--on-finish false ended with exit code 1"),
        ("nowhere/at-all s3cr3t", "--on-finish nowhere/at-all ... cannot be run: No such file"),
    ):
        flags = ("-o", f"run-{len(words)}", "--no-progress", "--on-finish", command)
        done = cli.run(source, *flags, "--base-url", endpoint.base_url)
        assert done.code == 0 and words in done.err and "s3cr3t" not in done.err


def test_one_that_hangs_is_not_waited_for(hook, monkeypatch):
    """A command with its children, a webhook that never replies."""
    url, _, manner = hook
    monkeypatch.setattr(notify, "COMMAND_TIMEOUT_S", 0.3)
    monkeypatch.setattr(notify, "WEBHOOK_TIMEOUT_S", 0.3)
    ended, said = notify.Ended("complete", 0, "run", "text", {}), []
    began_s = time.monotonic()
    notify.run_command("sh -c 'sleep 60 & sleep 60'", ended, said.append)
    manner["wait_s"] = 5.0
    notify.post(url, ended, said.append)
    assert time.monotonic() - began_s < 10
    assert "was killed: it did not end within 0.3 seconds" in said[0]
    assert "127.0.0.1" in said[1] and "s3cr3t" not in said[1]
    notify.run_command("true", notify.Ended("", 0, "", "", {"a": "x" * 10**6}), said.append)
    assert len(said) == 2


def test_the_url_and_the_command_are_in_no_file(cli, simulator, jsonl, hook):
    """Neither in the run directory nor in the log; a bad URL is not repeated."""
    url, _, _ = hook
    (cli.folder / "c.toml").write_text(
        f'[notify]\nwebhook = "{url}"\non_finish = "true pa55word"\n'
    )
    endpoint = simulator()
    flags = ("--log-file", "log", "--log-level", "debug", "-c", "c.toml", "--no-progress")
    done = cli.run(jsonl(5), "-o", "run", *flags, "--base-url", endpoint.base_url, "--limit", 3)
    assert done.code == 0, done.err
    for path in [cli.folder / "log", *(cli.folder / "run").rglob("*")]:
        if path.is_file():
            held = path.read_bytes()
            assert b"s3cr3t" not in held and b"pa55word" not in held, path
    stopped = cli.run(
        jsonl(5), "-o", "other", "--base-url", endpoint.base_url, "--on-finish", "true pa55word",
        "--deadline", 0,
    )  # fmt: skip
    assert stopped.code == 3 and "to resume:" in stopped.err and "pa55word" not in stopped.err
    (cli.folder / "bad.toml").write_text('[notify]\nwebhook = "ftp://h/s3cr3t"\n')
    bad = cli.run(jsonl(5), "-o", "run", "-c", "bad.toml", "--base-url", endpoint.base_url)
    assert bad.code == 2 and "notify.webhook: expected an http:// or https:// URL" in bad.err
    assert "s3cr3t" not in bad.err


def test_programs_have_the_same(tmp_path, hook):
    """`on_finish=`, `webhook=` and `metrics_file=` of the Python functions."""
    url, posted, _ = hook
    rows = [{"messages": [{"role": "user", "content": "a"}], "model": "m"}]
    found = batchrun.run(
        rows, output=tmp_path / "run", provider="simulator", webhook=url,
        on_finish=f"touch {tmp_path / 'told'}", metrics_file=tmp_path / "m.prom",
    )  # fmt: skip
    assert found.exit_code == 0 and (tmp_path / "told").exists()
    assert [body["status"] for _, _, body in posted] == ["complete"]
    assert metrics((tmp_path / "m.prom").read_text())["batchrun_rows", "ok"] == 1


# Metrics


def test_the_metrics_file_keeps_the_last_success(cli, simulator, scripted, jsonl):
    """Written whole and readable by the collector; a failed run keeps the success of the file."""
    path, source = cli.folder / "night.prom", jsonl(6)
    flags = ("--no-progress", "--metrics-file", "night.prom")
    good = cli.run(source, "-o", "monday", *flags, "--base-url", simulator().base_url)
    assert good.code == 0, good.err
    first = metrics(path.read_text())
    assert first["batchrun_rows", "ok"] == 6 and first["batchrun_rows", "pending"] == 0
    assert first["batchrun_running",] == 0 and first["batchrun_exit_code",] == 0
    assert abs(first[exposition.SUCCESS,] - time.time()) < 300
    assert stat.S_IMODE(path.stat().st_mode) & 0o044
    again = cli.run(source, "-o", "monday", *flags, "--base-url", simulator().base_url)
    assert again.code == 0 and "nothing left to send" in again.err
    later = metrics(path.read_text())
    assert later[exposition.SUCCESS,] > first[exposition.SUCCESS,]
    first = later
    refusing = scripted(lambda *_: (401, {}, {"error": {"message": "bad key"}}))
    bad = cli.run(source, "-o", "tuesday", *flags, "--base-url", refusing.base_url)
    assert bad.code == 3
    second = metrics(path.read_text())
    assert second[exposition.SUCCESS,] == first[exposition.SUCCESS,]
    assert second["batchrun_exit_code",] == 3 and second["batchrun_rows", "pending"] == 6
    usage = cli.run("missing.jsonl", "-o", "wednesday", *flags, "--base-url", refusing.base_url)
    assert usage.code == 2
    third = metrics(path.read_text())
    assert (
        third["batchrun_exit_code",] == 2
        and third[exposition.SUCCESS,] == first[exposition.SUCCESS,]
    )
    assert [p.name for p in cli.folder.iterdir() if "prom" in p.name] == ["night.prom"]


def test_a_metrics_file_that_cannot_be_written_is_said_at_once(cli, simulator, jsonl):
    """Before anything is sent."""
    endpoint = simulator()
    done = cli.run(
        jsonl(2), "-o", "run", "--metrics-file", "nowhere/m.prom", "--base-url", endpoint.base_url
    )
    assert done.code == 2 and "--metrics-file" in done.err and "No such file" in done.err
    assert endpoint.stats()["requests_total"] == 0


def test_the_metrics_file_is_renewed_while_the_run_goes_on(cli):
    """From the start on, with what is in flight."""
    file = metrics_file.MetricsFile(str(cli.folder / "m.prom"))
    assert metrics((cli.folder / "m.prom").read_text())["batchrun_running",] == 1
    file._next_s = 0.0
    file(snapshot(ok=3, rows_input=9, in_flight=4, eta_s=None))
    found = metrics((cli.folder / "m.prom").read_text())
    assert found["batchrun_rows", "pending"] == 6 and found["batchrun_in_flight",] == 4
    assert ("batchrun_eta_seconds",) not in found
    file(snapshot(ok=8, rows_input=9, in_flight=4, eta_s=None))
    assert metrics((cli.folder / "m.prom").read_text())["batchrun_rows", "ok"] == 3


# The page


def test_the_page_is_for_this_machine_alone(cli, simulator, jsonl, served):
    """Other names for it, other methods and other paths get nothing; it listens on loopback."""
    assert cli.run(jsonl(3), "-o", "run", "--base-url", simulator().base_url).code == 0
    address, process = served()
    port = address.rpartition(":")[2]
    status, headers, page = fetched(address + "/")
    assert status == 200 and "complete: 3 of 3 rows ok" in page
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert fetched(f"http://localhost:{port}/")[0] == 200
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "",
        f"127.0.0.1.evil:{port}",
    ):
        assert fetched(address + "/", Host=host)[0] == 403, host
        assert fetched(address + "/metrics", Host=host)[0] == 403, host
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert fetched(address + "/", method=method)[0] == 405
    assert fetched(address + "/../checkpoint/journal.db")[0] == 404
    assert json.loads(fetched(address + "/status.json")[2])["state"] == "complete"
    found = metrics(fetched(address + "/metrics")[2])
    assert found["batchrun_rows", "ok"] == 3 and found[exposition.SUCCESS,] > 1e9
    process.signal(signal.SIGINT)
    done = process.wait()
    assert done.code == 130 and "serving http://127.0.0.1:" in done.err


@pytest.mark.slow
def test_the_page_follows_the_run(cli, simulator, jsonl, served, until):
    """Live figures, failures among them, until it has ended."""
    endpoint = simulator(latency=FixedLatency(0.2), error_rates={"400": 0.2}, seed=4)
    command = ("run", jsonl(160), "--model", "m", "-o", "run", "--base-url", endpoint.base_url)
    live = cli.start(*command, "--no-progress", "--concurrency", 4)
    until((cli.folder / "run" / "checkpoint" / "status.json").exists)
    address, process = served()
    until(lambda: "failed by class: context_length" in fetched(address)[2])
    assert "running: process" in fetched(address)[2]
    assert metrics(fetched(address + "/metrics")[2])["batchrun_running",] == 1
    assert live.wait().code == 1
    until(lambda: re.search(r"<h1[^>]*>complete, with errors", fetched(address)[2]))
    process.kill()


def test_a_port_that_is_taken_and_a_folder_that_is_no_run(cli, simulator, jsonl):
    """Exit 2, saying which."""
    assert cli("status", "nowhere", "--serve").code == 2
    assert cli.run(jsonl(2), "-o", "run", "--base-url", simulator().base_url).code == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli("status", "run", "--serve", taken.getsockname()[1])
    assert done.code == 2 and "cannot be used" in done.err
    done = cli("status", "--serve", "run")
    assert done.code == 2 and "batchrun status DIR --serve [PORT]" in done.err
    assert cli("status", "run", "--serve", "65536").code == 2
