"""A gate that is held because its endpoint is down: nobody enters, but for one probe at a time.

It has no clock of its own: whoever uses it passes the time.
"""

from __future__ import annotations


class Probing:
    """A state machine: ``held`` while the endpoint is down, ``out`` while a probe is on its way."""

    def __init__(self) -> None:
        self.held = False
        self.out = False
        self._next_s = 0.0

    def hold(self, next_s: float) -> None:
        """The endpoint is down; the next probe may go at this time."""
        self.held = True
        self._next_s = next_s

    def open(self) -> None:
        """The endpoint is back."""
        self.held = False

    def try_probe(self, now_s: float) -> bool:
        """Whether who asks is the probe now; then no other is until ``over``."""
        if self.out or now_s < self._next_s:
            return False
        self.out = True
        return True

    def over(self) -> None:
        """The probe came back, or was given up."""
        self.out = False

    def left_s(self, now_s: float) -> float | None:
        """Seconds until the next probe may go; None: first the one that is out has to come back."""
        return None if self.out else max(0.0, self._next_s - now_s)

    @property
    def next_s(self) -> float:
        """When the next probe may go; long ago while nothing is held."""
        return self._next_s if self.held else float("-inf")
