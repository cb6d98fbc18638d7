"""Jobs are limited per user, running and ended ones alike, and forgotten in the order of their end."""

import asyncio

import pytest

from bangerd.core.jobs import PER_USER, Caller, Job, Jobs, JobState
from bangerd.model.errors import LimitReached, NoSuchJob

ALICE, BOB = Caller(1000, "alice", ":1.1"), Caller(1001, "bob", ":1.2")


async def nothing(_job: Job) -> None: ...


async def test_ended_jobs_of_one_user_do_not_pile_up() -> None:
    jobs = Jobs()
    kept = jobs.start("stop", "vm/bob", BOB, nothing)
    for number in range(3 * PER_USER):
        await jobs.start("stop", f"vm/{number}", ALICE, nothing).wait()
    await kept.wait()
    assert len(jobs.all()) == PER_USER + 1
    assert jobs.get(kept.number).state is JobState.DONE
    with pytest.raises(NoSuchJob):
        jobs.get(kept.number + 1)


async def test_running_jobs_of_one_user_are_limited() -> None:
    jobs, go = Jobs(), asyncio.Event()

    async def wait(_job: Job) -> None:
        await go.wait()

    running = [jobs.start("start", f"vm/{number}", ALICE, wait) for number in range(PER_USER)]
    with pytest.raises(LimitReached, match="64 jobs running"):
        jobs.start("start", "vm/more", ALICE, wait)
    other = jobs.start("start", "vm/more", BOB, wait)
    go.set()
    for job in [*running, other]:
        await job.wait()
    await jobs.start("start", "vm/more", ALICE, wait).wait()
