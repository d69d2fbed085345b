"""What ``--engine ray`` decides before there is a cluster, and what a worker checks before it
begins; Ray itself is not needed for these.
"""

import os
import sys
from dataclasses import replace

import pytest

from batchrun import __version__
from batchrun.cli.workers import Launching
from batchrun.errors import UsageError
from batchrun.fleet import ray_cluster
from batchrun.fleet.launcher import worker_arguments
from batchrun.fleet.ray_cluster import Cluster
from batchrun.fleet.ray_worker import Call, Switchboard, refused


@pytest.fixture
def call(tmp_path):
    """A call that can be run in this process."""
    marker = tmp_path / "marker"
    marker.touch()
    return Call(("run",), 2, str(tmp_path), str(marker), {}, __version__, 0.5)


@pytest.fixture
def somewhere(monkeypatch, tmp_path):
    """A working directory that may change."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("somewhere")
def test_a_worker_on_the_commands_disk_begins(call):
    """It enters the command's folder."""
    os.chdir("/")
    assert refused(call) is None
    assert os.getcwd() == call.folder  # noqa: PTH109 - what the process has


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "0.0.1"}, "every node of the cluster needs the same version"),
        ({"folder": "/nowhere/at/all"}, "No such file or directory"),
        ({"marker": "/tmp/another-disk/marker"}, "/tmp/another-disk on "),  # noqa: S108
    ],
)
def test_a_worker_on_another_disk_does_not_begin(call, change, said):
    """A node with a folder of the same name would otherwise do the whole run for itself."""
    found = refused(replace(call, **change))
    assert said in found
    assert "version" in change or "a disk that all nodes share" in found


@pytest.mark.usefixtures("somewhere")
def test_an_object_store_needs_no_marker(call):
    """It is the same on every node."""
    assert refused(replace(call, marker="")) is None


def test_the_marker_is_next_to_the_run_directory(tmp_path):
    """Where ``--restart`` does not move it away; it is gone when the command ends."""
    with ray_cluster._marked(str(tmp_path / "deep" / "run")) as marker:
        assert os.path.dirname(marker) == str(tmp_path)  # noqa: PTH120 - as it is shipped
        assert os.path.exists(marker)  # noqa: PTH110
    assert not list(tmp_path.iterdir())
    with ray_cluster._marked("s3://bucket/run") as marker:
        assert marker == ""


def test_keys_are_shipped_and_machines_are_not():
    """What the command's environment has, without what is about the machine that it is typed on."""
    given = {"OPENAI_API_KEY": "k", "HTTPS_PROXY": "p", "SLURM_ARRAY_JOB_ID": "7"}
    machine = {"PATH": "/x", "HOME": "/y", "PYTHONPATH": "z", "RAY_ADDRESS": "a", "LD_PRELOAD": "b"}
    assert ray_cluster.shipped(given | machine) == given


def test_the_launchers_flags_are_not_the_workers():
    """In either spelling; the others are passed on in their order."""
    given = ["rows", "--engine", "ray", "--workers=4", "--address", "a:1", "--worker-cpus=2"]
    assert worker_arguments(["run", *given, "-o", "run", "--json"]) == [
        *("run", "rows", "-o", "run", "--no-progress"),
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"engine": "ray"}, "--engine requires --workers"),
        ({"workers": 2, "address": "a:1"}, "--address requires --engine ray"),
        ({"workers": 2, "worker_cpus": 2.0}, "--worker-cpus requires --engine ray"),
    ],
)
def test_a_flag_without_its_other_is_refused(flags, said):
    """It would do nothing."""
    none = dict.fromkeys(("shard", "workers", "engine", "address", "worker_cpus"))
    with pytest.raises(UsageError, match=said):
        Launching(**none | flags).require()


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (Cluster("ray://head:10001"), "ray job submit"),
        (Cluster(worker_cpus=-1.0), "--worker-cpus must be 0 or more, not -1"),
        (Cluster(worker_cpus=float("inf")), "--worker-cpus must be 0 or more, not inf"),
        (Cluster(worker_cpus=float("nan")), "--worker-cpus must be 0 or more, not nan"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(cluster, said):
    """Before anything is started."""
    with pytest.raises(UsageError, match=said):
        ray_cluster.require(cluster)


def test_without_ray_the_command_says_what_to_install(monkeypatch):
    """The extra, by its name."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'batchrun-llm\[ray\]'"):
        ray_cluster.require(Cluster())


def test_the_command_without_ray_ends_with_code_2(cli, jsonl):
    """And makes nothing."""
    stub = cli.folder / "stub"
    stub.mkdir()
    (stub / "ray.py").write_text("raise ImportError('not here')\n")
    done = cli.fresh(
        *("run", jsonl(2), "-o", "run", "--provider", "simulator", "--model", "m"),
        *("--engine", "ray", "--workers", "2"),
        env={"PYTHONPATH": os.pathsep.join([str(stub), os.getcwd()])},  # noqa: PTH109
    )
    assert (done.code, "pip install 'batchrun-llm[ray]'" in done.err) == (2, True), done.err
    assert not (cli.folder / "run").exists()


def test_the_switchboard_hands_on_signals_and_lines():
    """Each worker learns of every signal; each line is fetched once."""
    board = Switchboard()
    assert board.report(1, 11, ["a", "b"]) == ()
    assert board.exchange((2,)) == (["a", "b"], {1: 11})
    assert board.report(2, 12, []) == (2,)
    assert board.exchange((2, 15)) == ([], {1: 11, 2: 12})
    assert board.report(1, 11, ["c"]) == (2, 15)
