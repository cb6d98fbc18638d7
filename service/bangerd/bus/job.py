"""com.thaloco.Banger1.Job"""

from collections.abc import Iterable
from typing import Any

from bangerd.bus import names, options
from bangerd.bus.core import Core
from bangerd.bus.errors import name_and_text
from bangerd.bus.export import Call, Interface, exported, shown
from bangerd.bus.guards import inspect_job, manage_job
from bangerd.core.jobs import Job, JobState
from bangerd.model.errors import NoSuchJob

OPTIONS = "options:a{sv}"


class JobInterface(Interface):
    """One job each, at …/job/<number>."""

    name = names.JOB_INTERFACE

    def __init__(self, core: Core) -> None:
        self._core = core

    def get(self, leaf: str) -> Job:
        number = names.job_number(leaf)
        if number is None:
            raise NoSuchJob(0)
        return self._core.jobs.get(number)

    def leaves(self) -> Iterable[str]:
        return (str(job.number) for job in self._core.jobs.all())

    @shown("s", emits="true")
    def State(self, job: Job) -> str:
        return job.state.value

    @exported(inspect_job, OPTIONS, "job:a{sv}")
    async def Describe(self, _call: Call, job: Job, given: dict[str, Any]) -> dict[str, Any]:
        options.read(given, {}, "Describe")
        return options.write(describe(job))

    @exported(manage_job, OPTIONS)
    async def Cancel(self, _call: Call, job: Job, given: dict[str, Any]) -> None:
        options.read(given, {}, "Cancel")
        job.cancel()


def describe(job: Job) -> dict[str, Any]:
    """Everything about a job; `fraction` is -1 where the end is not in sight."""
    progress = job.progress
    facts: dict[str, Any] = {
        "path": options.Path(names.job_path(job.number)),
        "number": job.number,
        "type": job.type,
        "target": job.target,
        "target_name": job.shown,
        "owner": job.owner_uid,
        "owner_name": job.by.name,
        "state": job.state.value,
        "started_at": int(job.started_at),
        "stage": progress.stage,
        "done": progress.done,
        "total": progress.total,
        "unit": progress.unit,
        "fraction": progress.done / progress.total if progress.total else -1.0,
    }
    facts.update({f"result_{key}": value for key, value in job.result.items() if job.state is JobState.DONE})
    if job.error is not None:
        facts["error_name"], facts["error"] = name_and_text(job.error)
    return facts
