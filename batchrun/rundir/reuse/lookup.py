"""``--reuse``: the answers that other run directories have for the requests of this run.

Look-ups are made for a block of rows at once, in a separate thread. The directories are searched in
the order in which they were named; the first with an answer wins, even if that answer does not pass
this run's checks: then the row is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from batchrun.adapters.columns import schema as part_schema
from batchrun.adapters.storage import disk
from batchrun.core.input.repeats import answer_key
from batchrun.core.run import reuse_rules
from batchrun.core.run.changes import Changes
from batchrun.core.run.reuse_rules import Rules, accepted
from batchrun.core.settings.addresses import format_address, local_path
from batchrun.core.settings.resolve import Settings
from batchrun.core.settings.table import OLD
from batchrun.core.verdict import answer_checks
from batchrun.errors import UsageError
from batchrun.records import Outcome, Request, ReusedRows
from batchrun.rundir import restarts
from batchrun.rundir.open_run import RunDirectory
from batchrun.rundir.restarts import Named
from batchrun.rundir.reuse.source_directory import Source
from batchrun.rundir.reuse.stretch import Stretch

FOLDER = "reuse"


class Reuse:
    """The answers of some directories, for the requests of one run."""

    def __init__(self, settings: Settings, named: Sequence[Named], folder: Path) -> None:
        """``folder`` is for the indexes. Raises ``UsageError`` if one is not a run directory."""
        self._folder = folder
        self._settings = settings
        self._sources: list[tuple[Source, Rules]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reuse")
        for each in named:
            source = Source(each)
            policy = answer_checks.policy_of(settings)
            rules = reuse_rules.rules(
                policy, settings.fallback_model, settings.raw, source.settings
            )
            self._sources.append((source, rules))

    def index(self, say: Callable[[str], None]) -> None:
        """Open the indexes, building missing ones. Reports how many answers there are."""
        ours = {endpoint.provider for endpoint in self._settings.endpoints}
        for number, (source, _) in enumerate(self._sources):
            names = source.endpoints() | set(reuse_rules.STAND_INS)
            left_out = reuse_rules.stand_ins(source.providers, names, ours)
            built = source.index(self._folder / f"{number}", left_out)
            by = (
                f" ({reuse_rules.format_rows_by_endpoint(source.rows)})"
                if built and source.rows
                else ""
            )
            say(f"reusing answers of {source.name}: it has {source.count:,} to take{by}")
            for name in sorted(left_out & source.endpoints()):
                say(
                    f"answers of the endpoint {name} in {source.name} are not taken: this run does "
                    f"not use the provider {source.providers.get(name) or name}"
                )

    async def known(
        self, requests: Sequence[Request], *, together: bool = False
    ) -> Mapping[int, Outcome] | ReusedRows:
        """See ``ports.Answers``."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._known, requests, together)

    def _known(
        self,
        requests: Sequence[Request],
        together: bool,  # noqa: FBT001 - run_in_executor
    ) -> Mapping[int, Outcome] | ReusedRows:
        found: dict[int, Outcome] = {}
        return self._take(requests, found, together=together) or found

    def look_up(self, requests: Sequence[Request]) -> dict[int, Outcome]:
        """The outcomes of requests that were answered before, by row, found in this thread."""
        found: dict[int, Outcome] = {}
        self._take(requests, found, together=False)
        return found

    def _take(
        self, requests: Sequence[Request], found: dict[int, Outcome], *, together: bool
    ) -> ReusedRows | None:
        """Take what the directories have: as a stretch if allowed and possible, else into
        ``found``.
        """
        left = requests
        for source, rules in self._sources:
            if not left or not source.count:
                continue
            asked, unknown = list(left), list[Request]()
            repeat = self._settings.repeat
            repeats = None if repeat == 1 else [r.row % repeat for r in left]
            taken: Iterable[Outcome | None] | None
            taken = source.following([r.hash for r in left], repeats)
            if taken is None:
                asked, wanted, unknown = _placed(source, left, repeat)
                taken = source.take(wanted) if wanted else ()
            if together and isinstance(taken, Stretch) and len(asked) == len(requests):
                whole = taken.reused(asked, rules)
                if whole is not None:
                    return whole
            for request, outcome in zip(asked, taken, strict=True):
                if outcome is None:
                    outcome = _other(source, request, repeat)  # noqa: PLW2901 - the same request's
                if outcome is None:
                    unknown.append(request)
                elif (fit := accepted(outcome, request, rules)) is not None:
                    found[request.row] = fit
            left = unknown
        return None

    def close(self) -> None:
        """End the thread and close all files."""
        self._thread.shutdown()
        for source, _ in self._sources:
            source.close()


def _placed(
    source: Source, requests: Sequence[Request], repeat: int
) -> tuple[list[Request], list[tuple[int, str]], list[Request]]:
    """The requests that a directory has answers to, their places, and the other requests. A row is
    sent ``repeat`` times, and each repeat only takes the answer of the same repeat.
    """
    asked: list[Request] = []
    wanted: list[tuple[int, str]] = []
    unknown: list[Request] = []
    find = source.find
    for request in requests:
        digest = request.hash
        number = request.row % repeat
        if number:
            places = find(answer_key(bytes.fromhex(digest), number))
        else:
            places = find(bytes.fromhex(digest[:32]))
        if places:
            asked.append(request)
            wanted.append((places[0], digest))
        else:
            unknown.append(request)
    return asked, wanted, unknown


def _other(source: Source, request: Request, repeat: int) -> Outcome | None:
    """The next answer, if the hash of the first only begins alike."""
    places = source.find(answer_key(bytes.fromhex(request.hash), request.row % repeat))[1:]
    taken = source.take([(place, request.hash) for place in places]) if places else []
    return next((outcome for outcome in taken if outcome is not None), None)


def require(settings: Settings, changes: Changes) -> None:
    """Check the directories that the settings name, before anything is moved or begun. Raises
    ``UsageError`` for one that is not a run directory, or is at work, or is the run's own; and for
    ``old`` if nothing was set aside.
    """
    for each in named(settings, ()):
        Source(each).close()
    local = local_path(settings.dir)
    folder, checkpoint = Path(local or settings.checkpoint), Path(settings.checkpoint)
    begun = restarts.pending(folder) or restarts.taken_over(checkpoint)
    if OLD in settings.reuse and not changes.restart and begun is None:
        message = (
            "--reuse old means the contents that --restart sets aside, and nothing was set aside "
            "here: give --restart too, or name a directory"
        )
        raise UsageError(message)


def named(settings: Settings, old: Sequence[Named]) -> list[Named]:
    """The directories that the settings name; ``old`` are those that a restart set aside.

    Raises ``UsageError`` for the run's own directory.
    """
    found: list[Named] = []
    for name in reuse_rules.sources_named(settings.reuse):
        if name == OLD:
            found += old
            continue
        if _is_same(name, settings.dir):
            message = (
                f"--reuse {format_address(name)} is the run directory itself. Its answers are kept "
                "anyway; to start over with them: --restart --reuse old"
            )
            raise UsageError(message)
        found.append(Named(format_address(name), name))
    return found


def _is_same(one: str, other: str) -> bool:
    here, there = local_path(one), local_path(other)
    if here is None or there is None:
        return one.rstrip("/") == other.rstrip("/")
    return Path(here).resolve() == Path(there).resolve()


@contextlib.contextmanager
def taken(
    settings: Settings,
    opened: RunDirectory,
    say: Callable[[str], None],
    checkpoint: Path | None = None,
) -> Iterator[Reuse]:
    """The answers that a run reuses, until the block is left. If every row is done then, the
    indexes are removed. They are in the folder of another ``checkpoint`` if several processes share
    them. Raises ``UsageError`` if answers cannot be taken from a directory of ``--reuse``.
    """
    if not part_schema.marks_reused(opened.parts.schemas()[0]):
        message = (
            "--reuse: this run directory was begun by an earlier version and carries an input "
            "column `reused_from`, which has no room for the origin of an answer. Leave --reuse "
            "out, or start over with --restart --reuse old"
        )
        raise UsageError(message)
    checkpoint = checkpoint or opened.checkpoint
    answers = Reuse(settings, named(settings, opened.set_aside), checkpoint / FOLDER)
    try:
        answers.index(say)
        yield answers
        if opened.is_complete:
            forget(checkpoint / FOLDER)
    finally:
        answers.close()


def forget(folder: Path) -> None:
    """Remove the indexes in a folder of the checkpoint, since the run no longer needs them."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
        disk.sync_folder(folder.parent)
