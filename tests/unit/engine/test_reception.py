"""How a server received a request, told from what was decided about it."""

import pytest

from batchrun.core.verdict.decide import decision_of
from batchrun.core.verdict.judge import Action, Verdict
from batchrun.engine.pace.reception import reception_of
from batchrun.records import Reception


@pytest.mark.parametrize(
    ("action", "error_class", "code", "message", "received"),
    [
        (Action.THROTTLE, "rate_limit", None, "slow down", Reception.REFUSED),
        (
            Action.THROTTLE, "rate_limit", "1302", "High concurrency usage of this API",
            Reception.REFUSED_AT_ONCE,
        ),
        (Action.AGAIN, "overloaded", None, "", Reception.OVERLOADED),
        (Action.AGAIN, "timeout", "timeout", "", Reception.OVERLOADED),
        (Action.AGAIN, "connection", "connect", "", Reception.OVERLOADED),
        (Action.AGAIN, "connection", "dns", "", Reception.OTHER),
        (Action.AGAIN, "server_error", None, "", Reception.OTHER),
        (Action.FAIL, "bad_request", None, "concurrent", Reception.OTHER),
    ],
)  # fmt: skip
def test_what_a_decision_tells_of_the_server(action, error_class, code, message, received):
    """Refusals, overload, and failures that tell nothing of what the server can take."""
    verdict = Verdict(action, "a rule", error_class=error_class, code=code, message=message)
    found = reception_of(decision_of(verdict))
    assert found is received
    assert found.refused == (action is Action.THROTTLE)
