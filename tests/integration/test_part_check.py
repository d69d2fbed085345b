"""Every start looks at the published parts: what was cut off or replaced stops it, with a name."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from tests.harness.slow import rest_slow

ROWS = [
    {"messages": [{"role": "user", "content": f"q{n}"}], "custom_id": str(n)} for n in range(30)
]
SHARD = ("--shard-rows", "10", "--model", "m", "--no-progress")


@pytest.fixture
def run(cli, jsonl, simulator):
    """A finished run of 30 rows in three parts; calling it gives what the same command does."""
    endpoint = simulator()
    source = jsonl(ROWS)
    command = ("run", source, "-o", "run", *SHARD, "--base-url", endpoint.base_url)
    assert cli(*command).code == 0

    def again(*more):
        return cli(*command, *more)

    again.folder = cli.folder / "run"
    again.cli = cli
    again.sent = lambda: endpoint.stats()["requests_total"]
    return again


def _part(run, kind, number=1):
    return run.folder / kind / f"part-{number:08d}.parquet"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path):
    path.write_bytes(b"")


def _halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_shard(path):
    shutil.copy(path.with_name("part-00000000.parquet"), path)


def _other_rows(path):
    pq.write_table(pq.read_table(path, partitioning=None).slice(1), path)


def _same_length(path):
    """Another Parquet file of the same rows and length: its footer differs."""
    size = path.stat().st_size
    pq.write_table(pq.read_table(path, partitioning=None), path, compression="none")
    data = path.read_bytes()
    assert len(data) > size
    path.write_bytes(data[len(data) - size :])


def _removed(path):
    path.unlink()


DAMAGES = (_cut, _empty, _halve, _other_shard, _other_rows, _same_length, _removed)


@pytest.mark.parametrize("kind", ["results", "attempts"])
@pytest.mark.parametrize("damage", rest_slow(DAMAGES, 3), ids=lambda damage: damage.__name__)
def test_a_part_that_is_not_what_was_published(run, kind, damage):
    """Exit code 2 names the file, nothing is sent or changed; --repair mends it."""
    path = _part(run, kind)
    damage(path)
    summary = (run.folder / "summary.json").read_bytes()
    sent = run.sent()
    done = run()
    assert done.code == 2 and f"{kind}/{path.name} is damaged" in done.err, done.err
    assert "--repair" in done.err
    assert run.sent() == sent and (run.folder / "summary.json").read_bytes() == summary
    assert run("--repair").code == 0
    run.cli.verified("run")
    assert run.sent() == sent + (10 if kind == "results" else 0)
    assert run().code == 0


def test_a_part_that_nobody_published(run):
    """It would be read with the others: the start names it, --repair sets it aside."""
    shutil.copy(_part(run, "results", 0), _part(run, "results", 7))
    done = run()
    assert done.code == 2 and "part-00000007.parquet is damaged: no record" in done.err
    assert run("--repair").code == 0
    assert not _part(run, "results", 7).exists()


def test_a_copy_of_the_directory_is_the_same(run, cli):
    """Times and owners are not compared: a restored backup goes on."""
    shutil.copytree(run.folder, cli.folder / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(run.folder)
    (cli.folder / "copy").rename(run.folder)
    assert run().code == 0
    cli.verified("run")


def test_a_retry_and_a_resume_record_what_they_publish(run, jsonl, cli):
    """Parts that were replaced are known by what they are now."""
    source = cli.folder / "rows.jsonl"
    assert run().code == 0
    more = [*ROWS, {"messages": [{"role": "user", "content": "one more"}], "custom_id": "30"}]
    source = jsonl(more)
    assert source
    assert run().code == 0
    assert run().code == 0
    _cut(_part(run, "results", 3))
    done = run()
    assert done.code == 2 and "results/part-00000003.parquet" in done.err


def test_json_tells_it_too(run):
    """For scripts: the message is in the object."""
    _cut(_part(run, "results"))
    done = run("--json")
    assert done.code == 2 and "part-00000001.parquet" in json.loads(done.out)["error"]
