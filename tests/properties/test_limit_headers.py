"""Whatever stands in the headers about limits, what is read can be true, and the gate lives on."""

import asyncio
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.core.reply.limit_dialects import SPELLINGS
from batchrun.core.reply.limit_headers import LIMIT_MAX, read, used_up_s
from batchrun.engine.pace.gate import EndpointGate
from batchrun.records import Reply
from batchrun.testing.virtual import VirtualClock, run_virtual
from batchrun.views.limits import format_limits
from tests.harness.slow import examples

NAMES = sorted(
    {spelling.name(part) for spelling in SPELLINGS for part in ("limit", "remaining", "reset")}
    | {"RateLimit", "RateLimit-Policy", "x-ratelimit-", "X-RATELIMIT-Limit-Requests"}
)
USUAL = [name for name in NAMES if name.endswith(("-requests", "-tokens"))]
NUMBER = st.integers(-2, 10**18).map(str) | st.floats().map(str) | st.integers(0, 600).map(str)
DURATION = st.builds("{}{}".format, NUMBER, st.sampled_from(["", "s", "ms", "m0s", "h", "d"]))
MEMBERS = st.lists(
    st.builds(
        "{}{};{}={};{}={}".format,
        st.sampled_from(["", '"a"', "b", "limit=", "remaining="]), NUMBER,
        st.sampled_from("qrw"), NUMBER, st.sampled_from(["w", "t", "qu", "window"]), NUMBER,
    ),
    max_size=4,
).map(", ".join)  # fmt: skip
TEXT = NUMBER | DURATION | MEMBERS | st.text(max_size=20) | st.just("2023-11-14T22:13:20Z")
HEADERS = st.dictionaries(st.sampled_from(NAMES) | st.sampled_from(USUAL), TEXT, max_size=8)


@given(HEADERS, st.text(max_size=12), st.floats(0, 4e9))
def test_what_is_read_can_be_true(headers, host, wall_s):
    """Nothing raises; limits are positive and finite, no more is left than there is, and all of it
    can be shown.
    """
    for window in read(headers, wall_s=wall_s, host=host):
        assert window.limit is not None or window.remaining is not None
        assert window.limit is None or 0 < window.limit <= LIMIT_MAX
        assert window.remaining is None or 0 <= window.remaining <= (window.limit or math.inf)
        assert window.reset_s is None or 0 <= window.reset_s < 7 * 86400
        assert window.per_s is None or window.per_s > 0
        line = format_limits([window.public()])
        assert line is None or line.isprintable()
    waited_s = used_up_s(headers, wall_s=wall_s)
    assert waited_s is None or 0 <= waited_s < 31 * 86400


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(HEADERS, st.sampled_from([200, 200, 200, 429, 500])), max_size=30))
def test_no_headers_stop_a_run(replies):
    """After any history of headers a request goes out in the end; after a while of silence at once.

    Limits of less than one a minute are the exception: they are kept, and that takes long.
    """

    async def play():
        loop = asyncio.get_running_loop()
        gate = EndpointGate(
            concurrency=4, rpm=None, tpm=None, clock=VirtualClock(), dice=random.Random(1)
        )
        for headers, status in replies:
            gate.heard(Reply(status, headers, b""), sent_at_s=loop.time())
            await asyncio.sleep(0.3)
            with await gate.enter(100) as permit:
                permit.settle(50)
        await asyncio.sleep(2 * 86400)
        began_s = loop.time()
        with await gate.enter(100) as permit:
            permit.settle(50)
        return loop.time() - began_s

    assert run_virtual(play()) < 1
