"""What an exchange shows about the load that its server can take."""

from __future__ import annotations

from batchrun.core.verdict.decide import Decision
from batchrun.core.verdict.rules import Action
from batchrun.records import Reception

_OVERLOAD: dict[str, tuple[str, ...] | None] = {
    # error class: the codes that count, None for all of them
    "overloaded": None,
    "timeout": None,
    "connection": ("connect",),
}
AT_ONCE = ("concurren", "too many requests in flight", "parallel requests", "simultaneous")
"""What servers write where they refuse for what is in flight (vLLM and Azure, Z.ai, Moonshot)."""


def reception_of(decision: Decision) -> Reception:
    """What an exchange shows, from the decision about it."""
    if decision.verdict.completion is not None:
        return Reception.ANSWERED
    error_class = decision.error_class or ""
    if decision.verdict.action is Action.THROTTLE:
        said = (decision.verdict.message or "").lower()
        return (
            Reception.REFUSED_AT_ONCE
            if any(word in said for word in AT_ONCE)
            else Reception.REFUSED
        )
    if error_class in _OVERLOAD:
        codes = _OVERLOAD[error_class]
        if codes is None or decision.verdict.code in codes:
            return Reception.OVERLOADED
    return Reception.OTHER
