"""The network of an endpoint, by the real command: TLS, proxies, redirects, Unix sockets."""

import contextlib
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest

from batchrun.simulator.latency import FixedLatency
from tests.harness.slow import rest_slow

KEY = "sk-SECRET-of-the-network"


def test_a_private_authority(cli, scripted, answer, jsonl, authority):
    """It is trusted where the flag, the config file or the environment names it, else not."""
    endpoint = scripted(lambda *_: (200, {}, answer()), authority.server_tls())
    (cli.folder / "c.toml").write_text(f'[[endpoint]]\nca_file = "{authority.file}"\n')
    cases = [
        (("--ca-file", authority.file), {}),
        (("-c", "c.toml"), {}),
        ((), {"SSL_CERT_FILE": str(authority.file)}),
    ]
    for number, (flags, env) in enumerate(cases):
        done = cli.run(
            jsonl(2), "-o", f"run-{number}", "--base-url", endpoint.base_url, *flags, env=env
        )
        assert done.code == 0, done.err
    before = len(endpoint.requests)
    done = cli.run(
        *(jsonl(2), "-o", "run-x", "--base-url", endpoint.base_url, "--json"),
        env={"OPENAI_API_KEY": KEY},
    )
    assert done.code == 3 and done.json["stopped_by"] == "config"
    assert done.json["rows"]["pending"] == 2
    assert "127.0.0.1" in done.err and "--ca-file" in done.err
    assert len(endpoint.requests) == before


def test_a_file_that_cannot_be_used(cli, jsonl):
    """Certificates are looked at before anything else happens."""
    done = cli.run(
        jsonl(1), "-o", "run", "--base-url", "https://h.example", "--ca-file", "none.pem"
    )
    assert done.code == 2 and "none.pem" in done.err
    assert not (cli.folder / "run").exists()


def test_a_redirect_elsewhere_stops_the_run(cli, scripted, jsonl):
    """Nothing follows it, and the message names where it led."""
    thief = scripted(lambda *_: (200, {}, {}))
    endpoint = scripted(
        lambda *_: (307, {"Location": f"{thief.base_url}/chat/completions?t=1"}, b"")
    )
    done = cli.run(
        *(jsonl(3), "-o", "run", "--base-url", endpoint.base_url, "--json"),
        env={"OPENAI_API_KEY": KEY},
    )
    assert done.code == 3 and done.json["stopped_by"] == "config", done.err
    assert f"redirected to {thief.base_url}/chat/completions?t=..." in done.err
    assert thief.requests == []


def test_the_organisation_is_for_openai_alone(cli, scripted, answer, jsonl):
    """Other servers are not told on whose account requests run elsewhere; a proxy sees which."""
    proxy = scripted(lambda *_: (200, {}, answer()))
    port = urllib.parse.urlsplit(proxy.base_url).port
    env = {
        "HTTP_PROXY": f"http://127.0.0.1:{port}",
        "OPENAI_ORG_ID": "org-1",
        "OPENAI_PROJECT_ID": "proj-1",
    }
    cases = {
        "http://eu.api.openai.com/v1": ("org-1", "proj-1"),
        "http://notopenai.com/v1": (None, None),
        "http://api.openai.com.example/v1": (None, None),
    }
    for number, (base, sent) in enumerate(cases.items()):
        done = cli.run(jsonl(1), "-o", f"run-{number}", "--base-url", base, env=env)
        assert done.code == 0, done.err
        headers = proxy.requests[-1][1]
        assert (headers.get("OpenAI-Organization"), headers.get("OpenAI-Project")) == sent


def test_a_unix_socket(cli, unix_simulator, jsonl):
    """A server without a port; the environment may name it, and no proxy is asked."""
    unix_simulator(cli.folder / "llm.sock")
    where = urllib.parse.quote(str(cli.folder / "llm.sock"), safe="")
    done = cli.run(
        *(jsonl(5), "-o", "run", "--json"),
        env={"OPENAI_BASE_URL": f"http+unix://{where}/v1", "HTTP_PROXY": "http://127.0.0.1:9"},
    )
    assert done.code == 0, done.err
    assert done.json["settings"]["endpoint"][0]["base_url"] == f"http+unix://{where}/v1"
    done = cli.run(jsonl(5), "-o", "b", "--base-url", "unix:///run/llm.sock/v1")
    assert done.code == 2 and "http+unix://%2Frun%2Fllm.sock/v1" in done.err


def test_the_built_in_simulator_is_inside(cli, jsonl):
    """No proxy is asked for it, and no key is looked for."""
    done = cli.run(
        *(jsonl(3), "-o", "run", "--provider", "simulator", "--api-key-file", "nowhere"),
        env={"HTTP_PROXY": "http://127.0.0.1:9"},
    )
    assert done.code == 0, done.err


@pytest.fixture
def real_proxy(tmp_path):
    """A proxy server of its own process, with a password; yields its address without one."""
    pytest.importorskip("proxy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(port)),
                *("--num-workers", "1", "--num-acceptors", "1", "--basic-auth", "user:p@ssw0rd-"),
            ],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )
    try:
        deadline_s = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def test_a_real_proxy(cli, scripted, answer, jsonl, authority, real_proxy):
    """Through a proxy server with a password: tunnels for https, requests for http. A wrong
    password stops the run, and none is shown.
    """
    plain = scripted(lambda *_: (200, {}, answer()))
    secure = scripted(lambda *_: (200, {}, answer()), authority.server_tls())
    for number, endpoint in enumerate((plain, secure)):
        flags = (
            *(jsonl(5), "--base-url", endpoint.base_url, "--ca-file", authority.file),
            *("--json", "--concurrency", 2),
        )
        proxy = f"http://user:p%40ssw0rd-@{real_proxy}"
        env = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
        done = cli.run("-o", f"run-{number}", *flags, env=env)
        assert done.code == 0, done.err
        assert len(endpoint.requests) == 5
        wrong = {name: value.replace("p%40ss", "WRONG-") for name, value in env.items()}
        done = cli.run("-o", f"wrong-{number}", *flags, env=wrong)
        assert done.code == 3 and done.json["stopped_by"] == "config", done.err
        assert "407" in done.err and "WRONG" not in done.err + done.out
        done = cli.run("-o", f"none-{number}", *flags, env=wrong | {"NO_PROXY": "127.0.0.0/8"})
        assert done.code == 0, done.err
        assert len(endpoint.requests) == 10


@pytest.mark.linux
@pytest.mark.parametrize(
    ("setting", "probed"),
    rest_slow([("", True), ("keepalive_s = 5", True), ("keepalive_s = 0", False)], several=True),
)
def test_a_silent_connection_is_probed(cli, simulator, jsonl, until, setting, probed):
    """While an answer is awaited the kernel's keep-alive timer runs, unless it is switched off."""
    endpoint = simulator(latency=FixedLatency(1.5))
    (cli.folder / "c.toml").write_text(
        f'[[endpoint]]\nbase_url = "{endpoint.base_url}"\n{setting}\n'
    )
    live = cli.start("run", jsonl(1), "-c", "c.toml", "-o", "run", "--model", "m")
    until(lambda: endpoint.stats()["in_flight"] == 1)
    time.sleep(0.3)  # until what was sent is acknowledged: that has a timer of its own
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    there = f":{urllib.parse.urlsplit(endpoint.base_url).port:04X}"
    established = [line.split() for line in lines if line.split()[2].endswith(there)]
    timers = [line[5].partition(":")[0] for line in established if line[3] == "01"]
    assert live.wait().code == 0
    assert ("02" in timers) is probed, timers
