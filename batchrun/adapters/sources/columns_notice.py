"""The notice about columns when a run starts: which are sent, and by which rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from batchrun.adapters.sources.opening import LOOKED_AT, Input
from batchrun.adapters.sources.splitting import needs_of
from batchrun.core.request.column_roles import notice
from batchrun.core.settings.parameters import HOLDING, SENT
from batchrun.core.settings.resolve import Settings


def report_columns(
    say: Callable[[str], None],
    settings: Settings,
    given: Input,
    where: str,
    sent: Sequence[str],
    carried: Sequence[str],
) -> None:
    """Report which columns of the input are sent as request parameters, if any, and whether earlier
    rules define what a row is. ``where`` is the run directory.
    """
    if given.reading.columns_are_data:
        if sent:
            say(f"note: {notice(sent, carried, settings.one_model)}")
        own = "messages" if "messages" in carried else "body" if "url" in carried else None
        if settings.makes_messages and own in carried and own not in needs_of(given.splitter):
            say(
                f"warning: the prompt makes the messages of every row; the column {own!r}, which "
                "it does not show, is data and is not sent. Without a prompt it would be"
            )
        return
    if given.kind == "tsv" and given.reading.rules < 2:
        say(
            f"{where} was begun by a version that read quotes in TSV as in CSV, and goes on that "
            "way; --restart reads every line as a row"
        )
    if not settings.makes_messages or given.pipe is not None:
        return
    names = {name for row in islice(given.reader(None, 1).sample(), LOOKED_AT) for name in row}
    if names & {*SENT, *HOLDING}:
        say(
            f"{where} was begun by a version that sends columns called like request parameters "
            "(model, n, user, ...) unless the prompt shows them, and continues that way; --restart "
            "takes every column as data"
        )
