"""The simulated endpoint over real loopback HTTP."""

import asyncio
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec
import openai
import pytest

from batchrun.simulator.embedded import EmbeddedSimulator
from batchrun.simulator.latency import FixedLatency, PerTokenLatency
from batchrun.simulator.plan import SimulatorOptions
from batchrun.simulator.server import Simulator
from batchrun.simulator.serving import CannotListenError

ROOT = Path(__file__).parents[2]


def _ask(text="Why is the sky blue?", **fields):
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def _hash(body):
    canonical = msgspec.json.encode({key: body[key] for key in sorted(body)})
    return hashlib.sha256(canonical).hexdigest()


@contextmanager
def _simulator(**options):
    with EmbeddedSimulator(SimulatorOptions(**options)) as simulator:
        yield simulator


async def _send(session, simulator, body):
    """Status, headers and decoded body of one exchange; the transport's error where it has none."""
    data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
    url = f"{simulator.base_url}/chat/completions"
    try:
        async with session.post(url, data=data) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, response.headers, json.loads(raw) if is_json else raw
    except aiohttp.ClientError as error:
        return error


def _exchange(simulator, *bodies, headers=None, together=False):
    """Send the bodies one after another, or all at once with `together`."""

    async def send():
        async with aiohttp.ClientSession(headers=headers) as session:
            calls = [_send(session, simulator, body) for body in bodies]
            return await asyncio.gather(*calls) if together else [await call for call in calls]

    return asyncio.run(send())


def _wait_for(simulator, name, value):
    """The stats once `name` has this value: the server sees a closed connection a moment later."""
    deadline_s = time.monotonic() + 20
    while (stats := simulator.stats())[name] != value:
        assert time.monotonic() < deadline_s, stats
        time.sleep(0.005)
    return stats


def _abandon(simulator, bodies, name, value):
    """Send the bodies at once and leave when `name` has this value, with no answer to any."""

    async def send():
        async with aiohttp.ClientSession() as session:
            calls = [asyncio.create_task(_send(session, simulator, body)) for body in bodies]
            await asyncio.to_thread(_wait_for, simulator, name, value)
            assert not any(call.done() for call in calls)
            for call in calls:
                call.cancel()

    asyncio.run(send())


def _fetch(simulator, method, path):
    async def fetch():
        root = simulator.base_url.removesuffix("/v1")
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, root + path) as response,
        ):
            return response.status, await response.json()

    return asyncio.run(fetch())


def test_the_official_client_reads_an_answer():
    """openai-python parses the completion, its choices and its usage."""
    with (
        _simulator() as simulator,
        openai.OpenAI(base_url=simulator.base_url, api_key="any", max_retries=0) as client,
    ):
        completion = client.chat.completions.create(**_ask(n=2))
        assert [model.id for model in client.models.list()] == ["simulator"]
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.content.startswith('Re: "Why is the sky blue?"')
    assert completion.model == "m"
    assert completion.usage.completion_tokens >= 80
    assert completion.usage.total_tokens > completion.usage.completion_tokens
    assert completion._request_id.startswith("req_")


def test_the_official_client_knows_the_errors():
    """Each injected status arrives as the exception that openai-python has for it."""
    kinds = {
        "400": openai.BadRequestError,
        "401": openai.AuthenticationError,
        "403": openai.PermissionDeniedError,
        "404": openai.NotFoundError,
        "409": openai.ConflictError,
        "422": openai.UnprocessableEntityError,
        "429": openai.RateLimitError,
        "quota": openai.RateLimitError,
        "500": openai.InternalServerError,
        "502": openai.InternalServerError,
        "503": openai.InternalServerError,
    }
    for name, kind in kinds.items():
        with (
            _simulator(error_rates={name: 1.0}) as simulator,
            openai.OpenAI(base_url=simulator.base_url, api_key="any", max_retries=0) as client,
        ):
            with pytest.raises(kind) as caught:
                client.chat.completions.create(**_ask())
            if name == "429":
                assert caught.value.code == "rate_limit_exceeded"
                assert caught.value.response.headers["retry-after"] == "0.2"
            if name == "quota":
                assert caught.value.code == "insufficient_quota"


def test_the_same_request_gets_the_same_answer_but_its_own_ids():
    """Content repeats over askings and servers; ids and request ids do not."""
    replies = []
    for _ in range(2):
        with _simulator(seed=5) as simulator:
            replies += _exchange(simulator, _ask(), _ask())
    assert {status for status, _, _ in replies} == {200}
    assert len({body["choices"][0]["message"]["content"] for _, _, body in replies}) == 1
    assert [body["id"] for _, _, body in replies[:2]] == [body["id"] for _, _, body in replies[2:]]
    assert replies[0][2]["id"] != replies[1][2]["id"]
    assert len({headers["x-request-id"] for _, headers, _ in replies}) == 4


def test_bad_requests_are_told_what_is_wrong():
    """Not JSON, a missing field and a stream are 400 in OpenAI's envelope, and counted."""
    with _simulator() as simulator:
        replies = _exchange(simulator, b"{", {"model": "m"}, _ask(stream="yes"))
        stats = simulator.stats()
    assert [status for status, _, _ in replies] == [400, 400, 400]
    assert [body["error"]["param"] for _, _, body in replies] == [None, "messages", "stream"]
    assert (stats["by_status"], stats["unreadable"], stats["requests_total"]) == ({"400": 3}, 1, 3)


def test_the_ledger_counts_what_the_client_sent():
    """The server's figures per request carry the hash that the client computes."""
    one, two = _ask("one", temperature=0.5), _ask("二")
    with _simulator() as simulator:
        replies = _exchange(simulator, one, two, one)
        status, stats = _fetch(simulator, "GET", "/stats?detail=1")
        assert status == 200
        assert stats == simulator.stats(detail=True)
        assert "requests" not in _fetch(simulator, "GET", "/stats")[1]
        assert _fetch(simulator, "POST", "/stats/reset")[1]["requests_total"] == 0
        assert simulator.stats(detail=True)["requests"] == {}
    assert stats["requests"] == {
        _hash(one): {"asked": 2, "answered_ok": 2},
        _hash(two): {"asked": 1, "answered_ok": 1},
    }
    assert (stats["requests_total"], stats["distinct_requests"], stats["asked_again"]) == (3, 2, 1)
    for kind in ("prompt_tokens", "completion_tokens"):
        assert stats[kind] == sum(body["usage"][kind] for _, _, body in replies)


def test_fail_first_fails_each_request_so_often():
    """The first two askings of every request get 500, the third an answer."""
    with _simulator(fail_first=2, detail=False) as simulator:
        replies = _exchange(simulator, *[_ask("a"), _ask("b")] * 3)
    assert [status for status, _, _ in replies] == [500, 500, 500, 500, 200, 200]


def test_injected_faults_are_the_same_in_any_order():
    """Two servers with one seed fail the same askings, however the requests arrive."""
    bodies = [_ask(str(k)) for k in range(40)]
    ends = []
    for order in (bodies, bodies[::-1]):
        with _simulator(error_rates={"500": 0.3, "429": 0.2}, seed=3) as simulator:
            replies = _exchange(simulator, *order, together=True)
        ends.append({_hash(body): reply[0] for body, reply in zip(order, replies, strict=True)})
    assert ends[0] == ends[1]
    assert set(ends[0].values()) == {200, 429, 500}


def test_a_dropped_connection_has_no_answer():
    """The client sees a disconnect and the ledger a drop."""
    with _simulator(drop_rate=1.0) as simulator:
        (error,) = _exchange(simulator, _ask())
        stats = simulator.stats()
    assert isinstance(error, aiohttp.ServerDisconnectedError)
    assert (stats["dropped"], stats["by_status"]) == (1, {})


def test_a_cut_answer_stops_in_the_body():
    """Headers promise the whole body, half of it comes, and the connection closes."""

    async def read_half(simulator):
        url = f"{simulator.base_url}/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=_ask()) as response:
            got = b""
            try:
                async for chunk in response.content.iter_any():
                    got += chunk
            except aiohttp.ClientPayloadError:
                return response.status, response.content_length, got
            return pytest.fail("the body was complete")

    with _simulator(cut_rate=1.0) as simulator:
        status, promised, got = asyncio.run(read_half(simulator))
        stats = simulator.stats()
    assert (status, len(got)) == (200, promised // 2)
    assert got.startswith(b'{"id":"chatcmpl-')
    assert (stats["cut"], stats["by_status"], stats["completion_tokens"]) == (1, {}, 0)


def test_a_stalled_request_ends_when_the_client_gives_up():
    """No answer comes, the stall is counted when it begins, and nothing stays in flight."""
    with _simulator(stall_rate=1.0) as simulator:
        _abandon(simulator, [_ask()], "stalled", 1)
        stats = _wait_for(simulator, "in_flight", 0)
    assert (stats["stalled"], stats["by_status"], stats["given_up"]) == (1, {}, 0)


def test_leaving_releases_a_stalled_client():
    """The server can be stopped while a client waits; the client sees a disconnect."""
    seen = []
    with _simulator(stall_rate=1.0) as simulator:
        client = threading.Thread(target=lambda: seen.extend(_exchange(simulator, _ask())))
        client.start()
        _wait_for(simulator, "stalled", 1)
    client.join()
    assert isinstance(seen[0], aiohttp.ServerDisconnectedError)


def test_clients_that_leave_early_are_counted():
    """Waiting requests are in flight together; without an answer they count as given up."""
    with _simulator(latency=FixedLatency(60)) as simulator:
        _abandon(simulator, [_ask(str(k)) for k in range(8)], "in_flight", 8)
        stats = _wait_for(simulator, "in_flight", 0)
    assert (stats["requests_total"], stats["given_up"], stats["by_status"]) == (8, 8, {})
    assert stats["in_flight_max"] == 8


@pytest.mark.parametrize(
    ("options", "content_type", "start"),
    [
        ({"garbage_rate": 1.0}, "text/html", b"<!doctype html>"),
        ({"error_200_rate": 1.0}, "application/json", b'{"id":null'),
    ],
)
def test_status_200_may_lie(options, content_type, start):
    """A page or an error under status 200; the ledger does not count it as an answer."""

    async def read(simulator):
        url = f"{simulator.base_url}/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=_ask()) as response:
            return response.status, response.content_type, await response.read()

    with _simulator(**options) as simulator:
        status, got_type, raw = asyncio.run(read(simulator))
        stats = simulator.stats(detail=True)
    assert (status, got_type) == (200, content_type)
    assert raw.startswith(start)
    assert stats["by_status"] == {"200": 1}
    assert stats["requests"][_hash(_ask())] == {"asked": 1, "answered_ok": 0}


def test_the_request_limit_holds():
    """Of 30 requests at once the bucket's 10 pass; the rest are told when to come back."""
    with _simulator(rpm=10, rpm_window_s=60) as simulator:
        replies = _exchange(simulator, *[_ask(str(k)) for k in range(30)], together=True)
    refused = [(headers, body) for status, headers, body in replies if status == 429]
    assert len(refused) == 20
    for headers, body in refused:
        assert 0 < float(headers["Retry-After"]) <= 6
        assert headers["x-ratelimit-limit-requests"] == "10"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-reset-requests"].endswith("s")
        error = body["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert error["param"] is None


def test_the_token_limit_charges_what_may_be_generated():
    """Prompt plus max_tokens is charged; more than a minute's tokens can never pass."""
    with _simulator(tpm=1000, tpm_window_s=60) as simulator:
        replies = _exchange(
            simulator, _ask(max_tokens=900), _ask(max_tokens=900), _ask(max_tokens=1000)
        )
    assert [status for status, _, _ in replies] == [200, 429, 429]
    assert int(replies[0][1]["x-ratelimit-remaining-tokens"]) < 100
    assert replies[1][2]["error"]["type"] == "tokens"
    assert float(replies[1][1]["Retry-After"]) > 1
    assert "Request too large" in replies[2][2]["error"]["message"]
    assert "Retry-After" not in replies[2][1]


def test_a_key_is_asked_for():
    """No key and a wrong one are 401, the wrong one masked; the right one passes."""
    with _simulator(api_key="sk-the-right-one") as simulator:
        ((none, _, _),) = _exchange(simulator, _ask())
        wrong = {"Authorization": "Bearer sk-wrong-key-1234"}
        ((refused, _, body),) = _exchange(simulator, _ask(), headers=wrong)
        right = {"Authorization": "Bearer sk-the-right-one"}
        ((passed, _, _),) = _exchange(simulator, _ask(), headers=right)
        assert _fetch(simulator, "GET", "/v1/models")[0] == 401
        stats = simulator.stats(detail=True)
    assert (none, refused, passed) == (401, 401, 200)
    assert body["error"]["code"] == "invalid_api_key"
    assert "sk-w*********1234" in body["error"]["message"]
    assert stats["requests"][_hash(_ask())] == {"asked": 3, "answered_ok": 1}


def test_only_served_models_answer():
    """Another model is 404 model_not_found; the list names those that are served."""
    with _simulator(models=("m", "large")) as simulator:
        replies = _exchange(simulator, _ask(), _ask(model="small"))
        status, listed = _fetch(simulator, "GET", "/v1/models")
    assert [status for status, _, _ in replies] == [200, 404]
    assert replies[1][2]["error"]["code"] == "model_not_found"
    assert (status, [card["id"] for card in listed["data"]]) == (200, ["m", "large"])


def test_a_wrong_path_is_told_the_right_one():
    """A base URL without /v1 gets 404 in OpenAI's envelope; /health says ok."""
    with _simulator() as simulator:
        status, body = _fetch(simulator, "POST", "/chat/completions")
        assert _fetch(simulator, "GET", "/health") == (200, {"status": "ok"})
    assert (status, body["error"]["code"]) == (404, "unknown_url")
    assert "/v1/chat/completions" in body["error"]["message"]


@pytest.mark.parametrize("latency", [FixedLatency(0.2), PerTokenLatency(0.0, 0.005)])
def test_latency_delays_the_answer(latency):
    """An answer takes at least the latency asked for; 40 tokens at 5 ms make 0.2 s too."""
    with _simulator(latency=latency) as simulator:
        begun_s = time.monotonic()
        ((status, _, _),) = _exchange(simulator, _ask(max_tokens=40))
        assert (status, time.monotonic() - begun_s >= 0.2) == (200, True)


def test_large_requests_and_replies_pass():
    """Several megabytes each way."""
    with _simulator(reply_bytes=5_000_000) as simulator:
        ((status, _, body),) = _exchange(simulator, _ask("word " * 600_000))
    assert status == 200
    assert len(body["choices"][0]["message"]["content"]) == 5_000_000


def test_the_embedded_server_can_be_entered_again():
    """Each time it serves anew, and outside it refuses to be asked."""
    threads = threading.active_count()
    simulator = EmbeddedSimulator()
    for _ in range(2):
        with simulator:
            assert _exchange(simulator, _ask())[0][0] == 200
            assert simulator.stats()["requests_total"] == 1
        assert threading.active_count() == threads
    with pytest.raises(RuntimeError, match="with"):
        simulator.stats()


def test_a_connection_that_closes_as_its_answer_is_due(monkeypatch, caplog):
    """A client that left at that very moment is no fault of the server's to be reported."""
    stream = Simulator._stream

    async def late(self, request, *rest):
        request.transport.close()
        return await stream(self, request, *rest)

    monkeypatch.setattr(Simulator, "_stream", late)
    with _simulator() as simulator:
        [found] = _exchange(simulator, _ask(stream=True))
        assert isinstance(found, aiohttp.ServerDisconnectedError)
        assert _exchange(simulator, _ask())[0][0] == 200
    assert [record.getMessage() for record in caplog.records] == []


def test_a_taken_port_is_an_error_with_fields():
    """Entering raises, names the address, and leaves no thread behind."""
    with _simulator() as simulator:
        threads = threading.active_count()
        second = EmbeddedSimulator(SimulatorOptions(port=simulator.port))
        with pytest.raises(CannotListenError) as caught:
            second.__enter__()
        second._thread.join()
        assert threading.active_count() == threads
        assert caught.value.port == simulator.port


def _start(*arguments):
    code = "from batchrun.cli.simulate import command; command()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal(number, tmp_path):
    """It says where it listens, logs what it answers, and ends with exit code 0."""
    log = tmp_path / "log.jsonl"
    with _start("--json", "--error", "503=0.5", "--log", str(log)) as process:
        ready = json.loads(process.stdout.readline())
        assert ready["pid"] == process.pid
        assert ready["base_url"] == f"http://127.0.0.1:{ready['port']}/v1"

        class Running:
            base_url = ready["base_url"]

        _exchange(Running, *[_ask(str(k)) for k in range(20)], together=True)
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert out == ""
    assert err == f"simulator listening on {ready['base_url']} (Ctrl-C stops it)\n"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["hash"] for line in lines} == {_hash(_ask(str(k))) for k in range(20)}
    assert {line["status"] for line in lines} == {200, 503}


def test_the_command_says_when_the_port_is_taken():
    """Exit code 2 and one line that names the port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with _start("--port", str(port)) as process:
            out, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert out == ""
    assert f"127.0.0.1:{port}" in err
    assert "Traceback" not in err
