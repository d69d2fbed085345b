"""What is read of the headers in which servers tell their limits."""

import pytest

from batchrun.core.reply.limit_dialects import SPELLINGS
from batchrun.core.reply.limit_headers import read, used_up_s
from batchrun.simulator.limit_headers import DIALECTS
from batchrun.simulator.limits import Limits
from batchrun.views.limits import format_limits

NOW_S = 1_700_000_000.0  # 2023-11-14T22:13:20Z


def _read(headers, host=""):
    """Windows without their source: kind, per, limit, remaining, reset."""
    return [
        (window.kind, window.per, window.limit, window.remaining, window.reset_s)
        for window in read(headers, wall_s=NOW_S, host=host)
    ]


def _three(names, limit=None, remaining=None, reset=None):
    """The headers of a pattern."""
    told = {"limit": limit, "remaining": remaining, "reset": reset}
    return {names.replace("*", part): text for part, text in told.items() if text is not None}


def _requests(*texts):
    return _three("x-ratelimit-*-requests", *texts)


@pytest.mark.parametrize(
    ("headers", "windows"),
    [
        # OpenAI
        (
            _requests("10000", "9999", "6ms")
            | _three("x-ratelimit-*-tokens", "2000000", "1999000", "30ms"),
            [
                ("requests", "minute", 10000, 9999, 0.006),
                ("tokens", "minute", 2000000, 1999000, 0.03),
            ],
        ),
        (
            _three("x-ratelimit-*-tokens_usage_based", "500", "400", "12s")
            | _three("x-ratelimit-*-project-tokens", "100", "90", "6s"),
            [("tokens", "minute", 500, 400, 12), ("tokens", "minute", 100, 90, 6)],
        ),
        # A bucket of a day: what is missing comes back in proportion.
        (_requests("200", "199", "7m12s"), [("requests", "day", 200, 199, 432)]),
        (_requests("14400", "14370", "2m59.56s"), [("requests", "day", 14400, 14370, 179.56)]),
        (_requests("1000", "400", "9h8m"), [("requests", "day", 1000, 400, 32880)]),
        (_requests("1000", "400", "5m0s"), [("requests", "unknown", 1000, 400, 300)]),
        # Azure: whole seconds, and -1 where it knows nothing
        (_requests("600", "300", "41"), [("requests", "minute", 600, 300, 41)]),
        (_requests("-1", "-1", "0"), []),
        # Mistral
        (
            _three("x-ratelimit-*-req-minute", "720", "717")
            | _three("x-ratelimit-*-tokens-minute", "5000000", "4999911")
            | {"x-ratelimit-tokens-query-cost": "52"},
            [
                ("requests", "minute", 720, 717, None),
                ("tokens", "minute", 5000000, 4999911, None),
            ],
        ),
        (
            _three("x-ratelimitbysize-*-minute", "500000", "499900")
            | _three("x-ratelimitbysize-*-month", "1000000000", "999999000")
            | _three("ratelimitbysize-*", "500000", "499900", "41"),
            [
                ("tokens", "minute", 500000, 499900, 41),
                ("tokens", "month", 1000000000, 999999000, None),
            ],
        ),
        # Cerebras
        (
            _three("X-RateLimit-*-Requests-Day", "14400", "14399", "33011.382867")
            | _three("X-RateLimit-*-Tokens-Minute", "60000", "59900", "11.38"),
            [
                ("requests", "day", 14400, 14399, 33011.382867),
                ("tokens", "minute", 60000, 59900, 11.38),
            ],
        ),
        # OpenRouter: a moment in milliseconds
        (
            _three("X-RateLimit-*", "20", "3", "1700000041000"),
            [("requests", "minute", 20, 3, 41)],
        ),
        (
            _three("X-RateLimit-*", "1000", "0", "1700036000000"),
            [("requests", "day", 1000, 0, 36000)],
        ),
        # Anthropic
        (
            _three("anthropic-ratelimit-requests-*", "50", "49", "2023-11-14T22:13:22Z")
            | _three("anthropic-ratelimit-output-tokens-*", "8000", "7000", "2023-11-14T22:14:20Z"),
            [("requests", "minute", 50, 49, 2), ("output_tokens", "minute", 8000, 7000, 60)],
        ),
        # IETF, versions 10, 7 and 6
        (
            {
                "RateLimit-Policy": '"burst";q=100;w=60, "day";q=1000;w=86400;qu="tokens"',
                "RateLimit": '"burst";r=50;t=30, "day";r=7;t=400',
            },
            [("requests", "minute", 100, 50, 30), ("tokens", "day", 1000, 7, 400)],
        ),
        (
            {"RateLimit-Policy": '"a";q=100;w=60;qu="content-bytes"', "RateLimit": '"a";r=5;t=3'},
            [],
        ),
        (
            {
                "RateLimit-Policy": "100;w=60, 5000;w=3600",
                "RateLimit": "limit=100, remaining=50, reset=5",
            },
            [("requests", "minute", 100, 50, 5)],
        ),
        (
            _three("RateLimit-*", "100, 100;w=60, 5000;w=3600", "50", "20"),
            [("requests", "minute", 100, 50, 20)],
        ),
        # Half of it
        (_requests(None, "7"), [("requests", "minute", None, 7, None)]),
        (_requests("7"), [("requests", "minute", 7, None, None)]),
        (_requests(None, None, "7s"), []),
        # What cannot be
        (_requests("0", "0", "1s"), []),
        (_requests("10", "11", "1s"), []),
        (_requests("NaN", "inf", "1s"), []),
        (_requests("1e5", "0x10", "1s"), []),
        (_requests("9" * 16, "1", "1s"), []),
        (_requests("9" * 5000, "1", "1s"), [("requests", "minute", None, 1, 1)]),
        (_requests("10", "9", "-3s"), [("requests", "minute", 10, 9, None)]),
        (_requests("10", "9", "400h"), [("requests", "minute", 10, 9, None)]),
        ({"x-ratelimit": "", "retry-after": "7"}, []),
    ],
)  # fmt: skip
def test_what_is_told(headers, windows):
    """Every dialect, its oddities, and what cannot be true."""
    assert _read(headers) == windows


@pytest.mark.parametrize(
    ("headers", "host", "per"),
    [
        (_requests("14400", "14399", "0s"), "api.groq.com", "day"),
        (_requests("14400", "14399", "0s"), "notgroq.com", "minute"),
        (_three("x-ratelimit-*", "10", "9", "1"), "api.together.ai", "second"),
        (_three("x-tokenlimit-*", "3000", "9"), "API.Together.xyz", "second"),
        (_three("x-ratelimit-*", "10", "9", "1"), "gateway.example", "unknown"),
    ],
)
def test_the_host_tells_what_the_headers_do_not(headers, host, per):
    """The same names count by another window at some servers."""
    assert [window[1] for window in _read(headers, host)] == [per]


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        (_three("x-ratelimit-*-requests-day", "100", "0", "33011.5"), 33011.5),
        (_three("x-ratelimit-*-tokens-day", "100", "0", "7200"), 7200),
        (_requests("1000", "0", "9h0m0s"), 32400),
        # A bucket of a day, which has room for one request long before it is full
        (_requests("14400", "0", "24h0m0s"), 6),
        # It may be either, and of how much is not known
        (_requests(None, "0", "23h59m59s"), None),
        (_three("x-ratelimit-*-requests-day", "100", "1", "33011.5"), None),
        (_three("x-ratelimit-*-requests-day", "100", "0"), None),
        (_requests("600", "0", "60s"), None),
        ({}, None),
    ],
)
def test_a_day_that_is_used_up(headers, wait_s):
    """How long a refusal is waited out, where a limit of a day has nothing left."""
    assert used_up_s(headers, wall_s=NOW_S) == wait_s


@pytest.mark.parametrize(
    ("dialect", "host", "windows"),
    [
        ("openai", "", {("requests", "minute", 600, 9), ("tokens", "minute", 60000, 900)}),
        ("azure", "", {("requests", "minute", 600, 9), ("tokens", "minute", 60000, 900)}),
        ("groq", "", {("requests", "day", 60000, 59999), ("tokens", "minute", 60000, 900)}),
        ("cerebras", "", {("requests", "day", 60000, 59999), ("tokens", "minute", 60000, 900)}),
        ("mistral", "", {("requests", "minute", 600, 9), ("tokens", "minute", 60000, 900)}),
        (
            "together",
            "api.together.ai",
            {("requests", "second", 10, 9), ("tokens", "second", 1000, 900)},
        ),
        ("anthropic", "", {("requests", "minute", 600, 9), ("tokens", "minute", 60000, 900)}),
        ("openrouter", "", {("requests", "unknown", 600, 9)}),
        ("ietf", "", {("requests", "minute", 600, 9), ("tokens", "minute", 60000, 900)}),
        ("none", "", set()),
    ],
)
def test_the_simulators_dialects_are_understood(dialect, host, windows):
    """What the simulator writes of a limit is read as that limit."""
    limits = Limits(
        rpm=600, tpm=60_000, rpm_window_s=1.0, tpm_window_s=1.0, now_s=0.0, dialect=dialect
    )
    assert limits.admit(100, 0.0) is None
    found = _read(limits.headers(0.0, NOW_S), host)
    assert {window[:4] for window in found} == windows
    assert dialect in DIALECTS


def test_every_spelling_is_read():
    """Each row of the table, with a limit and what is left of it, gives its window."""
    for spelling in SPELLINGS:
        headers = {spelling.name("limit"): "100", spelling.name("remaining"): "40"}
        sources = [window.source for window in read(headers, wall_s=NOW_S)]
        assert sources == [spelling.names]


def test_a_line_for_people():
    """Limits are told with their windows; the same limit under two names once."""
    window = {"kind": "requests", "per": "minute", "limit": 10000, "remaining": 9990}
    tokens = {"kind": "tokens", "per": "minute", "limit": 2000000, "remaining": None}
    odd = {"kind": "tokens", "per": "unknown", "per_s": 10, "limit": 7, "remaining": 0}
    only = {"kind": "output_tokens", "per": "unknown", "limit": None, "remaining": 1234}
    assert format_limits([]) is None
    assert format_limits([window, tokens, dict(tokens)]) == (
        "limits reported by the server: 10,000 requests/min (9,990 left), 2,000,000 tokens/min"
    )
    assert format_limits([odd, only]) == (
        "limits reported by the server: 7 tokens in 10 s (0 left), 1,234 output tokens left"
    )
