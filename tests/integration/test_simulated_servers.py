"""The simulator as a server of limited capacity, over real loopback HTTP."""

import asyncio
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import aiohttp
import pytest

from batchrun.simulator.capacity import Batching, Knee, Slots
from batchrun.simulator.changes import parse_change
from batchrun.simulator.embedded import EmbeddedSimulator
from batchrun.simulator.latency import FixedLatency
from batchrun.simulator.plan import SimulatorOptions

VLLM = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
)


@contextmanager
def _simulator(**options):
    with EmbeddedSimulator(SimulatorOptions(**options)) as simulator:
        yield simulator


def _body(number, **fields):
    return {"messages": [{"role": "user", "content": f"Question {number}"}], **fields}


def _ask(simulator, bodies, meanwhile=None):
    """All bodies at once; for each its status, its JSON or text, and the seconds it took."""

    async def one(session, body):
        begun_s = time.monotonic()
        url = f"{simulator.base_url}/chat/completions"
        async with session.post(url, json=body) as response:
            raw = await response.read()
            found = raw.decode() if body.get("stream") else json.loads(raw)
            return response.status, found, time.monotonic() - begun_s, response.headers

    async def run():
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            tasks = [asyncio.create_task(one(session, body)) for body in bodies]
            if meanwhile is not None:
                await asyncio.sleep(0.2)
                await asyncio.to_thread(meanwhile)
            return await asyncio.gather(*tasks)

    return asyncio.run(run())


def _metrics(simulator):
    """Status, content type and text of /metrics."""

    async def fetch():
        url = simulator.base_url.removesuffix("/v1") + "/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, response.headers["Content-Type"], await response.text()

    return asyncio.run(fetch())


def _gauges(simulator):
    """What /metrics says, by name."""
    status, content_type, text = _metrics(simulator)
    assert (status, content_type.split("; charset")[0]) == (200, "text/plain; version=0.0.4")
    sample = re.compile(r'^(vllm:\w+)\{[^}]*model_name="[^"]*"[^}]*\} (\S+)$', re.MULTILINE)
    found = dict(sample.findall(text))
    assert set(VLLM) <= set(found)
    return {name: float(value) for name, value in found.items()}


def test_slots_answer_so_many_at_once_and_refuse_past_the_queue():
    """slots:2:3 answers two at a time, lets three wait, and answers the sixth with a 429."""
    seen = []
    with _simulator(capacity=Slots(2, 3), latency=FixedLatency(0.4)) as simulator:
        replies = _ask(
            simulator,
            [_body(number) for number in range(6)],
            lambda: seen.append(_gauges(simulator)),
        )
        stats = simulator.stats()
    statuses = sorted(status for status, *_ in replies)
    assert statuses == [200] * 5 + [429]
    (refused,) = [body for status, body, *_ in replies if status == 429]
    assert refused["error"]["message"].startswith("Too many concurrent requests: 2 are")
    waits = sorted(seconds for status, _, seconds, _ in replies if status == 200)
    assert 0.4 <= waits[0] < 0.75
    assert waits[4] >= 1.2
    assert [seen[0][name] for name in VLLM] == [2, 3, 0, 0]
    assert stats["by_status"] == {"200": 5, "429": 1}


def test_slots_without_a_latency_take_a_tenth_of_a_second():
    """A capacity that counts seconds is of use as it is: simulate --capacity slots:4:1000."""
    with _simulator(capacity=Slots(4, 1000)) as simulator:
        begun_s = time.monotonic()
        replies = _ask(simulator, [_body(number) for number in range(20)])
        assert time.monotonic() - begun_s >= 0.5
    assert {status for status, *_ in replies} == {200}


def test_a_knee_answers_slower_past_it():
    """knee:2:2: two requests take 0.2 s, eight take sixteen times as long together."""
    with _simulator(capacity=Knee(2, 2.0), latency=FixedLatency(0.1)) as simulator:
        few = _ask(simulator, [_body(number) for number in range(2)])
        many = _ask(simulator, [_body(number) for number in range(8)])
    assert max(seconds for _, _, seconds, _ in few) < 1.0
    assert min(seconds for _, _, seconds, _ in many) >= 1.4


@pytest.mark.slow
def test_batching_slows_down_and_preempts():
    """Answers of 40 tokens on batching:5:0:KV take 0.2 s; where the cache is too small for all of
    them, some wait and some start over, and all are answered.
    """
    seen = []
    bodies = [_body(number, max_tokens=40) for number in range(6)]
    with _simulator(capacity=Batching(5, 0, 10_000), reply_bytes=None) as simulator:
        roomy = _ask(simulator, bodies)
    with _simulator(capacity=Batching(20, 0, 70)) as simulator:
        tight = _ask(simulator, bodies, lambda: seen.append(_gauges(simulator)))
        after = _gauges(simulator)
    assert max(seconds for _, _, seconds, _ in roomy) >= 0.15
    assert {status for status, *_ in tight} == {200}
    assert seen[0]["vllm:num_requests_waiting"] > 0
    assert seen[0]["vllm:num_requests_running"] > 0
    assert 0 < seen[0]["vllm:kv_cache_usage_perc"] <= 1
    assert after["vllm:num_preemptions_total"] > 0
    assert after["vllm:num_requests_running"] == after["vllm:kv_cache_usage_perc"] == 0


def test_a_stream_comes_at_the_servers_pace():
    """A streamed answer of the same server lasts as long as a plain one."""
    body = _body(1, max_tokens=40, stream=True)
    with _simulator(capacity=Batching(10, 0, 10_000)) as simulator:
        ((status, text, seconds, _),) = _ask(simulator, [body])
    assert (status, text.rstrip().endswith("data: [DONE]")) == (200, True)
    assert seconds >= 0.3


def test_a_client_that_leaves_gives_its_slot_back():
    """A request that was given up takes no slot: the next one is answered at once."""
    with _simulator(capacity=Slots(1, 5), latency=FixedLatency(5)) as simulator:

        async def run():
            async with aiohttp.ClientSession() as session:
                url = f"{simulator.base_url}/chat/completions"
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await session.post(url, json=_body(1))

        asyncio.run(run())
        for _ in range(100):
            if not _gauges(simulator)["vllm:num_requests_running"]:
                break
            time.sleep(0.05)
        assert _gauges(simulator)["vllm:num_requests_running"] == 0


def test_a_capacity_that_is_taken_away_and_given_back():
    """From four slots to one after 0.3 s, and back to four 0.6 s later."""
    changes = ("0.3:capacity=slots:1:99", "0.9:capacity=slots:4:99")
    with _simulator(
        capacity=Slots(4, 99),
        latency=FixedLatency(0.2),
        changes=tuple(map(parse_change, changes)),
    ) as simulator:
        replies = _ask(simulator, [_body(number) for number in range(16)])
    waits = sorted(seconds for *_, seconds, _ in replies)
    assert waits[7] >= 0.35  # the first eight are two turns of four
    assert waits[-1] >= 1.1  # then one at a time, until there are four again


def test_a_limit_that_changes():
    """600 requests a minute, lifted after 0.2 s: then nothing is refused."""
    with _simulator(rpm=60, changes=(parse_change("0.2:rpm=none"),)) as simulator:
        first = _ask(simulator, [_body(number) for number in range(5)])
        time.sleep(0.4)
        later = _ask(simulator, [_body(number) for number in range(5, 10)])
    assert sorted(status for status, *_ in first).count(429) == 4
    assert {status for status, *_ in later} == {200}


@pytest.mark.parametrize(
    ("charge", "admitted"), [("sum", 2), ("max", 2), ("input", 6), ("real", 5)]
)
def test_token_limits_charge_by_the_servers_rule(charge, admitted):
    """1,000 tokens at once; requests of 400 at most, whose prompts are short and whose answers are
    of about 100: how many pass depends on what counts.
    """
    bodies = [_body(number, max_tokens=400) for number in range(6)]
    with _simulator(tpm=1000, counting="sliding", charge=charge, reply_bytes=600) as simulator:
        replies = _ask(simulator, bodies)
        used = simulator.stats()
    each = (used["prompt_tokens"] + used["completion_tokens"]) / used["by_status"]["200"]
    expected = int(1000 // each) if charge == "real" else admitted
    assert [status for status, *_ in replies].count(200) == min(6, expected)


def test_a_bare_429_says_nothing():
    """Neither Retry-After nor limits nor a reason, whatever refused the request."""
    with _simulator(rpm=60, bare_429=True, limit_headers="none") as simulator:
        replies = _ask(simulator, [_body(number) for number in range(3)])
    refused = [(body, headers) for status, body, _, headers in replies if status == 429]
    assert len(refused) == 2
    for body, headers in refused:
        assert body["error"]["message"] == "Too many requests."
        told = [name for name in headers if "limit" in name.lower() or "retry" in name.lower()]
        assert told == []


def test_metrics_can_be_left_out():
    """A hosted server tells nobody how busy it is."""
    with _simulator(metrics=False) as simulator:
        status, _, _ = _metrics(simulator)
    assert status == 404


def test_metrics_without_a_capacity_count_what_is_in_flight():
    """Everything that is in flight runs; nothing waits."""
    seen = []
    with _simulator(latency=FixedLatency(0.6)) as simulator:
        _ask(simulator, [_body(n) for n in range(3)], lambda: seen.append(_gauges(simulator)))
    assert [seen[0][name] for name in VLLM] == [3, 0, 0, 0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--capacity", "slots:4"), "write batching:T0:C:KV, knee:N:P or slots:K:Q"),
        (("--capacity", "knee:0:2"), "knee N must be between 1"),
        (("--change", "rpm=3"), "such as 30:rpm=600"),
        (("--charge", "most"), "charge must be one of sum, max, input, real, not 'most'"),
        (("--counting", "daily"), "counting must be one of bucket, sliding, fixed"),
    ],
)
def test_the_command_names_what_cannot_be_simulated(flags, said):
    """Bad figures are exit 2, with the forms there are."""
    done = subprocess.run(
        [sys.executable, "-m", "batchrun", "simulate", *flags],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_the_command_plays_a_server():
    """The flags reach the server: slots of its own, and a 429 past the queue."""
    flags = ("--capacity", "slots:1:0", "--latency", "fixed:0.5", "--bare-429", "--json")
    with subprocess.Popen(
        [sys.executable, "-m", "batchrun", "simulate", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            ready = json.loads(process.stdout.readline())

            class Server:
                base_url = ready["base_url"]

            replies = _ask(Server, [_body(number) for number in range(3)])
        finally:
            process.terminate()
    assert sorted(status for status, *_ in replies) == [200, 429, 429]
