"""A real llama.cpp server with four slots: the concurrency that it can use is found."""

import statistics

import pytest

from tests.harness import courses

SLOTS = 4
ROW_TOKENS = 8


def _rows(path, count):
    return courses.rows(path, count, lambda _: ROW_TOKENS)


@pytest.mark.parametrize("metrics", [True, False], ids=["with its metrics", "by replies alone"])
def test_as_much_comes_out_as_with_the_best_fixed_concurrency(tmp_path, llama, metrics):
    """At least 0.95 of the best of five fixed ones in the second half, and the summary says which
    concurrency was found.
    """
    url = llama(slots=SLOTS, metrics=metrics)
    fixed = {}
    for number in (1, 2, 4, 8, 16):
        course = courses.run(
            *(_rows(tmp_path / "rows.jsonl", 2000), url, tmp_path / f"fixed-{number}"),
            *(["--concurrency", number], 12),
        )
        fixed[number] = course.answers(3, 12)
    course = courses.run(_rows(tmp_path / "rows.jsonl", 9000), url, tmp_path / "run", [], 90)
    last_s = max(exchange.back_s for exchange in course.exchanges) - 1
    found = course.answers(last_s / 2, last_s)
    window = course.summary["endpoints"]["default"]["window"]
    settled = statistics.median(course.concurrency(last_s / 2, last_s))
    print(f"fixed {fixed}, auto {found} at {settled}, {window}")  # noqa: T201 - pytest -s shows it
    assert found >= 0.95 * max(fixed.values()), fixed
    assert settled <= 4 * SLOTS
    assert window["concurrency"] <= 5 * SLOTS
    assert (window["server_running"] is not None) is metrics
