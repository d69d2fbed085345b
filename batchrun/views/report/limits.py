"""How much of a run the report shows: the page keeps to its bytes whatever the run holds."""

from __future__ import annotations

from dataclasses import dataclass

PAGE_BYTES_MAX = 512_000
"""Pages of megabytes do not open where people read them: mail, tickets, phones."""


@dataclass(frozen=True, slots=True)
class Limits:
    """At most so many bytes of the page for a text, and so many rows for a table."""

    text_bytes: int = 2_000
    """An answer of a sampled row."""
    field_bytes: int = 300
    """Its other columns; a message; a setting."""
    cell_bytes: int = 160
    """A name in a table."""
    rows: int = 60
    """Lines of a table."""
    cards: int = 30
    """Sampled rows."""

    def smaller(self) -> Limits:
        """Half as much of everything."""
        return Limits(
            self.text_bytes // 2,
            self.field_bytes // 2,
            max(24, self.cell_bytes // 2),
            max(4, self.rows // 2),
            self.cards // 2,
        )
