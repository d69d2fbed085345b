"""Make the golden run directories: what this version writes, for later versions to read.

    python tests/golden/make.py VERSION [tsv|csv|columns|trails|scores|looking]

makes VERSION/finished, failed, interrupted, killed and carrying beside this file, by the real
command against the embedded simulator; with ``tsv`` in the folder tsv-VERSION, of rows in TSV with
quotes; with ``csv`` in csv-VERSION, of what later versions read as a CSV with semicolons in a
folder that names a column; with ``columns`` in columns-VERSION, of a table with columns called like
parameters; with ``trails`` in trails-VERSION, whose ledgers lack ``decided_by``; with ``scores`` in
scores-VERSION, of runs with scores and metrics; with ``looking`` in looking-VERSION, of runs that
keep requests and have labels. A directory that
is there is never made again: a format that changes has to read it, or refuse it with a reason.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from batchrun.simulator.embedded import EmbeddedSimulator
from batchrun.simulator.latency import FixedLatency
from batchrun.simulator.plan import SimulatorOptions

HERE = Path(__file__).resolve().parent
ROWS = 12
QUOTED = '''id\tquestion
0\t"over
two lines"
1\t"a ""word"""
2\tplain
3\t"tab\tinside"
4\tplain
5\t"never closed
6\tplain
7\t"over
three
lines"
8\tplain
9\tplain
'''
SEMICOLONS = (
    "question;answer\n" + "".join(f"q{n};a{n}\n" for n in range(ROWS - 1)) + '"never;closed\n'
)
SCORES = """\
[scores]
long = "len(content) > 150"
length = { sql = "len(content)", errors = "skip" }
[metrics]
long = "avg(long)"
length = "median(length)"
"""
KEPT = ("--requests", "all", "--label", "team=a", "--label", "night=20261130")
STARTED = ("--shard-rows", "4", "--model", "m", "--no-progress", "--concurrency", "1")


def main() -> None:
    """Make the directories."""
    if sys.argv[2:] == ["tsv"]:
        folder = HERE / f"tsv-{sys.argv[1]}"
        folder.mkdir()
        (folder / "rows.tsv").write_text(QUOTED)
        _make(folder, "rows.tsv", "--prompt", "{{ question }}")
        return
    if sys.argv[2:] == ["columns"]:
        folder = HERE / f"columns-{sys.argv[1]}"
        folder.mkdir()
        lines = ["question,temperature,user,note"]
        lines += [f"{'' if n == 5 else f'q{n}'},0.{n},u{n},n{n}" for n in range(ROWS)]
        (folder / "rows.csv").write_text("".join(f"{line}\n" for line in lines))
        _make(folder, "rows.csv", "--prompt", "{{ question }}")
        return
    if sys.argv[2:] == ["csv"]:
        folder = HERE / f"csv-{sys.argv[1]}"
        (folder / "rows" / "lang=de").mkdir(parents=True)
        (folder / "rows" / "lang=de" / "rows.csv").write_text(SEMICOLONS)
        _make(folder, "rows", "--prompt", "{{ question_answer }}")
        return
    kinds = ("trails", "scores", "looking")
    kind = next((kind for kind in kinds if sys.argv[2:] == [kind]), None)
    folder = HERE / (sys.argv[1] if kind is None else f"{kind}-{sys.argv[1]}")
    folder.mkdir()
    rows: list[dict[str, object]] = [
        {
            "messages": [{"role": "user", "content": f"question {n}"}],
            "custom_id": f"id-{n}",
            "note": n,
        }
        for n in range(ROWS)
    ]
    rows[5] = {"note": 5}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if kind == "scores":
        (folder / "scores.toml").write_text(SCORES)
        _make(folder, "rows.jsonl", "-c", "scores.toml")
        return
    if kind == "looking":
        _make(folder, "rows.jsonl", *KEPT)
        return
    _make(folder, "rows.jsonl")
    if kind == "trails":
        return
    # Input columns under names that a later version gave to columns of its own.
    lines = ["q,media,model_asked,usage_raw", *(f"q{n},m{n},x,u" for n in range(ROWS))]
    (folder / "rows.csv").write_text("".join(f"{line}\n" for line in lines))
    with EmbeddedSimulator(SimulatorOptions()) as endpoint:
        given = ("rows.csv", "--prompt", "{{ q }}", "--limit", "8")
        assert _start(folder, "carrying", endpoint, *given).wait(60) == 0


def _make(folder: Path, *given: str) -> None:
    with EmbeddedSimulator(SimulatorOptions(error_rates={"500": 0.2}, seed=2)) as endpoint:
        assert _start(folder, "finished", endpoint, *given).wait(60) == 1
    with EmbeddedSimulator(SimulatorOptions(error_rates={"500": 0.5}, seed=2)) as endpoint:
        assert _start(folder, "failed", endpoint, *given, "--max-attempts", "1").wait(60) == 1
    for name, sent, code in (
        ("interrupted", signal.SIGINT, 130),
        ("killed", signal.SIGKILL, -signal.SIGKILL),
    ):
        with EmbeddedSimulator(SimulatorOptions(latency=FixedLatency(0.2))) as endpoint:
            live = _start(folder, name, endpoint, *given)
            while endpoint.stats()["in_flight"] == 0 or _answered(endpoint) < ROWS // 2:
                time.sleep(0.01)
            live.send_signal(sent)
            assert live.wait(60) == code
        # A socket is nothing that a checkout could hold.
        (folder / name / "checkpoint" / "control.sock").unlink(missing_ok=True)


def _answered(endpoint: EmbeddedSimulator) -> int:
    counts = endpoint.stats()["by_status"]
    assert isinstance(counts, dict)
    return int(counts.get("200", 0))


def _start(
    folder: Path, name: str, endpoint: EmbeddedSimulator, *given: str
) -> subprocess.Popen[bytes]:
    shutil.rmtree(folder / name, ignore_errors=True)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "batchrun", "run", *given, "-o", name, *STARTED),
            *("--base-url", endpoint.base_url),
        ],
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
    )


if __name__ == "__main__":
    main()
