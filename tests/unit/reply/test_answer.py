"""Whether an answer is whole, says anything, or was withheld."""

import pytest

from batchrun.core.reply.answer import flaws_of, is_ordinary, is_withheld
from batchrun.engine.open_shard import taken
from batchrun.records import NO_USAGE, Attempt, Choice, Completion, Failure, Outcome, ToolCall

CALL = ToolCall("1", "function", "f", "{}")


def choice(content=None, reason="stop", *, refusal=None, calls=None, reasoning=None):
    """One choice."""
    return Choice(0, content, reasoning, refusal, reason, calls, None)


def completion(*choices):
    """An answer of these choices."""
    several = choices if len(choices) > 1 else None
    return Completion(choices[0], several, "m", None, None, None, None, NO_USAGE)


def test_an_ordinary_answer_has_no_flaw():
    """The look that spares most answers the others lets none pass that is truncated or empty."""
    texts, reasons = ("Well", " Well", " \n", "", None), ("stop", "length", "LENGTH", "tool", None)
    each = [choice(text, reason) for text in texts for reason in reasons]
    answers = [completion(one) for one in each] + [completion(choice("Well"), one) for one in each]
    ordinary = [found for found in answers if is_ordinary(found)]
    assert ordinary == [completion(choice("Well"))]
    assert not any(map(flaws_of, ordinary))


@pytest.mark.parametrize(
    ("choices", "withheld"),
    [
        ([choice(None, "content_filter")], True),
        ([choice(" \n", "Content_Filter")], True),
        ([choice("", "SAFETY")], True),
        ([choice(None, "refusal")], True),
        ([choice(None, "content_filter", reasoning="Hm.")], True),
        ([choice(None, refusal="No.")], True),
        ([choice("Well", "content_filter")], False),
        ([choice("Well", refusal="No.")], False),
        ([choice(None, "content_filter", calls=(CALL,))], False),
        ([choice(None, None)], False),
        ([choice(None, "length")], False),
        ([choice(None, refusal=" ")], False),
        ([choice(None, "content_filter"), choice(None, refusal="No.")], True),
        ([choice(None, "content_filter"), choice("Well")], False),
    ],
    ids=str,
)
def test_what_a_filter_or_a_refusal_kept_back(choices, withheld):
    """Nothing but the word of a filter, or a refusal; of several choices all of them."""
    assert is_withheld(completion(*choices)) is withheld


@pytest.mark.parametrize(
    ("choices", "flaws"),
    [
        ([choice("Well")], set()),
        ([choice("We", "length")], {"truncated"}),
        ([choice(" ")], {"empty"}),
        ([choice(None, "MAX_TOKENS")], {"truncated", "empty"}),
        ([choice("Well"), choice("We", "length")], {"truncated"}),
    ],
)
def test_what_is_wrong_with_an_answer(choices, flaws):
    """Cut off, empty, both or neither."""
    assert flaws_of(completion(*choices)) == flaws


@pytest.mark.parametrize(
    ("said", "allowed", "wins"),
    [
        (choice("Well"), set(), True),
        (choice("We", "length"), set(), False),
        (choice(""), set(), False),
        (choice(""), {"empty"}, True),
        (choice("", "length"), {"empty"}, False),
        (None, {"empty"}, False),
    ],
)
def test_which_outcome_of_a_kept_row_is_taken(said, allowed, wins):
    """A better answer; of any other the attempt alone, which has failed."""
    attempt = Attempt(
        5, 2, "e", "m", None, 0, 0.0, 0.0, 200, "timeout" if said is None else None, None, None,
        NO_USAGE, None, None, unanswered=False,
    )  # fmt: skip
    outcome = Outcome(
        5, None,
        None if said is None else completion(said),
        Failure("timeout", None, "late") if said is None else None,
        2, attempt, "h", None,
    )  # fmt: skip
    found = taken(outcome, {5: frozenset(allowed)})
    assert (found is outcome) is wins
    assert wins or (isinstance(found, Attempt) and found.error_class is not None)
    assert taken(outcome, {6: frozenset()}) is outcome
    assert taken(outcome._replace(attempt=None, completion=None), {5: frozenset()}) is None
