"""What is charged to a budget, and what is needed of it."""

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


class Need(NamedTuple):
    """What a worker has spent and needs at this moment. The worst cases of its requests are
    ``reserved`` for those that are out; ``first`` is that of the next one in line (0 where none
    waits), and ``line`` all of those in line.
    """

    cap: int
    charge: Charge
    reserved: int
    first: int
    line: int

    @property
    def final(self) -> Charge:
        """What is charged if nothing more is heard: of what is out, all."""
        return self.charge.plus(Charge(self.reserved, self.reserved))
