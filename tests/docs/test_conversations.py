"""The blocks of docs/conversations.md run as they stand, and its tables hold."""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from batchrun.core.settings.table import BY_NAME

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conversations.md").read_text("utf-8")


def _blocks(fence):
    return re.findall(rf"^```{re.escape(fence)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_blocks_run(cli):
    """The commands do what the page says of them: the exchange by turns, sums, turns of the ledger,
    an estimate that has more than the first turns.
    """
    (rows,) = _blocks("json file=talks.jsonl")
    (cli.folder / "talks.jsonl").write_text(rows)
    done = cli.shell("".join(_blocks("sh run")))
    assert done.returncode == 0, done.stderr
    assert "TURN 3" in done.stdout and "verified" in done.stdout
    said = pq.read_table(cli.folder / "talks" / "results").to_pylist()
    ledger = pq.read_table(cli.folder / "talks" / "attempts").to_pylist()
    for row, line in zip(said, rows.splitlines(), strict=True):
        turns = json.loads(line)["turns"]
        mine = [attempt for attempt in ledger if attempt["row"] == row["row"]]
        assert [attempt["turn"] for attempt in mine] == list(range(1, len(turns) + 1))
        assert row["total_tokens"] == sum(attempt["total_tokens"] for attempt in mine)
        exchange = json.loads(row["messages"])
        assert exchange[0]["role"] == "system"
        assert [message["content"] for message in exchange[1::2]] == turns


def test_what_it_names_is_there():
    """The setting by its three names, and the policies of answers."""
    setting = BY_NAME["request.turns"]
    assert setting.flag in PAGE and f"`{setting.keyword}=`" in PAGE
    for name in ("output.on_truncation", "output.on_empty", "output.fallback_model"):
        assert BY_NAME[name].flag in PAGE
