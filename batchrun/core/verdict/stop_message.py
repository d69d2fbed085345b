"""What to tell the user of a run that one exchange stopped."""

from __future__ import annotations

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


def stop_message(verdict: Verdict, http_status: int | None, wait_s_max: float) -> str:
    """What an exchange stopped the run for. ``wait_s_max`` is the longest wait waited out."""
    status = f"HTTP {http_status}" if http_status else (verdict.code or "")
    if verdict.wait_s is not None and verdict.wait_s > wait_s_max:
        return (
            f"the server asks to come back in {verdict.wait_s:.0f} s ({status}), longer than "
            f"--max-wait: {verdict.message}"
        )
    advice = _ADVICE.get(verdict.error_class or "", "see the message")
    return f"{verdict.error_class} ({status}): {verdict.message}; {advice}"
