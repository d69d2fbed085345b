"""A process of a fleet that ``batchrun.run(workers=N)`` or ``shard="I/N"`` started.

It reads its settings from standard input and writes how it ended to standard output
(``fleet/called.py``). What it says goes to stderr, line by line.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from dataclasses import replace

from batchrun.adapters.environment.signals import SignalledError, raising
from batchrun.core.fleet.places import place_of
from batchrun.errors import BatchrunError
from batchrun.fleet import parent
from batchrun.fleet.called import Answer, Handed


def main() -> int:
    """Work until the whole run is done. Returns the exit code."""
    with open(0, "rb", closefd=False) as stdin:
        handed: Handed = pickle.load(stdin)  # noqa: S301 - from the program that started this one
    parent.stop_without_it()
    try:
        with raising():
            answer, code = _worked(handed, sys.argv[-1])
    except KeyboardInterrupt as error:  # others work on, and this one sent nothing
        number = error.number if isinstance(error, SignalledError) else signal.SIGINT
        return 128 + number
    except BatchrunError as error:
        raised = type(error), error.args, dict(vars(error))
        answer, code = Answer({}, raised=raised), error.exit_code
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
    return code


def _worked(handed: Handed, shard: str) -> tuple[Answer, int]:
    """The work itself: as ``batchrun run --shard`` does it."""
    from batchrun.cli.process import load_arrow, make_lean

    load_arrow()
    from batchrun.adapters.environment import open_files
    from batchrun.announcing import Announcing
    from batchrun.builtin_simulators import judges_of, standing_in
    from batchrun.fleet import worker

    make_lean()
    settings, environment, changes = handed
    with Announcing(settings, _say) as announcing, contextlib.ExitStack() as stack:
        settings = replace(settings, endpoints=standing_in(settings.endpoints, stack, _say))
        open_files.raise_limit(settings)
        result = worker.run(
            settings,
            environment,
            place=place_of(shard, os.environ),
            changes=changes,
            judges=judges_of(settings, environment, stack, _say),
            observers=announcing.observers,
            say=_say,
        )
        announcing.ended(result.summary, elsewhere=result.elsewhere)
    if result.failed is not None:
        raise result.failed
    if result.duplicate_id is not None:
        _say(f"warning: custom_id {result.duplicate_id!r} occurs more than once")
    code = result.stop.exit_code if result.stop and result.elsewhere else 0
    answer = Answer(dict(result.summary), result.stop, result.sent_nothing, result.elsewhere)
    return answer, int(result.summary.get("exit_code", code)) if result.summary else code


def _say(text: str) -> None:
    print(text.replace("\n", " "), file=sys.stderr, flush=True)  # noqa: T201 - the caller reads it
