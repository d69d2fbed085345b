"""Keeps the limits that an endpoint reports, read from some of its replies."""

from __future__ import annotations

from typing import Any

from batchrun.core.reply import limit_headers
from batchrun.engine.pace.pacing import Pacing
from batchrun.engine.pace.token_costs import TokenCosts
from batchrun.ports import Clock
from batchrun.records import Reply

LISTEN_EVERY_S = 0.25
"""Headers are read so often, counted by when requests went out, and from every refusal: reading
them costs as much as a tenth of a row."""

REFUSED = 429


class LimitsTold:
    """The limits that one endpoint last reported, and the resulting pace."""

    def __init__(self, clock: Clock, costs: TokenCosts, host: str = "") -> None:
        """``costs`` hears of refusals and of what is left. ``host`` is the server's name: some
        headers mean something else at some servers.
        """
        self._clock = clock
        self._charging = costs.charging
        self._host = host
        self._listen_at_s = float("-inf")
        self._answers = 0
        self.last: limit_headers.Limits = ()
        """Empty until limits are reported; a reply without any changes nothing."""
        self.pacing = Pacing(clock.now_s, self._charging)

    def heard(self, reply: Reply | None, *, sent_at_s: float) -> None:
        """A reply came, to a request that went out at ``sent_at_s``; None: none came."""
        if reply is None:
            return
        status = reply.status
        if status < 300:
            self._answers += 1
        if sent_at_s >= self._listen_at_s or status == REFUSED:
            self._read(reply, sent_at_s)

    def _read(self, reply: Reply, sent_at_s: float) -> None:
        told = limit_headers.read(
            reply.headers, wall_s=self._clock.wall_us() / 1e6, host=self._host
        )
        if told:
            self.last = told
        refused = reply.status == REFUSED
        if refused:
            self._charging.refused(sent_at_s, self._clock.now_s())
        if told or self.pacing.active:
            self.pacing.told(told, refused=refused, sent_at_s=sent_at_s, answers=self._answers)
        # Where nothing is left, the next reply tells whether that is so.
        used_up = any(window.remaining == 0 for window in told)
        pause_s = 0.0 if used_up and self.pacing.slows else LISTEN_EVERY_S
        self._listen_at_s = max(self._listen_at_s, sent_at_s + pause_s)

    def public(self) -> list[dict[str, Any]]:
        """The limits as data: a list of windows; see ``limit_headers.Window``."""
        return [window.public() for window in self.last]
