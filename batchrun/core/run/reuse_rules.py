"""Which answers of another run a run may take: the rules of ``--reuse``, without any files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchrun.core.reply import answer
from batchrun.core.settings import reasoning_models
from batchrun.core.settings.differences import IMPLIED
from batchrun.core.settings.providers import BUILT_IN
from batchrun.core.verdict.answer_checks import Policy, flaw_of, made_of
from batchrun.records import Completion, Outcome, Request

_new = tuple.__new__  # half the time of a named tuple's own ways
STAND_INS = BUILT_IN
"""Providers whose answers are worth nothing to a run that asks another one."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an answer of one other run must be. ``policy`` and ``fallback_model`` are this run's,
    ``keeps_raw`` whether its ``response`` column holds replies. ``was_split`` says that the other
    run moved reasoning out of the content and this one does not, ``was_unfenced`` the same of JSON
    in a fence.
    """

    policy: Policy
    fallback_model: str | None
    keeps_raw: bool
    was_split: bool = False
    was_unfenced: bool = False
    takes_all: bool = False
    """Whether ``policy`` keeps every answer as it is."""


def rules(
    policy: Policy | None,
    fallback_model: str | None,
    raw: str,
    recorded: Mapping[str, Any],
) -> Rules:
    """The rules for the answers of a run with these ``recorded`` settings."""
    policy = policy or Policy()
    before = {name: recorded.get(name, implied) for name, implied in IMPLIED.items()}
    split = reasoning_models.SPLIT
    return Rules(
        policy,
        fallback_model,
        raw == "all",
        was_split=before["output.think"] == split and policy.think != split,
        was_unfenced=bool(before["output.accept_fenced"]) and not policy.accept_fenced,
        takes_all=policy == Policy(),
    )


def stand_ins(
    providers: Mapping[str, str | None], names: Collection[str], ours: Collection[str | None]
) -> frozenset[str]:
    """The endpoints among ``names`` whose answers are not taken: those of a provider of
    ``STAND_INS`` that is not among ``ours``. ``providers`` is by endpoint, as far as the other run
    recorded it; an endpoint it does not have is taken for the provider of its name.
    """
    return frozenset(
        name
        for name in names
        if (provider := providers.get(name) or name) in STAND_INS and provider not in ours
    )


def accepted(found: Outcome, request: Request, rules: Rules) -> Outcome | None:
    """An answer of another run as the outcome of this request; None where this run would not keep
    it, so that the row is sent.
    """
    said, expected = found.completion, request.expected
    if said is None or not _by_the_same_model(found, request, said, rules):
        return None
    if rules.was_split and any(c.reasoning for c in said.choices or (said.first,)):
        return None  # the tags that this run keeps are gone
    if rules.was_unfenced and expected is not None and expected.json:
        return None
    if expected is not None or not rules.takes_all:
        said = made_of(said, expected, rules.policy)
        if flaw_of(said, expected, rules.policy) is not None:
            return None
    _, _, _, _, _, _, digest, response, asked, reused, _, conversation = found
    response = response if rules.keeps_raw else None
    named = (request.row, request.custom_id)
    taken = (*named, said, None, 0, None, digest, response, asked, reused, None, conversation)
    return _new(Outcome, taken)


def _by_the_same_model(found: Outcome, request: Request, said: Completion, rules: Rules) -> bool:
    """Whether the model that this run would ask in the end gave the answer."""
    asked = found.model_asked
    if asked is not None and asked != request.model:
        return asked == rules.fallback_model
    return rules.fallback_model is None or not answer.is_withheld(said)


def format_rows_by_endpoint(counts: Mapping[str, int]) -> str:
    """Numbers of rows by endpoint, in words."""
    return ", ".join(f"{name or 'no endpoint'} {rows:,}" for name, rows in sorted(counts.items()))


def sources_named(given: Sequence[str]) -> tuple[str, ...]:
    """The directories of ``--reuse``, each once, in the order in which they are asked."""
    return tuple(dict.fromkeys(given))
