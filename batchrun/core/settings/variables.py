"""The environment variables that batchrun or a library below it reads, for the reference.

The code that reads a variable names it itself; a test compares those names with this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from batchrun.core.settings.providers import PROVIDERS


class Variable(NamedTuple):
    """What a variable means, in Markdown, and the setting that it stands in for, if it is one."""

    meaning: str
    setting: str = ""


_PLACES = (
    ("Slurm", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("Kubernetes", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    ("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
)
"""By scheduler, the variables of ``core/fleet/places.py`` for a process's number and how many."""


VARIABLES: Mapping[str, Variable] = {
    "OPENAI_API_KEY": Variable(
        "The key, unless `--api-key-env` names another variable, or a file or a command gives it."
    ),
    "OPENAI_BASE_URL": Variable(
        "The base URL, unless a `provider` other than `openai` is named.", "endpoint.base_url"
    ),
    "OPENAI_API_BASE": Variable(
        "The older name of `OPENAI_BASE_URL`. If both are set and differ, batchrun warns and "
        "uses that one.",
        "endpoint.base_url",
    ),
    **{
        key.name: Variable(f"The key of provider `{provider.name}`, sent as `{key.header}`.")
        for provider in PROVIDERS
        for key in provider.keys
        if provider.name != "openai"
    },
    "AZURE_OPENAI_ENDPOINT": Variable(
        "The resource of provider `azure`, or a whole base URL.", "endpoint.base_url"
    ),
    "OPENAI_API_VERSION": Variable(
        "For provider `azure`: a date selects deployment URLs; `preview` and `latest` select "
        "the v1 API."
    ),
    "OPENAI_ORG_ID": Variable(
        "Sent to hosts of `openai.com`, as the header `OpenAI-Organization`."
    ),
    "OPENAI_PROJECT_ID": Variable("Sent to hosts of `openai.com`, as the header `OpenAI-Project`."),
    "HTTPS_PROXY": Variable("The proxy for `https://` endpoints. Lower case works too."),
    "HTTP_PROXY": Variable("The proxy for `http://` endpoints. Lower case works too."),
    "ALL_PROXY": Variable("The proxy if neither of these two is set. Lower case works too."),
    "NO_PROXY": Variable("Hosts to reach without the proxy. Lower case works too."),
    "SSL_CERT_FILE": Variable(
        "A file of certificate authorities to trust, unless `--ca-file` is given.",
        "endpoint.ca_file",
    ),
    "SSL_CERT_DIR": Variable(
        "Folders of such files, named by their hash as `openssl rehash` names them.",
        "endpoint.ca_file",
    ),
    **{
        name: Variable(f"With `--shard auto`, under {scheduler}: {what}.")
        for scheduler, index, count in _PLACES
        for name, what in ((index, "the number of this process"), (count, "how many there are"))
    },
    "SLURM_ARRAY_TASK_MIN": Variable("With `--shard auto`: the first number of the job array."),
    "SLURM_ARRAY_TASK_STEP": Variable(
        "With `--shard auto`: the step between the numbers of the job array."
    ),
    "RAY_ADDRESS": Variable("With `--engine ray`: the cluster, unless `--address` names one."),
    "RAY_USAGE_STATS_ENABLED": Variable(
        "With `--engine ray`: whether a Ray cluster that batchrun starts reports to Ray's makers; "
        "0 unless set."
    ),
    "GITHUB_STEP_SUMMARY": Variable(
        "A file to which `run`, `score` and `compare` append their outcome as Markdown. GitHub "
        "Actions sets it. Read from the environment only, not from `.env`."
    ),
    "NO_COLOR": Variable(
        "Set to anything: no colours on a terminal. Read from the environment only, "
        "not from `.env`."
    ),
}
