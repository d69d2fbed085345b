"""What the peers' scripts share: their flags, the rows, and the file of answers.

Each script runs in the peer's own environment, so this module needs the standard library only.
"""

import argparse
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Message = Any  # a dict with `role` and `content`; the libraries have types of their own for it


def flags(doc: str | None) -> argparse.ArgumentParser:
    """The flags of every peer's script; the limits are those of a provider, unset when unknown."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("input", type=Path, help="JSON Lines with `messages`")
    parser.add_argument("output", type=Path, help="JSON Lines with the answers")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--attempts", type=int, default=3, help="requests per row, at most")
    parser.add_argument("--rpm", type=int, help="requests per minute")
    parser.add_argument("--tpm", type=int, help="tokens per minute")
    return parser


def conversations(source: Path) -> list[list[Message]]:
    """The messages of every row."""
    with source.open(encoding="utf-8") as lines:
        return [json.loads(line)["messages"] for line in lines]


class Answers:
    """The output: a JSON line per row, with its answer or its error."""

    def __init__(self, path: Path) -> None:
        """Create the file. Raises OSError."""
        self._file = path.open("w", encoding="utf-8")
        self.failed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, row: int, content: str | None, usage: dict[str, Any] | None) -> None:
        """Write a row's answer and its token counts."""
        self._line({"row": row, "content": content, "usage": usage})

    def fail(self, row: int, error: object) -> None:
        """Write and count a row that got no answer."""
        self.failed += 1
        self._line({"row": row, "error": str(error)})

    def _line(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
