"""Taking a run directory for one process, and only if it belongs to this run.

On a disk the operating system's lock on the directory keeps other processes out. An object store
has no locks. There the lock on the checkpoint does it, and an object names the run that the files
belong to: a run with another checkpoint, on any machine, is refused. Two runs that begin in one
empty prefix within the same second may both get past that; the one whose mark was replaced finds
out before it publishes anything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from batchrun.adapters.environment import control_socket
from batchrun.adapters.journal.journal import STATES
from batchrun.adapters.storage import disk, files, filesystems
from batchrun.adapters.storage.disk_store import DiskStore
from batchrun.adapters.storage.object_store import OWNER, TRIES, ObjectStore
from batchrun.adapters.storage.store import (
    PART_KINDS,
    RESPONSES,
    SCORES,
    SUMMARY,
    USAGE,
    Store,
    read_json,
)
from batchrun.adapters.system import platform
from batchrun.core.run.changes import Changes
from batchrun.core.settings.addresses import local_path, split_query
from batchrun.core.text.legible import shell_word
from batchrun.errors import DamagedError, RunLockedError, StorageError, UsageError
from batchrun.rundir import restarts, state_reader
from batchrun.rundir.directory_name import require_directory_name
from batchrun.rundir.lock import NAME, Held, Lock
from batchrun.rundir.restarts import Intent, Note

UPLOADS = "upload"
TRIES_WHILE_MOVED = 5
"""How often a directory is made again if other processes move it aside at the same time."""
FLEET, LAUNCH = "fleet", "launch.json"
"""The folder of a run directory in which the processes of a fleet meet, and the note in it that
names their launch.
"""
Settle = Callable[[Path, Path, Callable[[str], None]], None]
"""Takes a run directory with such a folder, its checkpoint, and a function that notifies the user.
Raises ``RunLockedError`` while a fleet is at work, and folds what an earlier one left.
"""


TakeShared = Callable[["SharedDirectory"], Held]
"""Takes, for this process, a run directory in an object store that several processes share: its
lock there, and the checkpoint of its last holder. Raises ``RunLockedError`` while others hold it.
"""


class SharedDirectory(NamedTuple):
    """A run directory in an object store, as ``TakeShared`` is given it: ``lock`` is the
    checkpoint's lock, which it takes over; ``say`` notifies the user.
    """

    store: ObjectStore
    address: str
    checkpoint: Path
    lock: Lock
    say: Callable[[str], None]


def refuse_shared(shared: SharedDirectory) -> Held:
    """The ``TakeShared`` of callers that cannot share."""
    where = shared.store.where()
    message = f"{where} is shared by several processes: run the same `batchrun run` command first"
    raise RunLockedError(message, holder="a fleet")


def launch_record(folder: Path) -> dict[str, Any] | None:
    """The note of a fleet's launch; None if there is none. Raises ``DamagedError``."""
    path = folder / FLEET / LAUNCH
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}"
        raise StorageError(message) from error
    return parse_launch(content, str(path), str(path.parent))


def parse_launch(content: bytes, path: str, folder: str) -> dict[str, Any]:
    """The note of a launch that was read from ``path``. Raises ``DamagedError``."""
    from batchrun.core.fleet.sealed import unsealed  # only for directories of fleets

    try:
        return unsealed(content)
    except ValueError as error:
        message = (
            f"{path} is damaged: {error}. Restore it from a backup. Without a backup, stop "
            f"all processes of the run, move {folder} away, and start the run again with "
            "--repair: published parts are kept, and rows found only in that folder are sent again"
        )
        raise DamagedError(message, path=path) from None


def refuse_fleet(folder: Path, _checkpoint: Path, _say: Callable[[str], None]) -> None:
    """The ``Settle`` of callers that only need to know whether a fleet left something to fold."""
    found = launch_record(folder) or {}
    names = (str(found.get("id")), f".{found.get('id')}.ended")
    if found.get("state") == "live" and any((folder / FLEET / name).is_dir() for name in names):
        message = (
            f"{folder} is in use by several processes (--shard), or they ended before their "
            "results were put together: run the same `batchrun run` command again first"
        )
        raise RunLockedError(message, holder="a fleet")


def take(
    directory: str,
    checkpoint: Path,
    changes: Changes,
    say: Callable[[str], None],
    intent: Intent | None = None,
    settle: Settle = refuse_fleet,
    take_shared: TakeShared = refuse_shared,
) -> tuple[Store, Held]:
    """Take a run directory and its checkpoint, creating them if they are missing, and move aside
    what ``--restart`` moves. An ``intent`` (``--reuse``) is noted first, and a restart with the
    same intent continues. ``settle`` deals with a present or former fleet; ``take_shared`` takes a
    directory in a store that a fleet uses or used.

    Raises ``RunLockedError``, ``UsageError`` or ``StorageError``.
    """
    require_directory_name(directory, checkpoint)
    local = local_path(directory)
    if local is None:
        return _take_remote(directory, checkpoint, changes, say, intent, take_shared)
    folder = Path(local)
    lock = _locked(folder, checkpoint, say)
    try:
        if (folder / FLEET).exists():
            settle(folder, checkpoint, say)
        note = _pending(folder, checkpoint)
        if note is not None or (changes.restart and not _goes_on(folder, checkpoint, intent)):
            lock = _set_aside(folder, checkpoint, lock, say, intent, note)
            # The lock was free for a moment, in which others may have launched a fleet.
            if (folder / FLEET).exists():
                settle(folder, checkpoint, say)
    except BaseException:
        lock.release()
        raise
    return DiskStore(folder), lock


def _pending(folder: Path, checkpoint: Path) -> Note | None:
    """A restart that a kill interrupted before the new run was begun."""
    note = restarts.pending(folder)
    if note is not None and restarts.taken_over(checkpoint) == note:
        restarts.end(folder)
        return None
    return note


def _goes_on(folder: Path, checkpoint: Path, intent: Intent | None) -> bool:
    """Whether the run here began with the requested restart."""
    summary = files.read_json(folder / SUMMARY)
    return intent is not None and restarts.goes_on(checkpoint, summary, intent)


def _locked(folder: Path, checkpoint: Path, say: Callable[[str], None]) -> Lock:
    """Make missing folders, and take the lock."""
    if folder.exists() and not folder.is_dir():
        message = f"{folder} is a file; -o names the run directory"
        raise UsageError(message)
    try:
        there = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        there = []
    except OSError as error:
        message = f"cannot look into {folder}: {error.strerror}"
        raise UsageError(message) from None
    refuse_strangers(str(folder), there, checkpoint)
    return _lock_made(folder, checkpoint, "run directory", say)


def refuse_strangers(shown: str, there: list[str], checkpoint: Path) -> None:
    """Raise ``UsageError`` if a place has files, none of them made by a run."""
    ours = {"checkpoint", FLEET, *PART_KINDS, RESPONSES, SCORES, SUMMARY, USAGE, OWNER}
    if there and not ours & set(there) and not (checkpoint / STATES).exists():
        message = (
            f"{shown} holds other files ({', '.join(sorted(there)[:3])}) and is no run "
            "directory; name a new or empty one with -o"
        )
        raise UsageError(message)


def _set_aside(
    folder: Path,
    checkpoint: Path,
    lock: Lock,
    say: Callable[[str], None],
    intent: Intent | None,
    note: Note | None,
) -> Lock:
    """``--restart``: move the contents to ``DIR.old-TIME``; answers are never deleted. A ``note``
    records a move that a kill interrupted, which is then finished.
    """
    if note is not None:
        return _finish_move(folder, checkpoint, lock, say, note)
    begun = (checkpoint / STATES).exists() or any(checkpoint.glob("shard-*.log"))
    if not begun and not (folder / "results").exists():
        return lock
    stamp = _stamp()
    folder, checkpoint = folder.resolve(), checkpoint.resolve()
    aside = folder.with_name(f"{folder.name}.old-{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = folder.with_name(f"{folder.name}.old-{stamp}-{count}")
    with _moving(folder, aside):
        if intent is not None:
            before = restarts.unfinished(checkpoint, files.read_json(folder / SUMMARY))
            restarts.begin(folder, str(aside), str(aside / "checkpoint"), before, intent)
        disk.rename(folder, aside)
        files.reached("restart.renamed", folder)
        if checkpoint.exists():  # it lives elsewhere
            _move(checkpoint, aside / "checkpoint")
    say(f"the old contents of {folder} are in {aside}")
    lock.release()
    return _locked(folder, checkpoint, say)


def _finish_move(
    folder: Path, checkpoint: Path, lock: Lock, say: Callable[[str], None], note: Note
) -> Lock:
    """Finish a move that a kill interrupted. What was made here since is empty."""
    folder, checkpoint, aside = folder.resolve(), checkpoint.resolve(), Path(note.aside)
    with _moving(folder, aside):
        if not aside.exists():
            disk.rename(folder, aside)
            files.reached("restart.renamed", folder)
        elsewhere = not checkpoint.is_relative_to(folder)
        if elsewhere and state_reader.values(checkpoint, "settings"):
            _move(checkpoint, Path(note.checkpoint))
    say(f"the old contents of {folder} are in {aside}: a restart that was interrupted continues")
    lock.release()
    return _locked(folder, checkpoint, say)


@contextlib.contextmanager
def _moving(folder: Path, aside: Path) -> Iterator[None]:
    """Make what is moved in this block durable. Raises ``StorageError`` if that fails."""
    try:
        yield
        files.sync_folder(folder.parent)
        files.reached("restart.synced", folder)
    except OSError as error:
        message = f"cannot move {folder} to {aside}: {error.strerror}"
        raise StorageError(message) from error


def _move(folder: Path, target: Path) -> None:
    """Move a folder, to another disk if necessary; in that case a kill leaves some of it in both
    places. A copy is private from its first byte on.
    """
    try:
        disk.rename(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        disk.make_folder(target, files.PRIVATE_FOLDER)
        # A socket that a kill left behind cannot be copied, and is useless.
        sockets = shutil.ignore_patterns(control_socket.NAME)
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=sockets)
        shutil.rmtree(folder)
    files.sync_folder(target.parent)


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime())


def _take_remote(
    directory: str,
    checkpoint: Path,
    changes: Changes,
    say: Callable[[str], None],
    intent: Intent | None,
    take_shared: TakeShared,
) -> tuple[Store, Held]:
    """Check everything that can be refused before the first change."""
    try:
        store = ObjectStore(directory, checkpoint / UPLOADS)
    except filesystems.AddressError as error:
        message = f"-o {error}"
        raise UsageError(message) from None
    local = _lock_made(checkpoint, checkpoint, "checkpoint", say)
    held: Held = local
    try:
        with _asking():
            if FLEET in store.top():
                held = take_shared(SharedDirectory(store, directory, checkpoint, local, say))
        note = _pending(checkpoint, checkpoint)
        moves = note is not None
        if changes.restart and not moves:
            with _asking():
                summary = read_json(store, SUMMARY)
            moves = intent is None or not restarts.goes_on(checkpoint, summary, intent)
        if moves and held is not local:
            _refuse_restart()
        with _asking():
            store.prepare()
            mine = _mine(store, checkpoint, changes if note is None else Changes(restart=True))
        if moves:
            held = _move_aside(store, directory, checkpoint, local, say, intent, note)
            mine = _read(checkpoint / OWNER)
        with _asking():
            _mark(store, checkpoint, mine)
    except BaseException:
        held.release()
        raise
    store.tries = TRIES
    return store, held


def _refuse_restart() -> NoReturn:
    message = (
        "--restart does not work with a run directory in an object store that several processes "
        "worked on; name a new directory with -o"
    )
    raise UsageError(message)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """As long as nothing was sent, a store that does not answer is a usage error."""
    try:
        yield
    except (StorageError, OSError) as error:
        message = str(error).partition(". What was answered")[0]
        raise UsageError(message) from error


def _mine(store: ObjectStore, checkpoint: Path, changes: Changes) -> dict[str, Any] | None:
    """The mark of this checkpoint's run; None if the directory has no such mark."""
    mine, theirs, shown = _read(checkpoint / OWNER), _owner_of(store), store.where()
    if theirs is None:
        if mine is not None and mine.get("directory") != shown:
            if (checkpoint / STATES).exists():
                message = (
                    f"{checkpoint} is the checkpoint of {mine.get('directory')}; name a new folder "
                    "with --checkpoint, or that directory with -o"
                )
                raise UsageError(message)
            mine = None  # nothing was started with it
        refuse_strangers(shown, store.top(), checkpoint)
    elif not changes.restart and (mine is None or mine.get("run") != theirs.get("run")):
        _refuse_foreign(shown, mine, theirs, changes)
    return mine


def _read(path: Path) -> dict[str, Any] | None:
    found = files.read_json(path)
    return found if isinstance(found, dict) else None


def _owner_of(store: ObjectStore) -> dict[str, Any] | None:
    """The mark on a directory; empty if it cannot be parsed, None if there is none."""
    try:
        with store.open(OWNER) as file:
            found = json.loads(file.read())
    except FileNotFoundError:
        return None
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _lock_made(folder: Path, checkpoint: Path, what: str, say: Callable[[str], None]) -> Lock:
    """The lock of a folder and its checkpoint, both made; they may be one."""
    try:
        for tries_left in reversed(range(TRIES_WHILE_MOVED)):
            try:
                return _lock_of(folder, checkpoint, say)
            except FileNotFoundError:  # another process moved it aside at this moment
                if not tries_left:
                    raise
    except OSError as error:
        message = f"cannot make the {what} {folder}: {error.strerror}"
        if error.errno in platform.NO_LOCKS:
            message += "; its file system takes no locks, so runs cannot be kept apart there"
        raise UsageError(message) from None
    raise AssertionError(folder)


def _lock_of(folder: Path, checkpoint: Path, say: Callable[[str], None]) -> Lock:
    for place in dict.fromkeys((folder, checkpoint)):
        files.make_folder(place, private=True)
        if place.stat().st_mode & stat.S_IWOTH:
            say(
                f"warning: every user of this machine may write into {place}, and so could "
                f"change its answers: chmod o-w {shell_word(str(place))}"
            )
    lock = Lock(folder, checkpoint / NAME, say)
    lock.acquire()
    return lock


def _refuse_foreign(
    shown: str, mine: dict[str, Any] | None, theirs: dict[str, Any], changes: Changes
) -> None:
    """The files belong to another checkpoint. With ``--repair``, a checkpoint without a mark of its
    own may take them over.
    """
    whose = f"{theirs.get('checkpoint')} on {theirs.get('host')}"
    if mine is not None:
        message = (
            f"{shown} was taken over by another run, whose checkpoint is {whose}. Go on with that "
            "one, name another directory with -o, or start over with --restart (the old contents "
            "are kept aside)"
        )
        raise UsageError(message)
    if not changes.repair:
        message = (
            f"{shown} belongs to a run whose checkpoint is {whose}. Continue with that. If it is "
            "lost, --repair finds out from the parts and the input which rows are done; --restart "
            "starts over (the old contents are kept aside)"
        )
        raise UsageError(message)


def new_mark(shown: str, checkpoint: Path) -> dict[str, Any]:
    """The object that names the run to which the files of a directory in a store belong."""
    return {
        "run": secrets.token_hex(16),
        "directory": shown,
        "checkpoint": str(checkpoint.resolve()),
        "host": socket.gethostname(),
        "begun_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _mark(store: ObjectStore, checkpoint: Path, mine: dict[str, Any] | None) -> None:
    """Put this run's mark on the directory, which also shows that the store is writable."""
    mine = mine or new_mark(store.where(), checkpoint)
    files.write_json(checkpoint / OWNER, mine)
    content = (checkpoint / OWNER).read_bytes()
    with store.draft(OWNER) as draft:
        draft.write(content)
        store.publish([draft])
    store.owner = content


def _move_aside(
    store: ObjectStore,
    directory: str,
    checkpoint: Path,
    lock: Lock,
    say: Callable[[str], None],
    intent: Intent | None,
    note: Note | None,
) -> Lock:
    """``--restart`` in a store, which cannot rename. Everything is copied, then the checkpoint is
    renamed, then the objects are deleted. A kill in between leaves the run as it was, or without
    its checkpoint: refused by the next start, until ``--restart`` moves what is left. With a
    ``note`` of the destination, every start does.
    """
    checkpoint = checkpoint.resolve()
    begun = (checkpoint / STATES).exists()
    if note is None and not begun and not store.everything():
        return lock
    bare, query = split_query(directory)
    stamp, count = _stamp(), 1
    if note is not None:
        aside, kept = ObjectStore(note.aside, store.drafts), Path(note.checkpoint)
    while note is None:
        end = f".old-{stamp}" if count == 1 else f".old-{stamp}-{count}"
        address = f"{bare.rstrip('/')}{end}{query}"
        aside = ObjectStore(address, store.drafts)
        kept = checkpoint.with_name(f"{checkpoint.name}{end}")
        if not aside.everything() and not kept.exists():
            if intent is not None:
                before = restarts.unfinished(checkpoint, read_json(store, SUMMARY))
                restarts.begin(checkpoint, address, str(kept), before, intent)
            break
        count += 1
    store.tries = aside.tries = TRIES
    names = store.copy_to(aside)
    files.reached("restart.copied", checkpoint)
    if not kept.exists():
        disk.rename(checkpoint, kept)
    files.sync_folder(kept.parent)
    files.reached("restart.renamed", checkpoint)
    store.remove(names)
    say(f"the old contents of {store.where()} are in {aside.where()}, its checkpoint in {kept}")
    lock.release()
    lock = _lock_made(checkpoint, checkpoint, "checkpoint", say)
    store.prepare()
    return lock
