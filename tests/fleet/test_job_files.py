"""The job files in contrib/: what their schedulers would take, and what they start is one run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import botocore.loaders
import botocore.validate
import pytest
import yaml
from botocore.model import ServiceModel

from batchrun.core.fleet.places import SCHEDULERS
from batchrun.simulator.latency import FixedLatency
from tests.conftest import PATIENCE_S, ROOT

CONTRIB = ROOT / "contrib"
SLURM = CONTRIB / "slurm" / "batchrun.sbatch"
KUBERNETES = CONTRIB / "kubernetes" / "job.yaml"
AWS, SUBMIT = (CONTRIB / "aws-batch" / f"{name}.json" for name in ("job-definition", "submit-job"))
SKYPILOT = CONTRIB / "skypilot" / "batchrun.yaml"

SBATCH = {
    "job-name": r"[\w-]+",
    "array": r"\d+-\d+",
    "ntasks": "1",
    "cpus-per-task": r"\d+",
    "mem": r"\d+[MG]",
    "time": r"(\d+-)?\d+:\d\d:\d\d",
    "requeue": None,
    "signal": r"B:TERM@\d+",
    "open-mode": "append|truncate",
    "output": r"[\w-]*%A_%a[\w.-]*",
}
"""The directives that the file uses, and their values (manual of sbatch)."""
SKYPILOT_FIELDS = {
    *("name", "num_nodes", "resources", "volumes", "envs", "secrets", "setup", "run", "workdir"),
    *("file_mounts", "service", "config"),
}
"""Source: SkyPilot's YAML reference."""


def container():
    """The one container of the Kubernetes job."""
    (found,) = yaml.safe_load(KUBERNETES.read_text())["spec"]["template"]["spec"]["containers"]
    return found


def directives():
    """The options in the Slurm script's header."""
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SLURM.read_text(), re.MULTILINE)
    assert len(lines) == SLURM.read_text().count("#SBATCH")
    return {name: value or None for name, value in lines}


def scripts():
    """By scheduler, the shell command that one process of its job runs."""
    definition = json.loads(AWS.read_text())["containerProperties"]
    sky = yaml.safe_load(SKYPILOT.read_text())
    return {
        "Slurm job array": shlex.join(["bash", str(SLURM)]),
        "Kubernetes indexed job": shlex.join(container()["command"]),
        "AWS Batch array job": shlex.join(definition["command"]).replace("/data", "$PWD"),
        "SkyPilot": sky["run"],
    }


def environments(count):
    """By scheduler, the variables that it sets for each of ``count`` processes."""
    return {
        each.name: [
            {each.index: str(index + (each.least is not None)), each.count: str(count)}
            | ({each.least: "1", each.step: "1"} if each.least and each.step else {})
            for index in range(count)
        ]
        for each in SCHEDULERS
    }


def test_each_scheduler_has_a_job_file():
    """Whatever ``--shard auto`` reads has an example, and each says auto."""
    assert scripts().keys() == {each.name for each in SCHEDULERS}
    for path in (SLURM, KUBERNETES, AWS, SKYPILOT):
        assert "--shard" in path.read_text() and "auto" in path.read_text(), path


def test_the_slurm_script_is_one():
    """Bash parses it, each directive is one of sbatch's with a value that it takes, and nothing
    comes before them that would end their reading.
    """
    subprocess.run(["bash", "-n", SLURM], check=True)
    for name, value in directives().items():
        pattern = SBATCH[name]
        assert value is None if pattern is None else re.fullmatch(pattern, value), name
    lines = SLURM.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])


def test_the_kubernetes_job_is_one():
    """An indexed job whose pods know how many they are, with what its failure policy needs."""
    job = yaml.safe_load(KUBERNETES.read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    counts = {each["name"]: each.get("value") for each in container()["env"]}
    assert counts["JOB_COMPLETIONS"] == str(spec["completions"]) == str(spec["parallelism"])
    # `FailIndex` needs a limit for each index, and a failure policy pods that are not restarted.
    assert spec["backoffLimitPerIndex"] > 0 and pod["restartPolicy"] == "Never"
    assert "backoffLimit" not in spec
    rules = spec["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "FailIndex"]
    assert rules[1]["onExitCodes"]["values"] == [1, 2, 3, 4]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert mounts == {volume["name"]: container()["workingDir"] for volume in pod["volumes"]}
    assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize(
    ("path", "operation"), [(AWS, "RegisterJobDefinition"), (SUBMIT, "SubmitJob")]
)
def test_the_aws_files_are_what_the_service_takes(path, operation):
    """By the service's own model: every name is known, every type is right, nothing is missing."""
    loaded = botocore.loaders.Loader().load_service_model("batch", "service-2")
    shape = ServiceModel(loaded).operation_model(operation).input_shape
    given = json.loads(path.read_text())
    report = botocore.validate.ParamValidator().validate(given, shape)
    assert not report.has_errors(), report.generate_report()

    def unknown(value, shape):
        if shape.type_name == "list":
            return [name for each in value for name in unknown(each, shape.member)]
        if shape.type_name != "structure":
            return []
        strange = [name for name in value if name not in shape.members]
        known = {name: each for name, each in value.items() if name in shape.members}
        return strange + [
            found for name, each in known.items() for found in unknown(each, shape.members[name])
        ]

    assert unknown(given, shape) == []


def test_the_aws_job_has_a_size_that_an_array_may_have():
    """From 2 to 10,000, and both files name the same definition."""
    submitted, defined = json.loads(SUBMIT.read_text()), json.loads(AWS.read_text())
    assert 2 <= submitted["arrayProperties"]["size"] <= 10_000
    assert submitted["jobDefinition"] == defined["jobDefinitionName"]


def test_the_skypilot_task_is_one():
    """Only fields of its reference, several nodes, and scripts that a shell parses."""
    task = yaml.safe_load(SKYPILOT.read_text())
    assert task.keys() <= SKYPILOT_FIELDS
    assert task["num_nodes"] > 1
    for script in (task["setup"], task["run"]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert task["envs"]["DATA"] in task["volumes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [each.name for each in SCHEDULERS])
def test_four_processes_of_a_job_do_one_run(cli, jsonl, simulator, summary, name):
    """The file's own command in four shells, each with the variables of its scheduler: one run,
    every row sent once.
    """
    endpoint = simulator(latency=FixedLatency(0.02))
    jsonl(200, "cwd/rows.jsonl")
    (cli.folder / "config.toml").write_text(
        f'[[endpoint]]\nbase_url = "{endpoint.base_url}"\nconcurrency = 8\n'
        '[request]\nmodel = "m"\n[output]\nshard_rows = 20\n'
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    common = {"PATH": path, "HOME": str(cli.folder), "PYTHONPATH": str(ROOT)}
    common |= {"DATA": str(cli.folder), "OPENAI_API_KEY": "none"}
    processes = [
        subprocess.Popen(
            ["bash", "-c", scripts()[name]],
            cwd=cli.folder,
            env=common | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for own in environments(4)[name]
    ]
    said = [process.communicate(timeout=PATIENCE_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert summary(cli.folder / "run")["rows"] == {
        "input": 200,
        "ok": 200,
        "error": 0,
        "pending": 0,
    }
    assert endpoint.stats()["requests_total"] == 200
    cli.verified("run")
