import pytest

from batchrun.simulator.limit_headers import write_duration
from batchrun.simulator.limits import Limits, write_seconds


def _limits(rpm=None, tpm=None, *, rpm_window_s=1.0, tpm_window_s=1.0):
    return Limits(rpm=rpm, tpm=tpm, rpm_window_s=rpm_window_s, tpm_window_s=tpm_window_s, now_s=0.0)


def test_one_window_may_come_at_once():
    """600 per minute admit 10 requests at once and then one per 0.1 s."""
    gate = _limits(rpm=600)
    assert [gate.admit(1, 0.0) is None for _ in range(12)] == [True] * 10 + [False] * 2
    assert gate.admit(1, 0.099) is not None
    assert gate.admit(1, 0.1) is None
    assert gate.admit(1, 0.1) is not None


def test_the_rate_holds_over_any_stretch():
    """A client that hammers gets the rate and one window, no more and no less."""
    gate = _limits(rpm=600)
    admitted = sum(gate.admit(1, step / 1000) is None for step in range(30_000))
    assert admitted == pytest.approx(10 + 300, abs=1)


def test_idle_time_is_not_saved_up():
    """After an hour without requests still one window's worth may come at once."""
    gate = _limits(rpm=600)
    assert sum(gate.admit(1, 3600.0) is None for _ in range(100)) == 10


def test_the_told_wait_suffices():
    """A refused client that comes back after the told wait passes."""
    gate = _limits(rpm=7, tpm=977)
    now = 0.0
    for _ in range(200):
        refusal = gate.admit(15, now)
        if refusal is not None:
            now += float(write_seconds(refusal.wait_s))
            assert gate.admit(15, now) is None


def test_a_rate_below_one_per_window_still_admits():
    """The bucket holds at least one request: rpm 3 admits one per 20 s."""
    gate = _limits(rpm=3)
    assert gate.headers(0.0)["x-ratelimit-remaining-requests"] == "1"
    assert gate.admit(1, 0.0) is None
    refusal = gate.admit(1, 0.0)
    assert refusal.kind == "requests"
    assert refusal.wait_s == pytest.approx(20)


def test_refused_requests_cost_nothing():
    """A refusal by one limit leaves the other bucket as it was."""
    gate = _limits(rpm=600, tpm=60_000)
    assert gate.admit(1000, 0.0) is None
    for _ in range(50):
        assert gate.admit(1000, 0.0).kind == "tokens"
    assert gate.headers(0.0)["x-ratelimit-remaining-requests"] == "9"


def test_a_request_above_the_window_leaves_a_debt():
    """It waits for a full bucket, passes, and the next one waits for the whole of it."""
    gate = _limits(tpm=60_000)
    assert gate.admit(5000, 0.0) is None
    assert gate.headers(0.0)["x-ratelimit-remaining-tokens"] == "0"
    assert gate.admit(1, 0.0).wait_s == pytest.approx(4.001)
    assert gate.admit(1, 4.001) is None


def test_a_request_above_the_minute_can_never_pass():
    """More tokens than a minute has are refused without a wait."""
    refusal = _limits(tpm=1000).admit(1001, 0.0)
    assert (refusal.kind, refusal.requested, refusal.wait_s) == ("tokens", 1001, None)


def test_a_wider_window_admits_a_larger_burst():
    """With a window of 60 s a whole minute's requests may come at once."""
    gate = _limits(rpm=30, rpm_window_s=60)
    assert sum(gate.admit(1, 0.0) is None for _ in range(40)) == 30


def test_headers_name_the_limits_that_are_set():
    """Limit per minute, what is left, and the time until the bucket is full."""
    gate = _limits(rpm=600, tpm=1e6)
    gate.admit(1000, 0.0)
    assert gate.headers(0.0) == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-tokens": "15666",
        "x-ratelimit-reset-tokens": "60ms",
    }
    assert _limits().headers(0.0) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (1, "1s"),
        (7.66, "7.66s"),
        (360, "6m0s"),
        (179.56, "2m59.56s"),
        (3723, "1h2m3s"),
        (7200, "2h0m0s"),
    ],
)
def test_durations_are_written_as_go_prints_them(seconds, text):
    """The forms that OpenAI's reset headers have."""
    assert write_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0.2"), (3.0, "3"), (0.0001, "0.001")])
def test_retry_after_is_rounded_up(seconds, text):
    """Never shorter than the wait."""
    assert write_seconds(seconds) == text


def _counted(counting, **limits):
    windows = {"rpm_window_s": None, "tpm_window_s": None}
    return Limits(**{"rpm": None, "tpm": None, **windows, **limits}, now_s=0.0, counting=counting)


def test_a_sliding_window_counts_any_window():
    """60 per minute: whatever was admitted in the last 60 s counts, however it is spread."""
    gate = _counted("sliding", rpm=60)
    assert all(gate.admit(1, now) is None for now in [0.0] * 30 + [50.0] * 30)
    assert gate.admit(1, 59.9).wait_s == pytest.approx(0.1)
    assert sum(gate.admit(1, 60.0) is None for _ in range(40)) == 30
    assert gate.admit(1, 60.0).wait_s == pytest.approx(50)


def test_a_fixed_window_begins_anew():
    """60 per minute: a client that sends at the border gets two minutes' worth at once."""
    gate = _counted("fixed", rpm=60)
    assert sum(gate.admit(1, 59.0) is None for _ in range(100)) == 60
    assert gate.admit(1, 59.0).wait_s == pytest.approx(1)
    assert sum(gate.admit(1, 60.0) is None for _ in range(100)) == 60


@pytest.mark.parametrize("counting", ["sliding", "fixed"])
def test_windows_have_the_length_that_is_set(counting):
    """With a window of 2 s, 600 per minute are 20 at once."""
    gate = _counted(counting, rpm=600, rpm_window_s=2.0)
    assert sum(gate.admit(1, 0.0) is None for _ in range(100)) == 20
    assert gate.admit(1, 1.9) is not None
    assert sum(gate.admit(1, 2.0) is None for _ in range(100)) == 20


@pytest.mark.parametrize("counting", ["bucket", "sliding", "fixed"])
def test_the_told_wait_suffices_in_every_counting(counting):
    """A refused client that comes back after the told wait passes, whatever it asks for."""
    gate = _counted(counting, rpm=70, tpm=977, rpm_window_s=10.0, tpm_window_s=10.0)
    now = 0.0
    for number in range(200):
        cost = 15 + 37 * number % 300
        refusal = gate.admit(cost, now)
        if refusal is not None:
            now += float(write_seconds(refusal.wait_s))
            assert gate.admit(cost, now) is None


@pytest.mark.parametrize("counting", ["sliding", "fixed"])
def test_a_request_above_the_window_passes_alone(counting):
    """It waits until nothing else counts, and then it is admitted."""
    gate = _counted(counting, tpm=60_000, tpm_window_s=1.0)
    assert gate.admit(10, 0.0) is None
    assert gate.admit(5000, 0.5).wait_s == pytest.approx(0.5)
    assert gate.admit(5000, 1.0) is None
    assert gate.admit(1, 1.5) is not None


@pytest.mark.parametrize("counting", ["bucket", "sliding", "fixed"])
def test_a_rate_can_change_and_be_lifted(counting):
    """A lower rate counts what was admitted before; without a rate everything passes."""
    gate = _counted(counting, rpm=600, rpm_window_s=1.0, tpm_window_s=1.0)
    assert sum(gate.admit(1, 0.0) is None for _ in range(100)) == 10
    gate.set_rate("requests", 300, 0.0)
    assert gate.admit(1, 0.0) is not None
    assert sum(gate.admit(1, 10.0) is None for _ in range(100)) == 5
    gate.set_rate("requests", None, 10.0)
    assert all(gate.admit(1, 10.0) is None for _ in range(100))
    gate.set_rate("tokens", 600, 10.0)
    assert gate.admit(10, 10.0) is None
    assert gate.admit(10, 10.0) is not None
