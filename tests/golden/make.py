"""Make the golden run directories: what this version writes, for later versions to read.

    python tests/golden/make.py VERSION KIND

makes VERSION/finished, failed, interrupted, killed and carrying beside this file, by the real
command against the embedded simulator; with ``tsv`` in the folder tsv-VERSION, of rows in TSV with
quotes; with ``csv`` in csv-VERSION, of what later versions read as a CSV with semicolons in a
folder that names a column; with ``columns`` in columns-VERSION, of a table with columns called like
parameters; with ``trails`` in trails-VERSION, whose ledgers lack ``decided_by``; with ``scores`` in
scores-VERSION, of runs with scores and metrics; with ``chains`` in chains-VERSION, of runs that are
made from the answers of another one, beside that one (``one``); with ``judges`` in judges-VERSION,
of runs whose answers a judge rates at their end; with ``repeat`` in repeat-VERSION, of runs that
send each row three times, with metrics over these; with ``turns`` in turns-VERSION, of
conversations, of which the interrupted and the killed one each end between two turns; with
``looking`` in looking-VERSION, of runs that keep requests and have labels. A directory that is
there is never made again: a format that changes has to read it, or refuse it with a reason.
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
JUDGED = """\
[scores]
liked = '"tone.mark" >= 3'
[metrics]
liked = "avg(liked)"
mark = 'avg("tone.mark")'
[judge.tone]
config = "tone.toml"
agreement = "note"
"""
TONE = """\
[request]
model = "judge"
prompt = "Rate: {{ row.content }}"
[request.schema]
type = "object"
required = ["reason", "mark"]
additionalProperties = false
[request.schema.properties]
reason = { type = "string" }
mark = { type = "integer", minimum = 1, maximum = 5 }
[[endpoint]]
provider = "simulator"
"""
REPEATS = """\
[request]
repeat = 3
params = { seed = "{{ repeat }}" }
[scores]
long = "len(content) > 150"
[metrics]
long = "avg(long)"
any = "pass_at(long, 2)"
all = "pass_all(long, 2)"
vote = "majority(len(content) > 150, note > 5)"
"""
TURNS = ("first", "second", "third")
KEPT = ("--requests", "all", "--label", "team=a", "--label", "night=20261130")
STARTED = ("--shard-rows", "4", "--model", "m", "--no-progress", "--concurrency", "1")


def main() -> None:  # noqa: PLR0915 - one kind after the other
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
    if sys.argv[2:] == ["turns"]:
        folder = HERE / f"turns-{sys.argv[1]}"
        folder.mkdir()
        talks = [{"turns": [f"{turn} {n}" for turn in TURNS], "note": n} for n in range(ROWS)]
        talks[5] = {"turns": [], "note": 5}
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks))
        _make(folder, "rows.jsonl", "--turns", "turns", "--system", "s", answered=7)
        return
    kinds = ("trails", "scores", "chains", "judges", "repeat", "looking")
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
    if kind == "chains":
        with EmbeddedSimulator(SimulatorOptions()) as endpoint:
            assert _start(folder, "one", endpoint, "rows.jsonl").wait(60) == 1
        _make(folder, "--from", "one", "--prompt", "Check {{ row.content }} {{ note }}", code=0)
        return
    if kind == "judges":
        (folder / "judged.toml").write_text(JUDGED)
        (folder / "tone.toml").write_text(TONE)
        _make(folder, "rows.jsonl", "-c", "judged.toml")
        return
    if kind == "scores":
        (folder / "scores.toml").write_text(SCORES)
        _make(folder, "rows.jsonl", "-c", "scores.toml")
        return
    if kind == "repeat":
        (folder / "repeat.toml").write_text(REPEATS)
        _make(folder, "rows.jsonl", "-c", "repeat.toml")
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


def _make(folder: Path, *given: str, code: int = 1, answered: int = ROWS // 2) -> None:
    with EmbeddedSimulator(SimulatorOptions(error_rates={"500": 0.2}, seed=2)) as endpoint:
        assert _start(folder, "finished", endpoint, *given).wait(60) == code
    with EmbeddedSimulator(SimulatorOptions(error_rates={"500": 0.5}, seed=2)) as endpoint:
        assert _start(folder, "failed", endpoint, *given, "--max-attempts", "1").wait(60) == 1
    for name, sent, ended in (
        ("interrupted", signal.SIGINT, 130),
        ("killed", signal.SIGKILL, -signal.SIGKILL),
    ):
        with EmbeddedSimulator(SimulatorOptions(latency=FixedLatency(0.2))) as endpoint:
            live = _start(folder, name, endpoint, *given)
            while endpoint.stats()["in_flight"] == 0 or _answered(endpoint) < answered:
                time.sleep(0.01)
            time.sleep(0.1)  # what was answered is durable
            live.send_signal(sent)
            assert live.wait(60) == ended
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
