"""The input of a run: files, or the results of another run."""

from __future__ import annotations

from dataclasses import replace

from batchrun.adapters.sources import opening
from batchrun.adapters.sources.opening import Input
from batchrun.adapters.sources.run import run_input
from batchrun.core.request import prompt as prompts
from batchrun.core.request.chained_rows import MESSAGES, fields_used
from batchrun.core.request.prompt import Plan
from batchrun.core.settings.reading import Reading
from batchrun.core.settings.resolve import Settings
from batchrun.rundir.chain import source as sources
from batchrun.rundir.chain.requests import SourceMessages


def find(settings: Settings, plan: Plan | None, reading: Reading) -> Input:
    """The input that settings name, with the templates of ``plan`` applied to its rows.

    Raises what ``opening.find`` raises; for the results of a run, ``UsageError`` if that run is not
    finished and ``DamagedError`` if it is not whole.
    """
    if settings.source is None:
        return opening.find(settings.files, settings.format, plan, reading)
    assert plan is not None
    if settings.against is not None:
        from batchrun.rundir.chain import pairs  # only judges of pairs need the comparison

        return pairs.find(settings, plan, find)
    looked = sources.look_at(settings.source)
    sources.require(looked, allow_partial=settings.allow_partial)
    source = sources.run_source(looked, settings.source_status)
    if MESSAGES in fields_used(plan.templates.paths, plan.templates.whole):
        messages = SourceMessages(looked, find)
        messages.require(settings.source_status)
        source = replace(source, messages=messages)
    return run_input(source, sources.stamps(looked), plan)


def find_chained(settings: Settings) -> Input:
    """The results that a run of these settings reads (``--from``). Raises what ``find`` raises, and
    ``UsageError`` for a run that would be made from itself.
    """
    assert settings.source is not None
    sources.require_another(sources.look_at(settings.source), settings.dir)
    return find(settings, prompts.plan(settings), settings.reading)
