"""What runs batchrun elsewhere: the image, the units of systemd, the workflows of GitHub."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "contrib" / "systemd"
WORKFLOWS = [
    ROOT / "contrib" / "github" / "nightly.yml",
    ROOT / ".github" / "workflows" / "test.yml",
]
TRIGGERS = {"schedule", "workflow_dispatch", "push", "pull_request"}
STEP_KEYS = {"uses", "run", "with", "env", "if", "name", "id", "shell", "working-directory"}
JOB_KEYS = {"runs-on", "timeout-minutes", "env", "steps", "strategy", "needs", "permissions"}


def instructions(text):
    """The instructions of a Dockerfile, by stage: lists of their words' name and the rest."""
    joined = re.sub(r"\\\n", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    stages = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stages.append([])
        stages[-1].append((name, rest.strip()))
    return stages


@pytest.fixture(scope="module")
def stages():
    """Those of the Dockerfile."""
    return instructions((ROOT / "Dockerfile").read_text("utf-8"))


def of(stage, name):
    """What follows each instruction of a name."""
    return [rest for each, rest in stage if each == name]


class TestTheImage:
    def test_it_is_built_on_a_version_that_is_named(self, stages):
        """Each base has a tag with the minor version, and not `latest`; both stages have one, or a
        compiled wheel would meet another Python.
        """
        bases = {rest.partition(" AS ")[0] for stage in stages for rest in of(stage, "FROM")}
        assert len(bases) == 1
        assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases.pop())

    def test_it_runs_as_a_user_without_privileges(self, stages):
        """The last stage names a user by number, and nothing is installed after that."""
        last = stages[-1]
        (user,) = of(last, "USER")
        assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
        after = [name for name, _ in last][[name for name, _ in last].index("USER") :]
        assert not {"RUN", "COPY", "ADD"} & set(after)

    def test_signals_reach_the_program(self, stages):
        """The entry point is a list: with a shell in between, SIGTERM would end that alone."""
        (entry,) = of(stages[-1], "ENTRYPOINT")
        assert json.loads(entry) == ["batchrun"]
        (default,) = of(stages[-1], "CMD")
        assert json.loads(default) == ["--help"]

    def test_it_takes_little_along(self, stages):
        """Compilers, caches and sources stay in the first stage: from there comes the environment
        alone, and installers keep nothing.
        """
        copied = of(stages[-1], "COPY")
        assert copied == ["--from=build /opt/batchrun /opt/batchrun"]
        assert any("PIP_NO_CACHE_DIR=1" in rest for rest in of(stages[0], "ENV"))
        assert not [stage for stage in stages if of(stage, "ADD")]

    def test_no_key_gets_in(self, stages):
        """Neither by a build argument nor by a variable: both can be read in the image."""
        names = [
            word.partition("=")[0]
            for stage in stages
            for kind in ("ARG", "ENV")
            for rest in of(stage, kind)
            for word in shlex.split(rest)
        ]
        assert names
        assert not [n for n in names if re.search("KEY|TOKEN|SECRET|PASSWORD", n.upper())]

    def test_dependencies_are_pinned(self, stages):
        """They are installed by their hashes, the package itself without asking an index."""
        runs = " ".join(of(stages[0], "RUN"))
        assert "--require-hashes -r requirements/run.txt" in runs
        assert "--no-deps --no-build-isolation ." in runs

    def test_what_it_copies_is_in_the_context(self, stages):
        """`.dockerignore` leaves out all but what is copied, and that is there."""
        kept = [
            line.removeprefix("!")
            for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
            if line.startswith("!")
        ]
        for rest in of(stages[0], "COPY"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert any(fnmatch(source, f"{one}*") for one in kept), source
        assert {
            source.split("/")[0] for rest in of(stages[0], "COPY") for source in rest.split()[:-1]
        } == set(kept)

    @pytest.mark.slow
    def test_its_steps_make_a_command(self, stages, tmp_path):
        """Each step of the first stage, in a folder in place of the image: the command it leaves
        runs the samples, also with an extra.
        """
        source, place = tmp_path / "src", tmp_path / "opt"
        source.mkdir()
        environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "EXTRAS": "eval"}
        for name, rest in stages[0]:
            if name == "COPY":
                *files, target = rest.split()
                for file in files:
                    into = source / target
                    if (ROOT / file).is_dir():
                        shutil.copytree(ROOT / file, into)
                    else:
                        into.mkdir(exist_ok=True)
                        shutil.copy(ROOT / file, into)
            elif name == "RUN":
                done = subprocess.run(
                    ["sh", "-c", rest.replace("/opt/batchrun", str(place))],
                    cwd=source,
                    env=environment,
                    capture_output=True,
                    encoding="utf-8",
                    timeout=600,
                    check=False,
                )
                if "No matching distribution" in done.stderr or "NewConnection" in done.stderr:
                    pytest.skip("no package index can be reached from here")
                assert done.returncode == 0, done.stderr
        rows = ROOT / "samples" / "chat_rows.jsonl"
        words = ["run", rows, "-o", "run", "--provider", "simulator", "--model", "m"]
        done = subprocess.run(
            [place / "bin" / "batchrun", *words, "--no-progress"],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        import_extra = [place / "bin" / "python", "-c", "import duckdb"]
        assert subprocess.run(import_extra, check=False).returncode == 0


def test_a_flaw_in_a_dockerfile_is_seen():
    """Continued lines are one instruction, comments are none."""
    (only,) = instructions("# x\nFROM a AS b\nRUN one \\\n && two\n# y\nCMD []\n")
    assert only == [("FROM", "a AS b"), ("RUN", "one  && two"), ("CMD", "[]")]


def unit(name):
    """A unit file; `systemd` takes a key several times, which none of these needs."""
    found = configparser.RawConfigParser(strict=True)
    found.optionxform = str
    found.read_string((SYSTEMD / name).read_text("utf-8"))
    return found


class TestTheUnits:
    def test_systemd_takes_them(self, tmp_path):
        """`systemd-analyze verify` has nothing to say about them."""
        if shutil.which("systemd-analyze") is None:
            pytest.skip("systemd-analyze is not installed")
        for path in SYSTEMD.iterdir():
            shutil.copy(path, tmp_path)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()],
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        ours = [line for line in done.stderr.splitlines() if "batchrun" in line]
        assert not ours
        assert done.returncode == 0, done.stderr

    def test_a_stop_leaves_time_for_what_is_in_flight(self):
        """The signal goes to batchrun alone, and systemd waits longer than `--grace`."""
        from batchrun.core.settings.table import BY_NAME

        service = unit("batchrun-nightly.service")["Service"]
        assert service["KillMode"] == "mixed"
        assert int(service["TimeoutStopSec"]) > BY_NAME["guards.grace_s"].default + 30
        assert service["TimeoutStartSec"] == "infinity"

    def test_what_may_be_tried_again_is(self):
        """A verdict, a failed row and a mistake are not; a guard, a fault and a crash are."""
        service = unit("batchrun-nightly.service")["Service"]
        assert service["Restart"] == "on-failure"
        assert service["RestartPreventExitStatus"].split() == ["1", "2", "4"]

    def test_the_command_of_the_service_runs(self, cli, tmp_path):
        """As systemd starts it: its credential is read, and a second start resumes the night."""
        start = unit("batchrun-nightly.service")["Service"]["ExecStart"]
        shell, flag, script = shlex.split(start.replace("%%", "%").replace("$$", "$"))
        assert (shell, flag) == ("/bin/sh", "-c")
        script = script.replace("/opt/batchrun/bin/batchrun", f"{sys.executable} -m batchrun")
        shutil.copytree(ROOT / "samples" / "nightly", cli.folder / "nightly")
        config = cli.folder / "nightly" / "nightly.toml"
        config.write_text(config.read_text("utf-8") + '\n[[endpoint]]\nprovider = "simulator"\n')
        (tmp_path / "openai.key").write_text("sk-test\n", "utf-8")
        for _ in range(2):
            done = subprocess.run(
                [shell, flag, script],
                cwd=cli.folder / "nightly",
                env=cli._environment({"CREDENTIALS_DIRECTORY": str(tmp_path)}),
                capture_output=True,
                encoding="utf-8",
                timeout=240,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        (night,) = (cli.folder / "nightly" / "nights").iterdir()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", night.name)

    def test_the_timer_starts_the_service(self):
        """They have one name, the timer is wanted at boot, and a missed night is made up for."""
        timer = unit("batchrun-nightly.timer")
        assert (SYSTEMD / "batchrun-nightly.service").exists()
        assert timer["Timer"]["Persistent"] == "true"
        assert timer["Install"]["WantedBy"] == "timers.target"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
class TestTheWorkflows:
    def test_it_is_a_workflow(self, path):
        """Triggers, jobs and steps have the keys that GitHub knows, and least permissions."""
        found = yaml.safe_load(path.read_text("utf-8"))
        assert set(found[True]) <= TRIGGERS  # YAML takes `on` for a truth value
        assert found["permissions"] == {"contents": "read"}
        for job in found["jobs"].values():
            assert job.keys() <= JOB_KEYS
            assert 0 < job["timeout-minutes"] <= 360
            for step in job["steps"]:
                assert step.keys() <= STEP_KEYS
                assert ("run" in step) != ("uses" in step)
                assert re.fullmatch(r"[\w-]+/[\w/-]+@v\d+", step.get("uses", "a/b@v1"))

    def test_no_expression_is_pasted_into_a_command(self, path):
        """What somebody types into a form or names a branch is no shell code: it comes by a
        variable.
        """
        found = yaml.safe_load(path.read_text("utf-8"))
        for job in found["jobs"].values():
            for step in job["steps"]:
                assert "${{" not in step.get("run", "")

    def test_its_commands_exist(self, path, cli):
        """Each `batchrun` has the flags that it is given, and each `make` its target."""
        found = yaml.safe_load(path.read_text("utf-8"))
        targets = set(
            re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        )
        commands = [
            step["run"] for job in found["jobs"].values() for step in job["steps"] if "run" in step
        ]
        assert commands
        for command in commands:
            program, *words = shlex.split(command)
            if program == "make":
                assert set(words) <= targets
            elif program == "batchrun":
                assert cli(*words, "--help").code == 0


def test_the_nightly_workflow_resumes_and_keeps_its_nights():
    """What is restored is what is saved, in every case, under a key of this attempt."""
    steps = yaml.safe_load(WORKFLOWS[0].read_text("utf-8"))["jobs"]["evaluate"]["steps"]
    (restore,) = [s for s in steps if s.get("uses", "").startswith("actions/cache/restore")]
    (save,) = [s for s in steps if s.get("uses", "").startswith("actions/cache/save")]
    assert save["if"] == "always()"
    for key in ("path", "key"):
        assert restore["with"][key] == save["with"][key]


def test_both_systems_are_tested():
    """`make test` runs on Linux and macOS, with the oldest Python supported and another."""
    jobs = yaml.safe_load(WORKFLOWS[1].read_text("utf-8"))["jobs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    assert "3.11" in matrix["python"] and len(matrix["python"]) > 1
    assert {"run": "make test"} in jobs["test"]["steps"]
