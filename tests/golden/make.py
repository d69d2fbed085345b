"""Make the golden run directories: what this version writes, for later versions to read.

    python tests/golden/make.py VERSION

makes VERSION/finished, VERSION/failed, VERSION/interrupted and VERSION/killed beside this file, by
the real command against the embedded simulator. A directory that is there is never made again: a
format that changes has to read it, or refuse it with a reason.
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
STARTED = ("--shard-rows", "4", "--model", "m", "--no-progress", "--concurrency", "1")


def main() -> None:
    """Make the directories."""
    folder = HERE / sys.argv[1]
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
    with EmbeddedSimulator(SimulatorOptions(error_rates={"500": 0.2}, seed=2)) as endpoint:
        assert _start(folder, "finished", endpoint).wait(60) == 1
    with EmbeddedSimulator(SimulatorOptions(error_rates={"500": 0.5}, seed=2)) as endpoint:
        assert _start(folder, "failed", endpoint, "--max-attempts", "1").wait(60) == 1
    for name, sent, code in (
        ("interrupted", signal.SIGINT, 130),
        ("killed", signal.SIGKILL, -signal.SIGKILL),
    ):
        with EmbeddedSimulator(SimulatorOptions(latency=FixedLatency(0.2))) as endpoint:
            live = _start(folder, name, endpoint)
            while endpoint.stats()["in_flight"] == 0 or _answered(endpoint) < ROWS // 2:
                time.sleep(0.01)
            live.send_signal(sent)
            assert live.wait(60) == code


def _answered(endpoint: EmbeddedSimulator) -> int:
    counts = endpoint.stats()["by_status"]
    assert isinstance(counts, dict)
    return int(counts.get("200", 0))


def _start(
    folder: Path, name: str, endpoint: EmbeddedSimulator, *more: str
) -> subprocess.Popen[bytes]:
    shutil.rmtree(folder / name, ignore_errors=True)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "batchrun", "run", "rows.jsonl", "-o", name, *STARTED),
            *("--base-url", endpoint.base_url, *more),
        ],
        cwd=folder,
        env=os.environ | {"HOME": str(folder)},
    )


if __name__ == "__main__":
    main()
