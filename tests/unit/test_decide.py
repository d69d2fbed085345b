"""The decision about one exchange: every step alone, and the order where two speak."""

import json
from dataclasses import dataclass, field

import pytest

from batchrun.core.run.changes import ERROR_CLASSES
from batchrun.core.verdict import trail
from batchrun.core.verdict.answer_checks import Policy
from batchrun.core.verdict.decide import RENEWED, STEPS, Decision, Key, Sign, decide
from batchrun.core.verdict.outage import PROBES_FREE, ROWS_DARK, Evidence
from batchrun.core.verdict.repeated_failures import ALIKE_ROWS, Kind, Repeated
from batchrun.core.verdict.rules import RULES, Action, Health
from batchrun.errors import FaultKind, TransportFault
from batchrun.records import Expected, Reply, Request
from batchrun.testing.samples import completion_body, failed
from batchrun.views.verify import check_trails

DONE, AGAIN, FAIL, STOP, FREE = Action.DONE, Action.AGAIN, Action.FAIL, Action.STOP, Action.FREE
THROTTLE, HOLD = Action.THROTTLE, Action.HOLD
LEAVE, SWITCH, WITHHOLD = Action.LEAVE, Action.SWITCH, Action.WITHHOLD
ATTEMPTS_MAX = 3
REQUEST = Request(0, None, b"{}", "0" * 64, "m", 10)


@dataclass
class Row:
    """A row that is sent for the first time, unless told otherwise."""

    request: Request = REQUEST
    rulings: dict = field(default_factory=dict)
    charged: int = 0
    doubts: tuple = ()
    probes: int = 0
    before: object = None
    sent: int = 0

    def failing(self, kind, answered_sent):
        """Its latest request is the first that failed like this."""
        assert kind is None or kind == "health" or kind in ERROR_CLASSES
        return self.sent, answered_sent


@dataclass
class Lane:
    """The only endpoint of a run that asks nothing of answers, unless told otherwise."""

    plain: bool = True
    output: Policy | None = None
    attempts_max: int = ATTEMPTS_MAX
    wait_s_max: float = 600.0
    model: str | None = "m"
    url: str = "http://localhost/v1/chat/completions"
    wall_s: float = 1_767_225_600.0
    succeeded: bool = True
    run_succeeded: bool = True
    refused_s: float = 0.0
    key: Key | None = None
    down: bool = False
    down_s: float = 0.0
    probe: bool = False
    evidence: Evidence = field(default_factory=Evidence)
    storm: bool = False
    others: bool = False
    elsewhere: bool = False
    elsewhere_now: bool = False
    known_elsewhere: bool = False
    replaceable: bool = False
    other_model: bool = False
    withholds: bool = False
    repeated: Repeated = field(default_factory=Repeated)
    out: frozenset = frozenset()


def _reply(status, code=None, headers=None):
    error = {"error": {"message": "no", "type": code, "code": code}}
    return Reply(status, headers or {}, json.dumps(error).encode())


def _fault(kind, **more):
    return TransportFault(f"{kind}, on purpose", kind=kind, sent=True, **more)


def _answer(text="Hello.", finish_reason="stop", **message):
    choice = {"index": 0, "finish_reason": finish_reason}
    choice["message"] = {"role": "assistant", "content": text} | message
    return Reply(200, {}, completion_body(choices=[choice]))


def _dark(rows):
    """Evidence of so many rows that failed, with nothing answered meanwhile."""
    evidence = Evidence()
    for row in range(1, rows + 1):
        evidence.failed(row, Health.DOWN, first=True)
    return evidence


def _failures(rows, kind=("server_error", 500, None)):
    """So many rows that failed alike in a row."""
    repeated = Repeated()
    for number in range(rows):
        repeated.withhold(Kind(*kind), object(), sent=number)
    return repeated


ASKS_JSON = REQUEST._replace(expected=Expected(json=True))
RETRIES = {"plain": False, "output": Policy(on_truncation="retry", on_empty="fail")}
SEVERAL = {"others": True, "elsewhere": True, "replaceable": True, "known_elsewhere": True}
FALLBACK = {"plain": False, "other_model": True}
LAST = {"charged": ATTEMPTS_MAX - 1}
REFUSED = _answer(None, refusal="No.")

# Exchange, row, endpoint, and what is decided: action, trail, charged, avoid.
CASES = {
    # The verdict on the exchange
    "an answer": (_answer(), {}, {}, DONE, "completion", True, False),
    "a refusal": (_reply(429), {}, {}, THROTTLE, "rate_limit", False, False),
    "a server's error": (_reply(500), {}, {}, AGAIN, "server_error", True, False),
    "a bad request": (_reply(400), {}, {}, FAIL, "invalid_request", True, False),
    "no connection": (_fault("connect"), {}, {}, AGAIN, "connection", True, False),
    "a stale connection": (_fault("stale"), {}, {}, FREE, "connection", False, False),
    "a stale connection, too often": (
        _fault("stale"), {"rulings": {"stale": 8}}, {}, AGAIN, "connection", True, False),
    "a refused key": (_reply(401), {}, {"succeeded": False}, STOP, "bad_key", False, False),
    "a refused key that worked before": (_reply(401), {}, {}, AGAIN, "bad_key", True, False),
    "a signal's own tries": (
        _fault("timeout"), {"rulings": {"timeout": 2}}, {}, FAIL, "timeout>tries_used_up", True,
        False),
    "told not to retry": (
        _reply(500, headers={"x-should-retry": "false"}), {}, {}, FAIL,
        "server_error>told_not_to_retry", True, False),
    "told to retry": (
        _reply(400, headers={"x-should-retry": "true"}), {}, {}, AGAIN,
        "invalid_request>told_to_retry", True, False),
    "told to come back tomorrow": (
        _reply(429, headers={"retry-after": "86400"}), {}, {}, STOP, "rate_limit>wait_too_long",
        False, False),
    "refused for hours": (
        _reply(429), {}, {"refused_s": 9999.0}, STOP, "rate_limit>refused_too_long", False, False),
    # Another key
    "another key": (
        _reply(401), {}, {"key": Key(renewed=True)}, FREE, "bad_key>renewed_key", False, False),
    "no other key": (
        _reply(401), {}, {"key": Key(renewed=False)}, AGAIN, "bad_key", True, False),
    "no source of keys": (
        _reply(401), {}, {"key": Key(renewed=False, problem="exit 1")}, STOP,
        "bad_key>no_new_key", False, False),
    "another key for what is no key's fault": (
        _reply(500), {}, {"key": Key(renewed=True)}, AGAIN, "server_error", True, False),
    # Checks on the answer
    "cut off, kept": (_answer("He", "length"), {}, {}, DONE, "completion", True, False),
    "cut off, retried": (
        _answer("He", "length"), {}, RETRIES, AGAIN, "truncated_output", True, False),
    "empty, failed": (_answer(""), {}, RETRIES, FAIL, "empty_output", True, False),
    "no JSON": (_answer(), {"request": ASKS_JSON}, {}, AGAIN, "invalid_output", True, False),
    "JSON": (_answer("{}"), {"request": ASKS_JSON}, {}, DONE, "completion", True, False),
    # Endpoint health
    "the failure that shows an outage": (
        _fault("connect"), LAST | {"doubts": (1, 2)}, {"evidence": _dark(ROWS_DARK - 1)}, HOLD,
        "connection>endpoint_down", False, True),
    "in flight when it went down": (
        _fault("cut"), {}, {"down": True}, HOLD, "connection>endpoint_down", False, True),
    "a probe in vain": (
        _reply(503), {}, {"down": True, "probe": True}, HOLD, "overloaded>endpoint_down", False,
        True),
    "a probe too often": (
        _reply(500), {"probes": PROBES_FREE}, {"down": True, "probe": True}, AGAIN,
        "server_error>probed_often", True, False),
    "a probe of nobody": (
        _fault("connect"), {"probes": PROBES_FREE}, {"down": True, "probe": True}, HOLD,
        "connection>endpoint_down", False, True),
    "never an answer": (
        _fault("connect"), {},
        {"down": True, "probe": True, "run_succeeded": False, "down_s": 600.0}, HOLD,
        "connection>never_answered", False, True),
    "a refused key during an outage": (
        _reply(401), {}, {"down": True, "probe": True, "succeeded": False}, STOP, "bad_key", False,
        False),
    # Other endpoints
    "nobody there, and another endpoint": (
        _fault("connect"), {}, SEVERAL, HOLD, "connection>other_endpoint", False, True),
    "a server's error, and another endpoint": (
        _reply(500), {}, SEVERAL, AGAIN, "server_error", True, False),
    "a last try, and another endpoint": (
        _reply(500), LAST, SEVERAL, HOLD, "server_error>other_endpoint", False, True),
    "unknown here": (
        _reply(410), {}, SEVERAL, HOLD, "not_found>other_endpoint", False, True),
    "unknown everywhere": (_reply(410), {}, {}, FAIL, "not_found", True, False),
    "a refused key, and another endpoint": (
        _reply(401), {}, SEVERAL | {"succeeded": False}, LEAVE, "bad_key>endpoint_left_out", False,
        True),
    "a refusal, and a free endpoint": (
        _reply(429), {}, {"elsewhere_now": True}, THROTTLE, "rate_limit>other_endpoint", False,
        True),
    "a refusal that is everybody's": (
        _reply(429), {}, {"storm": True}, THROTTLE, "rate_limit", False, True),
    "told to slow down": (
        _reply(429, "slow_down"), {}, {}, THROTTLE, "rate_limit", False, True),
    # Attempts used up
    "a last try": (
        _reply(500), LAST, {}, FAIL, "server_error>attempts_used_up", True, False),
    "a last try that costs nothing": (_reply(429), LAST, {}, THROTTLE, "rate_limit", False, False),
    # Another model
    "filtered": (
        _reply(400, "content_filter"), {}, FALLBACK, SWITCH, "content_filter>other_model", True,
        True),
    "refused by the model": (REFUSED, {}, FALLBACK, SWITCH, "completion>other_model", True, True),
    "refused, and no other model": (REFUSED, {}, {}, DONE, "completion", True, False),
    "filtered by both": (
        _reply(400, "content_filter"), {"before": failed(0)}, {"plain": False}, FAIL,
        "content_filter>first_model_stands", True, False),
    "no such other model": (
        _reply(403), {"before": failed(0)}, {"plain": False}, FAIL,
        "forbidden>no_other_model>first_model_stands", False, False),
    "the other model's answer": (
        _answer(), {"before": failed(0)}, {"plain": False}, DONE, "completion", True, False),
    # Who is to blame
    "a failure nobody can blame yet": (
        _reply(400), {}, {"withholds": True}, WITHHOLD, "invalid_request", True, False),
    "a failure of the row's own": (
        _reply(400, "content_filter"), {}, {"withholds": True}, FAIL, "content_filter", True,
        False),
    "one failure too many": (
        _reply(500), LAST | {"sent": 99},
        {"withholds": True, "repeated": _failures(ALIKE_ROWS)}, WITHHOLD,
        "server_error>attempts_used_up>repeated_failure", True, False),
    # The order, where two steps speak
    "checks before attempts": (
        _answer("He", "length"), LAST, RETRIES, FAIL, "truncated_output>attempts_used_up", True,
        False),
    "an outage before attempts": (
        _reply(500), LAST, {"down": True}, HOLD, "server_error>endpoint_down", False, True),
    "a probe too often, and attempts": (
        _reply(500), LAST | {"probes": PROBES_FREE}, {"down": True, "probe": True}, FAIL,
        "server_error>probed_often>attempts_used_up", True, False),
    "an outage before another endpoint": (
        _fault("connect"), {}, SEVERAL | {"evidence": _dark(ROWS_DARK)}, HOLD,
        "connection>endpoint_down", False, True),
    "another key before another endpoint": (
        _reply(401), {}, SEVERAL | {"succeeded": False, "key": Key(renewed=True)}, FREE,
        "bad_key>renewed_key", False, False),
    "no source of keys, and another endpoint": (
        _reply(401), {}, SEVERAL | {"key": Key(renewed=False, problem="exit 1")}, LEAVE,
        "bad_key>no_new_key>endpoint_left_out", False, True),
    "no such other model before the endpoint is left out": (
        _reply(403), {"before": failed(0)}, SEVERAL | {"plain": False}, FAIL,
        "forbidden>no_other_model>first_model_stands", False, False),
    "a wait too long, and another endpoint": (
        _reply(429, headers={"retry-after": "86400"}), {}, SEVERAL, LEAVE,
        "rate_limit>wait_too_long>endpoint_left_out", False, True),
    "a retry that was asked for, with none left": (
        _reply(500, headers={"x-should-retry": "true"}), LAST, {}, FAIL,
        "server_error>attempts_used_up", True, False),
    "another model before blame": (
        _reply(400, "content_filter"), {}, FALLBACK | {"withholds": True}, SWITCH,
        "content_filter>other_model", True, True),
    "the first model before blame": (
        _reply(500), LAST | {"before": failed(0)}, {"plain": False, "withholds": True}, FAIL,
        "server_error>attempts_used_up>first_model_stands", True, False),
}  # fmt: skip


@pytest.mark.parametrize(
    ("exchange", "row", "lane", "action", "said", "charged", "avoid"), CASES.values(), ids=CASES
)
def test_a_case(exchange, row, lane, action, said, charged, avoid):
    """What is decided, and in which words; deciding again changes nothing."""
    seen, endpoint = Row(**row), Lane(**lane)
    decision = decide(exchange, seen, endpoint)
    assert (decision.action, decision.trail) == (action, said)
    assert (decision.charged, decision.avoid) == (charged, avoid)
    assert decision.error_class == decision.verdict.error_class
    assert (decision.error_class is None) == (
        decision.verdict.completion is not None and (said.startswith("completion"))
    )
    assert decide(exchange, seen, endpoint) == decision
    assert (seen, endpoint.evidence.clean) == (Row(**row), Lane(**lane).evidence.clean)


def test_the_quick_way_of_an_answer_decides_as_the_steps_do():
    """An ordinary answer takes no step; with every step it comes out the same."""
    quick = decide(_answer(), Row(), Lane())
    slow = decide(_answer(), Row(), Lane(plain=False, output=Policy(on_empty="retry")))
    assert quick == slow
    assert isinstance(quick, Decision) and quick.http_status == 200


@pytest.mark.parametrize(
    ("exchange", "lane", "sign"),
    [
        (_answer(), {}, Sign.ANSWERED),
        (_reply(400), {}, Sign.ANSWERED),
        (_reply(429), {}, Sign.ANSWERED),
        (_answer(), {"down": True, "probe": True}, Sign.ANSWERED),
        (_answer("He", "length"), RETRIES, Sign.ANSWERED),
        (_reply(500), {}, Sign.FAILED),
        (_fault("connect"), SEVERAL, Sign.FAILED),
        (_fault("stale"), {}, Sign.NOTHING),
        (_reply(503, headers={"retry-after": "86400"}), {}, Sign.NOTHING),
        (_reply(500), {"down": True}, Sign.NOTHING),
        (_reply(500), {"down": True, "probe": True}, Sign.PROBED),
        (_fault("connect"), SEVERAL | {"evidence": _dark(ROWS_DARK)}, Sign.OUTAGE),
        (
            _fault("connect"),
            {"down": True, "probe": True, "run_succeeded": False, "down_s": 601.0},
            Sign.SILENT,
        ),
        (
            _fault("connect"),
            SEVERAL | {"down": True, "probe": True, "run_succeeded": False, "down_s": 601.0},
            Sign.PROBED,
        ),
    ],
)
def test_what_is_noted_of_the_endpoint(exchange, lane, sign):
    """Answers, failures and probes are told apart; an endpoint among others stops no run."""
    assert decide(exchange, Row(), Lane(**lane)).sign is sign


def test_a_renewed_key_is_counted_apart():
    """It replaces the rule, so that a row is not sent with one new key after the other."""
    decision = decide(_reply(401), Row(), Lane(key=Key(renewed=True)))
    assert decision.verdict.rule == RENEWED and RENEWED not in {rule.name for rule in RULES}


def test_no_source_of_keys_says_why():
    """The message has what the server said, and what the source did."""
    decision = decide(_reply(401), Row(), Lane(key=Key(renewed=False, problem="exit code 1")))
    assert decision.verdict.message == "no; and no other key could be had: exit code 1"


def test_what_an_endpoint_lacks_is_noted_even_where_no_other_has_it():
    """A row that nobody can answer does not go round in circles."""
    assert decide(_reply(410), Row(), Lane()).lacks
    assert decide(_reply(410), Row(), Lane(**SEVERAL)).lacks
    assert not decide(_reply(400), Row(), Lane(**SEVERAL)).lacks


def test_every_word_is_said_by_a_case_and_known_to_the_reader():
    """The cases above say all words; the steps declare theirs; `verify` knows the same ones."""
    said = {word for case in CASES.values() for word in case[4].split(trail.BETWEEN)[1:]}
    declared = {word for step in STEPS for word in step.words}
    of_the_verdict = {
        trail.TRIES_USED_UP,
        trail.TOLD_TO_RETRY,
        trail.TOLD_NOT_TO_RETRY,
        trail.WAIT_TOO_LONG,
        trail.REFUSED_TOO_LONG,
    }
    assert said == declared | of_the_verdict
    # The last one is not about an exchange by itself: the row has an answer already.
    assert said | {trail.KEPT_ANSWER} == set(trail.LATER) == check_trails.LATER


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_verify_accepts_every_trail(case):
    """What a decision says of itself fits the class that the ledger records."""
    exchange, row, lane, *_ = case
    decision = decide(exchange, Row(**row), Lane(**lane))
    pair = f"{decision.error_class or ''}\t{decision.trail}"
    assert check_trails.fits(pair), pair
    assert not check_trails.fits(f"{decision.error_class or ''}\t{decision.trail}>moonlight")


def test_first_words_are_error_classes_or_explained():
    """Every rule begins with its class, or with a word that the reference explains."""
    for rule in RULES:
        assert rule.said == rule.error_class or rule.said in trail.FIRST


def test_a_fault_is_of_a_known_kind():
    """Any other text is refused where the fault is made; the value is what the ledger shows."""
    with pytest.raises(ValueError, match="moonlight"):
        _fault("moonlight")
    for kind in FaultKind:
        assert _fault(kind.value).kind is kind
    decision = decide(_fault("connect"), Row(), Lane())
    assert type(decision.verdict.code) is str and decision.verdict.code == "connect"
