"""A process dies on virtual time: what the disk holds at that moment is kept, nothing else.

A real kill runs no ``finally``. Here the run directory is copied at the moment of death; then the
session is unwound over the original, which is thrown away. So whatever the unwinding writes is
lost, as it should be, and the copy takes the original's place.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batchrun.adapters.environment import control_socket
from batchrun.adapters.storage import files

_FLIGHTS = "checkpoint/inflight"


class Killed(KeyboardInterrupt):
    """The process is dead. Like an interrupt it goes through the event loop and every task."""


@dataclass(frozen=True, slots=True)
class Death:
    """When a session dies: at the ``at``-th durable ``step``, the ``at``-th ``turn`` of the event
    loop, or after ``at`` virtual seconds (``time``); by a power cut, or by a kill.
    """

    by: str
    at: float
    power: bool = False


@dataclass(frozen=True, slots=True)
class DiskFault:
    """From the ``at``-th write on (a group of the journal, a draft) the disk is full."""

    at: int


class Reaper:
    """Waits for the moment of death of one session. ``step`` and ``turn`` are told what happens."""

    def __init__(
        self,
        folder: Path,
        death: Death | None,
        full: DiskFault | None,
        dice: random.Random,
        note: Callable[[str], None],
    ) -> None:
        self.copy = folder.with_name(f"{folder.name}.dead")
        self.dead = False
        self._folder = folder
        self._death = death
        self._full = full
        self._dice = dice
        self._note = note
        self._steps = self._turns = self._writes = 0
        self._log_sizes: dict[Path, int] = {}
        self._unsynced: dict[Path, bytes | None] = {}

    def step(self, name: str, _: object = None) -> None:
        """``files.step``: a durable step is reached."""
        if self.dead:
            return
        self._steps += 1
        if self._full is not None and name in ("log.writing", "draft.written"):
            self._writes += 1
            if self._writes >= self._full.at:
                raise OSError(28, "no space left, on purpose")
        death = self._death
        if death is None or death.by == "turn":
            return
        self._remember(name)
        if death.by == "step" and self._steps >= death.at:
            self.die(name)

    def turn(self) -> None:
        """A turn of the event loop begins."""
        self._turns += 1
        death = self._death
        if not self.dead and death is not None and death.by == "turn" and self._turns >= death.at:
            self.die(f"turn {self._turns}")

    def die(self, where: str) -> None:
        """Keep what the disk holds, and raise ``Killed``."""
        if self.dead:
            return
        self.dead = True
        if self._folder.exists():
            shutil.copytree(
                self._folder, self.copy, ignore=shutil.ignore_patterns(control_socket.NAME)
            )
            self._lose(where)
        self._note(f"dead at {where}")
        raise Killed(where)

    def bury(self) -> None:
        """Put the copy into the place of the original, once the session is unwound."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self.copy.exists():
            self.copy.rename(self._folder)

    def _remember(self, name: str) -> None:
        """Note what is durable, before something is written that is not yet."""
        if name == "log.writing":
            self._log_sizes = {
                path: path.stat().st_size
                for path in (self._folder / "checkpoint").glob("shard-*.log")
            }
        elif name == "draft.synced":
            for kind in ("results", "attempts"):
                for path in (self._folder / kind).glob("*.parquet"):
                    self._unsynced.setdefault(path, path.read_bytes())
        elif name == "folder.synced":
            self._unsynced.clear()

    def _lose(self, where: str) -> None:
        """Take away from the copy what had not reached the disk."""
        death, dice = self._death, self._dice
        assert death is not None
        if where == "log.written":
            # The first bytes of a group, or all of them.
            for path in sorted((self.copy / "checkpoint").glob("shard-*.log")):
                whole = path.stat().st_size
                safe = self._log_sizes.get(self._there(path))
                if safe is not None and safe < whole:
                    os.truncate(path, dice.choice((whole, safe, dice.randint(safe, whole))))
        if not death.power:
            return
        if dice.random() < 0.7 and (self.copy / _FLIGHTS).exists():
            (self.copy / _FLIGHTS).write_bytes(b"")
        for path in sorted(self.copy.rglob(f"*{files.TEMPORARY}")):
            if where == "draft.written":
                os.truncate(path, dice.randint(0, path.stat().st_size))
        if where == "draft.renamed":
            for kind in ("attempts", "results"):
                for path in sorted((self.copy / kind).glob("*.parquet")):
                    before = self._unsynced.get(self._there(path))
                    if before is not None and before != path.read_bytes() and dice.random() < 0.5:
                        path.write_bytes(before)

    def _there(self, path: Path) -> Path:
        return self._folder / path.relative_to(self.copy)
