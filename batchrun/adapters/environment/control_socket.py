"""The Unix socket in a checkpoint for requesting changes to a live run.

One line of JSON goes in, one comes back. Only the user of the run can open it: the socket's mode is
0600, and the folder belongs to that user. A socket's address has room for 107 bytes; if the path is
longer, the socket is reached through a descriptor of its folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from batchrun.adapters.storage import disk
from batchrun.adapters.system import platform
from batchrun.errors import BatchrunError

NAME = "control.sock"
LINE_BYTES_MAX = 2**16
REQUEST_S = 10.0
"""A client that has not sent its line within this time is dropped."""
_PATH_BYTES_MAX = 100

Answer = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Makes the requested changes, and returns what is in force now. Raises ``BatchrunError`` if it
cannot.
"""


class NoAnswerError(Exception):
    """No run answered, for this ``reason``; ``missing`` means that no process listens there yet."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.missing = missing


@contextlib.asynccontextmanager
async def listening(
    checkpoint: Path, answer: Answer, say: Callable[[str], None]
) -> AsyncIterator[None]:
    """Answer requests for as long as the context lasts. If no socket can be made, the run
    continues without one, and ``say`` gets the reason.
    """
    try:
        opened = _bound(checkpoint)
    except OSError as error:
        say(f"`batchrun ctl` cannot reach this run: no socket in {checkpoint}: {error.strerror}")
        yield
        return
    talking: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            await _talk(reader, writer, answer)
        finally:
            talking.discard(task)

    server = await asyncio.start_unix_server(talk, sock=opened, limit=LINE_BYTES_MAX)
    try:
        yield
    finally:
        server.close()
        if talking:  # an answer is being sent
            await asyncio.wait(tuple(talking), timeout=1.0)
        for task in tuple(talking):
            task.cancel()
        with contextlib.suppress(OSError):
            disk.unlink(checkpoint / NAME)


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Read one request, answer it."""
    with contextlib.suppress(OSError, TimeoutError):  # the client went away
        try:
            async with asyncio.timeout(REQUEST_S):
                line = await reader.readline()
            reply = await _reply(line, answer)
        except ValueError:
            reply = {"error": "the request is too long"}
        writer.write(json.dumps(reply).encode() + b"\n")
        await writer.drain()
    writer.close()


async def _reply(line: bytes, answer: Answer) -> dict[str, Any]:
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        return {"error": "the request is not a JSON object"}
    try:
        return {"now": await answer(request)}
    except BatchrunError as error:
        return {"error": str(error)}


def _bound(checkpoint: Path) -> socket.socket:
    """A socket that listens in the checkpoint. It replaces one that a killed run left: this run
    holds the lock, so no other process uses it.
    """
    path = checkpoint / NAME
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(OSError):
            os.fchmod(opened.fileno(), 0o600)  # Linux makes the file with this mode
        with _address(checkpoint) as address:
            opened.bind(address)
        if stat.S_IMODE(path.lstat().st_mode) != 0o600:
            path.chmod(0o600)
        opened.listen()
        opened.settimeout(0)
    except BaseException:
        opened.close()
        raise
    return opened


@contextlib.contextmanager
def _address(checkpoint: Path) -> Iterator[str]:
    """The socket's path for an address, valid until the context ends."""
    path = str(checkpoint / NAME)
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield path
        return
    descriptor = os.open(checkpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if (folder := platform.folder_by_descriptor(descriptor)) is not None:
            yield f"{folder}/{NAME}"
            return
        here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchdir(descriptor)
            yield NAME
        finally:
            os.fchdir(here)
            os.close(here)
    finally:
        os.close(descriptor)


def ask(checkpoint: Path, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Ask the run of this checkpoint; returns its reply, with `now` or `error`. Blocks.

    Raises ``NoAnswerError`` if no run listens or answers in time, and ``PermissionError`` if the
    socket belongs to another user.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(timeout_s)
        try:
            with _address(checkpoint) as address:
                opened.connect(address)
        except PermissionError:
            raise
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoAnswerError(error.strerror or str(error), missing=True) from None
        except OSError as error:
            raise NoAnswerError(error.strerror or str(error)) from None
        try:
            opened.sendall(json.dumps(dict(request)).encode() + b"\n")
            with opened.makefile("rb") as file:
                line = file.readline(LINE_BYTES_MAX)
            reply = json.loads(line)
        except TimeoutError:
            reason = f"it did not answer within {timeout_s:g} s"
            raise NoAnswerError(reason) from None
        except (OSError, ValueError):
            reason = "it ended before it answered"
            raise NoAnswerError(reason) from None
        if not isinstance(reply, dict):
            reason = "its answer is not understood"
            raise NoAnswerError(reason)
        return reply
