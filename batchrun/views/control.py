"""Implements ``batchrun ctl``: finds the live run of a directory, sends it changes, waits for its
end.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrun.adapters.environment import control_socket
from batchrun.adapters.environment.control_socket import NoAnswerError
from batchrun.adapters.storage.store import SUMMARY, read_json
from batchrun.core.run import controls
from batchrun.core.settings.addresses import format_address, is_remote, local_path
from batchrun.core.text.legible import shell_word
from batchrun.core.text.wording import counted
from batchrun.errors import UsageError
from batchrun.rundir import inspect
from batchrun.rundir.claim import FLEET
from batchrun.rundir.inspect import Look
from batchrun.rundir.lock import is_held_elsewhere
from batchrun.views.text import safe

if TYPE_CHECKING:
    from batchrun.views.fleet.control import LiveFleet

STARTING_S = 10.0
"""How long a run that was just started may take to open its socket."""
ANSWER_S = 30.0
POLL_S = 0.1


class LiveRun:
    """The run that works on a directory, seen from another process."""

    def __init__(self, folder: str, checkpoint: str | None) -> None:
        """Raises ``UsageError`` if no run works there, or it cannot be reached from here."""
        self._folder, self._checkpoint = folder, checkpoint
        self._name = shell_word(format_address(folder))
        _require_ours(folder, checkpoint)
        look = inspect.look_at(folder, checkpoint)
        self._fleet = _fleet(look, folder)
        if self._fleet is not None:
            return
        if look.checkpoint is None:
            message = (
                f"{self._name} is not on this machine's disk: name the checkpoint of its run with "
                "--checkpoint DIR"
            )
            raise UsageError(message)
        self._control = look.checkpoint
        if not look.live:
            raise UsageError(self._dead())
        if is_held_elsewhere(look.checkpoint):
            message = (
                f"the run in {self._name} works on another machine: run `batchrun ctl` there. "
                "`batchrun status` names the machine"
            )
            raise UsageError(message)

    def ask(self, action: str, values: Mapping[str, float | None] | None = None) -> dict[str, Any]:
        """Request a change; returns the limits now in force. Raises ``UsageError`` if the run
        refuses it or does not answer.
        """
        if self._fleet is not None:
            return self._fleet.ask(action, dict(values or {}))
        request: dict[str, Any] = {"do": action}
        if values is not None:
            request["values"] = dict(values)
        reply = self._reply(request)
        if "error" in reply:
            raise UsageError(safe(str(reply["error"])))
        now: dict[str, Any] = reply["now"]
        return now

    def _reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        until_s = time.monotonic() + STARTING_S
        while True:
            try:
                return control_socket.ask(self._control, request, timeout_s=ANSWER_S)
            except PermissionError:
                raise UsageError(_not_ours(self._name, self._control)) from None
            except NoAnswerError as error:
                if not self._is_live():
                    raise UsageError(self._dead()) from None
                self._fleet = _fleet(inspect.look_at(self._folder, self._checkpoint), self._folder)
                if self._fleet is not None:  # it was being launched
                    return {"now": self._fleet.ask(request["do"], request.get("values") or {})}
                if not error.missing or time.monotonic() > until_s:
                    message = (
                        f"the run in {self._name} cannot be reached: {error.reason}. Is it stopped "
                        "(Ctrl-Z), or was it started by an earlier version?"
                    )
                    raise UsageError(message) from None
            time.sleep(POLL_S)

    def ended(self) -> dict[str, Any]:
        """Wait until the run has stopped; returns how it ended."""
        if self._fleet is not None:
            self._fleet.wait()
        while self._is_live():
            time.sleep(POLL_S)
        found = read_json(inspect.look_at(self._folder, self._checkpoint).store, SUMMARY) or {}
        return {"state": "stopped"} | {
            key: found.get(key) for key in ("status", "stopped_by", "exit_code", "rows")
        }

    def _is_live(self) -> bool:
        return inspect.look_at(self._folder, self._checkpoint).live

    def _dead(self) -> str:
        return (
            f"no run is live in {self._name}. `batchrun status {self._name}` shows how far it got; "
            "the limits of the next session are those of its command"
        )


def _fleet(look: Look, folder: str) -> LiveFleet | None:
    """The processes that work on a directory together; None where there are none."""
    if look.fleet is None and not is_remote(folder):
        return None
    from batchrun.rundir.fleet import looking
    from batchrun.views.fleet import control

    found = looking.launches_in(folder, look.checkpoint, look.store)
    return None if found is None else control.live_fleet(found)


def lines(held: Mapping[str, Any]) -> list[str]:
    """The limits now in force, or how the run ended, for people."""
    if held["state"] != "stopped":
        return [safe(line) for line in [*controls.lines(held), *_followers(held.get("workers"))]]
    rows = held.get("rows") or {}
    pending = rows.get("pending")
    if pending:
        return [f"stopped: {counted(pending, 'row')} pending; the same command resumes the run"]
    return [f"stopped: {safe(str(held.get('status') or 'it left no summary'))}"]


def _followers(workers: Mapping[str, Any] | None) -> list[str]:
    """How many of several processes follow."""
    if workers is None:
        return []
    alive = counted(workers["alive"], "process", "processes")
    if not workers["missing"]:
        return [f"followed by {alive}"]
    missing = ", ".join(workers["missing"])
    told = (
        f"followed by {workers['followed']:,} of {alive}; no sign of {missing}, which follows once "
        "it renews its limits, and stops sending if it cannot"
    )
    return [told]


def _require_ours(folder: str, checkpoint: str | None) -> None:
    """Raise ``UsageError`` if this user may not read another user's directory."""
    for name in (folder, checkpoint):
        local = None if name is None else local_path(name)
        if local is None:
            continue
        for path in (Path(local), Path(local, "checkpoint"), Path(local, FLEET)):
            with contextlib.suppress(OSError):
                if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
                    raise UsageError(_not_ours(shell_word(format_address(folder)), path))


def _not_ours(name: str, path: Path) -> str:
    owner = "another user"
    with contextlib.suppress(OSError, KeyError):
        owner = f"the user {path.owner()}"
    return f"the run in {name} belongs to {owner}: only they can change it"
