"""The engine against servers that tell their limits, on virtual time: true ones and nonsense."""

import asyncio
import random

import pytest

from batchrun.simulator.limits import Bucket, write_duration
from batchrun.testing.fakes import FakeTransport
from batchrun.testing.rig import Rig
from batchrun.testing.samples import ok, refusal
from batchrun.testing.virtual import run_virtual

BURST = 64
"""Requests in flight: so many go out before anything was told."""


class Window:
    """A limit that is renewed all at once, every so often."""

    def __init__(self, rate_per_min, window_s, now_s):
        self.rate_per_min = rate_per_min
        self.most = rate_per_min * window_s / 60
        self.window_s = window_s
        self.ends_s = now_s + window_s * 0.6  # begun before the run
        self.left = self.most

    def level(self, now_s):
        while now_s >= self.ends_s:
            self.ends_s += self.window_s
            self.left = self.most
        return self.left

    def wait_s(self, cost, now_s):
        return 0.0 if cost <= self.level(now_s) else self.ends_s - now_s

    def full_in_s(self, now_s):
        self.level(now_s)
        return self.ends_s - now_s

    def take(self, cost):
        self.left -= cost


class Server:
    """Enforces limits of requests and tokens, and tells them as OpenAI does.

    ``others`` is what other clients use of the request limit, as a share. ``cost`` is what it
    charges for a request in tokens.
    """

    def __init__(self, *, rpm=None, tpm=None, window_s=60.0, make=Bucket, others=0.0, cost=100, used=None, tell=True):
        self.now_s = asyncio.get_running_loop().time
        began = self.now_s()
        self.limits = {
            kind: make(rate, window_s, began)
            for kind, rate in (("requests", rpm), ("tokens", tpm))
            if rate is not None
        }
        self.others, self.others_s = others, began
        self.cost, self.tell = cost, tell
        self.used = cost if used is None else used
        self.answered, self.refused = [], []

    def __call__(self, _request, _before):
        now_s = self.now_s()
        if self.others:
            requests = self.limits["requests"]
            due = requests.rate_per_min / 60 * self.others * (now_s - self.others_s)
            if due >= 1 and requests.level(now_s) >= due:
                requests.take(due)
            self.others_s = now_s if due >= 1 else self.others_s
        costs = {"requests": 1, "tokens": self.cost}
        waits = [limit.wait_s(costs[kind], now_s) for kind, limit in self.limits.items()]
        if max(waits) > 0:
            self.refused.append(now_s)
            reply = refusal(429, retry_after_s=max(0.001, max(waits)))
        else:
            for kind, limit in self.limits.items():
                limit.take(costs[kind])
            self.answered.append(now_s)
            reply = ok(prompt_tokens=self.used // 2, completion_tokens=self.used - self.used // 2)
        return reply._replace(headers={**reply.headers, **self.headers(now_s)})

    def headers(self, now_s):
        told = {}
        for kind, limit in self.limits.items() if self.tell else ():
            told[f"x-ratelimit-limit-{kind}"] = str(limit.rate_per_min)
            told[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(limit.level(now_s))))
            told[f"x-ratelimit-reset-{kind}"] = write_duration(limit.full_in_s(now_s))
        return told


def _play(rows, server, *, concurrency=BURST, latency_s=0.2, **settings):
    async def session():
        playing = server()
        transport = FakeTransport(playing, latency_s=latency_s)
        rig = Rig(rows, transport=transport, concurrency=concurrency, shard_rows=5000, **settings)
        await rig.run()
        assert rig.tally.ok == rows
        return playing, rig

    return run_virtual(session())

import sys, time
def show(name, rows, **kw):
    t=time.time()
    play = {k: kw.pop(k) for k in ("concurrency","latency_s") if k in kw}
    for tell in (False, True):
        s, rig = _play(rows, lambda: Server(tell=tell, **kw), **play)
        took = s.answered[-1]-s.answered[0]
        print(f"{name:30} tell={tell!s:5} took {took:8.2f} refused {len(s.refused):5} rate/min {rows/took*60:8.0f}  ({time.time()-t:.1f}s)")

if __name__ == "__main__":
    show("bucket 60s rpm", 3000, rpm=1000)
    show("bucket 1s rpm", 3000, rpm=1000, window_s=1.0)
    show("bucket 10s rpm", 3000, rpm=1000, window_s=10.0)
    show("window 60s rpm", 3000, rpm=1000, make=Window)
    from batchrun.core import body
    from batchrun.testing.samples import chat_row
    print(body.build(chat_row(1), defaults={}, body_bytes_max=2**20).tokens)
    show("bucket tpm k=1", 1000, tpm=36000, cost=90)
    show("bucket tpm 1s k=1", 1000, tpm=36000, window_s=1.0, cost=30)
    show("bucket tpm 1s k=1", 1000, tpm=36000, window_s=1.0, cost=100)
    show("bucket tpm 1s k=1", 1000, tpm=360000, window_s=1.0, cost=300)
    show("bucket tpm k=5", 1000, tpm=36000, cost=90*5, used=90)
    show("bucket tpm k=.2", 3000, tpm=36000, cost=18, used=90)
    show("window tpm", 1000, tpm=36000, make=Window, cost=90)
    show("window tpm k=5", 1000, tpm=36000, make=Window, cost=450,used=90)
