"""The words of ``decided_by``: which steps of a decision spoke about an exchange, in order.

A trail is a first word and then one word for each step that changed what it meant, joined by ``>``:
``server_error>attempts_used_up``. The first word is the error class of the exchange, or one of
``FIRST``. The steps are those of ``core/verdict/decide.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

BETWEEN = ">"

COMPLETION = "completion"
BAD_KEY = "bad_key"
INTERRUPTED = "interrupted"

FIRST: Mapping[str, str] = {
    COMPLETION: "The reply holds a completion, and it passed every check that was asked for.",
    BAD_KEY: "The server refused the key (error class `auth`).",
    INTERRUPTED: "The run ended, or was killed, before the reply arrived.",
}
"""First words that are not error classes, and what they mean."""

TRIES_USED_UP = "tries_used_up"
TOLD_TO_RETRY = "told_to_retry"
TOLD_NOT_TO_RETRY = "told_not_to_retry"
WAIT_TOO_LONG = "wait_too_long"
REFUSED_TOO_LONG = "refused_too_long"
RENEWED_KEY = "renewed_key"
NO_NEW_KEY = "no_new_key"
ENDPOINT_DOWN = "endpoint_down"
PROBED_OFTEN = "probed_often"
NEVER_ANSWERED = "never_answered"
OTHER_ENDPOINT = "other_endpoint"
NO_OTHER_MODEL = "no_other_model"
ENDPOINT_LEFT_OUT = "endpoint_left_out"
ATTEMPTS_USED_UP = "attempts_used_up"
OTHER_MODEL = "other_model"
FIRST_MODEL_STANDS = "first_model_stands"
REPEATED_FAILURE = "repeated_failure"
KEPT_ANSWER = "kept_answer"

LATER: Mapping[str, str] = {
    TRIES_USED_UP: (
        "The row met this signal as often as the signal's own limit allows, so the row fails or "
        "the run stops."
    ),
    TOLD_TO_RETRY: "`x-should-retry: true` turned *fail* or *stop* into another try.",
    TOLD_NOT_TO_RETRY: "`x-should-retry: false` turned another try into *fail*.",
    WAIT_TOO_LONG: "The server asks for a longer wait than `--max-wait`, so the run stops.",
    REFUSED_TOO_LONG: "The endpoint has sent nothing but refusals for too long; the run stops.",
    RENEWED_KEY: "Another key is in use now; the row is sent again with it, uncharged.",
    NO_NEW_KEY: "The command or file that supplies keys failed, so the run stops.",
    ENDPOINT_DOWN: "The endpoint is down; the row waits for it, uncharged.",
    PROBED_OFTEN: (
        "The endpoint is down, and this row has probed it several times in vain: the row may be "
        "the cause, so it is charged."
    ),
    NEVER_ANSWERED: "The endpoint never answered within `--max-wait`, so the run stops.",
    OTHER_ENDPOINT: "The row goes to another endpoint, uncharged.",
    NO_OTHER_MODEL: "`--fallback-model` is not available there; the row ends without it.",
    ENDPOINT_LEFT_OUT: (
        "What would stop a run with one endpoint removes only this one; its rows go to the others."
    ),
    ATTEMPTS_USED_UP: "The row was charged `--max-attempts` attempts, so it fails.",
    OTHER_MODEL: "A filter or a refusal ended the row, so `--fallback-model` is asked next.",
    FIRST_MODEL_STANDS: "`--fallback-model` failed too; the row ends as it did with its own model.",
    REPEATED_FAILURE: (
        "Too many rows in a row failed with no answer in between: the run stops, or the endpoint "
        "is left out."
    ),
    KEPT_ANSWER: (
        "The row was sent again for a better answer, and this one is no better: the row keeps the "
        "answer it had."
    ),
}
"""Words after the first one, and what they mean."""
