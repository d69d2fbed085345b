"""Which answers of another run are taken: the rules alone."""

import pytest

from batchrun.core.run.reuse_rules import accepted, rules, stand_ins
from batchrun.core.verdict.answer_checks import Policy
from batchrun.records import (
    NO_USAGE,
    Attempt,
    Choice,
    Completion,
    Expected,
    Outcome,
    Request,
    Reused,
)

ATTEMPT = Attempt(
    5, 0, "e", "m", None, 0, 0.0, 1.0, 200, None, None, None, NO_USAGE, 0, None, unanswered=False
)


def _found(content="fine", *, asked="m", reason="stop", reasoning=None):
    first = Choice(0, content, reasoning, None, reason, None, None)
    said = Completion(first, None, "m-1", "id", None, None, 1, NO_USAGE)
    return Outcome(5, None, said, None, 0, None, "h", "raw", asked, Reused("run:5", ATTEMPT))


def _request(expected=None):
    return Request(7, "id 7", b"{}", "h", "m", 1, expected=expected)


def _taken(found, *, policy=None, fallback=None, raw="all", recorded=None, expected=None):
    return accepted(found, _request(expected), rules(policy, fallback, raw, recorded or {}))


def test_the_outcome_is_that_of_the_new_row():
    """Row and custom_id are the new ones, the rest the old ones; nothing was attempted."""
    outcome = _taken(_found())
    assert (outcome.row, outcome.custom_id, outcome.attempts, outcome.attempt) == (
        7,
        "id 7",
        0,
        None,
    )
    assert outcome.reused == Reused("run:5", ATTEMPT) and outcome.response == "raw"
    assert _taken(_found(), raw="errors").response is None


@pytest.mark.parametrize(
    ("found", "how", "taken"),
    [
        (_found(reason="length"), {}, True),
        (_found(reason="length"), {"policy": Policy(on_truncation="fail")}, False),
        (_found(reason="length"), {"policy": Policy(on_truncation="retry")}, False),
        (_found(reason="max_tokens"), {"policy": Policy(on_truncation="fail")}, False),
        (_found(""), {}, True),
        (_found(""), {"policy": Policy(on_empty="fail")}, False),
        (_found(" \n", reasoning="hm"), {"policy": Policy(on_empty="retry")}, False),
        (_found("no JSON"), {"expected": Expected(json=True)}, False),
        (_found('{"a": 1}'), {"expected": Expected(json=True)}, True),
        (_found('{"a": 1}'), {"expected": Expected(True, b'{"required": ["b"]}')}, False),
        (_found("```json\n{}\n```"), {"expected": Expected(json=True)}, False),
        (
            _found("```json\n{}\n```"),
            {"expected": Expected(json=True), "policy": Policy(accept_fenced=True)},
            True,
        ),
        # What the other run took out of the content cannot be put back.
        (_found(reasoning="hm"), {"recorded": {"output.think": "split"}}, False),
        (_found(), {"recorded": {"output.think": "split"}}, True),
        (
            _found(reasoning="hm"),
            {"recorded": {"output.think": "split"}, "policy": Policy(think="split")},
            True,
        ),
        (
            _found("{}"),
            {"recorded": {"output.accept_fenced": True}, "expected": Expected(json=True)},
            False,
        ),
        (_found("{}"), {"recorded": {"output.accept_fenced": True}}, True),
        # The model that answered is the one that this run would ask in the end.
        (_found(asked="other"), {}, False),
        (_found(asked="other"), {"fallback": "other"}, True),
        (_found(asked="other"), {"fallback": "third"}, False),
        (_found(asked=None), {}, True),
        (_found("", reason="content_filter"), {}, True),
        (_found("", reason="content_filter"), {"fallback": "other"}, False),
    ],
)
def test_an_answer_must_be_one_that_this_run_would_keep(found, how, taken):
    """Truncation, emptiness, JSON, fences, reasoning, fallback models."""
    assert (_taken(found, **how) is not None) == taken


def test_reasoning_in_tags_is_taken_out_of_what_was_kept_whole():
    """The answer becomes what this run would have made of it."""
    outcome = _taken(_found("<think>hm</think>yes"), policy=Policy(think="split"))
    assert outcome.completion.first[1:3] == ("yes", "hm")


@pytest.mark.parametrize(
    ("recorded", "ours", "left_out"),
    [
        ({"simulator": "simulator", "default": None}, {None}, {"simulator", "local"}),
        ({"mine": "simulator", "b": "openai"}, {"openai"}, {"mine", "simulator", "local"}),
        ({"mine": "local"}, {"simulator"}, {"mine", "local"}),
        ({}, {"openai"}, {"simulator", "local"}),
        ({"simulator": "openai"}, {None}, {"local"}),
    ],
)
def test_answers_of_stand_ins_are_for_the_same_provider(recorded, ours, left_out):
    """Of an endpoint that was not recorded the name tells; a provider that was recorded wins."""
    names = {*recorded, "simulator", "local"}
    assert stand_ins(recorded, names, ours) == left_out
