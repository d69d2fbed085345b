"""Which place in its fleet a process has: as ``--shard`` says, or as a scheduler's variables do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from batchrun.core.fleet.board import Place
from batchrun.errors import UsageError

AUTO = "auto"
_GIVEN = re.compile(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*")


@dataclass(frozen=True, slots=True)
class Scheduler:
    """The variables that a scheduler sets: number of the task, how many there are; where the
    numbers may begin elsewhere than at 0, the least one, and the step between them.
    """

    name: str
    index: str
    count: str
    least: str | None = None
    step: str | None = None


SCHEDULERS = (
    Scheduler(
        "Slurm job array",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_ARRAY_TASK_COUNT",
        "SLURM_ARRAY_TASK_MIN",
        "SLURM_ARRAY_TASK_STEP",
    ),
    Scheduler("Kubernetes indexed job", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    Scheduler("AWS Batch array job", "AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    Scheduler("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES"),
)
"""Sources: the manuals of sbatch (ENVIRONMENT), Kubernetes (completion mode Indexed; it sets no
count, so the manifest has to), AWS Batch (array jobs) and SkyPilot (distributed jobs)."""


def place_of(given: str, environment: Mapping[str, str]) -> Place:
    """The place that ``--shard`` names: ``I/N``, with I from 0 or from 1, or ``auto``.

    Raises ``UsageError``.
    """
    if given.strip() == AUTO:
        return _scheduled(environment)
    match = _GIVEN.fullmatch(given)
    index, count = (int(match[1]), int(match[2])) if match else (1, 0)
    if index > count or not count:
        message = (
            f"--shard {given} is not I/N, process I of N such as 3/8, nor {AUTO}, which takes "
            "both from the variables of a scheduler"
        )
        raise UsageError(message)
    return Place(index % count, count)


def _scheduled(environment: Mapping[str, str]) -> Place:
    for scheduler in SCHEDULERS:
        if scheduler.index in environment:
            return _place_in(scheduler, environment)
    known = ", ".join(f"{each.name} ({each.index})" for each in SCHEDULERS)
    message = f"--shard {AUTO}: no variable of a scheduler is set. Known are: {known}; or give I/N"
    raise UsageError(message)


def _place_in(scheduler: Scheduler, environment: Mapping[str, str]) -> Place:
    index, count = (_number(environment, name) for name in (scheduler.index, scheduler.count))
    least = _number(environment, scheduler.least, 0) if scheduler.least else 0
    step = _number(environment, scheduler.step, 1) if scheduler.step else 1
    index = (index - least) // max(1, step)
    if not 0 <= index < count:
        message = (
            f"--shard {AUTO}: {scheduler.index}={environment[scheduler.index]} is not one of "
            f"{scheduler.count}={environment[scheduler.count]} tasks; give I/N instead"
        )
        raise UsageError(message)
    return Place(index, count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "")
    if text.strip().isdecimal():
        return int(text)
    if default is not None and not text:
        return default
    message = f"--shard {AUTO}: {name} is {text!r}, not a number; set it, or give I/N instead"
    raise UsageError(message)
