"""Images and files of a row as content parts of a message.

A value is a URL, which is sent as it is; the path of a local file; bytes; the struct
``{bytes, path}`` that data sets of images have; or a list of those. Reading files is the caller's:
``read`` comes in as an argument.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from batchrun.errors import RowError
from batchrun.records import JsonObject

Kind = Literal["image", "file"]
Read = Callable[[str], bytes]
"""The content of a local file. Raises ``RowError`` naming it."""

_URLS = ("http://", "https://", "data:")
_IMAGE_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_IMAGE_SUFFIXES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".svg": "image/svg+xml",
}
_FILE_SUFFIXES = {
    ".pdf": "application/pdf",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".csv": "text/csv",
    ".html": "text/html",
    ".htm": "text/html",
    ".xml": "text/xml",
    ".json": "application/json",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
}
_ANY = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One ``--image`` or ``--file``: a column whose values become content parts."""

    kind: Kind
    column: str

    def parts(self, value: object, read: Read) -> Iterator[JsonObject]:
        """The content parts of a row's value; none for null. Raises ``RowError``."""
        for item in value if isinstance(value, list) else [value]:
            if item is None or item == "" or _is_empty(item):
                continue
            url, name = self._located(item, read)
            if self.kind == "image":
                yield {"type": "image_url", "image_url": {"url": url}}
            else:
                yield {"type": "file", "file": {"filename": name, "file_data": url}}

    def _located(self, value: object, read: Read) -> tuple[str, str]:
        """A URL, and what the file is called."""
        path = ""
        if isinstance(value, Mapping):
            data = value.get("bytes")
            path = _text(value.get("path"))
            value = path if data is None else data
        if isinstance(value, RowError):
            raise value
        if isinstance(value, str) and value:
            if value.lower().startswith(_URLS):
                name = "" if value[:5].lower() == "data:" else value.partition("?")[0]
                return value, PurePath(name).name or self.column
            path, value = value, read(value)
        if not isinstance(value, bytes):
            message = (
                f"column {self.column!r} holds {_described(value)}; an {self.kind} is a URL, "
                "a path, bytes, or an object with `bytes` and `path`"
            ).replace("an file", "a file")
            raise RowError(message)
        mime = self._mime(value, path)
        name = PurePath(path).name or self.column
        return f"data:{mime};base64,{base64.b64encode(value).decode()}", name

    def _mime(self, data: bytes, path: str) -> str:
        suffix = PurePath(path).suffix.lower()
        image = image_type(data) or _IMAGE_SUFFIXES.get(suffix)
        if self.kind == "image":
            if image is None:
                what = f"the file {path}" if path else f"column {self.column!r}"
                message = f"{what} is no image that is known by its first bytes or its suffix"
                raise RowError(message)
            return image
        if data[:5] == b"%PDF-":
            return "application/pdf"
        return _FILE_SUFFIXES.get(suffix) or image or _ANY


def image_type(data: bytes) -> str | None:
    """The MIME type of an image by its first bytes."""
    for magic, mime in _IMAGE_MAGIC:
        if data.startswith(magic):
            return mime
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def attached(messages: list[JsonObject], parts: list[JsonObject]) -> list[JsonObject]:
    """The messages with the parts behind the content of the last one of the user."""
    if not parts:
        return messages
    place = max(n for n, message in enumerate(messages) if message.get("role") == "user")
    content: Any = messages[place].get("content")
    before = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if isinstance(content, str) and not content.strip():
        before = []
    changed = {**messages[place], "content": [*before, *parts]}
    return [*messages[:place], changed, *messages[place + 1 :]]


def size_of(parts: list[JsonObject]) -> int:
    """Roughly the bytes that the parts hold."""
    return sum(
        len(part["image_url"]["url"] if "image_url" in part else part["file"]["file_data"])
        for part in parts
    )


def _is_empty(value: object) -> bool:
    """Whether a struct of an image says that there is none."""
    return (
        isinstance(value, Mapping) and value.keys() <= {"bytes", "path"} and not any(value.values())
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _described(value: object) -> str:
    if value is None or value == "":
        return "neither bytes nor a path"
    return {bool: "true or false", int: "a number", float: "a number"}.get(
        type(value), f"a {type(value).__name__}"
    )
