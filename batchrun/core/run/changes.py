"""What may become of rows that are done: they are kept, sent again, or started over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchrun.core.reply.answer import FLAWS
from batchrun.core.verdict.rules import ERROR_CLASSES
from batchrun.errors import UsageError

RETRY_CLASSES = (*sorted(ERROR_CLASSES), *FLAWS)
"""What ``--retry-class`` takes: the error classes, and what an answer that is kept may be."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is allowed, and asked for, when a run directory is opened again.

    ``retry_failed`` sends all failed rows again, ``retry_classes`` those of some error classes, and
    rows whose answer is kept although it is truncated or empty.
    Raises ``UsageError`` for a class that there is not, and for wishes that exclude one another.
    """

    keep_done: bool = False
    restart: bool = False
    resend_changed: bool = False
    retry_failed: bool = False
    retry_classes: tuple[str, ...] = ()
    repair: bool = False

    def __post_init__(self) -> None:
        for name in self.retry_classes:
            if name not in RETRY_CLASSES:
                message = f"--retry-class: no row fails with {name!r}; there are " + ", ".join(
                    RETRY_CLASSES
                )
                raise UsageError(message)
        given = self._given()
        for one, others, reason in (
            ("--restart", given[1:], "--restart begins anew, with no row done"),
            ("--keep-done", ("--resend-changed",), "a row that changed is kept or sent again"),
            ("--retry-failed", ("--retry-class",), "--retry-failed takes every class"),
        ):
            both = [other for other in others if one in given and other in given and other != one]
            if both:
                message = f"{one} and {both[0]} exclude each other: {reason}"
                raise UsageError(message)

    def _given(self) -> list[str]:
        flags = {
            "--restart": self.restart,
            "--keep-done": self.keep_done,
            "--resend-changed": self.resend_changed,
            "--retry-failed": self.retry_failed,
            "--retry-class": bool(self.retry_classes),
            "--repair": self.repair,
        }
        return [flag for flag, on in flags.items() if on]

    @property
    def retries(self) -> bool:
        """Whether rows are sent again for how they ended."""
        return self.retry_failed or bool(self.retry_classes)

    @property
    def retried_flaws(self) -> frozenset[str]:
        """Rows with an answer are sent again where it is one of these."""
        return frozenset(FLAWS).intersection(self.retry_classes)

    @property
    def retried(self) -> str:
        """What rows are sent again for how they ended, in words."""
        failed = self.retry_failed or not self.retried_flaws.issuperset(self.retry_classes)
        return " or ".join(["failed"] * failed + [f for f in FLAWS if f in self.retried_flaws])

    def retries_class(self, error_class: str | None) -> bool:
        """Whether a row that ended like this (None: with a completion) is sent again."""
        return error_class is not None and (self.retry_failed or error_class in self.retry_classes)


def parse_classes(text: str | Sequence[str]) -> tuple[str, ...]:
    """The classes of ``--retry-class C,...``."""
    pieces = text.split(",") if isinstance(text, str) else text
    names = tuple(dict.fromkeys(piece.strip() for piece in pieces if piece.strip()))
    if not names:
        message = "--retry-class names no class; there are " + ", ".join(RETRY_CLASSES)
        raise UsageError(message)
    return names
