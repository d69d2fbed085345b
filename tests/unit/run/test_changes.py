"""What may become of done rows, and which flags exclude one another."""

import itertools

import pytest

from batchrun.core.run.changes import Changes, parse_classes
from batchrun.core.verdict.judge import RULES
from batchrun.core.verdict.rules import ERROR_CLASSES
from batchrun.errors import UsageError

WISHES = {
    "keep_done": True,
    "restart": True,
    "resend_changed": True,
    "retry_failed": True,
    "retry_classes": ("timeout",),
    "repair": True,
}
EXCLUDED = {frozenset({"restart", other}) for other in WISHES if other != "restart"} | {
    frozenset({"keep_done", "resend_changed"}),
    frozenset({"retry_failed", "retry_classes"}),
}


@pytest.mark.parametrize("pair", [*itertools.combinations(WISHES, 2)], ids="+".join)
def test_which_wishes_exclude_one_another(pair):
    """Every pair of flags either goes together or is refused naming both."""
    wishes = {name: WISHES[name] for name in pair}
    if frozenset(pair) in EXCLUDED:
        with pytest.raises(UsageError, match="exclude each other"):
            Changes(**wishes)
    else:
        Changes(**wishes)


def test_which_failures_are_sent_again():
    """All of them, those of the named classes, or none; a completion never."""
    assert not any(Changes().retries_class(name) for name in (*ERROR_CLASSES, None))
    every = Changes(retry_failed=True)
    assert every.retries and all(every.retries_class(name) for name in ERROR_CLASSES)
    some = Changes(retry_classes=parse_classes("timeout, rate_limit,timeout,"))
    assert some.retries and some.retry_classes == ("timeout", "rate_limit")
    assert some.retries_class("timeout") and not some.retries_class("connection")
    assert not every.retries_class(None) and not some.retries_class(None)


def test_which_answers_are_sent_again():
    """Those with a flaw that is named, beside classes of failures; --retry-failed means none."""
    both = Changes(retry_classes=parse_classes("truncated,timeout,empty"))
    assert both.retried_flaws == {"truncated", "empty"} and both.retries
    assert both.retries_class("timeout") and not both.retries_class(None)
    assert both.retried == "failed or truncated or empty"
    alone = Changes(retry_classes=("empty",))
    assert alone.retries and alone.retried == "empty"
    assert not any(alone.retries_class(name) for name in (*ERROR_CLASSES, None))
    failed = Changes(retry_failed=True)
    assert not failed.retried_flaws and failed.retried == "failed"


def test_every_class_of_the_verdicts_is_known():
    """What a row can fail with can be named; anything else is refused with the whole list."""
    for rule in RULES:
        Changes(retry_classes=(rule.error_class,))
    with pytest.raises(UsageError, match=r"invalid_row.*truncated, empty"):
        Changes(retry_classes=("tiemout",))
