"""Writes that fail: what is said, what is kept, and how the run goes on."""

import os
import resource
import subprocess

import pytest

from batchrun.simulator.latency import FixedLatency


def _at_most(size):
    """Files of this process may grow to so many bytes."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize("size", [60_000, 250_000], ids=["the journal", "later"])
def test_a_file_that_cannot_grow_stops_the_run(cli, simulator, jsonl, published, size):
    """Exit 5 with the reason; what was committed is kept, and with room the run completes."""
    endpoint = simulator(reply_bytes=3000, latency=FixedLatency(0.005))
    command = (
        *("run", jsonl(400), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--no-progress", "--concurrency", 8, "--shard-rows", 200),
    )
    # Compiled modules would be cut off as well, and stay so for whoever imports them next.
    live = cli.start(*command, preexec_fn=_at_most(size), env={"PYTHONDONTWRITEBYTECODE": "1"})
    done = live.wait()
    assert done.code == 5, done.err
    assert "Traceback" not in done.err
    assert "File too large" in done.err or "too big" in done.err or "cannot write" in done.err
    assert "intact" in done.err or "safe" in done.err
    assert "same command" in done.err
    first = endpoint.stats()["by_status"]["200"]
    assert 0 < first < 400
    resumed = cli(*command)
    assert resumed.code == 0, resumed.err
    again = endpoint.stats()["by_status"]["200"] - 400
    assert 0 <= again <= 120, f"{again} answers were lost, {first} had come"
    assert published(cli.folder / "run")["row"].to_pylist() == list(range(400))
    cli.verified("run")


def test_parts_that_cannot_be_written_leave_the_rows_safe(cli, simulator, jsonl, published):
    """A results folder that refuses files is exit 5; nothing is sent again once it is mended."""
    endpoint = simulator(latency=FixedLatency(0.02))
    (cli.folder / "run").mkdir()
    (cli.folder / "run" / "results").mkdir()
    (cli.folder / "run" / "results" / ".part-00000000.parquet.tmp").mkdir()
    command = (
        *("run", jsonl(30), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--no-progress", "--shard-rows", 10),
    )
    done = cli(*command)
    assert done.code == 5, done.err
    assert "Traceback" not in done.err
    asked = endpoint.stats()["requests_total"]
    (cli.folder / "run" / "results" / ".part-00000000.parquet.tmp").rmdir()
    assert cli(*command).code == 0
    assert endpoint.stats()["requests_total"] == 30
    assert asked <= 30
    assert published(cli.folder / "run").num_rows == 30
    cli.verified("run")


@pytest.fixture
def small_disk(cli):
    """A disk of 512 KiB at ``run``, where one may be mounted."""
    folder = cli.folder / "run"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    cli.close()
    subprocess.run(["umount", folder], check=True)


def _grow(folder):
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)


def test_a_full_disk_stops_the_run(cli, simulator, jsonl, small_disk, published):
    """A disk that fills up midway is exit 5; with room the run completes and verifies."""
    endpoint = simulator(reply_bytes=3000, latency=FixedLatency(0.005))
    command = (
        *("run", jsonl(300), "-o", "run", "--model", "m", "--base-url", endpoint.base_url),
        *("--no-progress", "--concurrency", 8, "--shard-rows", 100, "--min-free-disk", 0),
    )
    done = cli(*command)
    assert done.code == 5, done.err
    assert "No space left" in done.err or "full" in done.err
    assert "same command" in done.err
    _grow(small_disk)
    resumed = cli(*command)
    assert resumed.code == 0, resumed.err
    assert endpoint.stats()["by_status"]["200"] <= 300 + 120
    assert published(small_disk)["row"].to_pylist() == list(range(300))
    cli.verified("run")


@pytest.mark.parametrize("room", [0, 4096, 16_384, 32_768])
def test_a_disk_that_is_full_from_the_start(cli, simulator, jsonl, small_disk, room):
    """Next to no room is a clear message and an exit code of ours, never a crash."""
    endpoint = simulator()
    filler = small_disk / "results"
    filler.mkdir()
    with (filler / "filler").open("wb", buffering=0) as file:
        size = 512 * 1024 - room
        while size > 0:
            try:
                size -= file.write(b"x" * min(size, 4096))
            except OSError:
                break
    command = (jsonl(20), "-o", "run", "--no-progress", "--base-url", endpoint.base_url)
    done = cli.run(*command, "--min-free-disk", 0)
    assert done.code in (2, 5), f"{done.code}: {done.err}"
    assert "Traceback" not in done.err
    assert "run" in done.err
    (filler / "filler").unlink()
    again = cli.run(*command, "--min-free-disk", 0)
    assert again.code == 0, again.err
    cli.verified("run")


@pytest.mark.skipif(os.getuid() != 0, reason="a mount of one's own takes root")
def test_a_read_only_output_is_refused(cli, simulator, jsonl, small_disk):
    """A place that takes no files is exit 2 before anything is sent."""
    endpoint = simulator()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        done = cli.run(
            *(jsonl(2), "-o", "run/here", "--base-url", endpoint.base_url, "--min-free-disk", 0)
        )
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert done.code == 2, done.err
    assert "run/here" in done.err and "Read-only" in done.err
    assert endpoint.stats()["requests_total"] == 0


def test_reading_commands_need_no_permission_to_write(cli, simulator, jsonl, small_disk):
    """Status and verify work on a read-only copy."""
    endpoint = simulator()
    command = (jsonl(2), "-o", "run/a", "--base-url", endpoint.base_url, "--min-free-disk", 0)
    assert cli.run(*command).code == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        status, verify = cli("status", "run/a"), cli("verify", "run/a")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert (status.code, verify.code) == (0, 0), status.err + verify.out
