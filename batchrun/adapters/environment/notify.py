"""Notifications about the end of a run: a command, a webhook.

Neither can change how the run ended, and neither waits for long. Messages about their
failures leave out the webhook's URL and the command's arguments, which may be credentials.
"""

from __future__ import annotations

import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from batchrun.adapters.system import platform
from batchrun.core.settings.commands import redact_command, split_command
from batchrun.core.text.legible import json_of

COMMAND_TIMEOUT_S = 300.0
"""After this time the command is killed, with all processes that it started."""
WEBHOOK_TIMEOUT_S = 10.0
"""Timeout of the whole exchange."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: ``status`` as in its summary, else ``failed``; ``text`` is a line for
    people, ``summary`` the content of ``summary.json``, or else ``status``, ``exit_code`` and
    ``error``.
    """

    status: str
    exit_code: int
    folder: str
    text: str
    summary: Mapping[str, Any]


def run_command(command: str, ended: Ended, say: Callable[[str], None]) -> None:
    """Run the command of ``--on-finish`` with the summary on its stdin. What it prints goes to
    stderr; ``say`` gets a message if it fails.
    """
    name = f"--on-finish {redact_command(command)}"
    environment = os.environ | {
        "BATCHRUN_STATUS": ended.status,
        "BATCHRUN_DIR": ended.folder,
        "BATCHRUN_EXIT_CODE": str(ended.exit_code),
    }
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            split_command(command),
            stdin=subprocess.PIPE,
            stdout=2,
            env=environment,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        say(f"warning: {name} cannot be run: {why}")
        return
    try:
        process.communicate((json_of(ended.summary) + "\n").encode(), COMMAND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _kill(process)
        say(f"warning: {name} was killed: it did not end within {COMMAND_TIMEOUT_S:g} seconds")
    except BaseException:
        _kill(process)
        raise
    else:
        if process.returncode:
            say(f"warning: {name} ended with exit code {process.returncode}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    platform.end_group(process.pid)
    process.wait()


def post(url: str, ended: Ended, say: Callable[[str], None]) -> None:
    """Post to the webhook, once; no redirect is followed. ``say`` gets a message if it fails."""
    body = {
        "text": ended.text,
        "status": ended.status,
        "exit_code": ended.exit_code,
        "dir": ended.folder,
    }
    name = f"the webhook at {urlsplit(url).hostname}"
    told: list[str] = []

    def send() -> None:
        request = urllib.request.Request(  # noqa: S310 - its setting only allows http or https
            url,
            json_of(body).encode(),
            {"Content-Type": "application/json", "User-Agent": "batchrun"},
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=WEBHOOK_TIMEOUT_S):
                told.append("")
        except urllib.error.HTTPError as error:
            error.close()
            told.append(f"replied with status {error.code}")
        except (OSError, HTTPException, ValueError) as error:
            # The text of an error may repeat the URL.
            reason = getattr(error, "reason", error)
            told.append(
                f"cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"
            )

    # A reply that trickles in would keep extending the socket's own timeout.
    thread = threading.Thread(target=send, name="webhook", daemon=True)
    thread.start()
    thread.join(WEBHOOK_TIMEOUT_S)
    if why := told[0] if told else f"did not reply within {WEBHOOK_TIMEOUT_S:g} seconds":
        say(f"warning: {name} {why}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Turns a redirect into an error, so the summary is only sent to the configured URL."""

    def redirect_request(self, *_: object) -> None:
        """See ``urllib.request.HTTPRedirectHandler``."""
