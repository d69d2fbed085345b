"""How servers spell their limits in reply headers: the table. It is read by ``limit_headers``.

A row is one window of one server: what it counts, over which time, and the names of its headers. In
a name, ``*`` stands for ``limit``, ``remaining`` and ``reset`` in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

REQUESTS = "requests"
TOKENS = "tokens"
INPUT_TOKENS = "input_tokens"
OUTPUT_TOKENS = "output_tokens"

PERIODS_S: Mapping[str, float] = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
    "month": 30 * 86400.0,
}
"""Seconds of the windows that have a name."""

DAY_S = PERIODS_S["day"]
MINUTE_S = PERIODS_S["minute"]


class Spelling(NamedTuple):
    """The headers of one window.

    ``per_s`` is its length; None where the name does not tell it. Then it is seen from the reset,
    and is ``usual_s`` where that tells nothing (None: unknown). ``hosts`` are those servers, by
    the end of their host's name, whose window is ``host_per_s`` long instead. ``reset`` is the name
    of the reset header where it does not follow the pattern.
    """

    server: str
    kind: str
    names: str
    per_s: float | None
    usual_s: float | None = None
    hosts: tuple[str, ...] = ()
    host_per_s: float | None = None
    reset: str | None = None
    remark: str = ""

    def name(self, part: str) -> str:
        """The header of ``limit``, ``remaining`` or ``reset``."""
        if part == "reset" and self.reset is not None:
            return self.reset
        return self.names.replace("*", part)

    def length_s(self, host: str) -> float | None:
        """The window's length where name or host tells it."""
        ours = any(host == end or host.endswith("." + end) for end in self.hosts)
        return self.host_per_s if ours else self.per_s


_FAMILY = "OpenAI, Azure, Groq and many others"
_NAMED = "Cerebras, Mistral, SambaNova"
_TOGETHER = ("together.ai", "together.xyz")

SPELLINGS: tuple[Spelling, ...] = (
    Spelling(
        _FAMILY,
        REQUESTS,
        "x-ratelimit-*-requests",
        None,
        usual_s=MINUTE_S,
        hosts=("groq.com",),
        host_per_s=DAY_S,
        remark=(
            "per day at Groq and in OpenAI's smallest accounts, which the reset shows; negative "
            "numbers (Azure) tell nothing"
        ),
    ),
    Spelling(_FAMILY, TOKENS, "x-ratelimit-*-tokens", None, usual_s=MINUTE_S),
    Spelling("OpenAI", TOKENS, "x-ratelimit-*-tokens_usage_based", None, usual_s=MINUTE_S),
    Spelling("OpenAI", TOKENS, "x-ratelimit-*-project-tokens", None, usual_s=MINUTE_S),
    Spelling("OpenAI", REQUESTS, "x-ratelimit-*-project-requests", None, usual_s=MINUTE_S),
    *(
        Spelling(_NAMED, kind, f"x-ratelimit-*-{word}-{period}", PERIODS_S[period])
        for kind, word in ((REQUESTS, "requests"), (REQUESTS, "req"), (TOKENS, "tokens"))
        for period in PERIODS_S
    ),
    Spelling(
        "Mistral, older",
        TOKENS,
        "x-ratelimitbysize-*-minute",
        MINUTE_S,
        reset="ratelimitbysize-reset",
    ),
    Spelling("Mistral, older", TOKENS, "x-ratelimitbysize-*-month", PERIODS_S["month"]),
    Spelling(
        "Together, OpenRouter, gateways",
        REQUESTS,
        "x-ratelimit-*",
        None,
        hosts=_TOGETHER,
        host_per_s=1.0,
        remark="per second at Together; the reset may be a moment (OpenRouter: milliseconds)",
    ),
    Spelling(
        "Together", TOKENS, "x-tokenlimit-*", None, hosts=_TOGETHER, host_per_s=1.0,
    ),
    *(
        Spelling("Kong", REQUESTS, f"x-ratelimit-*-{period}", PERIODS_S[period])
        for period in PERIODS_S
    ),
    *(
        Spelling(
            "Anthropic", kind, f"anthropic-ratelimit-{word}-*", MINUTE_S,
            remark="the reset is a moment" if kind == REQUESTS else "",
        )
        for kind, word in (
            (REQUESTS, "requests"),
            (TOKENS, "tokens"),
            (INPUT_TOKENS, "input-tokens"),
            (OUTPUT_TOKENS, "output-tokens"),
        )
    ),
    Spelling("IETF draft, to version 6", REQUESTS, "ratelimit-*", None),
)  # fmt: skip

IETF = "ratelimit"
IETF_POLICY = "ratelimit-policy"
"""The headers of the IETF draft from version 7 on; they are lists, with a reader of their own."""
