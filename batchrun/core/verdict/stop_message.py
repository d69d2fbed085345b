"""What to tell the user of a run that one exchange stopped."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from batchrun.core.verdict.judge import Verdict

_ADVICE = {
    "auth": "check the key",
    "billing": "settle the account",
    "quota": "raise the quota or wait until it is renewed",
    "rate_limit": "come back later, or lower --rpm, --tpm or --concurrency",
    "forbidden": "check the key's permissions and the region",
    "config": "check the base URL and the network",
    "not_found": "check the model's name and the base URL",
    "connection": "check the host in the base URL",
}
_ADVICE_OF_RULES = {
    "wrong_path": "check the base URL",
    "path_gone": "check the base URL",
    "wrong_model": "check the model's name",
    "model_gone": "check the model's name",
    "tls": "check the base URL and the certificates",
}
"""By the rule that judged, where it knows more than the class does."""

_WAIT_S_MAX = 366 * 86400.0
"""A wait beyond that has no date: it is not meant, and the calendar ends."""


def stop_message(
    verdict: Verdict, http_status: int | None, wait_s_max: float, now_us: int | None = None
) -> str:
    """What an exchange stopped the run for. ``wait_s_max`` is the longest wait waited out, and
    ``now_us`` the time, where the message is to say when the wait will be over.
    """
    status = f"HTTP {http_status}" if http_status else (verdict.code or "")
    if verdict.wait_s is not None and verdict.wait_s > wait_s_max:
        return (
            f"the server asks to come back in {verdict.wait_s:.0f} s{_at(verdict.wait_s, now_us)} "
            f"({status}), longer than --max-wait: {verdict.message.rstrip('.')}. Run the same "
            f"command then, or let it wait with --max-wait {math.ceil(verdict.wait_s)}"
        )
    advice = _ADVICE_OF_RULES.get(
        verdict.rule, _ADVICE.get(verdict.error_class or "", "see the message")
    )
    said = verdict.message.removeprefix(f"{status}: ").rstrip(".")
    return f"{verdict.error_class} ({status}): {said}; {advice}"


def _at(wait_s: float, now_us: int | None) -> str:
    """When a wait will be over, to the minute, never too early."""
    if now_us is None or not wait_s < _WAIT_S_MAX:
        return ""
    over = datetime.fromtimestamp(now_us / 1e6 + wait_s + 59, UTC)
    return f", at {over:%Y-%m-%dT%H:%MZ}"
