"""A run directory in an object store that is handed from machine to machine.

Answers become durable on a local disk, so a run in a store has its checkpoint on a disk, and
belongs to the process with that checkpoint (docs/adr/0016). If several processes share the
directory, each of them may have to open it: to launch a fleet, to fold one, or to continue alone.
So a process that opens it takes a lock in the store, and hands the checkpoint on when it leaves:
state file, logs and flight log become objects, and ``owner.json`` names them (``state``). The next
process fetches them unless it wrote them itself. As soon as a session makes something durable,
``state`` is removed: from then on only its own checkpoint is current.

```text
DIR/owner.json            run, directory, checkpoint, host, begun_at; state: null (only that
                          checkpoint knows), "" (nothing was begun), or what was handed on
DIR/fleet/lock            who has the directory open, renewed every few seconds
DIR/fleet/states/NAME/    what was handed on last
```
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchrun.adapters.environment.clock import real_s
from batchrun.adapters.journal.flight_log import FLIGHTS
from batchrun.adapters.journal.journal import STATES
from batchrun.adapters.journal.state_db import StateFile
from batchrun.adapters.storage import disk, files
from batchrun.adapters.storage.bucket import Bucket, Tagged, bucket_at
from batchrun.adapters.storage.bucket_lock import BucketLock
from batchrun.adapters.storage.object_store import OWNER, ObjectStore
from batchrun.core.run.shards import REBUILT
from batchrun.core.text.legible import json_of
from batchrun.errors import StorageError
from batchrun.rundir.claim import FLEET, SharedDirectory, new_mark, refuse_strangers
from batchrun.rundir.lock import Lock, this_kernel

LOCK = f"{FLEET}/lock"
HANDED_ON = f"{FLEET}/states"
STATE = "state"
"""The key of ``owner.json``."""
_LOGS = "shard-*.log"
_FREE = json.dumps({"released": True}).encode()


def machine_of(checkpoint: Path) -> str:
    """An id shared only by processes with this checkpoint, which can see each other's locks. Its
    path would not do: containers on one machine may each have a folder of that name.
    """
    found = checkpoint.stat()
    return f"{this_kernel()} {found.st_dev}:{found.st_ino}"


def prepare(store: ObjectStore, address: str, checkpoint: Path) -> None:
    """Make a directory in a store one that several processes share, if it is not yet. Raises
    ``UsageError`` for a place that holds other files, or a store without conditional writes, and
    ``StorageError``.
    """
    bucket = bucket_at(address)
    if bucket.look(LOCK) is None:
        refuse_strangers(store.where(), store.top(), checkpoint)
        bucket.make(LOCK, _FREE)


class SharedLock:
    """``rundir.lock.Held``: exclusive use of a directory in a store until ``release``, by the lock
    of its checkpoint and the one in the store.
    """

    def __init__(self, shared: SharedDirectory) -> None:
        self.bucket = bucket_at(shared.address)
        self.store = shared.store
        self.checkpoint = shared.checkpoint
        self._say = shared.say
        self._local: Lock = shared.lock
        self._held = BucketLock(
            self.bucket,
            LOCK,
            holder=f"process {os.getpid()} on {socket.gethostname()}",
            machine=machine_of(shared.checkpoint),
            monotonic_s=real_s,
        )
        self._opened = False
        self._only_here = False
        self._digest = ""

    def acquire(self) -> None:
        """Take the lock in the store, and bring the checkpoint up to date. Raises
        ``RunLockedError`` or ``StorageError``; then no lock is held in the store.
        """
        self._held.acquire()
        try:
            self._bring_up()
        except BaseException:
            self._held.release()
            raise
        self._opened = True

    # Ownership of the checkpoint

    def _bring_up(self) -> None:
        """Make this checkpoint current if another one was handed on. If none was, opening the
        directory reports it (``claim``).
        """
        mine, shown = self._mine(), self.store.where()
        mine = mine if mine is not None and mine.get("directory") == shown else None
        begun = (self.checkpoint / STATES).exists()
        found = self.bucket.look(OWNER)
        theirs = None if found is None else _parsed(found)
        if found is None:
            if not begun:
                content = self._write(new_mark(shown, self.checkpoint) | {STATE: ""})
                self.bucket.make(OWNER, content)
        elif theirs is not None and mine is not None and mine.get("run") == theirs.get("run"):
            self._write(theirs)
            self._digest = self._digest_of(None)
        elif (
            theirs is not None
            and theirs.get(STATE) is not None
            and (not begun or (mine is not None and mine.get(STATE) is not None))
        ):
            self._adopt(theirs, found)

    def _adopt(self, theirs: dict[str, Any], found: Tagged) -> None:
        mark = new_mark(self.store.where(), self.checkpoint) | {STATE: theirs[STATE]}
        # First: a kill in what follows must leave a checkpoint that is fetched again.
        self._write(mark)
        for path in (*self._files(), *self.checkpoint.glob(f"{STATES}-*")):
            disk.unlink(path)
        files.sync_folder(self.checkpoint)
        for name in self.bucket.below(f"{HANDED_ON}/{theirs[STATE]}") if theirs[STATE] else ():
            fetch(self.bucket, name, self.checkpoint / name.rpartition("/")[2])
        if theirs[STATE] and not (self.checkpoint / STATES).exists():
            message = f"{self.bucket.where(HANDED_ON)}/{theirs[STATE]} has no {STATES}"
            raise StorageError(message)
        content = (self.checkpoint / OWNER).read_bytes()
        if not self.bucket.replace(OWNER, content, found):
            raise self._taken()
        self._digest = self._digest_of(None)

    def _mine(self) -> dict[str, Any] | None:
        found = files.read_json(self.checkpoint / OWNER)
        return found if isinstance(found, dict) else None

    def _write(self, mark: dict[str, Any]) -> bytes:
        files.write_json(self.checkpoint / OWNER, mark)
        return (self.checkpoint / OWNER).read_bytes()

    def _taken(self) -> StorageError:
        message = (
            f"{self.store.where(OWNER)} is not this run's any more: another process took the "
            "directory. Nothing more was written there; what was answered is safe in the checkpoint"
        )
        return StorageError(message)

    def _set_state(self, state: str | None, *, first_here: bool) -> None:
        """Record in the store, and here, what was handed on. With ``first_here``, a kill in between
        leaves a checkpoint that is as new as the record.
        """
        mine, found = self._mine() or {}, self.bucket.look(OWNER)
        theirs = None if found is None else _parsed(found)
        if found is None or theirs is None or theirs.get("run") != mine.get("run"):
            raise self._taken()
        mark = {**mine, STATE: state}
        if first_here:
            self._write(mark)
        content = (json_of(mark, indent=2) + "\n").encode()
        if not self.bucket.replace(OWNER, content, found):
            raise self._taken()
        if not first_here:
            self._write(mark)
        self._only_here = state is None
        if self.store.owner is not None:
            self.store.owner = content

    # While the lock is held

    def require(self) -> None:
        """Raise ``StorageError`` if another process took the directory over."""
        self._local.check()
        self._held.check()

    def check(self) -> None:
        """Like ``require``, called before something becomes durable in this checkpoint alone."""
        self.require()
        if not self._only_here:
            self._set_state(None, first_here=False)

    def hand_on(self, states: StateFile | None = None) -> None:
        """Store the checkpoint so that another process can continue with it; an open state file is
        stored as it is now. Raises ``StorageError``.
        """
        if (self.checkpoint / REBUILT).exists():
            return  # an interrupted --resend-changed, which continues here
        name = secrets.token_hex(8)
        with tempfile.TemporaryDirectory(prefix="handing-on-", dir=self.checkpoint) as folder:
            copied = None
            if states is not None:
                copied = Path(folder, STATES)
                states.copy_to(copied)
            for path in self._files():
                source = copied if copied is not None and path.name == STATES else path
                self.bucket.write(f"{HANDED_ON}/{name}/{path.name}", source)
            digest = self._digest_of(copied)
        self._set_state(name, first_here=True)
        self._digest = digest
        mine = f"{HANDED_ON}/{name}/"
        old = [each for each in self.bucket.below(HANDED_ON) if not each.startswith(mine)]
        self.bucket.remove_all(old)

    def _files(self) -> Iterator[Path]:
        """The existing files among those that are handed on."""
        for path in (self.checkpoint / STATES, self.checkpoint / FLIGHTS):
            if path.exists():
                yield path
        yield from sorted(self.checkpoint.glob(_LOGS))

    def _digest_of(self, states: Path | None) -> str:
        """What identifies the content of these files."""
        sha256 = hashlib.sha256()
        for path in self._files():
            source = states if states is not None and path.name == STATES else path
            sha256.update(f"{path.name} ".encode())
            with source.open("rb") as file:
                sha256.update(hashlib.file_digest(file, "sha256").digest())
        return sha256.hexdigest()

    def _is_ahead(self) -> bool:
        """Whether this checkpoint has more than was handed on."""
        there = (self.checkpoint / STATES).exists()
        return there and (self._only_here or self._digest_of(None) != self._digest)

    def give_back(self) -> None:
        """Release only the lock in the store: the directory could not be opened."""
        self._opened = False
        self._held.release()

    def release(self, *, clear: bool = True) -> None:
        """Hand the checkpoint on, and release the locks."""
        try:
            if self._opened and self._is_ahead():
                self.hand_on()
        except (StorageError, OSError) as error:
            self._say(
                f"warning: the checkpoint {self.checkpoint} was not handed on: {error}. Only "
                "processes with this checkpoint can go on; the next one that does hands it on"
            )
        finally:
            self._opened = False
            self._held.release()
            self._local.release(clear=clear)


def fetch(bucket: Bucket, name: str, target: Path) -> bool:
    """Download an object to a file, whole or not at all; False if there is no such object."""
    with files.Draft(target, digests=False, owner=secrets.token_hex(4)) as draft:
        if not bucket.fetch(name, draft):
            return False
        draft.sync()
        draft.rename()
    files.sync_folder(target.parent)
    return True


def _parsed(found: Tagged) -> dict[str, Any] | None:
    try:
        value = json.loads(found.content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
