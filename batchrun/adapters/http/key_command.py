"""Runs the command that prints a key.

It has no shell, no input and no terminal: a command that asks for a password must fail instead of
waiting. It runs in a separate process group, so that it ends together with everything it started,
and so that a Ctrl-C meant for the run does not interrupt a renewal.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence

from batchrun.adapters.environment.clock import real_s
from batchrun.adapters.system import platform
from batchrun.core.run.suspension import Pulse
from batchrun.core.text.redact import Redactor
from batchrun.errors import KeyUnavailableError

TIMEOUT_S = 30.0
OUTPUT_BYTES_MAX = 2**16
SHOWN_CHARACTERS = 500
POLL_S = 0.1
_PIECE_BYTES = 2**14


def output_of(
    words: Sequence[str], stop: Callable[[], bool], *, timeout_s: float = TIMEOUT_S
) -> bytes:
    """The output of the command. Blocks; ``stop`` is polled for whether to give up.

    Raises ``KeyUnavailableError`` if the command cannot be started, fails, takes too long or prints
    too much. The message shows its stderr, never its stdout.
    """
    name = f"the key command {words[0]}"
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        message = f"{name} cannot be run: {getattr(error, 'strerror', None) or error}"
        raise KeyUnavailableError(message) from None
    with process:
        try:
            out, complaint = _read(process, name, stop, time.monotonic() + timeout_s)
        except BaseException:
            platform.end_group(process.pid)
            raise
    if process.returncode:
        message = f"{name} {_ending(process.returncode)}{_told(complaint, out)}"
        raise KeyUnavailableError(message)
    return out


def _read(
    process: subprocess.Popen[bytes], name: str, stop: Callable[[], bool], due_s: float
) -> tuple[bytes, bytes]:
    """Both outputs, once the process has ended. A process that it left behind may keep them open;
    that one is neither awaited nor killed.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    pulse = Pulse(POLL_S, time.monotonic(), real_s())
    found = {process.stdout: bytearray(), process.stderr: bytearray()}
    with selectors.DefaultSelector() as selector:
        for stream in found:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None
            if not selector.get_map():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
            ready = selector.select(0 if ended else POLL_S) if selector.get_map() else []
            for key, _ in ready:
                piece = os.read(key.fd, _PIECE_BYTES)
                if not piece:
                    selector.unregister(key.fileobj)
                found[key.fileobj] += piece  # type: ignore[index]
            if ended and not ready:
                break
            if any(len(data) > OUTPUT_BYTES_MAX for data in found.values()):
                message = f"{name} printed more than {OUTPUT_BYTES_MAX:,} bytes: that is not a key"
                raise KeyUnavailableError(message)
            now_s = time.monotonic()
            due_s += pulse.beat(now_s, real_s()).missed_s
            if stop() or now_s > due_s:
                told = _told(bytes(found[process.stderr]), bytes(found[process.stdout]))
                message = f"{name} did not end in time{told}"
                raise KeyUnavailableError(message)
    return bytes(found[process.stdout]), bytes(found[process.stderr])


def _ending(code: int) -> str:
    return f"ended with exit code {code}" if code > 0 else f"was ended by signal {-code}"


def _told(complaint: bytes, out: bytes) -> str:
    """The command's stderr on one line, without anything from its stdout."""
    printed = out.decode(errors="replace")
    text = Redactor([printed.strip(), *printed.split()]).text(complaint.decode(errors="replace"))
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f": {text[-SHOWN_CHARACTERS:]}" if text else ""
