"""Processes that are held up anywhere, while the others go on: nothing is done twice or lost."""

import pytest

from tests.fleet.conftest import chats
from tests.harness.fleet_process import HELD_UP

ROWS = 90


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("more", "sent"),
    [
        pytest.param(("--restart",), dict.fromkeys(range(ROWS), 1), id="restart"),
        pytest.param(("--retry-failed",), dict.fromkeys(range(0, ROWS, 3), 1), id="retry"),
        pytest.param((), {}, id="nothing-left"),
    ],
)
def test_what_all_are_asked_for_is_done_once(fleet, cli, jsonl, asked, summary, seed, more, sent):
    """However their steps interleave, and whether they come together or one after the other."""
    endpoint, counts, _ = asked
    rows = jsonl(chats(ROWS))
    given = (
        *(rows, "-o", "run", "--base-url", endpoint.base_url, "--model", "m"),
        *("--shard-rows", 10, "--concurrency", 8, "--no-repeated-failure"),
    )
    begun = fleet.start_all(3, *given, environment={HELD_UP: str(seed)})
    assert [p.wait() for p in begun] == [1] * 3, [p.err for p in begun]
    assert counts == dict.fromkeys(range(ROWS), 1)
    counts.clear()
    counts.update(dict.fromkeys(range(ROWS), 1))
    processes = fleet.start_all(3, *given, *more, environment={HELD_UP: str(seed)})
    code = 0 if more else 1
    assert [p.wait() for p in processes] == [code] * 3, [p.err for p in processes]
    counts.subtract(dict.fromkeys(range(ROWS), 1))
    assert +counts == sent, [p.err for p in processes]
    assert len(list(fleet.folder.glob("run.old-*"))) == (more == ("--restart",))
    assert summary(fleet.folder / "run")["rows"]["ok"] == (ROWS if more else ROWS - ROWS // 3)
    cli.verified("run")
