"""The command for shells: a program that has it forked (``forked``) and stands in for it.

A shell calls what ``opened`` gives as it would call ``batchrun``. It tells a thread of the tests'
process what it was called with, passes signals on, and ends as the command ends. The command reads
and writes the streams of its stand-in, and is killed with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tests.harness import forked

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STAND_IN = f"""
import json, os, signal, socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect(sys.argv[1])
told = {{"words": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}}
door.sendall(json.dumps(told | {{"pid": os.getpid()}}).encode() + b"\\n")
said = door.makefile()
pid = int(said.readline())
for number in {[int(number) for number in PASSED_ON]}:
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = int(said.readline())
if code < 0:
    if code != -signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@contextlib.contextmanager
def opened() -> Iterator[str]:
    """The words that a shell starts the command with, while the block is open."""
    if os.environ.get("BATCHRUN_FRESH"):
        yield shlex.join([sys.executable, "-m", "batchrun"])
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as door:
        program, place = Path(folder, "batchrun.py"), Path(folder, "door")
        program.write_text(STAND_IN, "utf-8")
        door.bind(str(place))
        door.listen(64)
        threading.Thread(target=_let_in, args=(door,), daemon=True).start()
        try:
            yield shlex.join([sys.executable, "-I", "-S", str(program), str(place)])
        finally:
            door.shutdown(socket.SHUT_RDWR)


def _let_in(door: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            caller, _ = door.accept()
            threading.Thread(target=_serve, args=(caller,), daemon=True).start()


def _serve(caller: socket.socket) -> None:
    with caller, caller.makefile() as said:
        told = json.loads(said.readline())
        stdin, out, err = (f"/proc/{told['pid']}/fd/{number}" for number in range(3))
        environment = {**told["environment"], "PYTHONPATH": str(forked.ROOT)}
        process = forked.Forked(
            forked.start(
                told["words"], environment, told["folder"], Path(out), Path(err), stdin=stdin
            )
        )
        gone = threading.Thread(target=_kill_when_gone, args=(said, process), daemon=True)
        with contextlib.suppress(OSError):
            caller.sendall(b"%d\n" % process.pid)
        gone.start()
        code = process.wait()
        with contextlib.suppress(OSError):
            caller.sendall(b"%d\n" % code)
        gone.join(5)


def _kill_when_gone(said: TextIO, process: forked.Forked) -> None:
    with contextlib.suppress(OSError, ValueError):
        said.read()
    process.kill()
