"""A server with a limit on tokens that counts as it is told to, and notes what it counted."""

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiohttp import web

from batchrun.core.request.charge import RULES, Size
from batchrun.core.settings.charge import Charge


class Sliding:
    """At most a minute's tokens within any 60 s."""

    def __init__(self, tpm: float, _burst_s: float, _now_s: float) -> None:
        self._tpm = tpm
        self._taken: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def wait_s(self, cost: float, now_s: float) -> float:
        """Seconds until a request of this cost may pass; 0: now."""
        while self._taken and self._taken[0][0] <= now_s - 60:
            self._sum -= self._taken.popleft()[1]
        if self._sum + cost <= self._tpm:
            return 0.0
        return self._taken[0][0] + 60 - now_s

    def take(self, cost: float, now_s: float) -> None:
        """Charge a request."""
        self._taken.append((now_s, cost))
        self._sum += cost


class Bucket:
    """A balance that refills up to ``burst_s`` seconds' worth; it begins empty or full."""

    full = True

    def __init__(self, tpm: float, burst_s: float, now_s: float) -> None:
        self._per_s = tpm / 60
        self._most = self._per_s * burst_s
        self._level, self._at_s = self._most * self.full, now_s

    def wait_s(self, cost: float, now_s: float) -> float:
        """Seconds until a request of this cost may pass; 0: now."""
        self._level = min(self._most, self._level + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return max(0.0, (min(cost, self._most) - self._level) / self._per_s)

    def take(self, cost: float, _now_s: float) -> None:
        """Charge a request."""
        self._level -= cost


class EmptyBucket(Bucket):
    """The same, empty at first."""

    full = False


@dataclass
class Metered:
    """What the server does, and what it counted: ``passed`` and ``refused`` are moments and costs.

    A prompt has a token for each word and five for the rest; an answer has as many tokens as the
    last word of the prompt says, else ``answer``.
    """

    tpm: float
    charge: Charge = Charge.SUM
    kind: type[Bucket | Sliding] = Bucket
    burst_s: float = 1.0
    answer: int = 20
    latency_s: float = 0.1
    headers: bool = False
    passed: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer or refuse a request."""
        body = await request.json()
        words = body["messages"][-1]["content"].split()
        prompt = len(words) + 5
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        output = int(words[-1]) if words[-1].isdigit() else self.answer
        if limit is not None:
            output = min(limit, output)
        now_s = asyncio.get_running_loop().time()
        wait_s, headers = self.admit(Size(prompt, limit, output), now_s)
        if wait_s > 1e-9:
            headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
            error = {"message": "Rate limit reached: tokens per minute", "type": "tokens"}
            return web.json_response({"error": error}, status=429, headers=headers)
        await asyncio.sleep(self.latency_s)
        answer = {
            "id": "x",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "word " * output},
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
            },
        }
        return web.Response(
            body=json.dumps(answer), content_type="application/json", headers=headers
        )

    def begin(self, now_s: float) -> None:
        """The limit counts from now on."""
        self.limit = self.kind(self.tpm, self.burst_s, now_s)

    def admit(self, size: Size, now_s: float) -> tuple[float, dict[str, str]]:
        """Take or refuse a request, and note it: the seconds until it may pass (0: it did), and
        what the headers report.
        """
        cost = RULES[self.charge].charged(size)
        wait_s = self.limit.wait_s(cost, now_s)
        headers = {}
        if self.headers:
            level = self.limit
            assert isinstance(level, Bucket)
            headers = {
                "x-ratelimit-limit-tokens": f"{self.tpm:.0f}",
                "x-ratelimit-remaining-tokens": f"{max(0, level._level):.0f}",
                "x-ratelimit-reset-tokens": f"{(level._most - level._level) / self.tpm * 60:.3f}s",
            }
        if wait_s > 1e-9:
            self.refused.append((now_s, cost))
        else:
            self.limit.take(cost, now_s)
            self.passed.append((now_s, cost))
        return wait_s, headers

    async def start(self) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Serve on a free port of loopback; returns the base URL and what stops it."""
        self.begin(asyncio.get_running_loop().time())
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        return f"http://127.0.0.1:{port}/v1", runner.cleanup

    # What it counted

    def used(self, *, after: int = 0) -> float:
        """The share of the limit that was used, from the request that passed as number ``after``
        on, until the last one.
        """
        began_s = self.passed[after][0]
        took_s = self.passed[-1][0] - began_s
        return sum(cost for _, cost in self.passed[after:-1]) / (took_s * self.tpm / 60)

    @property
    def refused_share(self) -> float:
        """Refusals per request."""
        return len(self.refused) / (len(self.refused) + len(self.passed))

    @property
    def work_s(self) -> float:
        """Seconds that the limit takes for all that passed."""
        return sum(cost for _, cost in self.passed) / self.tpm * 60

    @property
    def took_s(self) -> float:
        """Seconds from the first request to the last one that passed."""
        return self.passed[-1][0] - min([self.passed[0][0], *(at for at, _ in self.refused[:1])])

    @property
    def most_in_a_minute(self) -> float:
        """The most that passed within any 60 s, as a share of the limit."""
        most = total = 0.0
        first = 0
        for at_s, cost in self.passed:
            total += cost
            while self.passed[first][0] <= at_s - 60:
                total -= self.passed[first][1]
                first += 1
            most = max(most, total)
        return most / self.tpm


@dataclass
class MeteredApart(Metered):
    """A server with a limit on input tokens and one on output tokens, a bucket of ``burst_s`` for
    each, which reports them under Anthropic's names. ``passed`` has the tokens that ``binds``
    names, and ``tpm`` is their limit.
    """

    other_tpm: float = math.inf
    binds: str = "output"

    def begin(self, now_s: float) -> None:
        """See ``Metered``."""
        self._buckets = {
            kind: Bucket(self.tpm if kind == self.binds else self.other_tpm, self.burst_s, now_s)
            for kind in ("input", "output")
        }

    def admit(self, size: Size, now_s: float) -> tuple[float, dict[str, str]]:
        """See ``Metered``."""
        costs = {"input": float(size.prompt), "output": float(size.output or 0)}
        wait_s = max(self._buckets[kind].wait_s(cost, now_s) for kind, cost in costs.items())
        if wait_s > 1e-9:
            self.refused.append((now_s, costs[self.binds]))
        else:
            for kind, cost in costs.items():
                self._buckets[kind].take(cost, now_s)
            self.passed.append((now_s, costs[self.binds]))
        headers: dict[str, str] = {}
        for kind, bucket in self._buckets.items():
            full_at = time.time() + (bucket._most - bucket._level) / bucket._per_s
            reset = datetime.fromtimestamp(math.ceil(full_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            headers |= {
                f"anthropic-ratelimit-{kind}-tokens-limit": f"{bucket._per_s * 60:.0f}",
                f"anthropic-ratelimit-{kind}-tokens-remaining": f"{max(0, bucket._level):.0f}",
                f"anthropic-ratelimit-{kind}-tokens-reset": reset,
            }
        return wait_s, headers
