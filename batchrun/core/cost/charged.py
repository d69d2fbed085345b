"""What is charged to a budget."""

from __future__ import annotations

from typing import NamedTuple


class Charge(NamedTuple):
    """What is charged to a budget, in its unit. ``held`` of it is the worst case of ``unanswered``
    exchanges, which nobody knows the cost of.
    """

    spent: int
    held: int = 0
    unanswered: int = 0

    def plus(self, other: Charge) -> Charge:
        """Both together."""
        return Charge(
            self.spent + other.spent,
            self.held + other.held,
            self.unanswered + other.unanswered,
        )
