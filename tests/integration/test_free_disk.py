"""The guard of free space, on real small disks: what is refused, stopped, warned of, and kept."""

import shutil
import subprocess

import pytest

from batchrun.simulator.latency import FixedLatency

ROWS = 600


@pytest.fixture
def disk(cli):
    """Mounts a disk of some KiB at a folder, where one may be mounted; returns its folder."""
    mounted = []

    def mount(name, kib):
        folder = cli.folder / name
        folder.mkdir(parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=0700", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    cli.close()
    for folder in reversed(mounted):
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def command(simulator, jsonl):
    """A run that writes about 0.7 MB in a second, and its endpoint. The disk is looked at twice in
    that time: it is seen with too little room for all rows before it has too little for a few.
    """
    endpoint = simulator(reply_bytes=3000, latency=FixedLatency(0.02))
    rows = jsonl(ROWS)
    return endpoint, (
        *(rows, "-o", "run", "--base-url", endpoint.base_url, "--no-progress"),
        *("--concurrency", 2, "--shard-rows", 1000),
    )


def _line(said, start):
    [found] = [line for line in said.splitlines() if line.startswith(start)]
    return found


def _grow(folder):
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)


def test_the_run_stops_before_the_disk_is_full(cli, disk, command, summary, published):
    """Exit 3 with everything answered in the parts and the bound still free; with room, it ends."""
    folder, (endpoint, arguments) = disk("run", 6 * 1024), command
    bound = 2 * 2**20
    done = cli.run(*arguments, "--min-free-disk", bound)
    assert done.code == 3, done.err
    found = summary(folder)
    assert (found["status"], found["stopped_by"]) == ("stopped", "min_free_disk")
    answered = endpoint.stats()["by_status"]["200"]
    assert endpoint.stats()["given_up"] == 0
    assert found["rows"] == {"input": ROWS, "ok": answered, "error": 0, "pending": ROWS - answered}
    assert published(folder).num_rows == answered > 0
    assert shutil.disk_usage(folder).free >= bound
    cli.verified("run")
    said = _line(done.err, "batchrun: ")
    for part in (
        "run has ",
        " free (",
        "--min-free-disk 2 MiB",
        "rows left need about",
        "Make room",
    ):
        assert part in said, said
    assert "to resume: batchrun run" in done.err
    warning = _line(done.err, "warning: the ")
    assert "rows left need about" in warning and "make room" in warning
    _grow(folder)
    again = cli.run(*arguments, "--min-free-disk", bound, "--concurrency", 32)
    assert again.code == 0, again.err
    assert "warning" not in again.err
    assert endpoint.stats()["requests_total"] == ROWS
    assert published(folder)["row"].to_pylist() == list(range(ROWS))
    cli.verified("run")


def test_a_full_checkpoint_disk_counts_too(cli, disk, command, summary):
    """The checkpoint on a small disk of its own, the parts on a large one: the logs' disk stops
    the run, which is not asked for room that only parts need.
    """
    folder, (_, arguments) = disk("cp", 1536), command
    arguments = (*arguments, "--checkpoint", "cp")
    done = cli.run(*arguments, "--min-free-disk", "300KiB")
    assert done.code == 3, done.err
    assert "cp has " in done.err
    assert summary(cli.folder / "run")["rows"]["ok"] > 0
    cli.verified("run")
    _grow(folder)
    assert cli.run(*arguments, "--min-free-disk", "300KiB", "--concurrency", 32).code == 0


def test_too_little_from_the_start_sends_nothing(cli, disk, command, jsonl):
    """Exit 2 with path, figures and remedy; nothing is made, and 0 turns the guard off."""
    folder, (endpoint, arguments) = disk("run", 2048), command
    done = cli.run(*arguments, "--min-free-disk", "4MiB")
    assert done.code == 2, done.err
    assert "run has 2 MiB free" in done.err and "--min-free-disk 4 MiB" in done.err
    assert "Nothing was sent" in done.err
    assert list(folder.iterdir()) == []
    assert endpoint.stats()["requests_total"] == 0
    off = cli.run(*arguments, "--min-free-disk", 0, "--limit", 5)
    assert off.code == 0, off.err
    few = (jsonl(3, name="few.jsonl"), *arguments[1:], "-o", "run/few")
    assert cli.run(*few, "--min-free-disk", 0).code == 0
    finished = cli.run(*few, "--min-free-disk", "4MiB")
    assert finished.code == 0 and "nothing left to send" in finished.err, finished.err
    default = cli.run(*arguments)
    assert default.code == 2 and "--min-free-disk 256 MiB" in default.err


def test_what_a_kill_left_must_fit_too(cli, disk, command, simulator, until):
    """A journal that cannot be published in what is free is refused before anything is sent."""
    folder, (_, arguments), other = disk("run", 4096), command, simulator()
    live = cli.start("run", "--model", "m", *arguments, "--min-free-disk", 0, "--concurrency", 32)
    until(lambda: shutil.disk_usage(folder).used > 1536 * 1024)
    live.kill()
    free = shutil.disk_usage(folder).free
    asking = ("--base-url", other.base_url, "--min-free-disk", free - 2**20)
    done = cli.run(*arguments, *asking)
    assert done.code == 2, done.err
    assert "writing the answers at hand may take" in done.err
    assert other.stats()["requests_total"] == 0
    _grow(folder)
    assert cli.run(*arguments, "--min-free-disk", 2**20, "--concurrency", 32).code == 0
    cli.verified("run")
