"""Input files: opening them, and reading rows from them in order.

A format is one module with a ``Reader``; ``open_input`` picks it.
"""

from __future__ import annotations
