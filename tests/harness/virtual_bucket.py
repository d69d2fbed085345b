"""An object store in memory: what batchrun asks of obstore and of Arrow, over the same objects.

Creating is create-only, replacing is compare-and-swap by ETag, listing shows every object that was
there before. Times are the store's own. ``asking`` stands for the way to it: it takes its time, may
fail, and may lose the answer to a write that had its effect.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.fs as arrow_fs
from obstore import exceptions

from batchrun.adapters.storage.filesystems import Place


class Object(NamedTuple):
    """An object."""

    content: bytes
    e_tag: str
    written_s: float


class _Found:
    """What ``obstore.get`` gives."""

    def __init__(self, found: Object, path: str) -> None:
        self._content: Any = found.content
        self.meta = _meta(path, found)

    def bytes(self) -> Any:
        return self._content

    def __iter__(self) -> Iterator[Any]:
        yield self._content


def _meta(path: str, found: Object) -> dict[str, Any]:
    moment = datetime.fromtimestamp(found.written_s, UTC)
    known = {"path": path, "e_tag": found.e_tag, "version": None, "last_modified": moment}
    return known | {"size": len(found.content)}


class VirtualBucket:
    """The objects of one bucket, by their whole names."""

    exceptions = exceptions

    def __init__(
        self, now_s: Callable[[], float], asking: Callable[..., Callable[[], object]]
    ) -> None:
        """``now_s`` is the store's clock."""
        self.objects: dict[str, Object] = {}
        self._now_s, self._asking = now_s, asking
        self._writes = itertools.count()

    def _write(self, name: str, content: bytes) -> None:
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        tag = f"{digest}-{next(self._writes)}"
        self.objects[name] = Object(content, tag, self._now_s())

    # As obstore has it; a store is a prefix

    def get(self, store: str, name: str) -> _Found:
        """See ``obstore``."""
        done = self._asking(writes=False)
        found = self.objects.get(store + name)
        done()
        if found is None:
            raise FileNotFoundError(name)
        return _Found(found, name)

    def head(self, store: str, name: str) -> dict[str, Any]:
        """See ``obstore``."""
        return self.get(store, name).meta

    def list(self, store: str, prefix: str = "") -> list[list[dict[str, Any]]]:
        """See ``obstore``."""
        done = self._asking(writes=False)
        start = f"{store}{prefix}".rstrip("/") + "/"
        names = sorted(name for name in self.objects if name.startswith(start))
        found = [_meta(name[len(store) :], self.objects[name]) for name in names]
        done()
        return [found]

    def list_with_delimiter(self, store: str, prefix: str = "") -> dict[str, Any]:
        """See ``obstore``."""
        (found,) = self.list(store, prefix)
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        rests = [each["path"][len(start) :] for each in found]
        folders = sorted({rest.partition("/")[0] for rest in rests if "/" in rest})
        return {"common_prefixes": [start + folder for folder in folders]}

    def put(
        self, store: str, name: str, content: bytes | Path, *, mode: Any = None, **_: object
    ) -> None:
        """See ``obstore``: after an answer that was lost it asks once more by itself."""
        data = content.read_bytes() if isinstance(content, Path) else content
        while True:
            done = self._asking(writes=True)
            found = self.objects.get(store + name)
            refused: BaseException | None = None
            if mode == "create" and found is not None:
                refused = exceptions.AlreadyExistsError(name)
            elif isinstance(mode, dict) and (found is None or found.e_tag != mode["e_tag"]):
                refused = exceptions.PreconditionError(name)
            else:
                self._write(store + name, data)
            lost = done()
            if refused is not None:
                raise refused
            if not lost:
                return

    def delete(self, store: str, names: str | Sequence[str]) -> None:
        """See ``obstore``. S3 does not mind names that are not there."""
        done = self._asking(writes=True)
        for name in [names] if isinstance(names, str) else names:
            self.objects.pop(store + name, None)
        done()

    # As Arrow has it

    def place(self, address: str) -> Place:
        """See ``filesystems``."""
        scheme, _, path = address.partition("://")
        return Place(self, path, f"{scheme}://", "")

    def get_file_info(self, asked: Any) -> Any:
        """See ``pyarrow.fs``."""
        done = self._asking(writes=False)
        try:
            if isinstance(asked, str):
                return self._info(asked)
            start = asked.base_dir.rstrip("/") + "/"
            names = [name for name in self.objects if name.startswith(start)]
            if not asked.recursive:
                names = [start + name[len(start) :].partition("/")[0] for name in names]
            return [self._info(name) for name in sorted(set(names))]
        finally:
            done()

    def _info(self, path: str) -> Any:
        found = self.objects.get(path)
        kinds = arrow_fs.FileType
        kind = kinds.File if found is not None else kinds.NotFound
        if found is None and any(name.startswith(f"{path}/") for name in self.objects):
            kind = kinds.Directory
        return SimpleNamespace(
            type=kind,
            path=path,
            base_name=path.rpartition("/")[2],
            size=None if found is None else len(found.content),
            mtime_ns=None if found is None else int(found.written_s * 1e9),
        )

    def open_input_file(self, path: str) -> Any:
        """See ``pyarrow.fs``."""
        done = self._asking(writes=False)
        found = self.objects.get(path)
        done()
        if found is None:
            raise FileNotFoundError(path)
        file = _Input(io.BytesIO(found.content), mode="r")
        file.tag = found.e_tag
        return file

    def open_output_stream(self, path: str) -> Any:
        """See ``pyarrow.fs``: the object is there once the stream is closed."""
        return _Output(self, path)

    def finish(self, path: str, content: bytes) -> None:
        """A stream was closed."""
        done = self._asking(writes=True)
        self._write(path, content)
        done()

    def delete_file(self, path: str) -> None:
        """See ``pyarrow.fs``."""
        self.delete("", path)

    def copy_file(self, source: str, target: str) -> None:
        """See ``pyarrow.fs``."""
        done = self._asking(writes=True)
        found = self.objects.get(source)
        if found is not None:
            self._write(target, found.content)
        done()
        if found is None:
            raise FileNotFoundError(source)


class _Input(pa.PythonFile):  # type: ignore[misc]
    """An object that is read."""

    tag = ""

    def metadata(self) -> dict[bytes, bytes]:
        """Its ETag, as S3 gives it."""
        return {b"ETag": self.tag.encode()}


class _Output:
    def __init__(self, bucket: VirtualBucket, path: str) -> None:
        self._bucket, self._path = bucket, path
        self._pieces: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._bucket.finish(self._path, b"".join(self._pieces))

    def write(self, data: Any) -> None:
        self._pieces.append(bytes(data))
